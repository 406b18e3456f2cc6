//! The clock that decisions are made by.

use nix::time::ClockId;
use nix::time::clock_gettime;

use crate::supervise::Time;

/// Seconds since 1970-01-01 UTC, for people to read.
pub fn wall() -> u64 {
    // The call cannot fail for a clock that every supported kernel has.
    clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, |time| time.tv_sec().unsigned_abs())
}

/// Milliseconds of CLOCK_BOOTTIME: it never goes back and counts while the machine sleeps.
pub fn now() -> Time {
    // The call cannot fail for a clock that every supported kernel has.
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap_or_else(|_| nix::sys::time::TimeSpec::new(0, 0));
    let millis = time.tv_sec().unsigned_abs() * 1_000 + time.tv_nsec().unsigned_abs() / 1_000_000;
    Time(millis)
}
