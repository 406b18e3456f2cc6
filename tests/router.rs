//! The router between a raw client and raw upstreams: every byte is the test's own.
//!
//! Nothing here sleeps; whatever does not come within the sockets' time-out of ten seconds fails the test.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

use std::io::Read;
use std::num::NonZero;
use std::os::unix::net::UnixListener;
use std::time::Duration;

use synvisor::router;
use synvisor::router::KeepAlive;
use synvisor::router::Parking;
use synvisor::router::RouterSetup;
use synvisor::topology::UnitName;
use synvisor::wire::ToRouter;

#[path = "router/abuse.rs"]
mod abuse;
#[path = "router/bodies.rs"]
mod bodies;
#[path = "router/drain.rs"]
mod drain;
#[path = "router/harness.rs"]
mod harness;
#[path = "router/http2.rs"]
mod http2;
#[path = "router/listeners.rs"]
mod listeners;
#[path = "router/observe.rs"]
mod observe;
#[path = "router/parking.rs"]
mod parking;
#[path = "router/proxy.rs"]
mod proxy;
#[path = "router/replay.rs"]
mod replay;
#[path = "router/retire.rs"]
mod retire;
#[path = "router/threads.rs"]
mod threads;
#[path = "router/tls.rs"]
mod tls;

use harness::Harness;
use harness::OK;
use harness::PATIENCE;
use harness::TYPING;
use harness::VERSIONS;
use harness::accept;
use harness::answer;
use harness::connect_supervisor;
use harness::header;

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
    let mut client = harness.client();
    client.send("GET /health HTTP/1.1\r\nHost: a.b\r\nX-Forwarded-For: 198.51.100.7, 127.0.0.1\r\n\r\n");
    let health = client.head();
    assert_eq!(header(&health, "synvisor-client"), Some("198.51.100.7"));
    assert_eq!(header(&health, "synvisor-believed"), Some("2"));
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
        control: UnixListener::bind(directory.path().join("router.sock")).unwrap(),
        allowed_uids: Vec::new(),
        drain_timeout: Duration::from_secs(3_600),
        keep_alive: KeepAlive { timeout: Duration::ZERO, time: Duration::ZERO },
        parking: Parking::default(),
        without_parking: false,
        threads: NonZero::<usize>::MIN,
    };
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _ = ended.send(runtime.block_on(router::serve(setup, std::future::ready(()))));
    });
    end.recv_timeout(PATIENCE).unwrap().unwrap();
}
