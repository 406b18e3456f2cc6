//! The receiving end of sd_notify: who said what, vouched for by the kernel.

use std::io;
use std::io::IoSliceMut;
use std::os::fd::AsRawFd;
use std::path::Path;

use nix::sys::socket::ControlMessageOwned;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::recvmsg;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt;
use tokio::io::Interest;
use tokio::net::UnixDatagram;

use super::socket::bound;
use super::users::User;

/// Longest message, as systemd's own receiver has it (`src/shared/notify-recv.c`).
const LONGEST: usize = 4_096;

/// What a process said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The sender by SCM_CREDENTIALS; a `MAINPID=` in the text is not believed.
    pub pid: i32,
    pub ready: bool,
    pub stopping: bool,
}

/// The socket whose path the children find in NOTIFY_SOCKET.
#[derive(Debug)]
pub struct NotifySocket {
    socket: UnixDatagram,
}

impl NotifySocket {
    /// Binds `path`, writable for `owner` alone.
    pub fn bind(path: &Path, owner: Option<&User>) -> io::Result<Self> {
        let socket = bound(path, 0o600, owner, || UnixDatagram::bind(path))?;
        setsockopt(&socket, sockopt::PassCred, &true)?;
        Ok(Self { socket })
    }

    /// Waits until a message may be there.
    pub async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Every message that has arrived, without waiting for one.
    pub fn drain(&self) -> Vec<Notice> {
        let mut notices = Vec::new();
        while let Ok(notice) = self.socket.try_io(Interest::READABLE, || receive(&self.socket)) {
            notices.extend(notice);
        }
        notices
    }
}

/// One message; none if it is not to be believed.
fn receive(socket: &UnixDatagram) -> io::Result<Option<Notice>> {
    let mut text = [0_u8; LONGEST];
    let mut control = nix::cmsg_space!(nix::sys::socket::UnixCredentials, [i32; 16]);
    let mut slices = [IoSliceMut::new(&mut text)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
    let truncated = message.flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC);
    let (length, mut pid) = (message.bytes, None);
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmCredentials(credentials) = &part {
            pid = Some(credentials.pid());
        } else if let ControlMessageOwned::ScmRights(descriptors) = part {
            // Nobody is meant to send any; they must not pile up.
            for descriptor in descriptors {
                let _ = nix::unistd::close(descriptor);
            }
        }
    }
    Ok(pid.filter(|_| !truncated).map(|pid| parse(pid, &text[..length])))
}

fn parse(pid: i32, text: &[u8]) -> Notice {
    let says = |wanted: &[u8]| text.split(|byte| *byte == b'\n').any(|line| line == wanted);
    Notice { pid, ready: says(b"READY=1"), stopping: says(b"STOPPING=1") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_message_is_attributed_to_the_process_that_sent_it() {
        // Mutation: MAINPID believed instead of the credentials: seen red.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify.sock");
        let receiver = NotifySocket::bind(&path, None).unwrap();
        let sender = std::os::unix::net::UnixDatagram::unbound().unwrap();
        sender.send_to(b"READY=1\nMAINPID=1", &path).unwrap();
        sender.send_to(b"STATUS=READY=1", &path).unwrap();
        sender.send_to(b"STOPPING=1\n", &path).unwrap();
        let pid = std::process::id().cast_signed();
        let said = |ready, stopping| Notice { pid, ready, stopping };
        receiver.readable().await.unwrap();
        assert_eq!(receiver.drain(), [said(true, false), said(false, false), said(false, true)]);
        assert!(receiver.drain().is_empty());
    }
}
