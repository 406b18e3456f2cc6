//! How a process comes into being, and how it is told to end.
//!
//! Synapse's processes are forked by the fork server; executed one by one where it is not there; and started as Synapse's
//! documentation has it where the bootstrap does not recognise this Synapse.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;

use crate::forkserver::Event;
use crate::forkserver::Link;
use crate::host::venv;
use crate::plan::Deployment;
use crate::supervise::Ending;
use crate::supervise::Exit;
use crate::supervise::Input;
use crate::supervise::Life;
use crate::supervise::Time;
use crate::sys::clock;
use crate::sys::descriptors;
use crate::sys::fork::Waiting;
use crate::sys::process;
use crate::topology::Role;
use crate::topology::Unit;
use crate::topology::UnitName;
use crate::wire::Made;

use super::Driver;
use super::News;
use super::processes::Known;
use super::sockets::Held;
use super::spawn;
use super::store;
use super::trial::is_trial;

/// With this the bootstrap ends when it does not recognise the Synapse that it is to run.
const UNRECOGNISED: Exit = Exit::Code(70);

/// A fork takes milliseconds. A server that has not answered after this many hangs.
const PATIENCE: u64 = 10_000;

/// What is known of the fork server, and what it was asked for.
#[derive(Debug, Default)]
pub(super) struct Births {
    link: Option<Link>,
    /// What was installed when the fork server began to load it.
    loaded: venv::Installed,
    /// Why processes are started plainly: what the bootstrap does not recognise in this Synapse.
    pub(super) problems: Vec<String>,
    /// Processes that were asked for, each with the pipe at which it waits for the word to begin; none for one that is
    /// no longer wanted.
    asked: BTreeMap<Life, (Time, Option<OwnedFd>)>,
    /// How each present process was made.
    pub(super) made: BTreeMap<UnitName, Made>,
}

impl Births {
    /// When a fork server that does not answer counts as hanging.
    pub(super) fn overdue(&self) -> Option<Time> {
        self.asked.values().map(|(since, _)| since.after(PATIENCE)).min()
    }
}

impl Driver {
    pub(super) fn start(&mut self, life: Life) {
        let Some(unit) = self.unit(&life.unit).cloned() else { return };
        if !self.is_external(&life.unit) {
            tracing::info!("{} starts", life.unit);
        }
        self.timeline.begins(&life.unit, clock::now());
        let started = if unit.role.is_synapse() {
            self.start_synapse(&unit, &life)
        } else {
            self.start_other(&unit, &life)
        };
        if let Err(error) = started {
            tracing::warn!("{} cannot be started: {error}", life.unit);
            if unit.role == Role::Router {
                self.without_router(&life);
            }
            self.input(Input::StartFailed(life, not_started(&error)));
        }
    }

    fn start_other(&mut self, unit: &Unit, life: &Life) -> io::Result<()> {
        let made = unit.role.is_synapse().then_some(Made::Plain);
        let control = (unit.role == Role::Router).then(|| self.bind_router(life)).transpose()?;
        let router = control.as_ref().map(|control| (control.as_fd(), life.incarnation));
        let (image, config) = (self.image(&unit.name), &self.running.config);
        if let Some(waiting) = spawn::start(unit, image, config, &self.around, router)? {
            self.begin(life, made, waiting)?;
        }
        self.await_ready(unit, life.clone());
        Ok(())
    }

    /// Lets a process begin, now that it is noted: whatever becomes of us, it will be found.
    fn begin(&mut self, life: &Life, made: Option<Made>, waiting: Waiting) -> io::Result<()> {
        let pid = waiting.pid();
        self.note(life, made, pid)?;
        waiting.begin().inspect_err(|_| {
            self.pids.remove(pid);
            store::drop_process(life);
        })
    }

    /// Notes a process that waits for the word to begin. A disk without room keeps nobody from work: what cannot be written
    /// is as soon as there is some.
    fn note(&mut self, life: &Life, made: Option<Made>, pid: i32) -> io::Result<()> {
        store::keep_process(life, &*self.pids.insert(pid, life.clone())?.process);
        if let Some(made) = made {
            self.births.made.insert(life.unit.clone(), made);
        }
        self.keep();
        Ok(())
    }

    fn start_synapse(&mut self, unit: &Unit, life: &Life) -> io::Result<()> {
        if !self.births.problems.is_empty() || self.around.lacks("bootstrap") {
            // Synapse binds its sockets itself.
            self.sockets.release(&unit.name);
            return self.start_other(unit, life);
        }
        self.look_at_virtualenv();
        let held = self.sockets.hold(unit, &self.around.users)?;
        if let Some(link) = &self.births.link {
            let image = self.running.images.get(&unit.name);
            let (go, descriptors) = handed_on(&self.around, self.around.output(unit)?, held)?;
            let process = spawn::describe(unit, image, &self.running.config, &self.around, held);
            link.fork(life.clone(), process, descriptors);
            self.births.asked.insert(life.clone(), (clock::now(), Some(go)));
            return Ok(());
        }
        self.start_alone(life)
    }

    /// Starts a process that has Synapse read these files; what it says goes to `output`.
    pub(super) fn start_trial(
        &mut self,
        life: &Life,
        files: Vec<String>,
        environment: &BTreeMap<String, String>,
        target: &Deployment,
        output: File,
    ) -> io::Result<()> {
        self.look_at_virtualenv();
        let same = target.config.python == self.running.config.python
            && target.synapse_version == self.running.synapse_version;
        if let (Some(link), true) = (&self.births.link, same) {
            let (go, descriptors) = handed_on(&self.around, output, &[])?;
            link.fork(life.clone(), spawn::trial(files, environment, &self.around), descriptors);
            self.births.asked.insert(life.clone(), (clock::now(), Some(go)));
        } else {
            let waiting = spawn::execute_trial(files, environment, &target.config, &output, &self.around)?;
            self.let_begin(life, waiting)?;
        }
        Ok(())
    }

    /// Connects to a fork server that has just started.
    pub(super) fn connect_fork_server(&mut self, life: Life) {
        let Some(pid) = self.pids.of(&life).map(Known::pid) else { return };
        self.births.loaded = venv::installed(&self.running.config.python.venv);
        let (news, server) = (self.news.clone(), life);
        let link = Link::new(self.around.layout.fork_server_socket(), pid, move |event| {
            let _ = news.send(News::ForkServer(server.clone(), event));
        });
        self.fork_server_calls = Some(link);
    }

    pub(super) fn hear_fork_server(&mut self, server: Life, event: Event) {
        if self.pids.of(&server).is_none() {
            // What it left undone was seen to when it ended; its successor may be there already.
            return;
        }
        match event {
            Event::Hello { synapse, problems } => {
                for problem in &problems {
                    tracing::warn!("processes start plainly: in Synapse {synapse}, {problem}");
                }
                self.births.problems = problems;
                self.births.link = self.fork_server_calls.take();
                tracing::info!("{} is ready", server.unit);
                self.input(Input::Ready(server));
            }
            Event::Forked(life, pid) => self.forked(life, pid),
            Event::Failed(life, reason) => {
                tracing::warn!("{life} could not be forked: {reason}");
                self.asked_in_vain(&life);
            }
            Event::Lost(why) => self.give_up_fork_server(&server, &why),
        }
    }

    /// It was asked for a process and says nothing.
    pub(super) fn fork_server_hangs(&mut self) {
        let server = self.pids.iter().find(|(_, life)| life.unit == UnitName::fork_server());
        let server = server.map(|(_, life)| life.clone());
        if let Some(server) = server {
            self.give_up_fork_server(&server, "it does not answer");
        }
    }

    /// A fork server goes on with what it has once loaded, whatever pip has done since.
    fn look_at_virtualenv(&mut self) {
        let server = self.pids.iter().find(|(_, life)| life.unit == UnitName::fork_server());
        if let (Some((_, server)), true) = (server, self.births.link.is_some())
            && self.births.loaded != venv::installed(&self.running.config.python.venv)
        {
            self.give_up_fork_server(&server.clone(), "other packages are installed now than it has loaded");
        }
    }

    fn give_up_fork_server(&mut self, server: &Life, why: &str) {
        if self.pids.of(server).is_some() {
            tracing::warn!("the fork server is lost and will be replaced: {why}");
            let _ = self.pids.signal(server, nix::sys::signal::Signal::SIGKILL);
        }
        self.without_fork_server();
    }

    /// What it was asked for is started in another way: a process that it may have made ends as its pipe closes.
    pub(super) fn without_fork_server(&mut self) {
        self.births.link = None;
        self.fork_server_calls = None;
        for life in self.births.asked.keys().cloned().collect::<Vec<_>>() {
            self.asked_in_vain(&life);
        }
    }

    fn asked_in_vain(&mut self, life: &Life) {
        match self.births.asked.remove(life) {
            Some((_, Some(_))) => {
                if is_trial(life) {
                    return self.tried(life, None);
                }
                if let Err(error) = self.start_alone(life) {
                    self.input(Input::StartFailed(life.clone(), not_started(&error)));
                }
            }
            Some((_, None)) => {
                let detail = None;
                self.input(Input::Exited { life: life.clone(), exit: Exit::Code(0), detail });
            }
            None => {}
        }
    }

    /// Starts a process by an interpreter of its own.
    fn start_alone(&mut self, life: &Life) -> io::Result<()> {
        let Some(unit) = self.unit(&life.unit).cloned() else { return Ok(()) };
        let held = self.sockets.hold(&unit, &self.around.users)?;
        let image = self.running.images.get(&unit.name);
        let waiting = spawn::execute(&unit, image, &self.running.config, &self.around, held)?;
        self.begin(life, Some(Made::Executed), waiting)
    }

    /// Lets a process begin that need not be found by anybody else.
    pub(super) fn let_begin(&mut self, life: &Life, waiting: Waiting) -> io::Result<()> {
        let pid = waiting.pid();
        self.pids.insert(pid, life.clone())?;
        waiting.begin().inspect_err(|_| drop(self.pids.remove(pid)))
    }

    fn forked(&mut self, life: Life, pid: i32) {
        let Some((_, go)) = self.births.asked.remove(&life) else { return };
        if process::parent(pid) != Some(std::process::id().cast_signed()) {
            if is_trial(&life) {
                return self.tried(&life, None);
            }
            return self.input(Input::StartFailed(life, "its process ended before it began".to_owned()));
        }
        let noted = if is_trial(&life) {
            self.pids.insert(pid, life.clone()).map(drop)
        } else {
            self.note(&life, Some(Made::Forked), pid)
        };
        if let Err(error) = noted {
            // Without the word it ends.
            return self.input(Input::StartFailed(life, not_started(&error)));
        }
        // Only now that its end would be understood may it begin; without the word it ends by itself.
        if let Some(go) = go {
            let _ = nix::unistd::write(&go, b"g");
        }
    }

    /// Notes that the bootstrap of an executed process did not recognise its Synapse.
    pub(super) fn learn_from_exit(&mut self, life: &Life, exit: Exit, words: Option<&str>) {
        let made = self.births.made.remove(&life.unit);
        if made == Some(Made::Executed) && exit == UNRECOGNISED {
            let why = words.unwrap_or("the bootstrap does not recognise it").to_owned();
            tracing::warn!("processes start plainly from now on: {why}");
            self.births.problems = vec![why];
        }
    }

    pub(super) fn signal(&mut self, life: &Life, ending: Ending) {
        if !self.core.is_retired(life) {
            self.timeline.leaves(&life.unit, clock::now());
        }
        let role = self.unit(&life.unit).map_or(Role::Main, |unit| unit.role);
        if self.pids.of(life).is_some() {
            if ending == Ending::Kill {
                tracing::warn!("{} did not stop in time and is killed", life.unit);
            }
            // One that is gone already will be reaped.
            let _ = self.pids.signal(life, spawn::signal(role, ending));
        } else if let Some((_, go)) = self.births.asked.get_mut(life) {
            *go = None;
        } else {
            // A service of somebody else's ends for us when we look away.
            self.unwatch(life);
            self.input(Input::Exited { life: life.clone(), exit: Exit::Code(0), detail: None });
        }
    }
}

/// Why a process could not be started, and what to do where the kernel says no more than that.
fn not_started(error: &io::Error) -> String {
    if descriptors::are_used_up(error) {
        return format!("{error}\n  raise LimitNOFILE= of the service: it is {}", descriptors::limit());
    }
    error.to_string()
}

/// What a forked process gets, and the other end of the pipe at which it waits.
fn handed_on(
    around: &spawn::Surroundings,
    output: File,
    held: &[Held],
) -> io::Result<(OwnedFd, Vec<OwnedFd>)> {
    let (waits, go) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let lock = around.lock.as_fd().try_clone_to_owned()?;
    let mut descriptors = vec![OwnedFd::from(output), waits, lock];
    for Held { listener, .. } in held {
        descriptors.push(listener.as_fd().try_clone_to_owned()?);
    }
    Ok((go, descriptors))
}
