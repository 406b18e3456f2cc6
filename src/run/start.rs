//! From a checked configuration to a running supervisor; nothing is written before everything was looked at.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::config::Config;
use crate::control;
use crate::forkserver;
use crate::host::database;
use crate::host::generations::Generations;
use crate::host::holding::Act;
use crate::host::holding::Reach;
use crate::host::layout::Layout;
use crate::host::layout::Users;
use crate::host::secrets;
use crate::host::state;
use crate::host::systemd;
use crate::host::toml::Usable;
use crate::host::venv;
use crate::host::venv::Venv;
use crate::plan::Deployment;
use crate::supervise::Supervisor;
use crate::supervise::Time;
use crate::sys::clock;
use crate::sys::fs;
use crate::sys::lock;
use crate::sys::notify::NotifySocket;
use crate::sys::packet;
use crate::sys::process;

use super::Chosen;
use super::Driver;
use super::Ended;
use super::adopt;
use super::adopt::Survivors;
use super::adopt::Unknown;
use super::alone;
use super::births::Births;
use super::chosen;
use super::listeners::Bound;
use super::listeners::Listeners;
use super::mend::Mending;
use super::orders::Orders;
use super::output;
use super::planning;
use super::policy;
use super::processes::Processes;
use super::routers::Routers;
use super::signals::Signals;
use super::sockets::Sockets;
use super::spawn::Surroundings;
use super::store;
use super::store::Kept;
use super::timeline::Timeline;
use super::upgrade::Launch;
use super::watchdog;

/// A router that was told to end closes its sockets within milliseconds; this is for one that is stopped.
const ROUTER_LETS_GO: u64 = 5_000;

/// So many milliseconds after it was given up a start is systemd's own.
const AGAIN: u64 = 10_000;

/// Why the supervisor does not run, by what it means for the exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartError {
    /// Something that the configuration names is not as it must be.
    Config(String),
    /// Another supervisor has this state directory.
    Busy(String),
    Failed(String),
}

pub(super) fn failed(error: impl std::fmt::Display) -> StartError {
    StartError::Failed(error.to_string())
}

/// What only tests ask for.
#[derive(Clone, Debug, Default)]
pub struct ForTests {
    /// Mechanisms to leave out, to see that they matter.
    pub without: Vec<String>,
    /// After so many moments of a change the supervisor dies.
    pub milestones: Option<u64>,
}

/// Two Synapses on one database ruin it. Whoever comes to it when this homeserver never has, or does no more, is another one: that
/// of before.
fn is_unused(usable: &Usable, users: &Users) -> Result<(), StartError> {
    let config = &usable.parsed.config;
    if config.database.is_embedded() {
        return Ok(());
    }
    let reach = Reach::of(config, &usable.secrets, users.synapse.as_ref());
    // One that does not answer is waited for later.
    let Ok(holding) = reach.look(Act::Look) else { return Ok(()) };
    match holding.in_use() {
        Some(count) => Err(StartError::Config(format!(
            "{}: another Synapse seems to serve with it ({count} connections of {}), and two would ruin it\n  \
             synvisor migrate has that one give way; or stop it, or whoever else comes to it as this user, for this start",
            reach.shown(),
            reach.user().unwrap_or_default()
        ))),
        None => Ok(()),
    }
}

/// Runs the homeserver until it is told to stop; `inherited` is what was kept for us, by name.
///
/// # Errors
/// Whatever keeps it from running, each with its remedy. Until the checks have passed nothing is written.
pub fn supervise(
    chosen: Chosen,
    config_path: PathBuf,
    credentials: Option<OsString>,
    inherited: Vec<(String, OwnedFd)>,
    launch: Launch,
    tests: ForTests,
) -> Result<Ended, StartError> {
    let Chosen { mut usable, mut fallen_back } = chosen;
    let layout = Layout::of(&usable.parsed.config);
    let boot = adopt::boot().map_err(StartError::Failed)?;
    // Before the ports: the other supervisor is the better explanation for a port that is taken.
    let only = alone::only_one(&layout, false)?;
    let generations = Generations::new(layout.generations());
    let mut kept = Kept::default();
    for (name, descriptor) in inherited {
        kept.add(name, descriptor);
    }
    let users = Users::of(&usable.parsed.config).map_err(StartError::Config)?;
    let mut survivors = match Survivors::look(&layout, &boot, &users, &mut kept) {
        Ok(survivors) => survivors,
        Err(unknown @ Unknown::Strangers(_)) => return Err(StartError::Busy(unknown.text())),
        Err(unknown @ Unknown::State(_)) => {
            tracing::warn!("what an earlier synvisor left is not known: {}", unknown.text());
            None
        }
    };
    if let Some(found) = &survivors {
        match found.usable(&generations, &config_path, credentials.as_ref()) {
            Ok(mut theirs) => {
                // Who may be what is the administrator's word alone, and the directories are those that we look into.
                let ours = &usable.parsed.config.supervisor;
                let settings = &mut theirs.parsed.config.supervisor;
                settings.user.clone_from(&ours.user);
                settings.router_user.clone_from(&ours.router_user);
                settings.state_dir.clone_from(&ours.state_dir);
                settings.run_dir.clone_from(&ours.run_dir);
                (usable, fallen_back) = (theirs, None);
            }
            Err(why) => {
                tracing::warn!("processes run by a configuration that cannot be used any more: {why}")
            }
        }
        if !tests.without.iter().any(|part| part == "copies") {
            found.copy_sockets(&mut kept);
        }
    }
    let config = &usable.parsed.config;
    if survivors.is_none() {
        alone::await_strangers(&layout, config)?;
    }
    let venv = venv::inspect(config, users.synapse.as_ref()).map_err(|why| match &survivors {
        None => StartError::Config(why),
        // The homeserver runs: it is to be tried again.
        Some(_) => StartError::Failed(why),
    })?;
    if launch.upgraded {
        // Python has taken its time for that, where the machine is busy. Before READY=1 this would begin what it is to hold off.
        watchdog::feed();
    }
    let may_serve_elsewhere = generations.list().is_empty() || layout.returned_mark().exists();
    if survivors.is_none() && may_serve_elsewhere {
        is_unused(&usable, &users)?;
        fs::remove(&layout.returned_mark()).map_err(failed)?;
    }
    let mut listeners = Listeners::default();
    listeners.take_back(&mut kept.tcp, &config.listen);
    // Our own copy must not be in the way of another address.
    kept.tcp.clear();
    let bound = bind(&listeners, config, survivors.as_mut()).map_err(StartError::Failed)?;
    listeners.take(bound, &config.listen, &usable.secrets);

    layout.make(&users).map_err(failed)?;
    let mut only = match only {
        Some(only) => only,
        None => alone::only_one(&layout, true)?
            .ok_or_else(|| failed("the lock on the state directory was not made"))?,
    };
    only.sign().map_err(failed)?;
    let lock = alone::shared(&layout, &users)?;
    let made =
        secrets::complete(&layout.secrets(), &config.secrets, users.synapse.as_ref()).map_err(failed)?;
    // Now that every secret is there.
    let mut running = planning::deployment(&usable);
    let generation = match &survivors {
        Some(survivors) => {
            running = survivors.deployment(running);
            survivors.generation()
        }
        None => chosen::note(&generations, &usable).map_err(failed)?,
    };
    state::write_images(&layout, &running.images).map_err(failed)?;
    layout.write(&running.render(), &users).map_err(failed)?;
    layout.write(&forkserver::program(&layout.fork_server_program()), &users).map_err(failed)?;
    if let (true, Some(programs)) = (config.database.is_embedded(), &venv.postgres) {
        let version = venv.postgres_version.as_deref().unwrap_or_default();
        database::fits(version, &layout)
            .and_then(|()| database::initialise_postgres(programs, &layout, users.synapse.as_ref()))
            .map_err(StartError::Failed)?;
    }
    if !made.is_empty() {
        tracing::info!("generated {} in {}", made.join(", "), layout.secrets().display());
    }
    fs::remove(&layout.stopping_mark()).map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let parts = Parts {
        config_path,
        credentials,
        venv,
        users,
        layout,
        lock,
        boot,
        listeners,
        kept,
        survivors,
        launch,
        tests,
        running,
        text: usable.text,
        fallen_back,
        generations,
        generation,
    };
    let ended = runtime.block_on(parts.run());
    drop(only);
    ended
}

/// Binds the addresses that nobody kept for us; those that a router of an earlier supervisor holds become free when it is
/// told to end.
fn bind(listeners: &Listeners, config: &Config, survivors: Option<&mut Survivors>) -> Result<Bound, String> {
    let mut bound = listeners.bind(&config.listen);
    if bound.is_err() && survivors.is_some_and(Survivors::end_router) {
        let give_up = clock::now().after(ROUTER_LETS_GO);
        while bound.is_err() && clock::now() < give_up {
            std::thread::sleep(Duration::from_millis(10));
            bound = listeners.bind(&config.listen);
        }
    }
    bound
}

/// Everything that a supervisor is made of.
struct Parts {
    config_path: PathBuf,
    credentials: Option<OsString>,
    venv: Venv,
    users: Users,
    layout: Layout,
    lock: lock::Lock,
    boot: String,
    listeners: Listeners,
    kept: Kept,
    survivors: Option<Survivors>,
    launch: Launch,
    tests: ForTests,
    running: Deployment,
    text: String,
    fallen_back: Option<(String, String)>,
    generations: Generations,
    generation: u64,
}

impl Parts {
    async fn run(mut self) -> Result<Ended, StartError> {
        process::become_subreaper().map_err(failed)?;
        // First, so that no child's end is missed.
        let signals = Signals::register().map_err(failed)?;
        let synapse = self.users.synapse.as_ref();
        let bound =
            |path: &Path, error: io::Error| failed(format!("cannot bind {}: {error}", path.display()));
        let path = self.layout.notify_socket();
        let notify = NotifySocket::bind(&path, synapse).map_err(|error| bound(&path, error))?;
        let path = self.layout.fork_server_socket();
        let fork_server_control = packet::listen_packets(&path).map_err(|error| bound(&path, error))?;
        let path = self.layout.control_socket();
        let control = match self.kept.unix.remove(&path) {
            Some(listener) => control::Control::of(listener),
            None => control::Control::bind(&path),
        };
        let control = control.map_err(|error| bound(&path, error))?;
        output::follow(self.layout.logs()).map_err(failed)?;

        let mut sockets = Sockets::default();
        for unit in self.running.topology.synapse() {
            sockets.take_back(&mut self.kept.unix, unit);
        }
        // What nobody took back is not ours to hold.
        let lives = self.survivors.iter().flat_map(Survivors::lives).map(ToString::to_string);
        let used = self.listeners.names().chain(sockets.names()).chain(lives).chain(["control".to_owned()]);
        std::mem::take(&mut self.kept).let_go(used);
        let (commands_in, commands) = mpsc::channel(64);
        let control_copy = control.copy().map_err(failed)?;
        store::keep_socket("control", &control_copy);
        let serving = tokio::spawn(control.serve(self.layout.clone(), commands_in.clone()));
        let (news_in, news) = mpsc::unbounded_channel();
        let config = &self.running.config;
        if self.survivors.is_none() {
            tracing::info!("{} units of {} start", self.running.topology.units.len(), config.server_name);
        }
        let driver = Driver {
            core: Supervisor::new(policy(config), clock::now().0 ^ u64::from(std::process::id())),
            notes: self.users.note.iter().cloned().collect(),
            text: self.text,
            looked_at: self.fallen_back.map(|(text, note)| (text, Some(note))),
            running: self.running,
            config_path: self.config_path,
            around: Surroundings {
                layout: self.layout.clone(),
                users: self.users,
                venv: self.venv,
                listeners: self.listeners,
                fork_server_control,
                control: control_copy,
                launch: self.launch.clone(),
                lock: self.lock,
                boot: self.boot,
                milestones: self.tests.milestones,
                without: self.tests.without,
            },
            leaving: BTreeMap::new(),
            generations: self.generations,
            generation: self.generation,
            in_force: self.generation,
            unfinished: None,
            under_way: None,
            trials: 0,
            credentials: self.credentials,
            notify,
            news: news_in,
            pids: Processes::default(),
            takeovers: 0,
            upgrade: None,
            kept: String::new(),
            unkept: None,
            serving,
            commands: commands_in,
            mending: Mending::default(),
            certificate_faults: BTreeMap::new(),
            probes: BTreeMap::new(),
            troubles: BTreeMap::new(),
            routers: Routers::default(),
            births: Births::default(),
            fork_server_calls: None,
            sockets,
            timeline: Timeline::default(),
            orders: Orders::default(),
            tickets: 0,
            started: false,
            served: false,
            stopping: false,
            finished: false,
            unattended: is_unattended(&self.layout),
            gave_up: None,
        };
        let ended = driver.run(signals, news, commands, self.survivors, self.launch.upgraded).await;
        self.layout.remove_sockets().map_err(failed)?;
        let layout = &self.layout;
        for path in [
            layout.state_file(),
            layout.images_file(),
            layout.stopping_mark(),
            layout.offers_file(),
            layout.control_socket(),
            layout.notify_socket(),
            layout.fork_server_socket(),
        ] {
            fs::remove(&path).map_err(failed)?;
        }
        if let Ended::GaveUp(_) = ended {
            let now = clock::now().0.to_string();
            fs::replace_fleeting(&layout.gave_up_mark(), now.as_bytes()).map_err(failed)?;
        }
        Ok(ended)
    }
}

/// Whether this start is systemd's, of what has just been given up.
fn is_unattended(layout: &Layout) -> bool {
    let given_up = fs::read(&layout.gave_up_mark()).ok().and_then(|time| time.parse().ok());
    given_up.is_some_and(|time| clock::now().since(Time(time)) < AGAIN) && systemd::own_unit().is_some()
}
