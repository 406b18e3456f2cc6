//! Where clients come in: the listening sockets, each a task that accepts, and what belongs to each.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::mem;
use std::net::IpAddr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::sys::descriptors;
use crate::sys::fs;
use crate::wire::ListenerSettings;

use super::PAUSE;
use super::client::Peer;
use super::greeting;
use super::http1;
use super::http2;
use super::proxy_protocol;
use super::state::State;
use super::tls;
use super::tls::Tls;

/// Bytes of the longest chain with its key: a long one has ten thousand.
const LONGEST_PEM: u64 = 1 << 20;

/// What the router needs itself: standard streams, sockets, the runtime, and some for connections that end.
const OWN_DESCRIPTORS: u64 = 32;
/// Between two looks at a limit that was reached.
const LIMIT_LOOK: Duration = Duration::from_secs(1);
/// What goes on for long is said this often.
const COMPLAINT: Duration = Duration::from_secs(60);

/// Something that happens again and again and is said now and then.
#[derive(Default)]
pub(super) struct Complaint(Option<Instant>);

impl Complaint {
    fn say(&mut self, what: impl FnOnce() -> String) {
        if self.0.is_none_or(|said| said.elapsed() >= COMPLAINT) {
            tracing::warn!("{}", what());
            self.0 = Some(Instant::now());
        }
    }
}

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
    /// Who sends no whole head for so long is let go.
    longest_silence: Duration,
    crowd: Rc<Crowd>,
}

impl Listeners {
    pub(super) fn new(longest_silence: Duration, all: Arc<Everybody>) -> Self {
        let end = watch::Sender::new(End::NotYet);
        let crowd = Rc::new(Crowd { all, of: RefCell::default(), left: Notify::new() });
        Self { open: RefCell::default(), end, longest_silence, crowd }
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
                longest_silence: self.longest_silence,
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
    pub(super) longest_silence: Duration,
    crowd: Rc<Crowd>,
}

/// Everybody who is in, on whichever thread.
#[derive(Default)]
pub(super) struct Everybody {
    count: AtomicUsize,
    /// What is said when there is no room for more.
    complaint: Mutex<Complaint>,
}

/// Those of one thread.
struct Crowd {
    all: Arc<Everybody>,
    /// How many connections each address has.
    of: RefCell<BTreeMap<IpAddr, usize>>,
    /// Told when somebody has left.
    left: Notify,
}

/// Somebody who is in, until it is dropped.
pub(super) struct In(Rc<Crowd>);

impl In {
    fn to(crowd: &Rc<Crowd>) -> Self {
        crowd.all.count.fetch_add(1, Ordering::Relaxed);
        Self(Rc::clone(crowd))
    }
}

/// A connection of an address, as long as it is counted.
struct Place {
    crowd: Rc<Crowd>,
    address: IpAddr,
}

impl Place {
    /// None if the address has as many as it may.
    fn take(crowd: &Rc<Crowd>, address: IpAddr, most: u64) -> Option<Self> {
        let address = household(address);
        let mut of = crowd.of.borrow_mut();
        let count = of.entry(address).or_default();
        if *count as u64 >= most {
            return None;
        }
        *count += 1;
        Some(Self { crowd: Rc::clone(crowd), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut of = self.crowd.of.borrow_mut();
        if let Some(count) = of.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                of.remove(&self.address);
            }
        }
    }
}

/// Whoever has one address of IPv6 has all of its network of 64 bits.
fn household(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let [one, two, three, four, ..] = address.segments();
            Ipv6Addr::new(one, two, three, four, 0, 0, 0, 0).into()
        }
    }
}

impl Drop for In {
    fn drop(&mut self) {
        self.0.all.count.fetch_sub(1, Ordering::Relaxed);
        self.0.left.notify_waiters();
    }
}

/// How many may be in under a limit of descriptors: each may need another one for its connection to a process, and who is
/// in must get it.
const fn most_in(limit: u64) -> u64 {
    let most = limit.saturating_sub(OWN_DESCRIPTORS) / 2;
    if most == 0 { 1 } else { most }
}

impl Door {
    /// Somebody more who is in, if there is room.
    pub(super) fn enter(&self) -> Option<In> {
        ((self.crowd.all.count.load(Ordering::Relaxed) as u64) < most_in(descriptors::limit()))
            .then(|| In::to(&self.crowd))
    }

    /// How many connections an address may have: many users share one, and nobody has all of them. A proxy has.
    fn most_of(&self, address: IpAddr) -> u64 {
        let is_trusted = self.state.table().trusted_proxies.iter().any(|network| network.contains(&address));
        // Each thread counts its own.
        let parts = 4 * self.state.threads as u64;
        if is_trusted { u64::MAX } else { most_in(descriptors::limit()).div_ceil(parts) }
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

    /// Waits until one more may be let in; who is not waits in the kernel.
    async fn room(&self) {
        loop {
            let left = self.crowd.left.notified();
            tokio::pin!(left);
            // From here on nothing is missed.
            left.as_mut().enable();
            let limit = descriptors::limit();
            let inside = self.crowd.all.count.load(Ordering::Relaxed);
            if (inside as u64) < most_in(limit) {
                return;
            }
            self.crowd.all.complaint.lock().unwrap_or_else(PoisonError::into_inner).say(|| {
                format!(
                    "{inside} clients are connected, all that {limit} descriptors allow; others wait until one leaves\n  \
                     raise LimitNOFILE= of the service"
                )
            });
            // The limit itself may change, and who leaves may have been another thread's.
            let _ = tokio::time::timeout(LIMIT_LOOK, left).await;
        }
    }

    async fn next(&self, socket: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        self.room().await;
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
        let give_up = Instant::now() + greeting::LIMIT.min(self.longest_silence);
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
            Box::pin(http2::serve(stream, Visit { door: self, peer: client })).await;
        } else {
            Box::pin(http1::serve(Visit { door: self, peer: client }, stream)).await;
        }
    }

    fn refuse(&self, peer: IpAddr, what: &str, why: &io::Error) {
        let say = || format!("{peer} {what}: {why}\n  it may be one of many, this is said once a minute");
        self.listener.refused.borrow_mut().say(say);
    }

    async fn serve_plain(self, stream: TcpStream, client: Peer) {
        let speaks_http2 = tokio::select! {
            speaks = tokio::time::timeout(self.longest_silence, greeting::speaks_http2(&stream)) => match speaks {
                Ok(Ok(speaks)) => speaks,
                Ok(Err(_)) | Err(_) => return,
            },
            // Who has not said anything yet is let go like anybody who is idle.
            () = self.stopping() => false,
        };
        let visit = Visit { door: self, peer: client };
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
}

/// A connection, as long as it is counted.
struct Connected(Gauge);

impl Connected {
    fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_has_all_connections_and_a_network_counts_as_one() {
        // Mutations, each seen red: no bound; each address of a network by itself; a place that is never given back.
        let crowd = Rc::new(Crowd { all: Arc::default(), of: RefCell::default(), left: Notify::new() });
        let take = |address: &str| Place::take(&crowd, address.parse().unwrap(), 2);
        let held = [take("198.51.100.7"), take("198.51.100.7"), take("2001:db8::1"), take("2001:db8::2")];
        assert!(held.iter().all(Option::is_some));
        assert!(take("198.51.100.7").is_none());
        assert!(take("2001:db8::ffff:3").is_none());
        assert!(take("198.51.100.8").is_some() && take("2001:db8:0:1::1").is_some());
        drop(held);
        assert!(take("198.51.100.7").is_some());
        assert!(crowd.of.borrow().is_empty(), "nobody is kept who has left");
    }
}
