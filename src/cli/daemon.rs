//! The long-running processes.

use std::ffi::OsString;
use std::io;
use std::io::ErrorKind;
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use crate::router;
use crate::run;
use crate::run::Ended;
use crate::run::StartError;
use crate::sys::descriptors;
use crate::sys::process;
use crate::sys::record;

use super::Exit;
use super::config;
use super::output;

pub(super) fn supervise(
    path: PathBuf,
    credentials: Option<OsString>,
    passed_on: &[i32],
    launch: run::Launch,
    tests: run::ForTests,
) -> Exit {
    let inherited = match handed_over(passed_on) {
        Ok(inherited) => inherited,
        Err(error) => return say(&format!("what systemd kept cannot be used: {error}"), Exit::Failed),
    };
    let chosen = match run::choose(&path, credentials.as_ref()) {
        Ok(chosen) => chosen,
        Err(unusable) => return config::refuse(&unusable),
    };
    output::problems(&chosen.usable.warnings);
    if let Some((_, why)) = &chosen.fallen_back {
        output::problem(why);
    }
    match run::supervise(chosen, path, credentials, inherited, launch, tests) {
        Ok(Ended::Stopped) => Exit::Done,
        Ok(Ended::GaveUp(why)) => say(&why, Exit::Failed),
        Err(StartError::Config(why)) => say(&why, Exit::Config),
        Err(StartError::Busy(why)) => say(&why, Exit::Busy),
        Err(StartError::Failed(why)) => say(&why, Exit::Failed),
    }
}

/// What the program before us passed on, and what systemd kept for us (sd_listen_fds_with_names(3)).
fn handed_over(passed_on: &[i32]) -> io::Result<Vec<(String, OwnedFd)>> {
    let mut descriptors = Vec::new();
    for number in passed_on {
        descriptors.push((String::new(), process::passed_on(*number)?));
    }
    if let Ok(named) = sd_notify::listen_fds_with_names() {
        for (number, name) in named {
            descriptors.push((name, process::passed_on(number)?));
        }
    }
    Ok(descriptors)
}

/// Ends what a supervisor that died has left.
pub(super) fn after_stop(path: &Path, credentials: Option<&OsString>, after: run::After) -> Exit {
    match run::after_stop(path, credentials, after) {
        Ok(()) => Exit::Done,
        Err(why) => say(&format!("processes of the service may be left: {why}"), Exit::Failed),
    }
}

/// Says whether we could take over what a supervisor offers, and in which version.
pub(super) fn upgrade_check(path: &Path, credentials: Option<&OsString>, offers: &Path) -> Exit {
    match run::check_offers(offers, path, credentials) {
        Ok(version) => {
            output::line(version.to_string());
            Exit::Done
        }
        Err(why) => say(&why, Exit::Failed),
    }
}

fn say(why: &str, exit: Exit) -> Exit {
    output::problem(format!("synvisor: {why}"));
    exit
}

/// How `supervise` starts the router: descriptor 3 is for the supervisor, who sends whatever else it needs; 4 is the lock
/// of the state directory.
#[derive(Debug, clap::Args)]
pub(super) struct RouterArguments {
    #[arg(long)]
    supervisor_uid: u32,
    #[arg(long)]
    drain_timeout_ms: u64,
    /// Which byte of the lock proves who it is.
    #[arg(long)]
    incarnation: u64,
    /// For tests and benchmarks: what a router does that neither lets requests wait nor sends them again.
    #[arg(long, hide = true)]
    without_parking: bool,
}

/// One for each CPU that we may run on; more than a few would serve a homeserver that there is not.
fn threads() -> NonZero<usize> {
    const MOST: NonZero<usize> = NonZero::new(8).unwrap();
    std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN).min(MOST)
}

pub(super) fn router(arguments: RouterArguments) -> Exit {
    let inherited = process::inherited(2)
        .and_then(|inherited| Ok(<[OwnedFd; 2]>::try_from(inherited).map_err(|_| ErrorKind::InvalidInput)?));
    let [control, lock] = match inherited {
        Ok(inherited) => inherited,
        Err(error) => {
            return say(&format!("the router is started by `synvisor supervise` only: {error}"), Exit::Usage);
        }
    };
    if let Err(error) = record::take(&lock, arguments.incarnation) {
        tracing::warn!(
            "the lock of the state directory cannot be had: {error}\n  after a crash of the supervisor another one may \
             not find this router, and has to be started anew"
        );
    }
    // Each client takes two; what we are let have we take.
    let _ = descriptors::raise_limit();
    let setup = router::RouterSetup {
        control: UnixListener::from(control),
        allowed_uids: vec![0, arguments.supervisor_uid],
        drain_timeout: Duration::from_millis(arguments.drain_timeout_ms),
        keep_alive: router::KeepAlive::default(),
        parking: router::Parking::default(),
        threads: threads(),
        without_parking: arguments.without_parking,
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return say(&error.to_string(), Exit::Failed),
    };
    match runtime.block_on(router::run(setup)) {
        Ok(()) => Exit::Done,
        Err(error) => say(&format!("the router failed: {error}"), Exit::Failed),
    }
}
