//! Where clients come in: the listening sockets, each a task that accepts, and what belongs to each.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::mem;
use std::net::IpAddr;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::header;
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::wire::ListenerSettings;

use super::PAUSE;
use super::forward;
use super::state::State;

/// A client that sends no whole head for this long is let go; idle connections likewise.
const HEAD: Duration = Duration::from_secs(75);
/// Synapse's own limits are 16 KiB and 500 headers (`synapse/http/site.py`).
const MOST_HEADERS: usize = 500;
const LARGEST_HEAD: usize = 64 * 1024;

/// One address that clients reach us at. Whoever came in by it keeps it, whatever becomes of the others.
pub(super) struct Listener {
    /// Whether `/_synapse/admin` is reachable on it.
    pub(super) admin: Cell<bool>,
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
    /// What an idle connection has for one more request.
    farewell: Duration,
}

impl Listeners {
    pub(super) fn new(farewell: Duration) -> Self {
        Self { open: RefCell::default(), end: watch::Sender::new(End::NotYet), farewell }
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
            let listener = Rc::new(Listener { admin: Cell::new(false), closed: watch::Sender::new(false) });
            let door = Door {
                listener: Rc::clone(&listener),
                state: Rc::clone(state),
                end: self.end.subscribe(),
                farewell: self.farewell,
            };
            let accepting = tokio::task::spawn_local(door.accept(socket));
            self.open.borrow_mut().insert(address, Open { listener, accepting });
        }
        for settings in settings {
            if let Some(open) = self.open.borrow().get(&settings.address) {
                open.listener.admin.set(settings.admin);
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

/// What a connection has of the listener that it came in by.
#[derive(Clone)]
struct Door {
    listener: Rc<Listener>,
    state: Rc<State>,
    end: watch::Receiver<End>,
    farewell: Duration,
}

impl Door {
    async fn accept(mut self, socket: TcpListener) {
        let mut closed = self.listener.closed.subscribe();
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                _ = closed.wait_for(|closed| *closed) => break,
                _ = self.end.wait_for(|end| *end != End::NotYet) => return,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer.ip()),
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
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
        tokio::task::spawn_local(self.clone().serve(stream, peer.to_canonical()));
    }

    async fn serve(self, stream: TcpStream, peer: IpAddr) {
        let Self { listener, state, mut end, farewell } = self;
        let ending = end.clone();
        // Small answers must not wait for an acknowledgement of the last one.
        let _ = stream.set_nodelay(true);
        let service = service_fn(|request: Request<Incoming>| {
            let (listener, state, ending) = (Rc::clone(&listener), Rc::clone(&state), ending.clone());
            async move {
                let mut response = forward::answer(&state, &listener, peer, request).await;
                // An idle connection is not closed for it: a request may be on its way there.
                if *listener.closed.borrow() || *ending.borrow() != End::NotYet {
                    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(response)
            }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_headers(MOST_HEADERS)
            .max_buf_size(LARGEST_HEAD)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        // How a client leaves is its own affair. What has come in is read before an idle connection is closed.
        tokio::select! {
            biased;
            _ = &mut connection => return,
            () = shutting(&mut end, farewell) => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }
}

/// Resolves when a connection that is idle is to be closed, and a busy one after its answer.
async fn shutting(end: &mut watch::Receiver<End>, farewell: Duration) {
    let _ = end.wait_for(|end| *end != End::NotYet).await;
    let stopping = end.wait_for(|end| *end == End::Stopping);
    // Its last request may be on its way: closed at once, it would be lost.
    let _ = tokio::time::timeout(farewell, stopping).await;
}
