//! From a checked configuration to a running supervisor; nothing is written before everything was looked at.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::config::Config;
use crate::control;
use crate::forkserver;
use crate::host::database;
use crate::host::generations::Generations;
use crate::host::layout::Layout;
use crate::host::layout::Users;
use crate::host::secrets;
use crate::host::venv;
use crate::host::venv::Venv;
use crate::plan::Deployment;
use crate::supervise::Supervisor;
use crate::sys::clock;
use crate::sys::fs;
use crate::sys::fs::LockError;
use crate::sys::notify::NotifySocket;
use crate::sys::packet;
use crate::sys::process;

use super::Chosen;
use super::Driver;
use super::Ended;
use super::births::Births;
use super::chosen;
use super::listeners::Listeners;
use super::orders::Orders;
use super::output;
use super::planning;
use super::policy;
use super::routers::Routers;
use super::signals::Signals;
use super::sockets::Sockets;
use super::spawn::Surroundings;
use super::timeline::Timeline;

/// Why the supervisor does not run, by what it means for the exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartError {
    /// Something that the configuration names is not as it must be.
    Config(String),
    /// Another supervisor has this state directory.
    Busy(String),
    Failed(String),
}

fn failed(error: impl std::fmt::Display) -> StartError {
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

/// Runs the homeserver until it is told to stop.
///
/// # Errors
/// Whatever keeps it from running, each with its remedy. Until the checks have passed nothing is written.
pub fn supervise(
    chosen: Chosen,
    config_path: PathBuf,
    credentials: Option<OsString>,
    tests: ForTests,
) -> Result<Ended, StartError> {
    let Chosen { usable, fallen_back } = chosen;
    let config = &usable.parsed.config;
    let users = Users::of(config).map_err(StartError::Config)?;
    let venv = venv::inspect(config, users.synapse.as_ref()).map_err(StartError::Config)?;
    let layout = Layout::of(config);
    // Before the ports: the other supervisor is the better explanation for a port that is taken.
    drop(lock(&layout, &users, config, false)?);
    let mut listeners = Listeners::default();
    let bound = listeners.bind(&config.listen).map_err(StartError::Failed)?;
    listeners.take(bound, &config.listen);

    layout.make(&users).map_err(failed)?;
    let Some(lock) = lock(&layout, &users, config, true)? else {
        return Err(failed("the lock on the state directory was not made"));
    };
    let made =
        secrets::complete(&layout.secrets(), &config.secrets, users.synapse.as_ref()).map_err(failed)?;
    // Now that every secret is there.
    let running = planning::deployment(&usable);
    let generations = Generations::new(layout.generations());
    let generation = chosen::note(&generations, &usable).map_err(failed)?;
    layout.write(&running.render(), &users).map_err(failed)?;
    layout.write(&forkserver::program(&layout.fork_server_program()), &users).map_err(failed)?;
    if let (true, Some(programs)) = (config.database.is_embedded(), &venv.postgres) {
        database::initialise_postgres(programs, &layout, users.synapse.as_ref())
            .map_err(StartError::Failed)?;
    }
    if !made.is_empty() {
        tracing::info!("generated {} in {}", made.join(", "), layout.secrets().display());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let parts = Parts {
        config_path,
        credentials,
        venv,
        users,
        layout,
        lock,
        listeners,
        tests,
        running,
        text: usable.text,
        fallen_back,
        generations,
        generation,
    };
    runtime.block_on(parts.run())
}

/// Takes the lock on the state directory. One that only the children of a dead supervisor hold is waited for: they
/// were told to end when it died.
fn lock(
    layout: &Layout,
    users: &Users,
    config: &Config,
    create: bool,
) -> Result<Option<fs::Lock>, StartError> {
    let give_up = clock::now().after(config.supervisor.stop_timeout);
    let mut said = false;
    loop {
        let holder = match fs::lock(&layout.lock(), create, users.synapse.as_ref()) {
            Ok(lock) => return Ok(lock),
            Err(LockError::Held(holder)) => holder,
            Err(LockError::Fs(error)) => return Err(failed(error)),
        };
        let who = holder.map_or_else(String::new, |pid| format!(" (pid {pid})"));
        if holder.is_none_or(process::exists) {
            return Err(StartError::Busy(format!(
                "another synvisor{who} runs on {}\n  \
                 stop it first, or give this one a state_dir of its own in [supervisor]",
                layout.state.display()
            )));
        }
        if clock::now() >= give_up {
            return Err(StartError::Busy(format!(
                "processes that an earlier synvisor{who} started on {} still run\n  \
                 find them with: fuser {}",
                layout.state.display(),
                layout.lock().display()
            )));
        }
        if !said {
            tracing::info!("waiting for the processes of an earlier synvisor{who} to end");
            said = true;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Everything that a supervisor is made of.
struct Parts {
    config_path: PathBuf,
    credentials: Option<OsString>,
    venv: Venv,
    users: Users,
    layout: Layout,
    lock: fs::Lock,
    listeners: Listeners,
    tests: ForTests,
    running: Deployment,
    text: String,
    fallen_back: Option<(String, String)>,
    generations: Generations,
    generation: u64,
}

impl Parts {
    async fn run(self) -> Result<Ended, StartError> {
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
        let control = control::Control::bind(&path).map_err(|error| bound(&path, error))?;
        output::follow(self.layout.logs()).map_err(failed)?;

        let (commands_in, commands) = mpsc::channel(64);
        tokio::spawn(control.serve(self.layout.clone(), commands_in));
        let (news_in, news) = mpsc::unbounded_channel();
        let config = &self.running.config;
        tracing::info!("{} units of {} start", self.running.topology.units.len(), config.server_name);
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
                lock: self.lock,
                milestones: self.tests.milestones,
                without: self.tests.without,
            },
            leaving: BTreeMap::new(),
            generations: self.generations,
            generation: self.generation,
            under_way: None,
            trials: 0,
            credentials: self.credentials,
            notify,
            news: news_in,
            pids: BTreeMap::new(),
            probes: BTreeMap::new(),
            troubles: BTreeMap::new(),
            routers: Routers::default(),
            births: Births::default(),
            fork_server_calls: None,
            sockets: Sockets::default(),
            timeline: Timeline::default(),
            orders: Orders::default(),
            tickets: 0,
            started: false,
            stopping: false,
            finished: false,
            unreachable: None,
        };
        let ended = driver.run(signals, news, commands).await;
        self.layout.remove_sockets().map_err(failed)?;
        let layout = &self.layout;
        for path in [layout.control_socket(), layout.notify_socket(), layout.fork_server_socket()] {
            fs::remove(&path).map_err(failed)?;
        }
        Ok(ended)
    }
}
