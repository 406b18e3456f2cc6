//! That no other supervisor is at work on the state directory, and no process that nobody knows.

use std::time::Duration;

use crate::config::Config;
use crate::host::layout::Layout;
use crate::host::layout::Users;
use crate::sys::clock;
use crate::sys::lock;
use crate::sys::lock::LockError;
use crate::sys::process;

use super::start::StartError;
use super::start::failed;

/// How long a supervisor that is stopping is waited for, in milliseconds: as long as systemd lets it (TimeoutStopSec=).
const STOP: u64 = 180_000;

/// Takes the lock that one supervisor holds. One that is stopping is waited for.
pub(super) fn only_one(layout: &Layout, create: bool) -> Result<Option<lock::Lock>, StartError> {
    let give_up = clock::now().after(STOP);
    loop {
        let holder = match lock::take(&layout.supervisor_lock(), lock::Kind::Exclusive, create, None) {
            Ok(lock) => return Ok(lock),
            Err(LockError::Held(holder)) => holder,
            Err(LockError::Fs(error)) => return Err(failed(error)),
        };
        if !layout.stopping_mark().exists() || clock::now() >= give_up {
            let who = holder.map_or_else(String::new, |pid| format!(" (pid {pid})"));
            return Err(StartError::Busy(format!(
                "another synvisor{who} runs on {}\n  \
                 stop it first, or give this one a state_dir of its own in [supervisor]",
                layout.state.display()
            )));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Waits for the end of processes that an earlier supervisor has started and that nothing is known of: they may be about
/// to end.
pub(super) fn await_strangers(layout: &Layout, config: &Config) -> Result<(), StartError> {
    let give_up = clock::now().after(config.supervisor.stop_timeout);
    let mut said = false;
    loop {
        match lock::take(&layout.lock(), lock::Kind::Exclusive, false, None) {
            Ok(_) => return Ok(()),
            Err(LockError::Fs(error)) => return Err(failed(error)),
            Err(LockError::Held(_)) => {}
        }
        if clock::now() >= give_up {
            let pids: Vec<String> = process::holders(&layout.lock()).iter().map(i32::to_string).collect();
            return Err(StartError::Busy(format!(
                "processes that an earlier synvisor started on {} still run, and what it noted of them is lost\n  \
                 end them: kill {}",
                layout.state.display(),
                pids.join(" ")
            )));
        }
        if !said {
            tracing::info!("waiting for the processes of an earlier synvisor to end");
            said = true;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Takes the lock that every process of ours gets.
pub(super) fn shared(layout: &Layout, users: &Users) -> Result<lock::Lock, StartError> {
    match lock::take(&layout.lock(), lock::Kind::Shared, true, users.synapse.as_ref()) {
        Ok(Some(lock)) => Ok(lock),
        Ok(None) => Err(failed("the lock on the state directory was not made")),
        Err(LockError::Fs(error)) => Err(failed(error)),
        Err(LockError::Held(_)) => Err(failed(format!("another program holds {}", layout.lock().display()))),
    }
}
