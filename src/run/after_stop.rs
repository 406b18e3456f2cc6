//! When the service is down: what a supervisor that died has left ends too, unless the next one is about to take it over.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::host::layout::Layout;
use crate::host::layout::Users;
use crate::host::systemd;
use crate::host::toml;
use crate::supervise::Ending;
use crate::supervise::Life;
use crate::supervise::Time;
use crate::sys::clock;
use crate::sys::fork;
use crate::sys::fs;
use crate::sys::lock;
use crate::sys::pidfd::Process;
use crate::topology::Role;

use super::adopt;
use super::adopt::Survivors;
use super::chosen;
use super::spawn;
use super::store::Kept;

/// Between two looks at the service.
const PAUSE: Duration = Duration::from_millis(500);

/// A service that is to be restarted is so by then, in milliseconds; for where systemd cannot be asked.
const RESTART: u64 = 10_000;

/// For each stage of what is long overdue, in milliseconds: systemd gives us no more time than it gave the supervisor.
const LAST_WORDS: u64 = 400;

/// What systemd says of the end of the service ($SERVICE_RESULT in systemd.exec(5)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    Stop,
    /// A stop for which the time was up: whoever is left was told already.
    Overdue,
    /// Anything else: systemd may be about to start it again.
    Crash,
}

impl After {
    pub fn result(text: &str) -> Self {
        match text {
            "success" => Self::Stop,
            "timeout" => Self::Overdue,
            _ => Self::Crash,
        }
    }
}

/// Ends what is left, in the order of a stop.
///
/// # Errors
/// It is not known what is left.
pub fn after_stop(path: &Path, credentials: Option<&OsString>, after: After) -> Result<(), String> {
    // No secret is needed, and credentials are given to starts alone (systemd.exec(5)).
    let config = &match toml::load(path, credentials) {
        Ok(loaded) => loaded.parsed.config,
        Err(_) => {
            chosen::choose(path, credentials).map_err(|unusable| unusable.to_string())?.usable.parsed.config
        }
    };
    let layout = Layout::of(config);
    // For each stage of the stop, in milliseconds.
    let limit = match after {
        After::Overdue => LAST_WORDS,
        After::Stop | After::Crash => config.supervisor.stop_timeout + config.supervisor.drain_timeout,
    };
    let users = Users::of(config)?;
    let look = Survivors::look(&layout, &adopt::boot()?, &users, &mut Kept::default());
    let Some(mut survivors) = look.map_err(adopt::Unknown::text)? else { return Ok(()) };
    if after == After::Crash && !layout.stopping_mark().exists() {
        let only = match lock::take(&layout.waiter_lock(), lock::Kind::Exclusive, true, None) {
            // Somebody waits already.
            Err(lock::LockError::Held(_)) => return Ok(()),
            lock => lock.ok().flatten(),
        };
        // What is left is known by now: a stop that comes at once takes the directory away that says so (systemd 257).
        let waits = fork::leave_behind().map_err(|error| error.to_string())?;
        // Given back here, it would be given back for both.
        std::mem::forget(only);
        if !waits || !is_over(&layout) {
            return Ok(());
        }
        // Another supervisor may have come and gone.
        if let Ok(Some(now)) = Survivors::look(&layout, &adopt::boot()?, &users, &mut Kept::default()) {
            survivors = now;
        }
    }
    let _alone = match lock::take(&layout.supervisor_lock(), lock::Kind::Exclusive, true, None) {
        Ok(lock) => lock,
        // A supervisor looks after them.
        Err(lock::LockError::Held(_)) => return Ok(()),
        Err(lock::LockError::Fs(error)) => {
            tracing::warn!("{error}");
            None
        }
    };
    // The directory is systemd's, and may be gone by now.
    let there = layout.run.exists();
    // A supervisor that starts meanwhile waits for us, as for a service that stops.
    if there && let Err(error) = fs::replace_fleeting(&layout.stopping_mark(), b"") {
        tracing::warn!("{error}");
    }
    end(survivors, limit).map_err(|error| error.to_string())?;
    if there { clear(&layout).map_err(|error| error.to_string()) } else { Ok(()) }
}

/// Waits until a new supervisor has taken over, or none will.
fn is_over(layout: &Layout) -> bool {
    let unit = systemd::own_unit();
    let give_up = clock::now().after(RESTART);
    loop {
        match lock::take(&layout.supervisor_lock(), lock::Kind::Exclusive, false, None) {
            // Somebody else has it.
            Err(lock::LockError::Held(_)) => return false,
            Ok(_) | Err(lock::LockError::Fs(_)) => {}
        }
        match unit.as_deref().and_then(systemd::is_active) {
            Some(false) => return true,
            Some(true) => {}
            None if clock::now() >= give_up => return true,
            None => {}
        }
        std::thread::sleep(PAUSE);
    }
}

fn end(survivors: Survivors, limit: u64) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut stages = survivors.stages();
        while let Some((_, processes)) = stages.pop_last() {
            let until = clock::now().after(limit);
            let mut ends = JoinSet::new();
            for (life, role, process) in processes {
                ends.spawn(end_one(life, role, process, until));
            }
            while ends.join_next().await.is_some() {}
        }
    });
    Ok(())
}

async fn end_one(life: Life, role: Role, process: Process, until: Time) {
    tracing::info!("{life} is ended, which no supervisor looks after any more");
    if let Err(error) = process.signal(spawn::signal(role, Ending::Terminate)) {
        // One that is gone already is what we want.
        tracing::debug!("{life} is not told: {error}");
    }
    let left = Duration::from_millis(until.since(clock::now()));
    if tokio::time::timeout(left, process.ended()).await.is_err() {
        let _ = process.signal(spawn::signal(role, Ending::Kill));
        let _ = process.ended().await;
    }
}

/// Removes what would be taken for processes that live.
fn clear(layout: &Layout) -> Result<(), fs::FsError> {
    layout.remove_sockets()?;
    let files = [layout.state_file(), layout.images_file(), layout.stopping_mark(), layout.waiter_lock()];
    for path in files {
        fs::remove(&path)?;
    }
    Ok(())
}
