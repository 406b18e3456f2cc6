//! From a unit to the process that it is.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::sys::signal::Signal;

use crate::config::Config;
use crate::forkserver;
use crate::forkserver::Process;
use crate::host::layout;
use crate::host::layout::Layout;
use crate::host::layout::Users;
use crate::host::venv;
use crate::host::venv::Venv;
use crate::plan::Image;
use crate::supervise::Ending;
use crate::sys::fork;
use crate::sys::fork::Command;
use crate::sys::fork::Waiting;
use crate::sys::fs;
use crate::sys::lock;
use crate::sys::users::User;
use crate::topology;
use crate::topology::Role;
use crate::topology::Unit;
use crate::topology::UnitName;
use crate::wire::Incarnation;

use super::listeners::Listeners;
use super::sockets::Held;
use super::upgrade::Launch;

/// The image that we run, whatever lies at its path by now: supervisor and router always speak the same protocol.
const OWN_IMAGE: &str = "/proc/self/exe";

/// The process that has Synapse read files on trial, where units have their names.
pub(super) const TRIAL: &str = "trial";

/// Permission bits that new files of a process do not get.
const UMASK: u32 = 0o027;

/// A forked process shows its own title in the place of the fork server's arguments, as far as they reach: bytes.
const ROOM_FOR_TITLES: usize = 200;

/// What every start needs.
#[derive(Debug)]
pub(super) struct Surroundings {
    pub(super) layout: Layout,
    pub(super) users: Users,
    pub(super) venv: Venv,
    pub(super) listeners: Listeners,
    pub(super) fork_server_control: OwnedFd,
    /// Where the command line comes in.
    pub(super) control: OwnedFd,
    pub(super) launch: Launch,
    /// Every process holds it that was started for this state directory: a new supervisor knows them by it, and whether
    /// any is left.
    pub(super) lock: lock::Lock,
    /// The run of the machine.
    pub(super) boot: String,
    /// After so many moments of a change the supervisor dies, for tests.
    pub(super) milestones: Option<u64>,
    /// Mechanisms that a test leaves out, to see that they matter.
    pub(super) without: Vec<String>,
}

impl Surroundings {
    pub(super) fn lacks(&self, part: &str) -> bool {
        self.without.iter().any(|other| other == part)
    }

    /// The log of a unit, to be appended to.
    pub(super) fn output(&self, unit: &Unit) -> io::Result<File> {
        fs::append(&self.layout.log(&unit.name), self.users.synapse.as_ref()).map_err(io::Error::other)
    }

    fn environment(&self, own: &BTreeMap<String, String>) -> BTreeMap<String, String> {
        let layout = &self.layout;
        let environment = [
            ("HOME", text(layout.state.clone())),
            ("LANG", "C.UTF-8".to_owned()),
            ("NOTIFY_SOCKET", text(layout.notify_socket())),
            ("PATH", "/usr/local/bin:/usr/bin:/bin".to_owned()),
            ("PYTHONUNBUFFERED", "1".to_owned()),
            ("TMPDIR", text(layout.temporary())),
        ];
        let mut environment: BTreeMap<String, String> =
            environment.map(|(name, value)| (name.to_owned(), value)).into();
        environment.extend(own.clone());
        environment
    }
}

fn text(path: PathBuf) -> String {
    path.to_string_lossy().into_owned()
}

struct Program<'a> {
    argv: Vec<String>,
    name: Option<&'a str>,
    user: Option<&'a User>,
    /// What it finds at 3, 4, ….
    descriptors: Vec<BorrowedFd<'a>>,
}

/// Starts the process of a unit by a program of its own; none for a service that is not ours.
///
/// Niceness and environment are those of `image`, if there is one; `router` is where a router will be reached, and which
/// one it is.
pub(super) fn start(
    unit: &Unit,
    image: Option<&Image>,
    config: &Config,
    around: &Surroundings,
    router: Option<(BorrowedFd<'_>, Incarnation)>,
) -> io::Result<Option<Waiting>> {
    let Some(mut program) = program(unit, config, around) else { return Ok(None) };
    if let Some((control, incarnation)) = router {
        program.descriptors.push(control);
        program.argv.extend(["--incarnation".to_owned(), incarnation.0.to_string()]);
    }
    // The fork server passes the lock on to each process that it forks, and must not outlive them by it.
    if unit.role != Role::ForkServer {
        program.descriptors.push(around.lock.as_fd());
    }
    for socket in [&unit.client_socket, &unit.private_socket].into_iter().flatten() {
        layout::remove_socket(socket).map_err(io::Error::other)?;
    }
    let output = around.output(unit)?;
    spawn(program, &output, settings(image), around).map(Some)
}

/// Starts a process of Synapse by an interpreter of its own that inherits its sockets.
pub(super) fn execute(
    unit: &Unit,
    image: Option<&Image>,
    config: &Config,
    around: &Surroundings,
    held: &[Held],
) -> io::Result<Waiting> {
    // Its environment is the program's own; arguments are there for everybody to read.
    let process = Process { environment: BTreeMap::new(), ..describe(unit, image, config, around, held) };
    let process = serde_json::to_string(&process)?;
    let mut argv = bootstrap(config, &around.layout);
    argv.extend(["child".to_owned(), process]);
    let listeners = held.iter().map(|held| held.listener.as_fd());
    let descriptors = std::iter::once(around.lock.as_fd()).chain(listeners).collect();
    let program = Program { argv, name: None, user: around.users.synapse.as_ref(), descriptors };
    spawn(program, &around.output(unit)?, settings(image), around)
}

/// What the bootstrap must know of a process of Synapse.
pub(super) fn describe(
    unit: &Unit,
    image: Option<&Image>,
    config: &Config,
    around: &Surroundings,
    held: &[Held],
) -> Process {
    let (nice, own) = settings(image);
    Process {
        unit: unit.name.clone(),
        app: app(unit.role),
        arguments: vec!["-c".to_owned(), text(around.layout.config_file(&unit.name))],
        listeners: held.iter().map(|held| held.path.clone()).collect(),
        environment: around.environment(own),
        directory: around.layout.state.clone(),
        umask: UMASK,
        nice,
        stop_deadline_ms: config.supervisor.stop_timeout / 2,
        redis: topology::uses_redis(config),
        without: around.without.clone(),
    }
}

/// The command that runs the bootstrap; what it is to do follows.
fn bootstrap(config: &Config, layout: &Layout) -> Vec<String> {
    let python = text(venv::interpreter(&config.python.venv));
    vec![python, "-I".to_owned(), "-B".to_owned(), text(layout.fork_server_program())]
}

fn app(role: Role) -> &'static str {
    if role == Role::Main { "synapse.app.homeserver" } else { "synapse.app.generic_worker" }
}

/// Has Synapse read files on trial, by a process that the fork server makes.
pub(super) fn trial(
    files: Vec<String>,
    environment: &BTreeMap<String, String>,
    around: &Surroundings,
) -> Process {
    Process {
        unit: UnitName::new(TRIAL),
        app: forkserver::CHECK,
        arguments: files,
        listeners: Vec::new(),
        environment: around.environment(environment),
        directory: around.layout.state.clone(),
        umask: UMASK,
        nice: 0,
        stop_deadline_ms: 0,
        redis: false,
        without: Vec::new(),
    }
}

/// The same by an interpreter of its own, that of the virtualenv of `config`.
pub(super) fn execute_trial(
    files: Vec<String>,
    environment: &BTreeMap<String, String>,
    config: &Config,
    output: &File,
    around: &Surroundings,
) -> io::Result<Waiting> {
    let mut argv = bootstrap(config, &around.layout);
    argv.push("check".to_owned());
    argv.extend(files);
    let descriptors = vec![around.lock.as_fd()];
    let program = Program { argv, name: None, user: around.users.synapse.as_ref(), descriptors };
    spawn(program, output, (0, environment), around)
}

/// Niceness and environment of a process, by its image if it has one.
fn settings(image: Option<&Image>) -> (u16, &BTreeMap<String, String>) {
    static NOTHING: BTreeMap<String, String> = BTreeMap::new();
    image.map_or((0, &NOTHING), |image| (image.nice.unwrap_or_default(), &image.environment))
}

fn spawn(
    program: Program<'_>,
    output: &File,
    (nice, own): (u16, &BTreeMap<String, String>),
    around: &Surroundings,
) -> io::Result<Waiting> {
    fork::spawn(&Command {
        argv: program.argv,
        name: program.name,
        environment: around.environment(own).into_iter().collect(),
        nice,
        directory: if program.name.is_some() { std::path::Path::new("/") } else { &around.layout.state },
        output,
        descriptors: program.descriptors,
        user: program.user,
        umask: UMASK,
    })
}

fn program<'a>(unit: &Unit, config: &Config, around: &'a Surroundings) -> Option<Program<'a>> {
    let layout = &around.layout;
    let synapse = around.users.synapse.as_ref();
    let ours = |argv| Some(Program { argv, name: None, user: synapse, descriptors: Vec::new() });
    match unit.role {
        Role::Postgres { embedded: false } | Role::Redis { embedded: false } => None,
        Role::Postgres { embedded: true } => {
            let programs = around.venv.postgres.clone()?;
            let processes = config_processes(config);
            ours(vec![
                text(programs.join("postgres")),
                "-D".to_owned(),
                text(layout.postgres_data().join("data")),
                "-k".to_owned(),
                text(topology::postgres_socket_dir(config)),
                "-c".to_owned(),
                "listen_addresses=".to_owned(),
                "-c".to_owned(),
                // Each process may open its pool and one connection at start; some are left for an administrator.
                format!("max_connections={}", 20 + 11 * processes),
            ])
        }
        Role::Redis { embedded: true } => {
            let server = around.venv.redis.clone()?;
            let mut argv = vec![text(server)];
            // Synapse keeps nothing in Redis that outlives a restart.
            let options = "--port 0 --save  --appendonly no --daemonize no --unixsocketperm 700";
            argv.extend(options.split(' ').map(str::to_owned));
            argv.extend(["--unixsocket".to_owned(), text(topology::redis_socket(config))]);
            argv.extend(["--dir".to_owned(), text(layout.redis_data())]);
            ours(argv)
        }
        Role::ForkServer => {
            let mut argv = bootstrap(config, layout);
            argv.extend(["server".to_owned(), "--supervisor-uid".to_owned()]);
            argv.push(nix::unistd::geteuid().to_string());
            argv.extend(["--padding".to_owned(), ".".repeat(ROOM_FOR_TITLES)]);
            let descriptors = vec![around.fork_server_control.as_fd()];
            Some(Program { argv, name: None, user: synapse, descriptors })
        }
        Role::Main | Role::Worker(_) => ours(vec![
            text(venv::interpreter(&config.python.venv)),
            "-m".to_owned(),
            app(unit.role).to_owned(),
            "-c".to_owned(),
            text(layout.config_file(&unit.name)),
        ]),
        Role::Router => {
            let mut argv = vec![OWN_IMAGE.to_owned(), "router".to_owned()];
            argv.extend(["--supervisor-uid".to_owned(), nix::unistd::geteuid().to_string()]);
            argv.extend(["--drain-timeout-ms".to_owned(), config.supervisor.drain_timeout.to_string()]);
            if around.lacks("router") {
                argv.push("--without-parking".to_owned());
            }
            let user = around.users.router.as_ref();
            Some(Program { argv, name: Some("synvisor"), user, descriptors: Vec::new() })
        }
    }
}

fn config_processes(config: &Config) -> u32 {
    1 + config.workers.0.values().map(|count| u32::from(*count)).sum::<u32>()
}

/// The signal that carries an ending out: PostgreSQL's SIGTERM would wait for every client to leave by itself.
pub(super) fn signal(role: Role, ending: Ending) -> Signal {
    match (role, ending) {
        (_, Ending::Kill) => Signal::SIGKILL,
        (Role::Postgres { .. }, Ending::Terminate) => Signal::SIGINT,
        (
            Role::Redis { .. } | Role::ForkServer | Role::Main | Role::Worker(_) | Role::Router,
            Ending::Terminate,
        ) => Signal::SIGTERM,
    }
}
