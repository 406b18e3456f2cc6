//! Word to systemd that the supervisor's loop goes round.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::Interval;
use tokio::time::MissedTickBehavior;

/// When systemd wants to hear from us, if it does. Whoever awaits it must be the loop itself: a task of its own would feed
/// systemd while the loop stands still.
#[derive(Debug)]
pub(super) struct Watchdog(Option<Interval>);

impl Watchdog {
    /// As WATCHDOG_USEC and WATCHDOG_PID have it (sd_watchdog_enabled(3)).
    pub(super) fn from_environment() -> Self {
        let limit = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero());
        Self(limit.map(|limit| {
            // Twice in the time would do; a third leaves room for one that is late.
            let mut interval = tokio::time::interval((limit / 3).max(Duration::from_millis(1)));
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        }))
    }

    /// Waits until it is time; for ever where nobody watches.
    pub(super) async fn due(&mut self) {
        match &mut self.0 {
            Some(interval) => {
                interval.tick().await;
            }
            None => std::future::pending().await,
        }
    }
}

/// Says that all is well.
pub(super) fn feed() {
    let _ = sd_notify::notify(&[NotifyState::Watchdog]);
}
