//! What an earlier supervisor has left: its processes go on under this one, and never notice.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::config::Config;
use crate::host::generations::Generations;
use crate::host::layout::Layout;
use crate::host::layout::Users;
use crate::host::state;
use crate::host::state::Known;
use crate::host::state::State;
use crate::host::toml;
use crate::host::toml::Document;
use crate::host::toml::Usable;
use crate::plan::Deployment;
use crate::plan::Image;
use crate::supervise::Exit;
use crate::supervise::Input;
use crate::supervise::Kept as KeptUnit;
use crate::supervise::Life;
use crate::supervise::Spec;
use crate::supervise::Ticket;
use crate::supervise::Verb;
use crate::sys::clock;
use crate::sys::pidfd;
use crate::sys::pidfd::Process;
use crate::sys::process;
use crate::sys::record;
use crate::sys::users;
use crate::topology;
use crate::topology::Role;
use crate::topology::Topology;
use crate::topology::UnitName;
use crate::wire::Generation;
use crate::wire::GenerationResult;
use crate::wire::Incarnation;

use super::Driver;
use super::probe;
use super::specs;
use super::specs::stage;
use super::store::Kept;

/// A router takes the lock that proves who it is as the first thing that it does.
const LOCK_ATTEMPTS: u32 = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// Why it is not known what an earlier supervisor has left.
#[derive(Debug)]
pub(super) enum Unknown {
    State(String),
    /// Processes that were noted, and do not look like ours any more.
    Strangers(Vec<i32>),
}

impl Unknown {
    pub(super) fn text(self) -> String {
        match self {
            Self::State(why) => why,
            Self::Strangers(pids) => {
                let pids = pids.iter().map(i32::to_string).collect::<Vec<_>>().join(" ");
                format!(
                    "processes that an earlier synvisor started still run, and cannot be told from others: they do not \
                     hold the lock of the state directory, or are another user's\n  \
                     look at them, and end those that are the homeserver's: ps -f {pids}"
                )
            }
        }
    }
}

/// The router that was noted, which its lock tells from every other process: where the service runs with ProtectProc=,
/// a process of another user is not to be seen in /proc.
fn hidden_router(layout: &Layout, life: &Life, pid: i32) -> Option<Process> {
    // One that has only just been started has yet to take it.
    for _ in 0..LOCK_ATTEMPTS {
        let process = Process::open(pid).ok().filter(|process| !process.has_ended())?;
        if record::holder(&layout.lock(), life.incarnation.0) == Some(pid) {
            return Some(process);
        }
        std::thread::sleep(LOCK_PAUSE);
    }
    None
}

/// Processes that live, and what is known of them.
#[derive(Debug)]
pub(super) struct Survivors {
    state: State,
    images: BTreeMap<UnitName, Image>,
    alive: BTreeMap<Life, Process>,
    /// Whether the supervisor before was told to stop everything.
    stopping: bool,
}

impl Survivors {
    /// Looks for processes of an earlier supervisor; `kept` is what was kept for us. None if nobody is left.
    ///
    /// What is not surely the process that was noted is none of ours: it has the same number, began at the same moment of
    /// the same run of the machine, and holds our lock, where the kernel lets us see that. A router that /proc hides is known by
    /// what systemd kept of it, or by its byte of the lock.
    ///
    /// # Errors
    /// What was left cannot be read, or somebody else's word about a process is not to be had.
    pub(super) fn look(
        layout: &Layout,
        boot: &str,
        users: &Users,
        kept: &mut Kept,
    ) -> Result<Option<Self>, Unknown> {
        let state = State::read(layout, boot).map_err(Unknown::State)?;
        let Some(state) = state else { return Ok(None) };
        let lock = std::fs::metadata(layout.lock());
        let is_ours = |unit: &UnitName, pid| {
            let is_router = *unit == UnitName::router();
            let user = if is_router { &users.router } else { &users.synapse };
            let uid = user.as_ref().map_or_else(users::own_uid, |user| user.uid);
            // A fork server passes the lock on and does not hold it; whether a router does, root alone may see in /proc.
            let holds_lock =
                lock.as_ref().is_ok_and(|lock| process::has_open(pid, lock).unwrap_or(is_router));
            pidfd::owner(pid) == Some(uid) && (holds_lock || *unit == UnitName::fork_server())
        };
        let (mut alive, mut strangers) = (BTreeMap::new(), Vec::new());
        for (life, noted) in state.units.iter().flat_map(lives) {
            if let Some(process) = Process::identify(noted.pid, noted.started) {
                if is_ours(&life.unit, noted.pid) {
                    alive.insert(life, process);
                } else {
                    strangers.push(noted.pid);
                }
                continue;
            }
            // A descriptor of its time says of what it ended, or that it lives where /proc does not show it.
            let held = kept.process(&life).map(|held| Process::of(noted.pid, held));
            let is_router = life.unit == UnitName::router();
            let found = match held.filter(|held| is_router || held.has_ended()) {
                None if is_router => hidden_router(layout, &life, noted.pid),
                found => found,
            };
            match found {
                Some(process) => {
                    alive.insert(life, process);
                }
                None => tracing::warn!("{} ended while no supervisor was there", life.unit),
            }
        }
        if !strangers.is_empty() {
            return Err(Unknown::Strangers(strangers));
        }
        let images = state::read_images(layout);
        let stopping = layout.stopping_mark().exists();
        Ok((!alive.is_empty()).then_some(Self { state, images, alive, stopping }))
    }

    pub(super) const fn generation(&self) -> u64 {
        self.state.generation
    }

    pub(super) fn lives(&self) -> impl Iterator<Item = &Life> {
        self.alive.keys()
    }

    /// The configuration that they run by.
    pub(super) fn usable(
        &self,
        generations: &Generations,
        path: &Path,
        credentials: Option<&OsString>,
    ) -> Result<Usable, String> {
        let number = self.state.generation;
        let text = generations.text(number).map_err(|error| error.to_string())?;
        let document = Document { name: format!("generation {number}"), text };
        toml::usable_as(document, path, credentials).map_err(|unusable| unusable.to_string())
    }

    /// What they run with.
    pub(super) fn deployment(&self, deployment: Deployment) -> Deployment {
        let mut images = deployment.images.clone();
        images.extend(self.images.clone());
        // Who left is no part of it any more, unless it still runs.
        images.retain(|name, _| deployment.images.contains_key(name) || self.state.units.contains_key(name));
        Deployment { images, ..deployment }
    }

    /// Has everybody's sockets copied that nobody has kept for us.
    pub(super) fn copy_sockets(&self, kept: &mut Kept) {
        for process in self.alive.values() {
            for socket in process.listeners() {
                kept.add(String::new(), socket);
            }
        }
    }

    /// Has the router end, which closes its sockets at once and takes as long as its last request: for when we are not
    /// let to copy them. Says whether there is one.
    pub(super) fn end_router(&mut self) -> bool {
        let Some(known) = self.state.units.get_mut(&UnitName::router()) else { return false };
        let present = Life { unit: UnitName::router(), incarnation: known.incarnation };
        let told = self.alive.get(&present).is_some_and(|router| router.signal(Signal::SIGTERM).is_ok());
        if let Some(process) = known.process.as_mut().filter(|_| told) {
            process.ending = true;
        }
        told
    }

    /// Every process by the stage in which it ends, with its role.
    pub(super) fn stages(self) -> BTreeMap<u8, Vec<(Life, Role, Process)>> {
        let mut stages: BTreeMap<u8, Vec<_>> = BTreeMap::new();
        for (life, process) in self.alive {
            let role = self.state.units.get(&life.unit).map_or(Role::Main, |known| known.unit.role);
            stages.entry(stage(role)).or_default().push((life, role, process));
        }
        stages
    }

    fn topology(&self, config: &Config) -> Topology {
        let mut topology = Topology::of(config);
        let leaving = self.state.units.values().map(|known| &known.unit);
        let leaving = leaving.filter(|unit| topology.unit(&unit.name).is_none()).cloned().collect::<Vec<_>>();
        topology.units.extend(leaving);
        topology
    }

    /// What the core is told of a unit.
    fn kept(&self, spec: Spec) -> KeptUnit {
        let Some(known) = self.state.units.get(&spec.name) else {
            return KeptUnit {
                spec,
                incarnation: Incarnation::default(),
                alive: None,
                ending: false,
                wanted: true,
                leaving: false,
                retired: Vec::new(),
            };
        };
        let life = Life { unit: spec.name.clone(), incarnation: known.incarnation };
        let process = known.process.filter(|_| self.alive.contains_key(&life));
        KeptUnit {
            // What a fork server makes becomes a child of its own supervisor: a new one needs a new one.
            ending: process.is_some_and(|process| process.ending) || spec.name == UnitName::fork_server(),
            alive: process.map(|process| process.ready),
            incarnation: known.incarnation,
            wanted: known.wanted || self.stopping,
            leaving: known.leaving,
            retired: lives((&spec.name, known))
                .map(|(life, _)| life)
                .filter(|life| life.incarnation != known.incarnation && self.alive.contains_key(life))
                .map(|life| life.incarnation)
                .collect(),
            spec,
        }
    }
}

/// Every process that is noted of a unit.
fn lives((name, known): (&UnitName, &Known)) -> impl Iterator<Item = (Life, state::Process)> {
    let present = known.process.map(|process| (known.incarnation, process));
    let all: Vec<_> = present.into_iter().chain(known.retired.iter().copied()).collect();
    let name = name.clone();
    all.into_iter().map(move |(incarnation, process)| (Life { unit: name.clone(), incarnation }, process))
}

impl Driver {
    /// Takes over what is there, and goes on with what was under way; `upgraded` is whether another program had our place
    /// a moment ago.
    pub(super) fn adopt(&mut self, survivors: Survivors, upgraded: bool) {
        let topology = survivors.topology(&self.running.config);
        let kept: Vec<KeptUnit> =
            specs(&topology, &self.around).into_iter().map(|spec| survivors.kept(spec)).collect();
        let Survivors { state, alive, .. } = survivors;
        let another = upgraded || state.synvisor != env!("CARGO_PKG_VERSION");
        tracing::info!("{} processes of an earlier supervisor are taken over", alive.len());
        self.unfinished = state.towards;
        self.served = true;
        let begun = |generation: &&Generation| {
            generation.result == GenerationResult::Applying
                && Some(generation.number) != state.towards
                && generation.number != state.generation
        };
        for generation in self.generations.list().iter().filter(begun) {
            let why = "synvisor ended before it was begun".to_owned();
            self.settle(generation.number, GenerationResult::Failed, Some(why));
        }
        self.takeovers = state.takeovers + 1;
        for (name, known) in &state.units {
            if self.running.topology.unit(name).is_none() {
                self.leaving.insert(name.clone(), known.unit.clone());
            }
            if let Some(made) = known.process.and_then(|process| process.made) {
                self.births.made.insert(name.clone(), made);
            }
        }
        let noted: BTreeMap<Life, state::Process> = state.units.iter().flat_map(lives).collect();
        for (life, process) in alive {
            let started = noted.get(&life).map_or(0, |process| process.started);
            self.pids.adopt(life, process, started, &self.news);
        }
        // The router must not hear that somebody is away before the core knows who is there.
        self.core.handle(Input::Adopt(kept), clock::now());
        let lives: Vec<Life> = self.pids.iter().map(|(_, life)| life.clone()).collect();
        for life in lives {
            if life.unit == UnitName::router() {
                self.connect_router(life.clone());
                self.keep_asking(&life);
            } else if self.core.ready(&life.unit).is_none() {
                self.ask_again(life);
            } else {
                self.keep_asking(&life);
            }
        }
        self.obey();
        // Of who ended while one supervisor made room for the other nobody was told.
        self.reap();
        if another {
            // Supervisor and router always speak the same protocol.
            self.tickets += 1;
            let restart = Verb::Restart { at_once: false };
            self.input(Input::Order(Ticket(self.tickets), restart, vec![UnitName::router()]));
        }
        self.announce();
        if let Some(towards) = self.unfinished {
            self.resume(towards);
        }
    }

    /// What it said while nobody listened is lost: asks whether it is ready.
    pub(super) fn ask_again(&mut self, life: Life) {
        let Some(unit) = self.unit(&life.unit).cloned() else { return };
        if let (true, Some(socket)) = (unit.role.is_synapse(), unit.private_socket.clone()) {
            let redis = topology::uses_redis(&self.running.config);
            let task = tokio::spawn(probe::synapse(life.clone(), socket, redis, self.news.clone()));
            self.watch(&life, task);
        } else if unit.role != Role::ForkServer {
            self.await_ready(&unit, life);
        }
    }

    /// A process has ended that is no child of ours.
    pub(super) fn ended_elsewhere(&mut self, life: &Life, exit: Exit) {
        self.hear();
        if let Some(pid) = self.pids.of(life).map(|known| known.pid()) {
            self.ended(pid, exit);
        }
    }
}

/// The run of the machine.
///
/// # Errors
/// There is no /proc.
pub(super) fn boot() -> Result<String, String> {
    pidfd::boot().ok_or_else(|| "cannot read /proc/sys/kernel/random/boot_id: is /proc mounted?".to_owned())
}
