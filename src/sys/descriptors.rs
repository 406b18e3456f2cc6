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

/// Allows ourselves all that we may allow ourselves.
///
/// # Errors
/// Of the kernel, which for this one has none.
pub fn raise_limit() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}
