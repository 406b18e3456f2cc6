//! A connection's limits of time, kept by one timer that is seldom set.

use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;
use tokio::time::Sleep;

/// A limit that is put off is looked at again this often, rather than the timer set anew by each request.
const TICK: Duration = Duration::from_secs(10);
/// No limit has to be kept more exactly.
const SLACK: Duration = Duration::from_secs(1);

/// What wakes a task when one of its limits may be reached.
pub(super) struct Timer {
    sleep: Pin<Box<Sleep>>,
}

impl Timer {
    pub(super) fn new() -> Self {
        Self { sleep: Box::pin(tokio::time::sleep(TICK)) }
    }

    /// Whether the limit is reached; the task is woken when it may be, or soon after.
    pub(super) fn is_over(&mut self, context: &mut Context<'_>, limit: Instant) -> bool {
        if self.sleep.deadline() > limit + SLACK {
            self.sleep.as_mut().reset(limit);
        }
        while let Poll::Ready(()) = self.sleep.as_mut().poll(context) {
            let now = Instant::now();
            if now >= limit {
                return true;
            }
            self.sleep.as_mut().reset(limit.min(now + TICK));
        }
        false
    }
}
