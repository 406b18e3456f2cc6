//! Lines of text with descriptors over a connected stream socket (unix(7), SCM_RIGHTS).
#![expect(
    unsafe_code,
    reason = "descriptors arrive as numbers, and nix loses those of a message that lacks some"
)]

use std::collections::VecDeque;
use std::io;
use std::io::IoSlice;
use std::mem;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;

use nix::sys::socket::ControlMessage;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::sendmsg;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// As many descriptors as the kernel lets one message have (SCM_MAX_FD in its include/net/scm.h).
const MOST: usize = 253;

/// Bytes that are read at once.
const PORTION: usize = 16 * 1024;

/// Bytes of `MOST` descriptors and their header, at most.
const CONTROL: usize = MOST * size_of::<RawFd>() + 64;

/// One end of a connection.
#[derive(Debug)]
pub struct Lines {
    stream: UnixStream,
    /// What came and is no line yet.
    received: Vec<u8>,
    /// What came and was not asked for yet.
    descriptors: VecDeque<OwnedFd>,
}

impl Lines {
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, received: Vec::new(), descriptors: VecDeque::new() }
    }

    /// Sends one line, without its end, and descriptors with it; each 253 of them need a byte of it to go with.
    ///
    /// # Errors
    /// When the other end is closed, or may be sent no more descriptors. Part of the line may have gone.
    pub async fn send(&self, line: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut rest = line;
        for batch in descriptors.chunks(MOST) {
            let (byte, after) = rest.split_at_checked(1).ok_or(io::ErrorKind::InvalidInput)?;
            let numbers: Vec<RawFd> = batch.iter().map(AsRawFd::as_raw_fd).collect();
            self.write(byte, &[ControlMessage::ScmRights(&numbers)]).await?;
            rest = after;
        }
        for mut part in [rest, b"\n"] {
            while !part.is_empty() {
                part = part.split_at(self.write(part, &[]).await?).1;
            }
        }
        Ok(())
    }

    async fn write(&self, bytes: &[u8], control: &[ControlMessage<'_>]) -> io::Result<usize> {
        let parts = [IoSlice::new(bytes)];
        let sent = self.stream.async_io(Interest::WRITABLE, || {
            Ok(sendmsg::<()>(self.stream.as_raw_fd(), &parts, control, MsgFlags::MSG_NOSIGNAL, None)?)
        });
        sent.await
    }

    /// The next line; none once the other end is closed. Nothing is lost when this is given up.
    ///
    /// # Errors
    /// When descriptors did not get through, mostly because this process has too many; or it is not UTF-8.
    pub async fn receive(&mut self) -> io::Result<Option<String>> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let rest = self.received.split_off(end + 1);
                let mut line = mem::replace(&mut self.received, rest);
                line.truncate(end);
                return String::from_utf8(line).map(Some).map_err(io::Error::other);
            }
            let (bytes, descriptors) =
                self.stream.async_io(Interest::READABLE, || read(self.stream.as_raw_fd())).await?;
            if bytes.is_empty() {
                return Ok(None);
            }
            self.received.extend(bytes);
            self.descriptors.extend(descriptors);
        }
    }

    /// The descriptors that came with a line, which says itself how many they are.
    ///
    /// # Errors
    /// When fewer have come.
    pub fn descriptors(&mut self, count: usize) -> io::Result<Vec<OwnedFd>> {
        if self.descriptors.len() < count {
            return Err(io::Error::other("descriptors are missing"));
        }
        Ok(self.descriptors.drain(..count).collect())
    }
}

fn read(stream: RawFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; PORTION];
    // Of words, since a control message is aligned to them.
    let mut control = [0_u64; CONTROL / size_of::<u64>()];
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: all zeros is a header of nothing.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = size_of_val(&control);
    // SAFETY: the header names two buffers that outlive the call, with their lengths.
    let length = unsafe { libc::recvmsg(stream, &raw mut header, libc::MSG_CMSG_CLOEXEC) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    bytes.truncate(length);
    let mut descriptors = Vec::new();
    // SAFETY: the kernel has written the control messages and their length; there is one kind of them only, once.
    unsafe {
        let first = libc::CMSG_FIRSTHDR(&raw const header);
        if let Some(message) = first.as_ref()
            && (message.cmsg_level, message.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_RIGHTS)
        {
            let size = message.cmsg_len.saturating_sub(libc::CMSG_LEN(0) as usize);
            let numbers = libc::CMSG_DATA(first).cast::<RawFd>();
            for index in 0..size / size_of::<RawFd>() {
                descriptors.push(OwnedFd::from_raw_fd(numbers.add(index).read_unaligned()));
            }
        }
    }
    if header.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(io::Error::other("descriptors did not get through: this process has too many open"));
    }
    Ok((bytes, descriptors))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    use nix::fcntl::FcntlArg;
    use nix::fcntl::FdFlag;
    use nix::fcntl::fcntl;
    use tokio::io::AsyncReadExt;
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// A file that holds its name.
    fn file(directory: &tempfile::TempDir, name: &str) -> File {
        let path = directory.path().join(name);
        crate::sys::fs::replace(&path, name.as_bytes(), 0o600, None).unwrap();
        File::open(path).unwrap()
    }

    fn text(descriptor: OwnedFd) -> String {
        let mut text = String::new();
        File::from(descriptor).read_to_string(&mut text).unwrap();
        text
    }

    fn pair() -> (Lines, Lines) {
        let (one, other) = UnixStream::pair().unwrap();
        (Lines::new(one), Lines::new(other))
    }

    #[tokio::test(flavor = "current_thread")]
    async fn lines_bring_their_descriptors_however_they_were_cut() {
        // Mutations, each seen red: descriptors taken from the end; those that are not asked for dropped with the line.
        let directory = tempfile::tempdir().unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|name| file(&directory, name));
        let (ours, mut theirs) = pair();
        ours.send(b"plain", &[]).await.unwrap();
        ours.send(b"two", &[a.as_fd(), b.as_fd()]).await.unwrap();
        ours.send(b"", &[]).await.unwrap();
        ours.send(b"one", &[c.as_fd()]).await.unwrap();
        let mut heard = Vec::new();
        for count in [0, 2, 0, 1] {
            let line = theirs.receive().await.unwrap().unwrap();
            let descriptors = theirs.descriptors(count).unwrap();
            for descriptor in &descriptors {
                let flags = FdFlag::from_bits_retain(fcntl(descriptor, FcntlArg::F_GETFD).unwrap());
                assert!(flags.contains(FdFlag::FD_CLOEXEC), "no child is to inherit it");
            }
            heard.push((line, descriptors.into_iter().map(text).collect::<Vec<_>>()));
        }
        let expected = [("plain", vec![]), ("two", vec!["a", "b"]), ("", vec![]), ("one", vec!["c"])];
        let expected = expected
            .map(|(line, texts)| (line.to_owned(), texts.into_iter().map(str::to_owned).collect::<Vec<_>>()));
        assert_eq!(heard, expected);
        assert!(theirs.descriptors(1).is_err(), "there is no more of them");
        drop(ours);
        assert_eq!(theirs.receive().await.unwrap(), None);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn more_than_a_message_and_a_buffer_hold_get_through() {
        // Mutations, each seen red: a batch larger than the kernel's; the rest of a partial write forgotten.
        let directory = tempfile::tempdir().unwrap();
        let names: Vec<String> = (0..MOST + 7).map(|number| number.to_string()).collect();
        let files: Vec<File> = names.iter().map(|name| file(&directory, name)).collect();
        let borrowed: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
        let line = "x".repeat(1 << 20);
        let (ours, mut theirs) = pair();
        let sending = async {
            ours.send(line.as_bytes(), &borrowed).await?;
            // There is no byte for this one to go with.
            assert!(ours.send(b"", &borrowed[..1]).await.is_err());
            // Whoever waits for more is told that there is none.
            drop(ours);
            Ok(())
        };
        let ((), received) = tokio::try_join!(sending, theirs.receive()).unwrap();
        assert!(received.unwrap() == line);
        let descriptors = theirs.descriptors(names.len()).unwrap();
        assert_eq!(descriptors.into_iter().map(text).collect::<Vec<_>>(), names);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_was_heard_of_a_line_stays_when_the_wait_is_given_up() {
        // Mutation: the rest of what was read kept in the future: seen red (the line lacks its beginning).
        let (mut raw, theirs) = UnixStream::pair().unwrap();
        let mut theirs = Lines::new(theirs);
        raw.write_all(b"be").await.unwrap();
        {
            let waiting = theirs.receive();
            tokio::pin!(waiting);
            assert!(still_waits(&mut waiting).await);
        }
        raw.write_all(b"gun\nnext").await.unwrap();
        assert_eq!(theirs.receive().await.unwrap().as_deref(), Some("begun"));
        theirs.send(b"answer", &[]).await.unwrap();
        let mut answer = [0; 7];
        raw.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"answer\n");
    }

    /// Whether it waits still, once it has had the chance to read all that there was.
    async fn still_waits<F: Future + Unpin>(future: &mut F) -> bool {
        for _ in 0..10 {
            tokio::select! {
                biased;
                _ = &mut *future => return false,
                () = tokio::task::yield_now() => {}
            }
        }
        true
    }
}
