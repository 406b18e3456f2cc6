//! When a process that ended is started again.

use std::collections::VecDeque;

use super::event::Time;

/// A process that had been READY restarts at once this often within [`WINDOW`].
const PROMPT_RESTARTS: usize = 10;
/// The span in which prompt restarts are counted, and how long READY must last to count as stable: a minute.
const WINDOW: u64 = 60_000;
/// The first delay, in milliseconds; it doubles from there.
const FIRST_DELAY: u64 = 1_000;
/// No delay grows beyond a minute.
const LONGEST_DELAY: u64 = 60_000;
/// Exits in a row without READY after which a unit counts as failed.
const FAILURES: u32 = 5;
/// A failed unit is tried again after five minutes.
const FAILED_RETRY: u64 = 300_000;

/// What to do about a process that ended without being asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Now,
    At(Time),
    /// Something is wrong that a restart does not mend; the time is that of the next try.
    Failed(Time),
}

/// The memory of one unit's ends.
#[derive(Clone, Debug, Default)]
pub(super) struct Backoff {
    /// Ends after READY within the window.
    ends: VecDeque<Time>,
    /// Delays given since the last stable minute.
    delays: u32,
    /// Exits in a row without READY.
    failures: u32,
}

impl Backoff {
    /// An administrator's order starts with a clean slate.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    pub(super) const fn ready(&mut self) {
        self.failures = 0;
    }

    /// It ended after it had been READY since `since`.
    pub(super) fn ended_after_ready(&mut self, since: Time, now: Time, jitter: u64) -> Verdict {
        if now.since(since) >= WINDOW {
            self.delays = 0;
        }
        while self.ends.front().is_some_and(|end| now.since(*end) >= WINDOW) {
            self.ends.pop_front();
        }
        if self.ends.len() < PROMPT_RESTARTS {
            self.ends.push_back(now);
            return Verdict::Now;
        }
        Verdict::At(self.delay(now, jitter))
    }

    /// It could not be started for want of something that the machine may have again at any time.
    pub(super) fn not_started(&mut self, now: Time, jitter: u64) -> Verdict {
        Verdict::At(self.delay(now, jitter))
    }

    /// It ended before READY.
    pub(super) fn ended_before_ready(&mut self, now: Time, jitter: u64) -> Verdict {
        self.failures = self.failures.saturating_add(1);
        if self.failures >= FAILURES {
            return Verdict::Failed(now.after(FAILED_RETRY));
        }
        Verdict::At(self.delay(now, jitter))
    }

    /// Doubles from the first delay, less up to a quarter, so that units that fell together do not rise together.
    fn delay(&mut self, now: Time, jitter: u64) -> Time {
        let full = FIRST_DELAY.saturating_mul(1 << self.delays.min(16)).min(LONGEST_DELAY);
        self.delays = self.delays.saturating_add(1);
        now.after(full - jitter % (full / 4))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_was_ready_restarts_at_once_ten_times_a_minute_then_ever_later() {
        // Mutation: `<=` for `<` in ended_after_ready, and a delay that does not double: both seen red.
        let mut backoff = Backoff::default();
        for second in 0..10 {
            let now = Time(second * 1_000);
            assert_eq!(backoff.ended_after_ready(now, now, 0), Verdict::Now);
        }
        let now = Time(10_000);
        assert_eq!(backoff.ended_after_ready(now, now, 0), Verdict::At(now.after(1_000)));
        assert_eq!(backoff.ended_after_ready(now, now, 0), Verdict::At(now.after(2_000)));
        assert_eq!(backoff.ended_after_ready(now, now, 0), Verdict::At(now.after(4_000)));
        let later = Time(80_000);
        assert_eq!(backoff.ended_after_ready(Time(15_000), later, 0), Verdict::Now);
        assert_eq!(backoff.delays, 0, "a stable minute starts the delays afresh");
    }

    #[test]
    fn five_exits_without_ready_are_a_failure_and_ready_forgives() {
        // Mutation: FAILURES counted across READY (ready() emptied): seen red.
        let mut backoff = Backoff::default();
        for _ in 0..4 {
            assert!(matches!(backoff.ended_before_ready(Time(0), 0), Verdict::At(_)));
        }
        backoff.ready();
        for _ in 0..4 {
            assert!(matches!(backoff.ended_before_ready(Time(0), 0), Verdict::At(_)));
        }
        assert_eq!(backoff.ended_before_ready(Time(7), 0), Verdict::Failed(Time(300_007)));
        assert_eq!(backoff.ended_before_ready(Time(8), 0), Verdict::Failed(Time(300_008)));
    }

    #[test]
    fn jitter_takes_at_most_a_quarter() {
        for jitter in [0, 1, 249, 250, 251, u64::MAX] {
            let Verdict::At(at) = Backoff::default().ended_before_ready(Time(0), jitter) else { panic!() };
            assert!((751..=1_000).contains(&at.0), "{at:?}");
        }
    }
}
