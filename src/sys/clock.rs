//! The clock that decisions are made by.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use nix::time::ClockId;
use nix::time::clock_getcpuclockid;
use nix::time::clock_gettime;
use nix::unistd::Pid;

use crate::supervise::Time;

/// Who runs looks at the clock more often than every so many milliseconds.
const LONGEST_LOOK: u64 = 7_000;

/// Seconds since 1970-01-01 UTC, for people to read.
pub fn wall() -> u64 {
    // The call cannot fail for a clock that every supported kernel has.
    clock_gettime(ClockId::CLOCK_REALTIME).map_or(0, |time| time.tv_sec().unsigned_abs())
}

/// The same in milliseconds, for logs.
pub fn wall_ms() -> i64 {
    clock_gettime(ClockId::CLOCK_REALTIME)
        .map_or(0, |time| time.tv_sec().saturating_mul(1_000).saturating_add(time.tv_nsec() / 1_000_000))
}

/// How long a process has had a CPU, all its threads together.
///
/// # Errors
/// There is no such process.
pub fn cpu_time(pid: i32) -> std::io::Result<Duration> {
    Ok(clock_gettime(clock_getcpuclockid(Pid::from_raw(pid))?)?.into())
}

/// Whether somebody keeps the machine's clock right, as the kernel was told (adjtimex(2)).
///
/// # Errors
/// The kernel does not say.
#[expect(unsafe_code, reason = "no crate that we have asks the kernel this")]
pub fn is_kept() -> std::io::Result<bool> {
    // SAFETY: an all-zero timex is valid, and asks without changing anything.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes into what lives until the call is over.
    match unsafe { libc::adjtimex(&raw mut state) } {
        -1 => Err(std::io::Error::last_os_error()),
        state => Ok(state != libc::TIME_ERROR),
    }
}

/// Milliseconds for which this process was awake: CLOCK_BOOTTIME, which nobody sets, without the spans in which the
/// machine slept or we were stopped. No deadline passes meanwhile, since nobody could have kept it.
pub fn now() -> Time {
    static AWAKE: Mutex<Awake> = Mutex::new(Awake { looked: None, slept: 0 });
    // The call cannot fail for a clock that every supported kernel has.
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap_or_else(|_| nix::sys::time::TimeSpec::new(0, 0));
    let boot = time.tv_sec().unsigned_abs() * 1_000 + time.tv_nsec().unsigned_abs() / 1_000_000;
    AWAKE.lock().unwrap_or_else(PoisonError::into_inner).at(boot)
}

struct Awake {
    /// The boot clock when it was looked at last.
    looked: Option<u64>,
    /// Milliseconds that do not count.
    slept: u64,
}

impl Awake {
    fn at(&mut self, boot: u64) -> Time {
        let gap = boot.saturating_sub(self.looked.unwrap_or(boot));
        if gap > LONGEST_LOOK {
            self.slept += gap;
        }
        self.looked = Some(boot);
        Time(boot.saturating_sub(self.slept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_in_which_nobody_ran_does_not_count() {
        let mut awake = Awake { looked: None, slept: 0 };
        assert_eq!(awake.at(1_000_000), Time(1_000_000));
        assert_eq!(awake.at(1_000_000 + LONGEST_LOOK), Time(1_000_000 + LONGEST_LOOK));
        // Suspended for a day.
        let woken = 1_000_000 + LONGEST_LOOK + 86_400_000;
        assert_eq!(awake.at(woken), Time(1_000_000 + LONGEST_LOOK));
        assert_eq!(awake.at(woken + 250), Time(1_000_250 + LONGEST_LOOK));
    }
}
