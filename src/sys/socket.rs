//! Listening sockets, and who is at the other end of one.
#![expect(unsafe_code, reason = "nix does not know SO_PEERGROUPS")]

use std::io;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::path::PathBuf;

use nix::sys::socket::SockaddrStorage;
use nix::sys::socket::UnixAddr;
use nix::sys::socket::getsockname;
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt;
use nix::sys::stat::Mode;
use nix::sys::stat::umask;

use super::users::User;

/// Binds a TCP address that accepts connections from now on, before anybody reads from them.
pub fn listen_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address)
}

/// Binds a Unix socket in place of whatever is at `path`; the caller knows that nobody listens there any more.
pub fn listen_unix(path: &Path, mode: u32, owner: Option<&User>) -> io::Result<UnixListener> {
    bound(path, mode, owner, || UnixListener::bind(path))
}

/// Binds a Unix socket in place of whatever is at `path`, with its permission bits from the beginning, and gives it to
/// `owner`.
///
/// Its directory may belong to the owner, who could put a link in its place: nothing here follows one.
pub(super) fn bound<T>(
    path: &Path,
    mode: u32,
    owner: Option<&User>,
    bind: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let before = umask(Mode::from_bits_truncate(!mode & 0o777));
    let socket = bind();
    umask(before);
    let socket = socket?;
    if let Some(user) = owner {
        std::os::unix::fs::lchown(path, Some(user.uid), Some(user.gid))?;
    }
    Ok(socket)
}

/// The user and group of the process that connected (SO_PEERCRED).
pub fn peer(socket: &impl AsFd) -> io::Result<(u32, u32)> {
    let credentials = getsockopt(socket, sockopt::PeerCredentials)?;
    Ok((credentials.uid(), credentials.gid()))
}

/// Whether the process that connected is in a group besides its own one (SO_PEERGROUPS of socket(7)).
pub fn peer_is_in(socket: &impl AsFd, group: u32) -> io::Result<bool> {
    let mut groups = vec![0_u32; 64];
    loop {
        let mut length =
            libc::socklen_t::try_from(size_of_val(groups.as_slice())).map_err(io::Error::other)?;
        // SAFETY: the kernel writes at most `length` bytes to the vector, and their number to `length`.
        let done = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = usize::try_from(length).map_err(io::Error::other)? / size_of::<u32>();
        match io::Error::last_os_error() {
            _ if done == 0 => return Ok(groups.iter().take(count).any(|held| *held == group)),
            // It says how many there are.
            error if error.raw_os_error() == Some(libc::ERANGE) && count > groups.len() => {
                groups.resize(count, 0)
            }
            error => return Err(error),
        }
    }
}

/// Whether it is a socket that connections come in by.
pub fn listens(descriptor: &OwnedFd) -> bool {
    getsockopt(descriptor, sockopt::AcceptConn).unwrap_or(false)
}

/// A socket that connections come in by, and where.
#[derive(Debug)]
pub enum Listening {
    Tcp(SocketAddr, TcpListener),
    Unix(PathBuf, UnixListener),
}

/// What listens behind a descriptor, or the descriptor if nothing does that has an address.
pub fn listening(descriptor: OwnedFd) -> Result<Listening, OwnedFd> {
    if !listens(&descriptor) {
        return Err(descriptor);
    }
    let Ok(address) = getsockname::<SockaddrStorage>(descriptor.as_raw_fd()) else { return Err(descriptor) };
    if let Some(path) = address.as_unix_addr().and_then(UnixAddr::path) {
        let path = path.to_owned();
        return Ok(Listening::Unix(path, UnixListener::from(descriptor)));
    }
    let listener = TcpListener::from(descriptor);
    match listener.local_addr() {
        Ok(address) => Ok(Listening::Tcp(address, listener)),
        Err(_) => Err(listener.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn who_connected_is_in_its_groups_and_no_others() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let held: Vec<u32> = nix::unistd::getgroups().unwrap().iter().map(|gid| gid.as_raw()).collect();
        for group in &held {
            assert!(peer_is_in(&ours, *group).unwrap());
        }
        for group in (0..5).chain([4_000_000_000]).filter(|group| !held.contains(group)) {
            assert!(!peer_is_in(&ours, group).unwrap());
        }
    }
}
