//! Signalling, reaping and looking at processes.
//!
//! The supervisor reaps for itself: the waiting of `std::process` and of tokio would race with it.
#![expect(
    unsafe_code,
    reason = "what a child does before exec, and descriptors by number, have no safe interface"
)]

use std::convert::Infallible;
use std::ffi::CString;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use nix::sys::wait::WaitPidFlag;
use nix::sys::wait::WaitStatus;
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::supervise::Exit;

/// Becomes another program, which finds the numbers of these descriptors behind `option`; returns only when that cannot be.
pub fn become_program(
    program: &Path,
    arguments: &[OsString],
    environment: &[(OsString, OsString)],
    option: &str,
    descriptors: Vec<OwnedFd>,
) -> io::Error {
    let become_it = || -> io::Result<Infallible> {
        let text = |bytes: &[u8]| CString::new(bytes).map_err(io::Error::other);
        let path = text(program.as_os_str().as_encoded_bytes())?;
        let mut argv = vec![path.clone()];
        for argument in arguments {
            argv.push(text(argument.as_encoded_bytes())?);
        }
        for descriptor in &descriptors {
            nix::fcntl::fcntl(descriptor, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
            argv.push(text(format!("{option}={}", descriptor.as_raw_fd()).as_bytes())?);
        }
        let pair = |(name, value): &(OsString, OsString)| {
            text(&[name.as_encoded_bytes(), b"=", value.as_encoded_bytes()].concat())
        };
        let environment = environment.iter().map(pair).collect::<io::Result<Vec<_>>>()?;
        Ok(nix::unistd::execve(&path, &argv, &environment)?)
    };
    // What could not be passed on is closed with `descriptors`, which are copies.
    match become_it() {
        Ok(never) => match never {},
        Err(error) => error,
    }
}

/// Has a program that is waited for run without the capabilities that we pass on to nobody.
pub fn incapable(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    let clear = || {
        // SAFETY: a plain system call, after fork.
        match unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: what runs between fork and exec is one system call.
    unsafe { command.pre_exec(clear) };
}

/// Has a program that is waited for get this signal when we die: nobody would wait for it then.
pub fn end_with_us(command: &mut std::process::Command, signal: Signal) {
    use std::os::unix::process::CommandExt;
    let number = signal as libc::c_int;
    let ask = move || {
        // SAFETY: a plain system call, after fork.
        match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, number, 0, 0, 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: what runs between fork and exec is one system call.
    unsafe { command.pre_exec(ask) };
}

/// Takes over a descriptor that the program before us passed on to us, once.
///
/// # Errors
/// When it is not open.
pub fn passed_on(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: only asks about the number; a number that is not open gives an error.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is open, and was left open for us.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Takes over the descriptors 3, 4, … that the supervisor passed to this process; to be called once, at its start.
///
/// # Errors
/// When one of them is not open.
pub fn inherited(count: usize) -> io::Result<Vec<OwnedFd>> {
    let numbers = (3..).take(count);
    numbers.map(passed_on).collect()
}

/// Makes this process the parent of orphaned descendants, so that it learns of their end.
pub fn become_subreaper() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// A child that has ended, if there is one.
pub fn reap() -> Option<(i32, Exit)> {
    ended(waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)).ok()?)
}

pub(super) fn ended(status: WaitStatus) -> Option<(i32, Exit)> {
    match status {
        WaitStatus::Exited(pid, code) => Some((pid.as_raw(), Exit::Code(code))),
        WaitStatus::Signaled(pid, signal, _) => Some((pid.as_raw(), Exit::Signal(signal as i32))),
        WaitStatus::Stopped(..)
        | WaitStatus::Continued(_)
        | WaitStatus::StillAlive
        | WaitStatus::PtraceEvent(..)
        | WaitStatus::PtraceSyscall(_) => None,
    }
}

/// Signals a child that has not been reaped; until then its pid is nobody else's.
pub fn signal(pid: i32, signal: Signal) -> io::Result<()> {
    Ok(nix::sys::signal::kill(Pid::from_raw(pid), signal)?)
}

/// Resident memory of a process, in bytes.
pub fn resident(pid: i32) -> Option<u64> {
    let status = super::fs::read(Path::new(&format!("/proc/{pid}/status"))).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

/// The parent of a process; none if there is no such process.
pub fn parent(pid: i32) -> Option<i32> {
    stat(pid, 1)?.parse().ok()
}

/// Whether a process was stopped, by a signal or a debugger: it runs no more and is there all the same.
pub fn is_stopped(pid: i32) -> bool {
    stat(pid, 0).is_some_and(|state| matches!(state.as_str(), "T" | "t"))
}

/// The programs of all processes; of other users' they are seen by root alone.
pub fn programs() -> Vec<PathBuf> {
    let entries = super::fs::list(Path::new("/proc")).unwrap_or_default();
    entries.into_iter().filter_map(|entry| super::fs::link_target(&entry.join("exe"))).collect()
}

/// A field of `/proc/PID/stat`, counted from behind the process's name, which may hold anything: its state is 0.
fn stat(pid: i32, field: usize) -> Option<String> {
    let stat = super::fs::read(Path::new(&format!("/proc/{pid}/stat"))).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(field).map(str::to_owned)
}

/// Whether a process has a handler for a signal; most signals are the end of one that has none.
pub fn catches(pid: i32, signal: Signal) -> bool {
    let status = super::fs::read(Path::new(&format!("/proc/{pid}/status"))).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    caught
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|set| set >> (signal as i32 - 1) & 1 == 1)
}

/// Whether a process of this number exists.
pub fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Whether this process may become another user (CAP_SETUID).
pub fn may_change_user() -> bool {
    const CAP_SETUID: u32 = 7;
    let status = super::fs::read(Path::new("/proc/self/status")).unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|set| set >> CAP_SETUID & 1 == 1)
}

/// Every process that has this file open; those of other users are seen by root alone.
pub fn holders(path: &Path) -> Vec<i32> {
    let Ok(file) = std::fs::metadata(path) else { return Vec::new() };
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| has_open(*pid, &file) == Some(true)).collect()
}

/// Whether a process has the file open; none where the kernel does not let us see.
pub fn has_open(pid: i32, file: &std::fs::Metadata) -> Option<bool> {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let same = |to: std::fs::Metadata| (to.dev(), to.ino()) == (file.dev(), file.ino());
    Some(descriptors.flatten().any(|descriptor| std::fs::metadata(descriptor.path()).is_ok_and(same)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_for_a_signal_is_seen() {
        // Mutation: the bit of the signal after it: seen red.
        let pid = std::process::id().cast_signed();
        assert!(!catches(pid, Signal::SIGUSR2));
        signal_hook::flag::register(libc::SIGUSR2, std::sync::Arc::default()).unwrap();
        assert!(catches(pid, Signal::SIGUSR2));
        assert!(!catches(pid, Signal::SIGWINCH));
    }
}
