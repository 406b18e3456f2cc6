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
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::sys::fs;
use crate::wire::ListenerSettings;

use super::KeepAlive;
use super::PAUSE;
use super::client::Peer;
use super::crowd;
use super::crowd::Complaint;
use super::crowd::Connected;
use super::crowd::Crowd;
use super::crowd::Everybody;
use super::crowd::In;
use super::crowd::Place;
use super::greeting;
use super::http1;
use super::http2;
use super::proxy_protocol;
use super::state::State;
use super::tls;
use super::tls::Tls;

/// Bytes of the longest chain with its key: a long one has ten thousand.
const LONGEST_PEM: u64 = 1 << 20;

/// One address that clients reach us at. Whoever came in by it keeps it, whatever becomes of the others.
#[derive(Default)]
pub(super) struct Listener {
    /// Whether `/_synapse/admin` is reachable on it.
    admin: Cell<bool>,
    /// Whether the router's metrics are.
    metrics: Cell<bool>,
    /// How TLS is spoken on it; none where it is not.
    tls: RefCell<Option<Rc<Tls>>>,
    /// Whether each connection begins with the PROXY protocol.
    proxy_protocol: Cell<bool>,
    /// Who does not get as far as to ask.
    refused: RefCell<Complaint>,
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
    keep_alive: KeepAlive,
    crowd: Rc<Crowd>,
}

impl Listeners {
    pub(super) fn new(keep_alive: KeepAlive, all: Arc<Everybody>) -> Self {
        let end = watch::Sender::new(End::NotYet);
        Self { open: RefCell::default(), end, keep_alive, crowd: Crowd::new(all) }
    }

    /// Listens at exactly these addresses, and returns when every other socket is closed. A socket that we have is kept,
    /// and its connections never notice. Of `descriptors` each listener has its socket and its certificates.
    ///
    /// # Errors
    /// When a new socket or certificate cannot be used; then everything is as it was.
    pub(super) async fn replace(
        &self,
        settings: &[ListenerSettings],
        descriptors: Vec<OwnedFd>,
        state: &Rc<State>,
    ) -> io::Result<()> {
        if *self.end.borrow() != End::NotYet {
            return Ok(());
        }
        let mut fresh = Vec::new();
        let mut tls = Vec::new();
        let mut descriptors = descriptors.into_iter();
        for settings in settings {
            let socket = descriptors.next().ok_or(io::ErrorKind::InvalidInput)?;
            // Nobody else can have an address that we hold: what comes under a known one is the same socket.
            if !self.open.borrow().contains_key(&settings.address) {
                let socket = std::net::TcpListener::from(socket);
                socket.set_nonblocking(true)?;
                fresh.push((settings.address, TcpListener::from_std(socket)?));
            }
            let pems = descriptors.by_ref().take(usize::from(settings.certificates));
            let pems = pems.map(|pem| fs::contents(&pem.into(), LONGEST_PEM)).collect::<Result<_, _>>()?;
            tls.push(self.tls(settings, pems)?);
        }
        let mut gone = mem::take(&mut *self.open.borrow_mut());
        for settings in settings {
            if let Some(known) = gone.remove(&settings.address) {
                self.open.borrow_mut().insert(settings.address, known);
            }
        }
        for (address, socket) in fresh {
            let listener = Rc::new(Listener::default());
            let door = Door {
                listener: Rc::clone(&listener),
                state: Rc::clone(state),
                end: self.end.subscribe(),
                keep_alive: self.keep_alive,
                crowd: Rc::clone(&self.crowd),
            };
            let accepting = tokio::task::spawn_local(door.accept(socket));
            self.open.borrow_mut().insert(address, Open { listener, accepting });
        }
        let spoken = settings.iter().zip(&tls);
        let certificates = spoken.flat_map(|(settings, tls)| {
            let held = tls.iter().flat_map(|tls| &tls.certificates);
            held.map(|certificate| (settings.address, certificate))
        });
        state.metrics.certify(certificates);
        for (settings, tls) in settings.iter().zip(tls) {
            if let Some(Open { listener, .. }) = self.open.borrow().get(&settings.address) {
                listener.admin.set(settings.admin);
                listener.metrics.set(settings.metrics);
                listener.proxy_protocol.set(settings.proxy_protocol);
                listener.tls.replace(tls);
            }
        }
        for Open { listener, accepting } in gone.into_values() {
            listener.closed.send_replace(true);
            let _ = accepting.await;
        }
        Ok(())
    }

    /// How TLS is to be spoken on a listener: what is there already knows its clients, and stays if it may.
    fn tls(&self, settings: &ListenerSettings, pems: Vec<String>) -> io::Result<Option<Rc<Tls>>> {
        if !settings.tls {
            return Ok(None);
        }
        let known =
            self.open.borrow().get(&settings.address).and_then(|open| open.listener.tls.borrow().clone());
        match known.filter(|known| known.stays(&pems)) {
            Some(known) => Ok(Some(known)),
            None => Tls::new(pems).map(|tls| Some(Rc::new(tls))),
        }
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
pub(super) struct Door {
    listener: Rc<Listener>,
    pub(super) state: Rc<State>,
    end: watch::Receiver<End>,
    pub(super) keep_alive: KeepAlive,
    crowd: Rc<Crowd>,
}

impl Door {
    /// Somebody more who is in, if there is room.
    pub(super) fn enter(&self) -> Option<In> {
        self.crowd.enter()
    }

    /// How many connections an address may have: a proxy may have all of them.
    fn most_of(&self, address: IpAddr) -> u64 {
        let is_trusted = self.state.table().trusted_proxies.iter().any(|network| network.contains(&address));
        if is_trusted { u64::MAX } else { crowd::most_of_one(self.state.threads) }
    }

    /// Whether `/_synapse/admin` is reachable by it.
    pub(super) fn admin(&self) -> bool {
        self.listener.admin.get()
    }

    /// Whether the router's metrics are.
    pub(super) fn metrics(&self) -> bool {
        self.listener.metrics.get()
    }

    /// Whether whoever came in by it has one more answer. An idle connection is not closed for it: a request may be on its
    /// way.
    pub(super) fn is_closing(&self) -> bool {
        *self.listener.closed.borrow() || *self.end.borrow() != End::NotYet
    }

    /// Resolves when nobody may ask any more.
    pub(super) fn stopping(&self) -> impl Future<Output = ()> + 'static + use<> {
        let mut end = self.end.clone();
        async move {
            let _ = end.wait_for(|end| *end == End::Stopping).await;
        }
    }

    /// Resolves once nobody who came in by it may go on for long.
    pub(super) async fn closes(&self) {
        let (mut closed, mut end) = (self.listener.closed.subscribe(), self.end.clone());
        tokio::select! {
            _ = closed.wait_for(|closed| *closed) => {}
            _ = end.wait_for(|end| *end != End::NotYet) => {}
        }
    }

    async fn next(&self, socket: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        self.crowd.room().await;
        socket.accept().await
    }

    async fn accept(self, socket: TcpListener) {
        let (mut closed, mut end) = (self.listener.closed.subscribe(), self.end.clone());
        let mut complaint = Complaint::default();
        loop {
            let accepted = tokio::select! {
                accepted = self.next(&socket) => accepted,
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
        let metrics = &self.state.metrics;
        metrics.accepted.inc();
        let connected = Connected::new(metrics.connections.clone());
        let inside = In::to(&self.crowd);
        let door = self.clone();
        tokio::task::spawn_local(async move {
            let _here = (connected, inside);
            door.serve(stream, peer.to_canonical()).await;
        });
    }

    /// Learns who has come and what it speaks, and serves it.
    async fn serve(self, mut stream: TcpStream, peer: IpAddr) {
        // Small answers must not wait for an acknowledgement of the last one.
        let _ = stream.set_nodelay(true);
        let give_up = Instant::now() + greeting::LIMIT.min(self.keep_alive.timeout);
        let mut client = Peer { address: peer, https: false };
        if self.listener.proxy_protocol.get() {
            let table = self.state.table();
            // Boxed, as what follows: what a greeting needs is not kept by each connection for as long as it lives.
            let header = Box::pin(proxy_protocol::read(&mut stream, peer, &table.trusted_proxies));
            match greeting::within(give_up, header).await {
                Ok(said) => client = said,
                Err(error) => return self.refuse(peer, "was refused", &error),
            }
        }
        let Some(_place) = Place::take(&self.crowd, client.address, self.most_of(client.address)) else {
            let error = io::Error::other("it has a quarter of all connections that there may be");
            return self.refuse(client.address, "was refused", &error);
        };
        let tls = self.listener.tls.borrow().clone();
        let Some(tls) = tls else { return self.serve_plain(stream, client).await };
        let stream = match greeting::within(give_up, Box::pin(tls.accept(stream))).await {
            Ok(stream) => stream,
            Err(error) => return self.refuse(peer, "does not get through to us by TLS", &error),
        };
        client.https = true;
        // What a connection keeps is large for either, and only one of them is needed.
        if tls::is_http2(&stream) {
            Box::pin(http2::serve(stream, Visit::new(self, client))).await;
        } else {
            Box::pin(http1::serve(Visit::new(self, client), stream)).await;
        }
    }

    fn refuse(&self, peer: IpAddr, what: &str, why: &io::Error) {
        let say = || format!("{peer} {what}: {why}\n  it may be one of many, this is said once a minute");
        self.listener.refused.borrow_mut().say(say);
    }

    async fn serve_plain(self, stream: TcpStream, client: Peer) {
        let speaks_http2 = tokio::select! {
            speaks = tokio::time::timeout(self.keep_alive.timeout, greeting::speaks_http2(&stream)) => match speaks {
                Ok(Ok(speaks)) => speaks,
                Ok(Err(_)) | Err(_) => return,
            },
            // Who has not said anything yet is let go like anybody who is idle.
            () = self.stopping() => false,
        };
        let visit = Visit::new(self, client);
        if speaks_http2 {
            Box::pin(http2::serve(stream, visit)).await;
        } else {
            Box::pin(http1::serve(visit, stream)).await;
        }
    }
}

/// A client's stay.
pub(super) struct Visit {
    /// By which it came in.
    pub(super) door: Door,
    pub(super) peer: Peer,
    /// From when on it has one more answer.
    pub(super) ends: Instant,
}

impl Visit {
    /// One that begins now.
    fn new(door: Door, peer: Peer) -> Self {
        let ends = Instant::now() + door.keep_alive.time;
        Self { door, peer, ends }
    }
}
