//! Descriptors, of which a process has only so many (getrlimit(2), RLIMIT_NOFILE).

use std::io;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::resource::Resource;
use nix::sys::resource::getrlimit;
use nix::sys::resource::setrlimit;

/// Whether one more could be opened.
pub fn left() -> bool {
    spare().is_some()
}

/// A descriptor that does nothing but keep a place.
pub fn spare() -> Option<OwnedFd> {
    io::stderr().as_fd().try_clone_to_owned().ok()
}

/// Whether this is a failure for want of descriptors: our own, or the machine's.
pub fn are_used_up(error: &io::Error) -> bool {
    [Errno::EMFILE, Errno::ENFILE].iter().any(|errno| error.raw_os_error() == Some(*errno as i32))
}

/// The most that this process may have at once.
pub fn limit() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft)
}

/// The most that another process may have at once (proc(5), /proc/PID/limits).
///
/// # Errors
/// There is no such process, or it is not ours to look at.
pub fn most_of(pid: u32) -> io::Result<u64> {
    let text =
        super::fs::read(std::path::Path::new(&format!("/proc/{pid}/limits"))).map_err(io::Error::other)?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next());
    soft.and_then(|soft| soft.parse().ok()).ok_or_else(|| io::Error::other("it says nothing of open files"))
}

/// Allows ourselves all that we may allow ourselves.
///
/// # Errors
/// Of the kernel, which for this one has none.
pub fn raise_limit() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}
