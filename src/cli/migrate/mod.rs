//! `synvisor migrate`: from another Synapse to this one, step by step, and back.

use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use hyper::Method;

use crate::host::holding::Act;
use crate::host::holding::Holding;
use crate::host::holding::Reach;
use crate::host::old;
use crate::host::old::Settings;
use crate::host::old::Store;
use crate::host::port::Port;
use crate::host::postgres::Embedded;
use crate::host::secrets;
use crate::host::toml;
use crate::host::toml::Usable;
use crate::host::venv;
use crate::host::venv::Venv;
use crate::moving::steps::Command;
use crate::moving::steps::Data;
use crate::moving::steps::Journal;
use crate::moving::steps::Step;
use crate::sys::clock;
use crate::sys::process;
use crate::sys::users;
use crate::wire::OverallState;
use crate::wire::StatusReport;

use super::Exit;
use super::commands;
use super::config;
use super::media;
use super::media::Place;
use super::media::Wish;
use super::output;
use super::output::fact;
use super::output::fail;
use super::progress::Progress;

mod back;
mod look;

/// How often, and with which pause, one asks whether everything is ready: for ten minutes.
const ATTEMPTS: u32 = 6_000;
const PAUSE: Duration = Duration::from_millis(100);
/// The same for whether the old server has let go of its database: for half a minute.
const GOODBYES: u32 = 60;
const GOODBYE: Duration = Duration::from_millis(500);

#[derive(Debug, clap::Args)]
pub(super) struct MigrateArguments {
    /// The homeserver.yaml of the old server; its database, media and name are read from it, and relative paths start at its
    /// directory.
    #[arg(long, value_name = "FILE", required_unless_present = "back")]
    from: Option<PathBuf>,
    /// The old server is this unit of systemd; once for it and for each of its workers.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["old_container", "old_stop"])]
    old_unit: Vec<String>,
    /// The old server is this container of Docker; once for each.
    #[arg(long, value_name = "NAME", conflicts_with = "old_stop")]
    old_container: Vec<String>,
    /// The old server stops by this, given to a shell, and returns when it has stopped.
    #[arg(long, value_name = "COMMAND", requires = "old_start")]
    old_stop: Option<String>,
    /// And starts by this.
    #[arg(long, value_name = "COMMAND", requires = "old_stop")]
    old_start: Option<String>,
    /// Where its media really are, if not where its homeserver.yaml says, as for a container.
    #[arg(long, value_name = "DIR")]
    old_media: Option<PathBuf>,
    /// Where its SQLite database really is, likewise.
    #[arg(long, value_name = "FILE")]
    old_sqlite: Option<PathBuf>,
    /// What starts this one.
    #[arg(long, value_name = "COMMAND", default_value = "systemctl enable --now synvisor")]
    new_start: String,
    /// What stops it again.
    #[arg(long, value_name = "COMMAND", default_value = "systemctl disable --now synvisor")]
    new_stop: String,
    /// Leave out media that other servers have.
    #[arg(long)]
    skip_remote: bool,
    /// Take the steps that are left.
    #[arg(long, conflicts_with = "back")]
    go: bool,
    /// Stop this one, and have the old one serve again.
    #[arg(long)]
    back: bool,
    /// Even if that loses what was written since.
    #[arg(long, requires = "back")]
    anyway: bool,
}

pub(super) fn migrate(path: &Path, credentials: Option<&OsString>, arguments: &MigrateArguments) -> Exit {
    let done = Move::of(path, credentials, arguments).and_then(|usable| {
        let place = Place::of(path, &usable.parsed.config)?;
        let reach = Reach::of(place.config, &usable.secrets, place.users.synapse.as_ref());
        let venv = venv::inspect(place.config, place.users.synapse.as_ref()).map_err(|why| fail(&why))?;
        let this = Move { path, usable: &usable, place: &place, reach, venv, arguments };
        if arguments.back { this.back() } else { this.forth() }
    });
    done.unwrap_or_else(|exit| exit)
}

/// A move, and everything that has to be known for it.
struct Move<'a> {
    path: &'a Path,
    usable: &'a Usable,
    place: &'a Place<'a>,
    reach: Reach<'a>,
    venv: Venv,
    arguments: &'a MigrateArguments,
}

impl Move<'_> {
    /// The configuration, with the secrets that are made and not the user's.
    fn of(path: &Path, credentials: Option<&OsString>, arguments: &MigrateArguments) -> Result<Usable, Exit> {
        let usable = toml::usable(path, credentials).map_err(|unusable| config::refuse(&unusable))?;
        if arguments.go {
            let place = Place::of(path, &usable.parsed.config)?;
            place.make()?;
            let complete = || {
                secrets::complete(&place.layout.secrets(), &place.config.secrets, None)
                    .map_err(|error| error.to_string())
            };
            users::as_user(place.users.synapse.as_ref(), complete).map_err(|why| fail(&why))?;
        }
        Ok(usable)
    }

    fn forth(&self) -> Result<Exit, Exit> {
        let held = old::journal(&self.place.layout).map_err(|why| fail(&why))?;
        let mut journal = match held {
            Some(journal) => {
                output::line(format!("taking up the move from {}", journal.from.display()));
                journal
            }
            None => self.begin()?,
        };
        let left: Vec<Step> = journal.left().collect();
        if left.is_empty() {
            output::line("the move is done");
            return Ok(Exit::Done);
        }
        output::line(format!("from {} to {}:", journal.from.display(), self.place.layout.state.display()));
        for step in Step::ALL {
            let mark = if journal.has(step) { "done" } else { "" };
            output::line(format!("  {mark:4}  {}", self.describe(step, &journal)));
        }
        if !self.arguments.go {
            output::line(
                "\nNothing was done. Take these steps with --go; until clients have written, --back undoes them.",
            );
            return Ok(Exit::Done);
        }
        output::line("");
        let mut skipped = 0;
        for step in left {
            skipped += self.take(step, &mut journal)?;
            journal.done.push(step);
            self.keep(&journal)?;
        }
        self.report(&journal);
        if skipped > 0 {
            return Err(fail(&format!("{skipped} media could not be brought; they are named above")));
        }
        Ok(Exit::Done)
    }

    fn describe(&self, step: Step, journal: &Journal) -> String {
        let shell = |command: &Command| command.join(" ");
        let media = journal.media.display();
        match step {
            Step::Before => format!("bring the media of {media}, while the old server serves"),
            Step::Stop => format!("stop the old server: {}", shell(&journal.old.stop())),
            Step::Rest => "bring the media that came meanwhile".to_owned(),
            Step::Database => match &journal.data {
                Data::Shared => format!("go on with {}", self.reach.shown()),
                Data::Sqlite(file) => format!("port {} to {}", file.display(), self.reach.shown()),
            },
            Step::Start => format!("start this one: {}", self.arguments.new_start),
            Step::Check => "look whether it serves, with the old media and the old signing key".to_owned(),
            Step::HandOver => match journal.old.retire() {
                Some([command, _]) => format!("see to it that the old one stays away: {}", shell(&command)),
                None => "say what is left to do".to_owned(),
            },
        }
    }

    fn keep(&self, journal: &Journal) -> Result<(), Exit> {
        old::keep(&self.place.layout, journal).map_err(|why| fail(&why))
    }

    fn take(&self, step: Step, journal: &mut Journal) -> Result<usize, Exit> {
        match step {
            Step::Before => {
                let skipped = self.bring(journal, false)?;
                if skipped > 0 {
                    return Err(fail("the old server was not stopped"));
                }
                self.keep(journal)?;
            }
            Step::Stop => self.stop(journal)?,
            Step::Rest => return self.bring(journal, true),
            Step::Database => self.database(journal)?,
            Step::Start => self.start()?,
            Step::Check => self.check(journal)?,
            Step::HandOver => {
                if let Some([command, _]) = journal.old.retire() {
                    old::run(&command).map_err(|why| fail(&why))?;
                }
            }
        }
        Ok(0)
    }

    fn bring(&self, journal: &Journal, finish: bool) -> Result<usize, Exit> {
        let wish = Wish { finish, skip_remote: self.arguments.skip_remote, ..Wish::default() };
        media::bring(self.place, &journal.media, &wish)
    }

    fn stop(&self, journal: &mut Journal) -> Result<(), Exit> {
        // Noted before: who takes this up must know that it may be down.
        journal.stopped.get_or_insert_with(|| clock::now().0);
        self.keep(journal)?;
        old::run(&journal.old.stop()).map_err(|why| fail(&format!("{why}\n  then the same again")))?;
        for _ in 0..GOODBYES {
            if self.still_there(journal)?.is_none() {
                fact("old server", "stopped");
                return Ok(());
            }
            std::thread::sleep(GOODBYE);
        }
        let who = self.still_there(journal)?.unwrap_or_default();
        Err(fail(&format!(
            "the old server was told to stop, and its database is still in use: {who}\n  stop its workers too, then the same again"
        )))
    }

    /// Who has the old database still; none if nobody has.
    fn still_there(&self, journal: &Journal) -> Result<Option<String>, Exit> {
        match &journal.data {
            Data::Sqlite(file) => {
                let pids = process::holders(file);
                let shown = pids.iter().map(|pid| format!("pid {pid}")).collect::<Vec<_>>().join(", ");
                Ok((!pids.is_empty()).then_some(shown))
            }
            Data::Shared => {
                let settings = Settings::read(&journal.from).map_err(|why| fail(&why))?;
                let base = journal.from.parent().unwrap_or(Path::new("/"));
                let Ok(Store::Postgres { user: Some(user) }) = settings.store(base) else { return Ok(None) };
                let holding = self.reach.look(Act::Look).map_err(|why| fail(&why))?;
                Ok(holding.clients.get(&user).map(|count| format!("{count} connections of {user}")))
            }
        }
    }

    fn database(&self, journal: &mut Journal) -> Result<(), Exit> {
        let holding = match &journal.data {
            // What it can be used with was looked at before anybody had to wait for it.
            Data::Shared => self.reach.look(Act::Look).map_err(|why| fail(&why))?,
            Data::Sqlite(file) => self.port(file)?,
        };
        fact("database", &self.reach.shown());
        journal.counts = holding.counts;
        journal.oldest_code = holding.oldest_code;
        Ok(())
    }

    fn port(&self, file: &Path) -> Result<Holding, Exit> {
        let place = self.place;
        let user = place.users.synapse.as_ref();
        let _embedded = self.embedded()?;
        let mut holding = self.reach.look(Act::Look).map_err(|why| fail(&why))?;
        self.may_fill(&holding)?;
        if holding.unfinished {
            // The old server may have written since.
            holding = self.reach.look(Act::Clear).map_err(|why| fail(&why))?;
        }
        if !holding.is_empty() {
            return Err(fail(&format!("{} could not be emptied", self.reach.shown())));
        }
        self.reach.look(Act::Begin).map_err(|why| fail(&why))?;
        let port = Port {
            database: file,
            config: place.config,
            secrets: &self.usable.secrets,
            layout: &place.layout,
            user,
        };
        let mut progress = Progress::start("database".to_owned());
        let done = port.carry_out(&mut |line| progress.say(line));
        progress.end();
        done.map_err(|why| {
            fail(&format!("the database could not be ported:\n{why}\n  then the same again, or --back"))
        })?;
        self.reach.look(Act::End).map_err(|why| fail(&why))
    }

    /// The embedded server, where there is one and nobody runs it.
    fn embedded(&self) -> Result<Option<Embedded>, Exit> {
        let place = self.place;
        if !place.config.database.is_embedded() || commands::is_running(self.path)? {
            return Ok(None);
        }
        place.layout.make(&place.users).map_err(|error| fail(&error.to_string()))?;
        let user = place.users.synapse.as_ref();
        Embedded::start(place.config, &place.layout, &self.venv, user).map(Some).map_err(|why| fail(&why))
    }

    fn start(&self) -> Result<(), Exit> {
        if !commands::is_running(self.path)? {
            let command = ["sh", "-c", &self.arguments.new_start].map(str::to_owned).to_vec();
            old::run(&command).map_err(|why| {
                fail(&format!("{why}\n  mend that, then the same again; or return to the old server: --back"))
            })?;
        }
        let mut progress = Progress::start("synvisor      starting".to_owned());
        for _ in 0..ATTEMPTS {
            if commands::is_running(self.path)? {
                let report: StatusReport = commands::ask(self.path, Method::GET, "/v1/status", &())?;
                if report.state == OverallState::Ready {
                    let seconds = progress.end();
                    fact("synvisor", &format!("serves ({seconds} s)"));
                    return Ok(());
                }
                let not = report.units.iter().filter(|unit| unit.state != "ready").count();
                progress.say(&format!("{not} of {} units are not ready", report.units.len()));
            }
            std::thread::sleep(PAUSE);
        }
        progress.end();
        Err(fail(
            "it does not get ready\n  synvisor status says why; then the same again, or return to the old server: --back",
        ))
    }

    /// Whether it serves what the old one has served.
    fn check(&self, journal: &mut Journal) -> Result<(), Exit> {
        let wrong =
            |what: String| fail(&format!("{what}\n  mend that, then the same again; or return: --back"));
        let listen = self.place.config.listen.first().ok_or_else(|| fail("there is no [[listen]]"))?;
        let (status, _) = old::get(listen.address, "/_matrix/client/versions").map_err(wrong)?;
        if status != 200 {
            return Err(wrong(format!("{} answers clients with {status}", listen.address)));
        }
        journal.served.get_or_insert_with(|| clock::now().0);
        let key = self.signing_key().unwrap_or_default();
        let id = key.split_whitespace().nth(1).unwrap_or_default().to_owned();
        let (_, keys) = old::get(listen.address, "/_matrix/key/v2/server").map_err(wrong)?;
        if !keys.contains(&format!("\"ed25519:{id}\"")) {
            return Err(wrong(format!(
                "{} shows other servers another signing key than {id}",
                listen.address
            )));
        }
        let holding = self.reach.look(Act::Look).map_err(|why| fail(&why))?;
        let store = self.place.layout.media();
        let file = |id: &String| match (id.get(..2), id.get(2..4), id.get(4..)) {
            (Some(one), Some(two), Some(rest)) => store.join("local_content").join(one).join(two).join(rest),
            _ => store.join("local_content"),
        };
        let missing: Vec<&String> = holding.media.iter().filter(|id| !file(id).is_file()).collect();
        if let Some(first) = missing.first() {
            // No reason to return: it may have been missing before.
            output::problem(format!(
                "{} of the newest {} uploads have no file, {first} for one\n  were they elsewhere, with a storage provider?",
                missing.len(),
                holding.media.len()
            ));
        }
        fact("checks", "it answers, with the old signing key");
        Ok(())
    }

    fn report(&self, journal: &Journal) {
        if let Some(away) = journal.away() {
            output::line(format!("\nWithout a server: {}.{} s.", away / 1_000, away % 1_000 / 100));
        }
        let listen: Vec<String> =
            self.place.config.listen.iter().map(|listen| listen.address.to_string()).collect();
        output::line(format!(
            "It listens on {}. If your web server in front leads elsewhere, change that: synvisor front SERVER prints how.\n\
             The old server has its files still. To return to it: synvisor migrate --back",
            listen.join(", ")
        ));
    }
}
