//! Room for what is read from a connection, which an idle one gives back.

use std::cell::RefCell;
use std::io;
use std::mem;
use std::pin::pin;
use std::task::Context;
use std::task::Poll;

use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;

/// What one read takes at most: as much as a Unix socket holds (net.core.wmem_default).
const SIZE: usize = 256 * 1024;
/// Synapse itself takes 16 KiB a line (`synapse/http/site.py`).
pub(super) const LARGEST_HEAD: usize = 64 * 1024;
/// So much room is kept for the next who needs it; beyond it goes back to the allocator.
const MOST_SPARE: usize = 16;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// What was read of a connection and is not used yet. It has room only while it needs some: most connections wait.
#[derive(Default)]
pub(super) struct Buffer {
    bytes: Vec<u8>,
    /// How many of them are used.
    start: usize,
}

impl Buffer {
    pub(super) fn data(&self) -> &[u8] {
        self.bytes.get(self.start..).unwrap_or_default()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start >= self.bytes.len()
    }

    /// Whether a head of which it holds a part is too large for anybody.
    pub(super) fn is_full(&self) -> bool {
        self.data().len() >= LARGEST_HEAD
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
        if self.is_empty() {
            self.bytes.clear();
            self.start = 0;
        }
    }

    /// Gives the room back if there is nothing in it.
    pub(super) fn release(&mut self) {
        if self.is_empty() && self.bytes.capacity() > 0 {
            let mut bytes = mem::take(&mut self.bytes);
            self.start = 0;
            bytes.clear();
            SPARE.with_borrow_mut(|spare| {
                if spare.len() < MOST_SPARE {
                    spare.push(bytes);
                }
            });
        }
    }

    /// Reads more, 0 bytes at the end of the stream; whoever has to wait with an empty buffer waits without room.
    pub(super) fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<io::Result<usize>> {
        if self.bytes.capacity() == 0 {
            let spare = SPARE.with_borrow_mut(Vec::pop);
            self.bytes = spare.unwrap_or_else(|| Vec::with_capacity(SIZE));
        } else if self.bytes.len() >= SIZE {
            if self.start == 0 {
                return Poll::Ready(Err(io::ErrorKind::StorageFull.into()));
            }
            self.bytes.drain(..mem::take(&mut self.start));
        }
        let polled = pin!(stream.read_buf(&mut self.bytes)).poll(context);
        if polled.is_pending() {
            self.release();
        }
        polled
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.bytes.clear();
        self.start = 0;
        self.release();
    }
}
