//! The router between a raw client and raw upstreams: every byte is the test's own.
//!
//! Nothing here sleeps; whatever does not come within the sockets' time-out of ten seconds fails the test.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::poll;
use synvisor::config::Config;
use synvisor::router;
use synvisor::router::Parking;
use synvisor::router::RouterSetup;
use synvisor::topology::Topology;
use synvisor::topology::UnitName;
use synvisor::wire::FromRouter;
use synvisor::wire::Incarnation;
use synvisor::wire::ListenerSettings;
use synvisor::wire::ToRouter;

const PATIENCE: Duration = Duration::from_secs(10);
const VERSIONS: &str = "/_matrix/client/versions";
const TYPING: &str = "/_matrix/client/v3/rooms/!r/typing/@u:x";

/// A router with the supervisor's end of its connection.
struct Harness {
    directory: tempfile::TempDir,
    port: u16,
    supervisor: BufReader<UnixStream>,
    topology: Topology,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Harness {
    fn new() -> Self {
        Self::with(Parking { most: 10, longest: PATIENCE })
    }

    fn with(parking: Parking) -> Self {
        Self::of("generic = 1\ntyping = 1", parking, false)
    }

    fn of(workers: &str, parking: Parking, without_parking: bool) -> Self {
        // Compiling the rules takes seconds in a debug build; no time-out of a test is to run meanwhile.
        let _ = synvisor::route::Rules::get();
        let directory = tempfile::tempdir().unwrap();
        let toml =
            format!("server_name = \"a.b\"\n[workers]\n{workers}\n[supervisor]\nrun_dir = \".\"");
        let config = Config::parse(&toml, directory.path()).unwrap().config;
        let topology = Topology::of(&config);
        std::fs::create_dir(directory.path().join("client")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let control = UnixListener::bind(directory.path().join("router.sock")).unwrap();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let setup = RouterSetup {
            listeners: vec![listener],
            control,
            allowed_uids: vec![nix::unistd::geteuid().as_raw()],
            drain_timeout: PATIENCE,
            parking,
            without_parking,
        };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(router::serve(setup, async { drop(stopped.await) })).unwrap();
        });
        let supervisor = connect_supervisor(&directory.path().join("router.sock"));
        let mut harness =
            Self { directory, port, supervisor, topology, stop: Some(stop), thread: Some(thread) };
        harness.table();
        harness
    }

    fn tell(&mut self, message: &ToRouter) {
        let line = serde_json::to_string(message).unwrap() + "\n";
        self.supervisor.get_mut().write_all(line.as_bytes()).unwrap();
    }

    fn hear(&mut self) -> FromRouter {
        let mut line = String::new();
        self.supervisor.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn table(&mut self) {
        let listeners = vec![ListenerSettings { admin: false }];
        let trusted_proxies = vec!["127.0.0.1/32".parse().unwrap()];
        self.tell(&ToRouter::Table { topology: self.topology.clone(), listeners, trusted_proxies });
        assert_eq!(self.hear(), FromRouter::Accepting);
    }

    /// A process of a unit: its listening socket, which the router is told of.
    fn up(&mut self, unit: &str, incarnation: u64) -> UnixListener {
        let listener = self.listen(unit);
        self.tell(&ToRouter::Up { unit: UnitName::new(unit), incarnation: Incarnation(incarnation) });
        listener
    }

    fn listen(&self, unit: &str) -> UnixListener {
        let path = self.directory.path().join("client").join(format!("{unit}.sock"));
        let _ = std::fs::remove_file(&path);
        UnixListener::bind(path).unwrap()
    }

    fn client(&self) -> Peer<TcpStream> {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Peer(BufReader::new(stream))
    }

    /// Sends a request on a connection of its own.
    fn request(&self, method: &str, target: &str) -> Peer<TcpStream> {
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

fn connect_supervisor(path: &PathBuf) -> BufReader<UnixStream> {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    BufReader::new(stream)
}

/// One end of an HTTP connection.
struct Peer<S: Read>(BufReader<S>);

impl<S: Read + Write> Peer<S> {
    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// Everything up to the empty line.
    fn head(&mut self) -> String {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(self.0.read_line(&mut head).unwrap(), 0, "the connection ended after {head:?}");
        }
        head
    }

    fn bytes(&mut self, count: usize) -> String {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).unwrap();
        String::from_utf8(bytes).unwrap()
    }

    /// Reads the head of a response and its body, whose length it must name.
    fn response(&mut self) -> (String, String) {
        let head = self.head();
        let length = header(&head, "content-length").unwrap().parse().unwrap();
        let body = self.bytes(length);
        (head, body)
    }
}

fn accept(listener: &UnixListener) -> Peer<UnixStream> {
    let milliseconds = u16::try_from(PATIENCE.as_millis()).unwrap();
    let mut waiting = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut waiting, milliseconds).unwrap(), 1, "no connection came");
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Peer(BufReader::new(stream))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut values = head
        .lines()
        .filter_map(|line| line.split_once(": "))
        .filter(|(held, _)| held.eq_ignore_ascii_case(name));
    let value = values.next().map(|(_, value)| value);
    assert!(values.next().is_none(), "{name} more than once in {head}");
    value
}

/// Takes one request and answers it.
fn answer(listener: &UnixListener) -> Peer<UnixStream> {
    let mut server = accept(listener);
    server.head();
    server.send(OK);
    server
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn the_request_arrives_as_it_was_sent() {
    // Mutations: the path decoded, X-Forwarded-For appended to, Connection's names kept: each seen red.
    let mut harness = Harness::new();
    let upstream = harness.up("generic-1", 1);
    let target = "/_matrix/client/v3/rooms/%21r%3Aa.b..%2F%2e/members?at=%20b&&c=%2B+%";
    let mut client = harness.client();
    client.send(&format!(
        "GET {target} HTTP/1.1\r\nHost: matrix.a.b:8448\r\nX-Forwarded-For: 6.6.6.6, 198.51.100.7\r\n\
         X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Proto: https\r\nForwarded: for=6.6.6.6\r\n\
         Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nTE: trailers\r\nAuthorization: Bearer secret\r\n\r\n"
    ));
    let mut server = accept(&upstream);
    let head = server.head();
    assert_eq!(head.lines().next().unwrap(), format!("GET {target} HTTP/1.1"));
    assert_eq!(header(&head, "host"), Some("matrix.a.b:8448"));
    assert_eq!(header(&head, "x-forwarded-for"), Some("198.51.100.7"));
    assert_eq!(header(&head, "x-forwarded-proto"), Some("https"));
    assert_eq!(header(&head, "authorization"), Some("Bearer secret"));
    for gone in ["x-forwarded-host", "forwarded", "x-hop", "te", "connection"] {
        assert_eq!(header(&head, gone), None, "{head}");
    }
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Keep: 1\r\nConnection: X-Drop\r\nX-Drop: 1\r\nKeep-Alive: 5\r\n\r\nok");
    let (head, body) = client.response();
    assert_eq!((body.as_str(), header(&head, "x-keep")), ("ok", Some("1")));
    assert_eq!((header(&head, "x-drop"), header(&head, "keep-alive")), (None, None));
}

#[test]
fn bodies_stream_both_ways() {
    // Mutation: the body collected before it is passed on: seen red, in either direction.
    let mut harness = Harness::new();
    let upstream = harness.up("generic-1", 1);
    let mut client = harness.client();
    client.send("POST /_matrix/client/v3/keys/query HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nfirst");
    let mut server = accept(&upstream);
    server.head();
    assert_eq!(server.bytes(5), "first");
    client.send("later");
    assert_eq!(server.bytes(5), "later");

    server.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
    client.head();
    assert_eq!(client.bytes(10), "5\r\nfirst\r\n");
    server.send("5\r\nlater\r\n0\r\n\r\n");
    assert_eq!(client.bytes(15), "5\r\nlater\r\n0\r\n\r\n");
}

#[test]
fn a_request_waits_for_its_owner_while_others_are_served() {
    // Mutations: `Up` not waking those who wait, a strict route given to another unit: each seen red.
    let mut harness = Harness::new();
    let generic = harness.up("generic-1", 1);
    let mut typing = harness.request("PUT", TYPING);
    let mut versions = harness.request("GET", VERSIONS);
    let _server = answer(&generic);
    assert!(versions.head().starts_with("HTTP/1.1 200"));
    let owner = harness.up("typing-1", 1);
    let mut server = accept(&owner);
    assert!(server.head().starts_with("PUT "));
    server.send(OK);
    assert!(typing.head().starts_with("HTTP/1.1 200"));
}

#[test]
fn another_process_answers_for_one_that_is_down() {
    // Mutation: `Down` ignored: seen red.
    let mut harness = Harness::new();
    let _generic = harness.up("generic-1", 1);
    let main = harness.up("main", 1);
    harness.tell(&ToRouter::Down { unit: UnitName::new("generic-1") });
    // The supervisor's messages are in order, and this one is answered.
    harness.table();
    let mut client = harness.request("GET", VERSIONS);
    let _server = answer(&main);
    assert!(client.head().starts_with("HTTP/1.1 200"));
}

#[test]
fn who_waits_too_long_or_finds_no_place_is_told_when_to_come_back() {
    // Mutations: no bound on those who wait, no time-out: each seen red.
    let longest = Duration::from_millis(100);
    for parking in [Parking { most: 10, longest }, Parking { most: 0, longest: Duration::from_secs(3_600) }] {
        let harness = Harness::with(parking);
        let (head, body) = harness.request("PUT", TYPING).response();
        assert!(head.starts_with("HTTP/1.1 429 "), "{head}");
        assert_eq!(header(&head, "retry-after"), Some("2"));
        assert_eq!(header(&head, "access-control-allow-origin"), Some("*"));
        let json: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!((&json["errcode"], &json["retry_after_ms"]), (&"M_LIMIT_EXCEEDED".into(), &2_000.into()));
    }
}

#[test]
fn a_drain_is_over_when_the_last_request_is_answered() {
    // Mutations: Drained told at once, requests still sent to a unit that drains: each seen red.
    let mut harness = Harness::new();
    let generic = harness.up("generic-1", 7);
    let main = harness.up("main", 1);
    let mut slow = harness.request("GET", VERSIONS);
    let mut server = accept(&generic);
    server.head();
    let (unit, incarnation) = (UnitName::new("generic-1"), Incarnation(7));
    harness.tell(&ToRouter::Drain { unit: unit.clone(), incarnation });
    // Answered, so the drain has begun; and it is not over.
    harness.table();
    let mut other = harness.request("GET", VERSIONS);
    let _server = answer(&main);
    assert!(other.head().starts_with("HTTP/1.1 200"));
    server.send(OK);
    assert_eq!(slow.response().1, "ok");
    assert_eq!(harness.hear(), FromRouter::Drained { unit: unit.clone(), incarnation });
    // One that has nothing in flight is drained at once, and so is one that is not known.
    harness.tell(&ToRouter::Drain { unit: UnitName::main(), incarnation: Incarnation(1) });
    assert_eq!(harness.hear(), FromRouter::Drained { unit: UnitName::main(), incarnation: Incarnation(1) });
    harness.tell(&ToRouter::Drain { unit: unit.clone(), incarnation });
    assert_eq!(harness.hear(), FromRouter::Drained { unit, incarnation });
}

#[test]
fn a_connection_that_died_while_idle_is_nobodys_problem() {
    // Mutation: neither the kernel nor hyper asked whether an idle connection is open, and a request that was given
    // back unsent answered with 502: seen red. Each alone is made good by the other.
    let mut harness = Harness::new();
    let generic = harness.up("generic-1", 1);
    let mut client = harness.client();
    for _ in 0..20 {
        client.send(&format!("GET {VERSIONS} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let mut server = accept(&generic);
        server.head();
        server.send(OK);
        assert_eq!(client.response().1, "ok");
        // The process closes the connection that the router has just put aside.
        drop(server);
    }
}

#[test]
fn a_connection_is_used_again() {
    let mut harness = Harness::new();
    let generic = harness.up("generic-1", 1);
    let mut client = harness.request("GET", VERSIONS);
    let mut server = accept(&generic);
    server.head();
    server.send(OK);
    client.response();
    let mut another = harness.request("GET", VERSIONS);
    assert!(server.head().starts_with("GET "));
    server.send(OK);
    assert_eq!(another.response().1, "ok");
}

#[test]
fn what_was_sent_is_not_sent_again() {
    // Mutation: every failed attempt repeated: seen red (a second connection comes).
    let mut harness = Harness::new();
    let generic = harness.up("generic-1", 1);
    let mut client = harness.request("POST", "/_matrix/client/v3/createRoom");
    let mut server = accept(&generic);
    server.head();
    drop(server);
    let (head, body) = client.response();
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
    assert!(body.contains("M_UNKNOWN"));
    generic.set_nonblocking(true).unwrap();
    assert!(generic.accept().is_err(), "the request came again");
}

#[test]
fn a_process_that_does_not_listen_yet_is_tried_again() {
    // Mutation: a failed connect answered with 502: seen red.
    let mut harness = Harness::new();
    harness.tell(&ToRouter::Up { unit: UnitName::new("typing-1"), incarnation: Incarnation(1) });
    let mut client = harness.request("PUT", TYPING);
    // The router takes requests in their order: when this one is answered, the first has been tried.
    harness.request("GET", "/health").response();
    let owner = harness.listen("typing-1");
    let mut server = accept(&owner);
    server.head();
    server.send(OK);
    assert_eq!(client.response().1, "ok");
}

#[test]
fn another_process_answers_for_one_that_does_not_listen() {
    // Mutation: those that refused asked again and nobody else: seen red.
    let mut harness = Harness::with(Parking { most: 10, longest: Duration::from_millis(300) });
    harness.tell(&ToRouter::Up { unit: UnitName::new("generic-1"), incarnation: Incarnation(1) });
    let main = harness.up("main", 1);
    let mut client = harness.request("GET", VERSIONS);
    let _server = answer(&main);
    assert_eq!(client.response().1, "ok");
}

#[test]
fn a_late_drain_of_a_process_leaves_its_successor_alone() {
    // Mutation: the incarnation of a drain ignored: seen red.
    let mut harness = Harness::new();
    let _old = harness.up("typing-1", 1);
    let owner = harness.up("typing-1", 2);
    let (unit, incarnation) = (UnitName::new("typing-1"), Incarnation(1));
    harness.tell(&ToRouter::Drain { unit: unit.clone(), incarnation });
    assert_eq!(harness.hear(), FromRouter::Drained { unit, incarnation });
    let mut client = harness.request("PUT", TYPING);
    let _server = answer(&owner);
    assert_eq!(client.response().1, "ok");
}

#[test]
fn a_body_of_unknown_length_arrives_whatever_the_method() {
    // Mutation: Transfer-Encoding not set anew: seen red (the body is missing).
    let mut harness = Harness::new();
    let generic = harness.up("generic-1", 1);
    let mut client = harness.client();
    client.send(&format!(
        "GET {VERSIONS} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
    ));
    let mut server = accept(&generic);
    assert_eq!(header(&server.head(), "transfer-encoding"), Some("chunked"));
    assert_eq!(server.bytes(12), "2\r\nhi\r\n0\r\n\r\n");
    server.send(OK);
    assert_eq!(client.response().1, "ok");
}

#[test]
fn a_client_that_leaves_takes_its_request_along() {
    // Mutation: the upstream connection kept by a task of its own: seen red (read times out).
    let mut harness = Harness::new();
    let generic = harness.up("generic-1", 1);
    let client = harness.request("GET", VERSIONS);
    let mut server = accept(&generic);
    server.head();
    drop(client);
    assert_eq!(server.0.read(&mut [0]).unwrap(), 0);
}

#[test]
fn the_table_outlives_the_supervisor_and_a_new_one_is_heard() {
    // Mutation: the state dropped with the connection: seen red.
    let mut harness = Harness::new();
    let generic = harness.up("generic-1", 1);
    harness.table();
    let path = harness.directory.path().join("router.sock");
    harness.supervisor.get_ref().shutdown(std::net::Shutdown::Both).unwrap();
    let mut client = harness.request("GET", VERSIONS);
    let mut server = accept(&generic);
    server.head();
    server.send(OK);
    assert_eq!(client.response().1, "ok");
    harness.supervisor = connect_supervisor(&path);
    harness.table();
    let typing = harness.up("typing-1", 3);
    let mut client = harness.request("PUT", TYPING);
    let _server = answer(&typing);
    assert!(client.head().starts_with("HTTP/1.1 200"));
}

#[test]
fn the_router_answers_for_itself_where_nobody_else_may() {
    let mut harness = Harness::new();
    let status = |harness: &Harness, target: &str| {
        harness.request("GET", target).head().lines().next().unwrap().to_owned()
    };
    assert_eq!(status(&harness, "/health"), "HTTP/1.1 503 Service Unavailable");
    let _main = harness.up("main", 1);
    harness.table();
    assert_eq!(status(&harness, "/health"), "HTTP/1.1 200 OK");
    for denied in ["/_synapse/metrics", "/_synapse/replication/x"] {
        assert_eq!(status(&harness, denied), "HTTP/1.1 404 Not Found");
    }
    assert_eq!(status(&harness, "/_synapse/admin/v1/users"), "HTTP/1.1 403 Forbidden");
    assert_eq!(status(&harness, "http://a.b/_matrix/client/versions"), "HTTP/1.1 400 Bad Request");
    assert_eq!(status(&harness, "matrix-federation://a.b/x"), "HTTP/1.1 400 Bad Request");
    let options = harness.request("OPTIONS", "*").head();
    assert!(options.starts_with("HTTP/1.1 204 "), "{options}");
}

#[test]
fn the_end_lets_requests_in_flight_finish_and_refuses_nobody_before() {
    // Mutation: `serve` returning as soon as it is told to: seen red.
    let mut harness = Harness::new();
    let generic = harness.up("generic-1", 1);
    let mut client = harness.request("GET", VERSIONS);
    let mut server = accept(&generic);
    server.head();
    drop(harness.stop.take());
    server.send(OK);
    assert_eq!(client.response().1, "ok");
    assert_eq!(client.0.read(&mut [0]).unwrap(), 0, "its connection is not kept");
    harness.thread.take().unwrap().join().unwrap();
}

#[test]
fn the_end_may_come_before_the_first_table() {
    // Mutation: only the first table waited for: seen red, the drain time-out of an hour runs.
    let directory = tempfile::tempdir().unwrap();
    let setup = RouterSetup {
        listeners: vec![TcpListener::bind("127.0.0.1:0").unwrap()],
        control: UnixListener::bind(directory.path().join("router.sock")).unwrap(),
        allowed_uids: Vec::new(),
        drain_timeout: Duration::from_secs(3_600),
        parking: Parking::default(),
        without_parking: false,
    };
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _ = ended.send(runtime.block_on(router::serve(setup, std::future::ready(()))));
    });
    end.recv_timeout(PATIENCE).unwrap().unwrap();
}

#[test]
fn a_request_that_waits_follows_a_new_table() {
    // Mutation: the table that a request began with kept for it: seen red (it waits on).
    let mut harness = Harness::new();
    let main = harness.up("main", 1);
    let mut client = harness.request("PUT", TYPING);
    // Parked, since what came after it on another connection has been answered.
    let mut other = harness.request("GET", VERSIONS);
    let mut server = answer(&main);
    other.response();
    harness.topology.units.retain(|unit| unit.name != UnitName::new("typing-1"));
    harness.table();
    assert!(server.head().starts_with("PUT "));
    server.send(OK);
    assert!(client.head().starts_with("HTTP/1.1 200"));
}

#[test]
fn who_waits_for_a_process_to_listen_counts_among_those_who_wait() {
    // Mutation: no place taken while the process is tried again: seen red, no answer comes.
    let mut harness = Harness::with(Parking { most: 0, longest: Duration::from_secs(3_600) });
    harness.tell(&ToRouter::Up { unit: UnitName::new("typing-1"), incarnation: Incarnation(1) });
    harness.table();
    assert!(harness.request("PUT", TYPING).head().starts_with("HTTP/1.1 429 "));
}

#[test]
fn a_drain_that_is_asked_for_again_is_over_no_sooner() {
    // Mutation: a unit that drains forgotten at once: seen red (Drained comes before the table's answer).
    let mut harness = Harness::new();
    let generic = harness.up("generic-1", 7);
    let mut slow = harness.request("GET", VERSIONS);
    let mut server = accept(&generic);
    server.head();
    let (unit, incarnation) = (UnitName::new("generic-1"), Incarnation(7));
    let drain = ToRouter::Drain { unit: unit.clone(), incarnation };
    harness.tell(&drain);
    harness.tell(&drain);
    harness.table();
    server.send(OK);
    assert_eq!(slow.response().1, "ok");
    assert_eq!(harness.hear(), FromRouter::Drained { unit, incarnation });
    harness.table();
}

#[test]
fn a_drain_that_is_called_off_lets_requests_in_again() {
    // Mutation: Up ignored for a process that is known: seen red (the request waits).
    let mut harness = Harness::new();
    let typing = harness.up("typing-1", 8);
    let (unit, incarnation) = (UnitName::new("typing-1"), Incarnation(8));
    harness.tell(&ToRouter::Drain { unit: unit.clone(), incarnation });
    assert_eq!(harness.hear(), FromRouter::Drained { unit: unit.clone(), incarnation });
    let mut client = harness.request("PUT", TYPING);
    harness.tell(&ToRouter::Up { unit, incarnation });
    let _server = answer(&typing);
    assert!(client.head().starts_with("HTTP/1.1 200"));
}

const LARGE: usize = 64 << 20;

/// Writes a large body, and tells whether the other side was ever made to wait.
fn write_large(stream: &mut (impl Write + ?Sized), blocked: &std::sync::mpsc::Sender<usize>) {
    let chunk = vec![b'x'; 64 << 10];
    let mut written = 0;
    let mut told = false;
    while written < LARGE {
        match stream.write(&chunk[..chunk.len().min(LARGE - written)]) {
            Ok(count) => written += count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                if !std::mem::replace(&mut told, true) {
                    blocked.send(written).unwrap();
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
    if !told {
        blocked.send(written).unwrap();
    }
}

fn count(stream: &mut impl Read) {
    let mut body = stream.take(LARGE as u64);
    assert_eq!(std::io::copy(&mut body, &mut std::io::sink()).unwrap(), LARGE as u64);
}

#[test]
fn nobody_sends_faster_than_the_other_reads() {
    // Mutation: the upload collected before it is passed on: seen red (all 64 MiB are taken unread).
    let mut harness = Harness::new();
    let generic = harness.up("generic-1", 1);
    let mut client = harness.client();
    let lengths = format!("Content-Length: {LARGE}\r\n\r\n");
    client.send(&format!("POST /_matrix/client/v3/keys/query HTTP/1.1\r\nHost: a\r\n{lengths}"));
    let mut server = accept(&generic);
    server.head();
    // A writer that makes no progress for this long is being held back; slowness could only hide a mistake.
    let held = Some(Duration::from_millis(300));
    let (blocked, block) = std::sync::mpsc::channel();

    let mut upload = client.0.get_ref().try_clone().unwrap();
    upload.set_write_timeout(held).unwrap();
    let blocked_too = blocked.clone();
    let writer = std::thread::spawn(move || write_large(&mut upload, &blocked_too));
    assert!(block.recv().unwrap() < LARGE);
    count(&mut server.0);
    writer.join().unwrap();

    server.send(&format!("HTTP/1.1 200 OK\r\n{lengths}"));
    let mut download = server.0.get_ref().try_clone().unwrap();
    download.set_write_timeout(held).unwrap();
    let writer = std::thread::spawn(move || write_large(&mut download, &blocked));
    assert!(block.recv().unwrap() < LARGE);
    client.head();
    count(&mut client.0);
    writer.join().unwrap();
}

#[test]
fn a_body_is_framed_once() {
    // Mutation: the client's Content-Length put back in place of its Transfer-Encoding: seen red.
    let mut harness = Harness::new();
    let generic = harness.up("generic-1", 1);
    let mut client = harness.client();
    client.send(
        "POST /_matrix/client/v3/keys/query HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\
         Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    );
    let mut server = accept(&generic);
    let head = server.head();
    assert_eq!(
        (header(&head, "content-length"), header(&head, "transfer-encoding")),
        (None, Some("chunked"))
    );
    assert_eq!(server.bytes(15), "5\r\nhello\r\n0\r\n\r\n");
    for lengths in [
        "Content-Length: 3\r\nContent-Length: 4",
        "Content-Length: +3",
        "Content-Length: 3, 4",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding : chunked",
    ] {
        let mut client = harness.client();
        client.send(&format!(
            "POST /_matrix/client/v3/keys/query HTTP/1.1\r\nHost: a\r\n{lengths}\r\n\r\nabcd"
        ));
        assert!(client.head().starts_with("HTTP/1.1 400 "), "{lengths}");
    }
    generic.set_nonblocking(true).unwrap();
    assert!(generic.accept().is_err(), "one of them was passed on");
}

#[test]
fn answers_without_a_body_leave_the_connection_usable() {
    // Mutation: a connection kept only after a body was read to its end: seen red (a second connection is needed).
    let mut harness = Harness::new();
    let generic = harness.up("generic-1", 1);
    let mut client = harness.client();
    let ask =
        |method: &str| format!("{method} {VERSIONS} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n");
    client.send(&ask("HEAD"));
    let mut server = accept(&generic);
    assert!(server.head().starts_with("HEAD "));
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(header(&client.head(), "content-length"), Some("5"));
    for status in ["204 No Content", "304 Not Modified"] {
        client.send(&ask("GET"));
        assert!(server.head().starts_with("GET "));
        server.send(&format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 {status}\r\n\r\n"));
        assert!(client.head().starts_with(&format!("HTTP/1.1 {status}")));
    }
}
