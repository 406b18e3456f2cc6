//! How much of a request's body may come, and how slowly.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

/// A body that stops for so long does not go on any more, nor does a client that takes nothing of its answer.
pub(super) const STALL: Duration = Duration::from_secs(60);
/// A slower one (bytes a second, on the whole) is no slow connection, but meant to hold a process.
const SLOWEST: u64 = 256;

/// A body on its way in.
pub(super) struct Pace {
    /// How many bytes it may have.
    allowed: u64,
    came: u64,
    began: Instant,
    active: Instant,
}

impl Pace {
    /// Of a body that begins now.
    pub(super) fn new(allowed: u64) -> Self {
        let now = Instant::now();
        Self { allowed, came: 0, began: now, active: now }
    }

    /// So many bytes have come.
    ///
    /// # Errors
    /// [`io::ErrorKind::FileTooLarge`] when these are too many.
    pub(super) fn comes(&mut self, count: usize) -> io::Result<()> {
        self.came += count as u64;
        self.active = Instant::now();
        if self.came > self.allowed { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(()) }
    }

    /// When the next bytes must have come.
    pub(super) fn limit(&self) -> Instant {
        let slowest = self.began + STALL + Duration::from_secs(self.came / SLOWEST);
        slowest.min(self.active + STALL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_creeps_is_given_up_and_one_that_is_only_slow_is_not() {
        // Mutations, each seen red: a byte now and then enough; the whole of it held to one minute.
        let began = Instant::now();
        let pace = |came, since_last| Pace {
            allowed: u64::MAX,
            came,
            began,
            active: began + Duration::from_secs(1_000) - Duration::from_secs(since_last),
        };
        let is_late = |pace: &Pace| pace.limit() <= began + Duration::from_secs(1_000);
        assert!(is_late(&pace(1_000, 0)));
        assert!(!is_late(&pace(1_000_000, 0)));
        assert!(is_late(&pace(1_000_000, 60)));
    }

    #[test]
    fn the_last_byte_that_is_allowed_is_taken_and_the_next_is_not() {
        // Mutation: one byte more taken: seen red.
        let mut pace = Pace::new(10);
        assert!(pace.comes(10).is_ok());
        assert_eq!(pace.comes(1).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }
}
