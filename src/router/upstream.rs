//! The connections to one process.

use std::cell::Cell;
use std::cell::RefCell;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::topology::UnitName;
use crate::wire::Incarnation;

use super::buffer::Buffer;
use super::metrics::UnitMetrics;
use super::state::State;

/// Twisted's own limit for an idle connection is a minute; ours ends first, so that it is not reused as it closes.
const IDLE: Duration = Duration::from_secs(30);
/// More idle connections than this to one process are closed: each costs it a descriptor.
const MOST_IDLE: usize = 64;

/// Closes connections that nobody has used for long.
pub(super) async fn close_idle(state: Rc<State>) {
    loop {
        tokio::time::sleep(IDLE).await;
        for upstream in state.present().iter().flatten() {
            upstream.idle.borrow_mut().retain(|Idle { since, .. }| since.elapsed() < IDLE);
        }
    }
}

/// A connection to a process. Whether the process has closed an idle one is seen when it is used again: on a Unix socket
/// a request that is written after that fails as a whole (EPIPE), and goes over another one.
pub(super) struct Connection {
    pub(super) stream: UnixStream,
    pub(super) buffer: Buffer,
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
    pub(super) unit: UnitName,
    pub(super) incarnation: Incarnation,
    pub(super) metrics: RefCell<UnitMetrics>,
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
    pub(super) fn new(
        unit: UnitName,
        incarnation: Incarnation,
        socket: PathBuf,
        metrics: UnitMetrics,
    ) -> Rc<Self> {
        Rc::new(Self {
            unit,
            incarnation,
            metrics: RefCell::new(metrics),
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

    /// The idle connection that was used last.
    pub(super) fn reuse(&self) -> Option<Connection> {
        let Idle { connection, since } = self.idle.borrow_mut().pop()?;
        if since.elapsed() < IDLE {
            return Some(connection);
        }
        // Those before it have been idle for longer.
        self.idle.borrow_mut().clear();
        None
    }

    /// A new connection.
    pub(super) async fn connect(&self) -> io::Result<Connection> {
        let stream = UnixStream::connect(&self.socket).await?;
        Ok(Connection { stream, buffer: Buffer::default() })
    }

    /// Keeps a connection whose last response has been read.
    pub(super) fn keep(&self, connection: Connection) {
        let mut idle = self.idle.borrow_mut();
        if self.is_open() && idle.len() < MOST_IDLE {
            idle.push(Idle { connection, since: Instant::now() });
        }
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
        self.metrics.borrow().in_flight.inc();
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
        self.0.metrics.borrow().in_flight.dec();
        self.0.tell_if_drained();
    }
}
