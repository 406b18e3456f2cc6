//! Messages with descriptors over a named socket that keeps them apart (unix(7), SOCK_SEQPACKET).
#![expect(unsafe_code, reason = "the runtime must be promised that a descriptor stays open")]

use std::io;
use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::AddressFamily;
use nix::sys::socket::Backlog;
use nix::sys::socket::ControlMessage;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::SockFlag;
use nix::sys::socket::SockType;
use nix::sys::socket::UnixAddr;
use nix::sys::socket::bind;
use nix::sys::socket::connect;
use nix::sys::socket::listen;
use nix::sys::socket::recv;
use nix::sys::socket::sendmsg;
use nix::sys::socket::socket;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::socket::bound;

/// Longest message that is received, in bytes; a longer one is an error.
const LONGEST: usize = 64 * 1024;

fn new_socket() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?)
}

/// Binds a socket for our own user in place of whatever is at `path`, and listens.
pub fn listen_packets(path: &Path) -> io::Result<OwnedFd> {
    let listener = new_socket()?;
    let address = UnixAddr::new(path)?;
    bound(path, 0o600, None, || Ok(bind(listener.as_raw_fd(), &address)?))?;
    listen(&listener, Backlog::new(16)?)?;
    Ok(listener)
}

/// One end of a connection.
#[derive(Debug)]
pub struct Packets {
    socket: AsyncFd<OwnedFd>,
}

impl Packets {
    /// Connects to a listener that may not accept yet.
    ///
    /// # Errors
    /// When nobody listens there, or too many wait to be accepted already.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = new_socket()?;
        connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
        // SAFETY: the descriptor is owned, and closed only with its registration.
        Ok(Self { socket: unsafe { AsyncFd::register(socket) }? })
    }

    /// Sends one message and descriptors with it.
    pub async fn send(&self, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let numbers: Vec<i32> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let rights = if numbers.is_empty() { &[] } else { rights.as_slice() };
        let parts = [IoSlice::new(message)];
        let sent = self.socket.async_io(Interest::WRITABLE, |socket| {
            let flags = MsgFlags::MSG_NOSIGNAL;
            Ok(sendmsg::<()>(socket.as_raw_fd(), &parts, rights, flags, None)?)
        });
        sent.await.map(drop)
    }

    /// The next message; none once the other end is closed.
    pub async fn receive(&self) -> io::Result<Option<Vec<u8>>> {
        let mut buffer = vec![0; LONGEST];
        let read = self.socket.async_io(Interest::READABLE, |socket| {
            match recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_TRUNC) {
                Ok(length) if length > LONGEST => Err(io::Error::other("a message is too long")),
                Ok(length) => Ok(length),
                Err(Errno::ECONNRESET) => Ok(0),
                Err(errno) => Err(errno.into()),
            }
        });
        let length = read.await?;
        buffer.truncate(length);
        Ok((length > 0).then_some(buffer))
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::IoSliceMut;
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::fs::PermissionsExt;

    use nix::sys::socket::ControlMessageOwned;
    use nix::sys::socket::accept;
    use nix::sys::socket::recvmsg;
    use nix::sys::socket::send;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn messages_keep_their_borders_and_bring_their_descriptors() {
        // Mutations, each seen red: descriptors not sent; a stream socket; another mode; the end taken for a message.
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("packets");
        let listener = listen_packets(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let ours = Packets::connect(&path).unwrap();
        let theirs = accept(listener.as_raw_fd()).unwrap();
        let file = File::open("/proc/self/comm").unwrap();
        ours.send(b"one", &[file.as_fd()]).await.unwrap();
        ours.send(b"two", &[]).await.unwrap();

        let mut text = [0; 64];
        let mut control = nix::cmsg_space!([i32; 4]);
        let mut slices = [IoSliceMut::new(&mut text)];
        let message =
            recvmsg::<()>(theirs, &mut slices, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC).unwrap();
        let rights = message.cmsgs().unwrap().next();
        let Some(ControlMessageOwned::ScmRights(numbers)) = rights else { panic!("no descriptor came") };
        assert_eq!(message.bytes, 3);
        let received = std::path::PathBuf::from(format!("/proc/self/fd/{}", numbers[0]));
        let mut said = String::new();
        File::open(received).unwrap().read_to_string(&mut said).unwrap();
        assert!(!said.is_empty());
        assert_eq!(recv(theirs, &mut [0; 64], MsgFlags::empty()), Ok(3));

        send(theirs, b"three", MsgFlags::empty()).unwrap();
        send(theirs, b"four", MsgFlags::empty()).unwrap();
        assert_eq!(ours.receive().await.unwrap().as_deref(), Some(b"three".as_slice()));
        assert_eq!(ours.receive().await.unwrap().as_deref(), Some(b"four".as_slice()));
        nix::unistd::close(theirs).unwrap();
        assert_eq!(ours.receive().await.unwrap(), None);
        let _ = File::from(listener);
    }
}
