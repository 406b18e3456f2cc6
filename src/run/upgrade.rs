//! Another synvisor in the place of this one: the same process, so that children stay children, with every socket.
//!
//! The new program first looks at what it would be given. Until it has agreed, nothing is given up.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use tokio::sync::oneshot;

use crate::host::generations::Generations;
use crate::host::layout::Layout;
use crate::host::state;
use crate::host::state::State;
use crate::host::toml;
use crate::host::toml::Document;
use crate::supervise::Exit;
use crate::supervise::Life;
use crate::supervise::Time;
use crate::sys::clock;
use crate::sys::fork;
use crate::sys::fork::Command;
use crate::sys::fs;
use crate::sys::process;
use crate::topology::UnitName;
use crate::wire::Answer;
use crate::wire::Incarnation;
use crate::wire::Obstacle;

use super::Driver;
use super::watchdog;

/// The program that looks at what it would be given, where units have their names.
const CHECK: &str = "upgrade-check";

/// It reads two files, in milliseconds.
const PATIENCE: u64 = 30_000;

/// Bytes of what it says.
const MOST_OUTPUT: u64 = 64 * 1024;

/// How this program was started, to start another one the same way.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Where it lay: another one lies there after an upgrade of the package.
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
    pub environment: Vec<(OsString, OsString)>,
    /// Whether it came in the place of another program.
    pub upgraded: bool,
}

/// An upgrade that waits for the new program's word.
#[derive(Debug)]
pub(super) struct Upgrade {
    who: String,
    reply: oneshot::Sender<Answer>,
    check: Life,
    said: File,
    pub(super) deadline: Time,
}

impl Driver {
    /// Asks the program that lies where we were started from whether it can take our place.
    pub(super) fn self_upgrade(&mut self, who: String, reply: oneshot::Sender<Answer>) {
        if let Some(why) = self.no_upgrade_now() {
            let message = format!("nothing was changed: {why}\n  try again when it is done");
            let _ = reply.send(Answer::hindered(Obstacle::Busy, message));
            return;
        }
        self.trials += 1;
        let check = Life { unit: UnitName::new(CHECK), incarnation: Incarnation(self.trials) };
        match self.start_check(&check) {
            Ok(said) => {
                let deadline = clock::now().after(PATIENCE);
                self.upgrade = Some(Upgrade { who, reply, check, said, deadline });
            }
            Err(error) => {
                let program = self.around.launch.program.display();
                let _ = reply.send(Answer::failed(format!(
                    "nothing was changed: {program} cannot be asked whether it can take over: {error}\n  \
                     install synvisor there again"
                )));
            }
        }
    }

    fn no_upgrade_now(&self) -> Option<String> {
        if self.stopping {
            return Some("synvisor is stopping".to_owned());
        }
        if self.upgrade.is_some() {
            return Some("an upgrade of synvisor itself is under way".to_owned());
        }
        if self.orders.are_open() {
            return Some("an order is being carried out".to_owned());
        }
        self.what_is_under_way()
    }

    /// What we would leave, in each version that we can write, the newest first.
    fn offers(&self) -> String {
        let state = self.state();
        state::versions().iter().rev().map(|version| state.print(*version) + "\n").collect()
    }

    fn start_check(&mut self, check: &Life) -> io::Result<File> {
        let offers = self.around.layout.offers_file();
        fs::replace_fleeting(&offers, self.offers().as_bytes()).map_err(io::Error::other)?;
        let said = fs::nameless(CHECK)?;
        let launch = &self.around.launch;
        let lossy = |text: &OsString| text.to_string_lossy().into_owned();
        let mut argv = vec![launch.program.to_string_lossy().into_owned()];
        argv.extend(launch.arguments.iter().map(lossy));
        argv.extend(["--upgrade-check".to_owned(), offers.to_string_lossy().into_owned()]);
        let environment = launch.environment.iter().filter(|(name, _)| name == "CREDENTIALS_DIRECTORY");
        let waiting = fork::spawn(&Command {
            argv,
            name: None,
            environment: environment.map(|(name, value)| (lossy(name), lossy(value))).collect(),
            nice: 0,
            // Ours: the configuration may be named by a relative path.
            directory: Path::new("."),
            output: &said,
            descriptors: Vec::new(),
            user: None,
            umask: 0o077,
        })?;
        self.let_begin(check, waiting)?;
        Ok(said)
    }

    /// The new program takes too long to look: its end is then heard of as any other.
    pub(super) fn check_hangs(&mut self) {
        if let Some(upgrade) = &mut self.upgrade {
            let _ = self.pids.signal(&upgrade.check, Signal::SIGKILL);
            upgrade.deadline = clock::now().after(PATIENCE);
        }
    }

    /// The new program has looked.
    pub(super) fn checked(&mut self, life: &Life, exit: Exit) {
        let Some(Upgrade { who, reply, said, .. }) = self.upgrade.take_if(|upgrade| upgrade.check == *life)
        else {
            return;
        };
        let _ = fs::remove(&self.around.layout.offers_file());
        let said = fs::contents(&said, MOST_OUTPUT).unwrap_or_default();
        let version = said.lines().next_back().and_then(|line| line.trim().parse().ok());
        let refused = |why: &str| Answer::failed(format!("nothing was changed: {why}"));
        let program = self.around.launch.program.display().to_string();
        let known = state::versions();
        let answer = match (exit, version.filter(|version| known.contains(version))) {
            // While it looked, other things were begun.
            (Exit::Code(0), Some(_)) if self.no_upgrade_now().is_some() => {
                let why = self.no_upgrade_now().unwrap_or_default();
                Answer::hindered(
                    Obstacle::Busy,
                    format!("nothing was changed: {why}\n  try again when it is done"),
                )
            }
            (Exit::Code(0), Some(version)) => {
                tracing::info!("self-upgrade by {who}: {program} takes over");
                let error = self.hand_over(version);
                refused(&format!("{program} cannot be started: {error}\n  install synvisor there again"))
            }
            (exit, _) => {
                let said = said.trim_end();
                refused(&format!(
                    "{program} cannot take over ({exit}):\n{said}\n  stop and start: systemctl restart synvisor"
                ))
            }
        };
        tracing::warn!("self-upgrade by {who} failed: {}", answer.message);
        let _ = reply.send(answer);
    }

    /// Becomes the new program; returns only when that cannot be.
    fn hand_over(&mut self, version: u32) -> io::Error {
        let text = self.state().print(version);
        if let Err(error) = fs::replace_fleeting(&self.around.layout.state_file(), text.as_bytes()) {
            return io::Error::other(error);
        }
        let error = match self.passed_on() {
            Ok(descriptors) => {
                // The new program gets all of the time that systemd gives, since it begins with what no loop goes round in.
                watchdog::feed();
                let launch = &self.around.launch;
                process::become_program(
                    &launch.program,
                    &launch.arguments,
                    &launch.environment,
                    "--inherit",
                    descriptors,
                )
            }
            Err(error) => error,
        };
        // It is written anew in our own version.
        self.kept.clear();
        error
    }

    /// Copies of every socket that somebody may come in by.
    fn passed_on(&self) -> io::Result<Vec<OwnedFd>> {
        let tcp = self.around.listeners.sockets().map(AsFd::as_fd);
        let sockets = tcp.chain(self.sockets.all()).chain([self.around.control.as_fd()]);
        sockets.map(|socket| socket.try_clone_to_owned()).collect()
    }
}

pub(super) fn is_check(life: &Life) -> bool {
    life.unit.as_str() == CHECK
}

/// Looks at what a supervisor would leave us, and says which version of it to take: the newest that can be read.
///
/// # Errors
/// None can be used, and why.
pub fn check_offers(offers: &Path, path: &Path, credentials: Option<&OsString>) -> Result<u64, String> {
    let text = fs::read_own(offers).map_err(|error| error.to_string())?;
    let mut why = "there is nothing to take over".to_owned();
    for line in text.lines() {
        let state = match State::parse(line) {
            Ok(state) => state,
            Err(error) => {
                why = format!("what there is to take over cannot be used: {error}");
                continue;
            }
        };
        let version: serde_json::Value = serde_json::from_str(line).map_err(|error| error.to_string())?;
        let layout =
            Layout::of(&toml::usable(path, credentials).map_err(|error| error.to_string())?.parsed.config);
        let generations = Generations::new(layout.generations());
        let running = generations.text(state.generation).map_err(|error| error.to_string())?;
        let document = Document { name: format!("generation {}", state.generation), text: running };
        toml::usable_as(document, path, credentials).map_err(|error| error.to_string())?;
        return version.get("version").and_then(serde_json::Value::as_u64).ok_or(why);
    }
    Err(why)
}
