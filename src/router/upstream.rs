//! The connections to one process.

use std::cell::Cell;
use std::cell::RefCell;
use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use nix::errno::Errno;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::recv;
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::wire::Incarnation;

use super::body::Upload;

/// Twisted's own limit for an idle connection is a minute; ours ends first, so that it is not reused as it closes.
const IDLE: Duration = Duration::from_secs(30);
/// More idle connections than this to one process are closed: each costs it a descriptor.
const MOST_IDLE: usize = 64;

/// A connection to a process.
pub(super) struct Connection {
    pub(super) sender: SendRequest<Upload>,
    /// Belongs to hyper's end of the connection, which is gone when `sender` is closed.
    socket: RawFd,
}

impl Connection {
    /// Asks the kernel, since the runtime may not have been told yet of an end that came this instant,
    /// and a request that is written after it is lost.
    fn is_open(&self) -> bool {
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        !self.sender.is_closed() && recv(self.socket, &mut [0], flags) == Err(Errno::EAGAIN)
    }
}

struct Idle {
    connection: Connection,
    since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// It takes requests.
    Open,
    /// It is about to be stopped.
    Draining,
    /// It has ended, or is of no use any more.
    Gone,
}

/// One process of a unit.
pub(super) struct Upstream {
    pub(super) incarnation: Incarnation,
    socket: PathBuf,
    idle: RefCell<Vec<Idle>>,
    in_flight: Cell<usize>,
    life: Cell<Life>,
    /// Told when it takes no new requests any more.
    leaving: Notify,
    /// Called once when the last request in flight has ended after a drain began.
    drained: RefCell<Option<Box<dyn FnOnce()>>>,
}

impl Upstream {
    pub(super) fn new(incarnation: Incarnation, socket: PathBuf) -> Rc<Self> {
        Rc::new(Self {
            incarnation,
            socket,
            idle: RefCell::default(),
            in_flight: Cell::new(0),
            life: Cell::new(Life::Open),
            leaving: Notify::new(),
            drained: RefCell::default(),
        })
    }

    /// Its address, for messages.
    pub(super) fn socket(&self) -> std::path::Display<'_> {
        self.socket.display()
    }

    /// An idle connection whose other end is still there.
    pub(super) fn reuse(&self) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|Idle { since, .. }| since.elapsed() < IDLE);
        while let Some(Idle { connection, .. }) = idle.pop() {
            if connection.is_open() {
                return Some(connection);
            }
        }
        None
    }

    /// A new connection.
    pub(super) async fn connect(&self) -> io::Result<Connection> {
        let stream = UnixStream::connect(&self.socket).await?;
        let socket = stream.as_raw_fd();
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::task::spawn_local(connection);
        Ok(Connection { sender, socket })
    }

    /// Keeps a connection whose last response has been read, as soon as it takes another request.
    pub(super) fn keep(self: Rc<Self>, mut connection: Connection) {
        tokio::task::spawn_local(async move {
            let ready = connection.sender.ready().await.is_ok();
            if ready && self.is_open() && self.idle.borrow().len() < MOST_IDLE {
                self.idle.borrow_mut().push(Idle { connection, since: Instant::now() });
            }
        });
    }

    /// Whether it takes new requests.
    pub(super) fn is_open(&self) -> bool {
        self.life.get() == Life::Open
    }

    /// Whether a request is in flight to it.
    pub(super) fn is_busy(&self) -> bool {
        self.in_flight.get() > 0
    }

    pub(super) fn is_draining(&self) -> bool {
        self.life.get() == Life::Draining
    }

    /// Resolves as soon as it takes no new requests.
    pub(super) async fn left(&self) {
        let leaving = self.leaving.notified();
        tokio::pin!(leaving);
        // From here on nothing is missed.
        leaving.as_mut().enable();
        if self.is_open() {
            leaving.await;
        }
    }

    /// Takes new requests again: its drain was called off.
    pub(super) fn reopen(&self) {
        self.life.set(Life::Open);
        self.drained.borrow_mut().take();
    }

    fn leave(&self, life: Life) {
        self.life.set(life);
        self.idle.borrow_mut().clear();
        self.leaving.notify_waiters();
    }

    /// It is gone. What is in flight ends with its connection: one that the process had not taken yet is still in its
    /// listening socket, from which the next process takes it, and sending that request again would do it twice.
    pub(super) fn end(&self) {
        self.leave(Life::Gone);
    }

    /// Takes no new request, and calls back when none is in flight any more, at once if there is none.
    pub(super) fn drain(&self, done: impl FnOnce() + 'static) {
        self.leave(Life::Draining);
        *self.drained.borrow_mut() = Some(Box::new(done));
        self.tell_if_drained();
    }

    fn tell_if_drained(&self) {
        if self.in_flight.get() == 0
            && let Some(done) = self.drained.borrow_mut().take()
        {
            done();
        }
    }

    /// Counts a request from here until the guard is dropped.
    pub(super) fn enter(self: &Rc<Self>) -> InFlight {
        self.in_flight.set(self.in_flight.get() + 1);
        InFlight(Rc::clone(self))
    }
}

/// A request that the process has.
pub(super) struct InFlight(Rc<Upstream>);

impl InFlight {
    pub(super) fn upstream(&self) -> Rc<Upstream> {
        Rc::clone(&self.0)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.set(self.0.in_flight.get() - 1);
        self.0.tell_if_drained();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_connection_that_ends_this_instant_is_not_used_again() {
        // Mutation: only `is_closed` asked: seen red, the runtime learns of the end no sooner than at its next turn.
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("unit.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async {
            let upstream = Upstream::new(Incarnation(1), path);
            for farewell in [b"".as_slice(), b"HTTP/1.1 408 Request Timeout\r\n\r\n"] {
                let connection = upstream.connect().await.unwrap();
                let (mut process, _) = listener.accept().unwrap();
                Rc::clone(&upstream).keep(connection);
                while upstream.idle.borrow().is_empty() {
                    tokio::task::yield_now().await;
                }
                let connection = upstream.reuse().expect("an open one is used again");
                Rc::clone(&upstream).keep(connection);
                while upstream.idle.borrow().is_empty() {
                    tokio::task::yield_now().await;
                }
                process.write_all(farewell).unwrap();
                drop(process);
                assert!(upstream.reuse().is_none());
            }
        });
    }
}
