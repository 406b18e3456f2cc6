//! Where clients come in: the listening sockets, each a task that accepts, and what belongs to each.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::mem;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::sys::descriptors;
use crate::wire::ListenerSettings;

use super::PAUSE;
use super::http1;
use super::state::State;

/// What the router needs itself: standard streams, sockets, the runtime, and some for connections that end.
const OWN_DESCRIPTORS: u64 = 32;
/// Between two looks at a limit that was reached.
const LIMIT_LOOK: Duration = Duration::from_secs(1);
/// What goes on for long is said this often.
const COMPLAINT: Duration = Duration::from_secs(60);

/// Something that happens again and again and is said now and then.
#[derive(Default)]
struct Complaint(Option<Instant>);

impl Complaint {
    fn say(&mut self, what: impl FnOnce() -> String) {
        if self.0.is_none_or(|said| said.elapsed() >= COMPLAINT) {
            tracing::warn!("{}", what());
            self.0 = Some(Instant::now());
        }
    }
}

/// One address that clients reach us at. Whoever came in by it keeps it, whatever becomes of the others.
pub(super) struct Listener {
    /// Whether `/_synapse/admin` is reachable on it.
    pub(super) admin: Cell<bool>,
    /// Whether the router's metrics are.
    metrics: Cell<bool>,
    /// Whether it takes nobody any more, and each who came in by it has one more answer.
    closed: watch::Sender<bool>,
}

/// A listener, and what accepts.
struct Open {
    listener: Rc<Listener>,
    accepting: JoinHandle<()>,
}

/// How far the router is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    NotYet,
    /// A successor takes whoever comes; each who is there has one more answer.
    Retired,
    /// Each who is there has the answer that it waits for.
    Stopping,
}

/// The addresses in force.
pub(super) struct Listeners {
    open: RefCell<BTreeMap<SocketAddr, Open>>,
    /// Each connection holds a receiver: when the last is gone, all are.
    end: watch::Sender<End>,
    /// Who sends no whole head for so long is let go.
    longest_silence: Duration,
    /// Told when somebody has left.
    left: Rc<Notify>,
}

impl Listeners {
    pub(super) fn new(longest_silence: Duration) -> Self {
        let end = watch::Sender::new(End::NotYet);
        Self { open: RefCell::default(), end, longest_silence, left: Rc::default() }
    }

    /// Listens at exactly these addresses, and returns when every other socket is closed. A socket that we have is kept,
    /// and its connections never notice.
    ///
    /// # Errors
    /// When a new socket cannot be used; then everything is as it was.
    pub(super) async fn replace(
        &self,
        settings: &[ListenerSettings],
        sockets: Vec<OwnedFd>,
        state: &Rc<State>,
    ) -> io::Result<()> {
        if *self.end.borrow() != End::NotYet {
            return Ok(());
        }
        let mut fresh = Vec::new();
        for (settings, socket) in settings.iter().zip(sockets) {
            // Nobody else can have an address that we hold: what comes under a known one is the same socket.
            if !self.open.borrow().contains_key(&settings.address) {
                let socket = std::net::TcpListener::from(socket);
                socket.set_nonblocking(true)?;
                fresh.push((settings.address, TcpListener::from_std(socket)?));
            }
        }
        let mut gone = mem::take(&mut *self.open.borrow_mut());
        for settings in settings {
            if let Some(known) = gone.remove(&settings.address) {
                self.open.borrow_mut().insert(settings.address, known);
            }
        }
        for (address, socket) in fresh {
            let listener = Rc::new(Listener {
                admin: Cell::new(false),
                metrics: Cell::new(false),
                closed: watch::Sender::new(false),
            });
            let door = Door {
                listener: Rc::clone(&listener),
                state: Rc::clone(state),
                end: self.end.subscribe(),
                longest_silence: self.longest_silence,
                left: Rc::clone(&self.left),
            };
            let accepting = tokio::task::spawn_local(door.accept(socket));
            self.open.borrow_mut().insert(address, Open { listener, accepting });
        }
        for settings in settings {
            if let Some(open) = self.open.borrow().get(&settings.address) {
                open.listener.admin.set(settings.admin);
                open.listener.metrics.set(settings.metrics);
            }
        }
        for Open { listener, accepting } in gone.into_values() {
            listener.closed.send_replace(true);
            let _ = accepting.await;
        }
        Ok(())
    }

    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.open.borrow().keys().copied().collect()
    }

    /// Takes nobody any more, and returns when its sockets are closed: who comes now is our successor's.
    pub(super) async fn retire(&self) {
        self.end.send_modify(|end| *end = (*end).max(End::Retired));
        let open = mem::take(&mut *self.open.borrow_mut());
        for Open { accepting, .. } in open.into_values() {
            let _ = accepting.await;
        }
    }

    /// Takes nobody any more, and lets nobody ask once more; who comes now waits in the kernel for our successor.
    pub(super) fn stop(&self) {
        self.end.send_replace(End::Stopping);
    }

    /// Resolves when everybody has gone, once nobody is taken any more.
    pub(super) async fn gone(&self) {
        self.end.closed().await;
    }
}

/// What accepts has of its listener.
struct Door {
    listener: Rc<Listener>,
    state: Rc<State>,
    end: watch::Receiver<End>,
    longest_silence: Duration,
    left: Rc<Notify>,
}

/// Somebody who is in, until it is dropped.
struct In {
    left: Rc<Notify>,
    connections: Gauge,
}

impl Drop for In {
    fn drop(&mut self) {
        self.connections.dec();
        self.left.notify_waiters();
    }
}

/// How many may be in under a limit of descriptors: each may need another one for its connection to a process, and who is
/// in must get it.
const fn most_in(limit: u64) -> u64 {
    let most = limit.saturating_sub(OWN_DESCRIPTORS) / 2;
    if most == 0 { 1 } else { most }
}

impl Door {
    /// Waits until one more may be let in; who is not waits in the kernel.
    async fn room(&self, complaint: &mut Complaint) {
        loop {
            let left = self.left.notified();
            tokio::pin!(left);
            // From here on nothing is missed.
            left.as_mut().enable();
            let limit = descriptors::limit() / self.state.threads as u64;
            // The others who hold it are the listeners and their doors.
            let inside = Rc::strong_count(&self.left) - 1 - self.state.listeners.open.borrow().len();
            if (inside as u64) < most_in(limit) {
                return;
            }
            complaint.say(|| {
                format!(
                    "{inside} clients are connected, all that {limit} descriptors allow; others wait until one leaves\n  \
                     raise LimitNOFILE= of the service"
                )
            });
            // The limit itself may change.
            let _ = tokio::time::timeout(LIMIT_LOOK, left).await;
        }
    }

    async fn next(
        &self,
        socket: &TcpListener,
        complaint: &mut Complaint,
    ) -> io::Result<(TcpStream, SocketAddr)> {
        self.room(complaint).await;
        socket.accept().await
    }

    async fn accept(self, socket: TcpListener) {
        let (mut closed, mut end) = (self.listener.closed.subscribe(), self.end.clone());
        let mut complaint = Complaint::default();
        loop {
            let accepted = tokio::select! {
                accepted = self.next(&socket, &mut complaint) => accepted,
                _ = closed.wait_for(|closed| *closed) => break,
                _ = end.wait_for(|end| *end != End::NotYet) => return,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer.ip()),
                Err(error) => {
                    complaint.say(|| format!("cannot accept a connection: {error}"));
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        // Nobody comes after us: who waits in the kernel is let in, or would be cut off.
        let Ok(socket) = socket.into_std() else { return };
        while let Ok((stream, peer)) = socket.accept() {
            let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
            if let Ok(stream) = stream {
                self.admit(stream, peer.ip());
            }
        }
    }

    fn admit(&self, stream: TcpStream, peer: IpAddr) {
        // Small answers must not wait for an acknowledgement of the last one.
        let _ = stream.set_nodelay(true);
        self.state.metrics.connections.inc();
        self.state.metrics.accepted.inc();
        let visit = Visit {
            listener: Rc::clone(&self.listener),
            state: Rc::clone(&self.state),
            end: self.end.clone(),
            longest_silence: self.longest_silence,
            peer: peer.to_canonical(),
            _in: In { left: Rc::clone(&self.left), connections: self.state.metrics.connections.clone() },
        };
        tokio::task::spawn_local(http1::serve(visit, stream));
    }
}

/// A client's stay, by the listener that it came in by.
pub(super) struct Visit {
    listener: Rc<Listener>,
    pub(super) state: Rc<State>,
    end: watch::Receiver<End>,
    /// Who sends no whole head for so long is let go.
    pub(super) longest_silence: Duration,
    pub(super) peer: IpAddr,
    _in: In,
}

impl Visit {
    /// Whether `/_synapse/admin` is reachable for it.
    pub(super) fn admin(&self) -> bool {
        self.listener.admin.get()
    }

    /// Whether the router's metrics are.
    pub(super) fn metrics(&self) -> bool {
        self.listener.metrics.get()
    }

    /// Whether its next answer is the last one. An idle connection is not closed for it: a request may be on its way.
    pub(super) fn closes(&self) -> bool {
        *self.listener.closed.borrow() || *self.end.borrow() != End::NotYet
    }

    /// Resolves when nobody may ask any more.
    pub(super) fn stopping(&self) -> impl Future<Output = ()> + 'static + use<> {
        let mut end = self.end.clone();
        async move {
            let _ = end.wait_for(|end| *end == End::Stopping).await;
        }
    }
}
