//! The connections to one process.

use std::cell::Cell;
use std::cell::RefCell;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::wire::Incarnation;

use super::forward::Upload;

/// Twisted's own limit for an idle connection is a minute; ours ends first, so that it is not reused as it closes.
const IDLE: Duration = Duration::from_secs(30);
/// More idle connections than this to one process are closed: each costs it a descriptor.
const MOST_IDLE: usize = 64;

pub(super) type Sender = SendRequest<Upload>;

/// One process of a unit.
pub(super) struct Upstream {
    pub(super) incarnation: Incarnation,
    socket: PathBuf,
    idle: RefCell<Vec<(Sender, Instant)>>,
    in_flight: Cell<usize>,
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
            drained: RefCell::default(),
        })
    }

    /// An idle connection that was open when we looked.
    pub(super) fn reuse(&self) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|(sender, since)| !sender.is_closed() && since.elapsed() < IDLE);
        idle.pop().map(|(sender, _)| sender)
    }

    /// A new connection.
    pub(super) async fn connect(&self) -> io::Result<Sender> {
        let stream = UnixStream::connect(&self.socket).await?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::task::spawn_local(connection);
        Ok(sender)
    }

    /// Keeps a connection whose last response has been read, as soon as it takes another request.
    pub(super) fn keep(self: Rc<Self>, mut sender: Sender) {
        tokio::task::spawn_local(async move {
            let room = self.drained.borrow().is_none() && self.idle.borrow().len() < MOST_IDLE;
            if room && sender.ready().await.is_ok() {
                self.idle.borrow_mut().push((sender, Instant::now()));
            }
        });
    }

    /// Closes connections that nothing is sent on.
    pub(super) fn close_idle(&self) {
        self.idle.borrow_mut().clear();
    }

    /// Calls back when no request is in flight any more, at once if there is none.
    pub(super) fn drain(&self, done: impl FnOnce() + 'static) {
        self.close_idle();
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
