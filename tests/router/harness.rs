//! A router, with the supervisor's, a client's and a process's end of its connections.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io::BufRead;
use std::io::BufReader;
use std::io::IoSlice;
use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::num::NonZero;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::poll;
use nix::sys::socket::ControlMessage;
use nix::sys::socket::MsgFlags;
use nix::sys::socket::sendmsg;
use synvisor::config::Config;
use synvisor::router;
use synvisor::router::KeepAlive;
use synvisor::router::Parking;
use synvisor::router::RouterSetup;
use synvisor::topology::Topology;
use synvisor::topology::UnitName;
use synvisor::wire::Counts;
use synvisor::wire::FromRouter;
use synvisor::wire::Incarnation;
use synvisor::wire::ListenerSettings;
use synvisor::wire::ToRouter;
use tokio::time::Instant;

pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
pub(crate) const VERSIONS: &str = "/_matrix/client/versions";
pub(crate) const TYPING: &str = "/_matrix/client/v3/rooms/!r/typing/@u:x";

/// A router with the supervisor's end of its connection.
pub(crate) struct Harness {
    pub(crate) directory: tempfile::TempDir,
    /// That of the first of the sockets.
    pub(crate) port: u16,
    /// What it listens at, and whether the admin API is reachable there.
    pub(crate) sockets: Vec<(TcpListener, bool)>,
    /// Ports at which TLS is spoken, and with which certificates.
    pub(crate) tls: BTreeMap<u16, Vec<String>>,
    /// Ports at which a connection begins with the PROXY protocol.
    pub(crate) proxied: BTreeSet<u16>,
    pub(crate) supervisor: BufReader<UnixStream>,
    pub(crate) topology: Topology,
    pub(crate) stop: Option<tokio::sync::oneshot::Sender<()>>,
    pub(crate) thread: Option<JoinHandle<()>>,
    /// Closed when the router ends.
    pub(crate) end: mpsc::Receiver<()>,
}

impl Harness {
    pub(crate) fn new() -> Self {
        Self::with(Parking { most: 10, longest: PATIENCE })
    }

    pub(crate) fn with(parking: Parking) -> Self {
        Self::of("generic = 1\ntyping = 1", parking, false)
    }

    pub(crate) fn of(workers: &str, parking: Parking, without_parking: bool) -> Self {
        Self::that_ends(workers, parking, without_parking, PATIENCE, KeepAlive::default())
    }

    /// One with a worker, in which clients may stay for so long.
    pub(crate) fn keeping(keep_alive: KeepAlive) -> Self {
        let parking = Parking { most: 10, longest: PATIENCE };
        Self::that_ends("generic = 1", parking, false, PATIENCE, keep_alive)
    }

    /// One with these limits at its end: for requests when it stops, and for how long clients may stay.
    pub(crate) fn that_ends(
        workers: &str,
        parking: Parking,
        without_parking: bool,
        drain_timeout: Duration,
        keep_alive: KeepAlive,
    ) -> Self {
        Self::start(workers, parking, without_parking, drain_timeout, keep_alive, 1)
    }

    /// One that serves with several threads, each of which lets ten wait.
    pub(crate) fn of_threads(threads: usize) -> Self {
        let parking = Parking { most: 10, longest: PATIENCE };
        Self::start("generic = 1\ntyping = 1", parking, false, PATIENCE, KeepAlive::default(), threads)
    }

    fn start(
        workers: &str,
        parking: Parking,
        without_parking: bool,
        drain_timeout: Duration,
        keep_alive: KeepAlive,
        threads: usize,
    ) -> Self {
        // Compiling the rules takes seconds in a debug build; no time-out of a test is to run meanwhile.
        let _ = synvisor::route::Rules::get();
        let directory = tempfile::tempdir().unwrap();
        let toml = format!("server_name = \"a.b\"\n[workers]\n{workers}\n[supervisor]\nrun_dir = \".\"");
        let config = Config::parse(&toml, directory.path()).unwrap().config;
        let topology = Topology::of(&config);
        std::fs::create_dir(directory.path().join("client")).unwrap();
        let (socket, port) = bind();
        let sockets = vec![(socket, false)];
        let control = UnixListener::bind(directory.path().join("router.sock")).unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let setup = RouterSetup {
            control,
            allowed_uids: vec![nix::unistd::geteuid().as_raw()],
            drain_timeout,
            keep_alive,
            parking,
            without_parking,
            threads: NonZero::new(threads).unwrap(),
        };
        let (alive, end) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            let _alive: mpsc::Sender<()> = alive;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(router::serve(setup, async { drop(stopped.await) })).unwrap();
        });
        let supervisor = connect_supervisor(&directory.path().join("router.sock"));
        let mut harness = Self {
            directory,
            port,
            sockets,
            tls: BTreeMap::new(),
            proxied: BTreeSet::new(),
            supervisor,
            topology,
            stop: Some(stop),
            thread: Some(thread),
            end,
        };
        harness.table();
        harness
    }

    pub(crate) fn tell(&mut self, message: &ToRouter) {
        let line = serde_json::to_string(message).unwrap() + "\n";
        self.supervisor.get_mut().write_all(line.as_bytes()).unwrap();
    }

    pub(crate) fn hear(&mut self) -> FromRouter {
        let mut line = String::new();
        self.supervisor.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    pub(crate) fn table(&mut self) {
        let line = self.table_line();
        self.send(&line);
        assert_eq!(self.hear(), self.accepting());
    }

    /// The table as it now should be.
    pub(crate) fn table_line(&self) -> String {
        let settings = |(socket, admin): &(TcpListener, bool)| {
            let address = socket.local_addr().unwrap();
            let tls = self.tls.get(&address.port());
            ListenerSettings {
                address,
                admin: *admin,
                metrics: *admin,
                tls: tls.is_some(),
                certificates: tls.map_or(0, |pems| u16::try_from(pems.len()).unwrap()),
                proxy_protocol: self.proxied.contains(&address.port()),
            }
        };
        let listeners = self.sockets.iter().map(settings).collect();
        let trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
        let table = ToRouter::Table {
            topology: self.topology.clone(),
            listeners,
            trusted_proxies,
            largest_upload: 100 << 20,
            access_log: synvisor::config::AccessLog::Off,
        };
        serde_json::to_string(&table).unwrap() + "\n"
    }

    /// What the router says once it is in force.
    pub(crate) fn accepting(&self) -> FromRouter {
        let mut addresses: Vec<_> =
            self.sockets.iter().map(|(socket, _)| socket.local_addr().unwrap()).collect();
        addresses.sort_unstable();
        FromRouter::Accepting { addresses }
    }

    /// Sends text, and with it the sockets, each with its certificates.
    pub(crate) fn send(&self, text: &str) {
        let mut certificates = Vec::new();
        let mut numbers: Vec<i32> = Vec::new();
        for (socket, _) in &self.sockets {
            numbers.push(socket.as_raw_fd());
            for pem in self.tls.get(&socket.local_addr().unwrap().port()).into_iter().flatten() {
                let file = synvisor::sys::fs::sealed("certificate", pem.as_bytes()).unwrap();
                numbers.push(file.as_raw_fd());
                certificates.push(file);
            }
        }
        let rights = [ControlMessage::ScmRights(&numbers)];
        let text = [IoSlice::new(text.as_bytes())];
        let number = self.supervisor.get_ref().as_raw_fd();
        sendmsg::<()>(number, &text, &rights, MsgFlags::MSG_NOSIGNAL, None).unwrap();
    }

    /// A process of a unit: its listening socket, which the router is told of.
    pub(crate) fn up(&mut self, unit: &str, incarnation: u64) -> UnixListener {
        let listener = self.listen(unit);
        self.tell(&ToRouter::Up { unit: UnitName::new(unit), incarnation: Incarnation(incarnation) });
        listener
    }

    pub(crate) fn listen(&self, unit: &str) -> UnixListener {
        let path = self.directory.path().join("client").join(format!("{unit}.sock"));
        let _ = std::fs::remove_file(&path);
        UnixListener::bind(path).unwrap()
    }

    pub(crate) fn client(&self) -> Peer<TcpStream> {
        Self::client_at(self.port)
    }

    pub(crate) fn client_at(port: u16) -> Peer<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Peer(BufReader::new(stream))
    }

    pub(crate) fn down(&mut self, unit: &str) {
        self.tell(&ToRouter::Down { unit: UnitName::new(unit) });
        // The supervisor's messages are in order, and this one is answered.
        self.table();
    }

    pub(crate) fn drain(&mut self, unit: &str, incarnation: u64) -> FromRouter {
        let (unit, incarnation) = (UnitName::new(unit), Incarnation(incarnation));
        self.tell(&ToRouter::Drain { unit: unit.clone(), incarnation });
        FromRouter::Drained { unit, incarnation }
    }

    /// What was counted for a unit; nothing else may be told meanwhile.
    pub(crate) fn counts(&mut self, unit: &str) -> Counts {
        self.tell(&ToRouter::Count { ticket: 7 });
        let FromRouter::Counts { ticket: 7, counts } = self.hear() else { panic!("no counts") };
        counts[&UnitName::new(unit)]
    }

    /// Asks until so many requests for a unit have waited.
    pub(crate) fn parked(&mut self, unit: &str, count: u64) {
        let began = Instant::now();
        while self.counts(unit).parked < count {
            assert!(began.elapsed() < PATIENCE, "fewer than {count} wait");
        }
    }

    /// Sends a request on a connection of its own.
    pub(crate) fn request(&self, method: &str, target: &str) -> Peer<TcpStream> {
        let mut client = self.client();
        client.send(&format!("{method} {target} HTTP/1.1\r\nHost: a.b\r\nContent-Length: 0\r\n\r\n"));
        client
    }
}

impl Drop for Harness {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(std::thread::panicking() || ended.is_ok());
        }
    }
}

/// A listening socket, and its port.
pub(crate) fn bind() -> (TcpListener, u16) {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    (socket, port)
}

pub(crate) fn connect_supervisor(path: &Path) -> BufReader<UnixStream> {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    BufReader::new(stream)
}

/// One end of an HTTP connection.
pub(crate) struct Peer<S: Read>(pub(crate) BufReader<S>);

impl<S: Read + Write> Peer<S> {
    pub(crate) fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// Everything up to the empty line.
    pub(crate) fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(self.0.read_line(&mut head).unwrap(), 0, "the connection ended after {head:?}");
        }
        head
    }

    pub(crate) fn bytes(&mut self, count: usize) -> String {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// Whether the other side has closed the connection, with nothing before its end.
    pub(crate) fn is_over(&mut self) -> bool {
        self.0.read(&mut [0]).unwrap() == 0
    }

    /// Reads the head of a response and its body, whose length it must name.
    pub(crate) fn response(&mut self) -> (String, String) {
        let head = self.head();
        let length = header(&head, "content-length").unwrap().parse().unwrap();
        let body = self.bytes(length);
        (head, body)
    }
}

impl Peer<TcpStream> {
    /// Whether something is there to be read.
    pub(crate) fn is_told(&self) -> bool {
        let mut waiting = [PollFd::new(self.0.get_ref().as_fd(), PollFlags::POLLIN)];
        poll(&mut waiting, 0_u8).unwrap() == 1
    }
}

pub(crate) fn accept(listener: &UnixListener) -> Peer<UnixStream> {
    let milliseconds = u16::try_from(PATIENCE.as_millis()).unwrap();
    let mut waiting = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut waiting, milliseconds).unwrap(), 1, "no connection came");
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Peer(BufReader::new(stream))
}

/// Whether no connection waits to be accepted.
pub(crate) fn is_quiet(listener: &UnixListener) -> bool {
    let mut waiting = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    poll(&mut waiting, 0_u8).unwrap() == 0
}

pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut values = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .filter(|(held, _)| held.eq_ignore_ascii_case(name));
    let value = values.next().map(|(_, value)| value);
    assert!(values.next().is_none(), "{name} more than once in {head}");
    value
}

/// Takes one request and answers it.
pub(crate) fn answer(listener: &UnixListener) -> Peer<UnixStream> {
    let mut server = accept(listener);
    server.head();
    server.send(OK);
    server
}

pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
