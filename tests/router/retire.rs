//! A router whose successor has taken over: it takes nobody, answers whom it has, and ends.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::net::TcpStream;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use synvisor::router::KeepAlive;
use synvisor::router::Parking;
use synvisor::wire::FromRouter;
use synvisor::wire::ToRouter;
use tokio::time::Instant;

use super::harness::Harness;
use super::harness::OK;
use super::harness::PATIENCE;
use super::harness::Peer;
use super::harness::VERSIONS;
use super::harness::accept;
use super::harness::answer;
use super::harness::connect_supervisor;
use super::harness::header;

const SYNC: &str = "/_matrix/client/v3/sync?since=s1&timeout=30000";
/// Longer than any test may take.
const AGES: Duration = Duration::from_secs(3_600);
const PARKING: Parking = Parking { most: 10, longest: PATIENCE };

/// A router with these limits for requests when it stops, and for idle connections when it is retired.
fn ending(drain_timeout: Duration, timeout: Duration) -> Harness {
    let keep_alive = KeepAlive { timeout, time: AGES };
    Harness::that_ends("generic = 1\ntyping = 1", PARKING, false, drain_timeout, keep_alive)
}

/// A router with a request on the way to a worker that has it and has not answered.
struct Busy {
    harness: Harness,
    generic: UnixListener,
    client: Peer<TcpStream>,
    process: Peer<UnixStream>,
}

impl Busy {
    fn with(target: &str, incarnation: u64) -> Self {
        let mut harness = ending(AGES, AGES);
        let generic = harness.up("generic-1", incarnation);
        let client = harness.request("GET", target);
        let mut process = accept(&generic);
        process.head();
        Self { harness, generic, client, process }
    }
}

impl Harness {
    /// Returns when it takes nobody any more.
    fn retire(&mut self, limit: Duration) {
        self.tell(&ToRouter::Retire { limit_ms: u64::try_from(limit.as_millis()).unwrap() });
        assert_eq!(self.hear(), FromRouter::Accepting { addresses: Vec::new() });
    }

    /// Waits for its end; nobody tells it to stop for that.
    fn ended(&self) {
        assert_eq!(self.end.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected));
    }

    /// Waits until it has closed its end of the supervisor's connection.
    fn hang_up(&mut self) {
        let mut rest = Vec::new();
        std::io::Read::read_to_end(&mut self.supervisor, &mut rest).unwrap();
    }
}

/// Whether somebody waits to be accepted from this socket.
fn is_waited_at(socket: &TcpListener) -> bool {
    socket.set_nonblocking(true).unwrap();
    match socket.accept() {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn a_long_poll_is_answered_and_is_the_last() {
    // Mutations, each seen red: the long-poll left at the end; the answer without `Connection: close` (it never ends).
    let Busy { mut harness, generic: _generic, mut client, mut process } = Busy::with(SYNC, 1);
    harness.retire(AGES);
    assert!(!client.is_told());
    process.send(OK);
    let (head, body) = client.response();
    assert_eq!((header(&head, "connection"), body.as_str()), (Some("close"), "ok"));
    assert!(client.is_over());
    harness.ended();
}

#[test]
fn whoever_comes_then_is_the_successors() {
    // Mutations, each seen red: the sockets kept; those of a later table accepted from.
    let Busy { mut harness, generic: _generic, mut client, mut process } = Busy::with(VERSIONS, 1);
    harness.retire(AGES);
    // A table that has sockets all the same opens none.
    let table = harness.table_line();
    harness.send(&table);
    assert_eq!(harness.hear(), FromRouter::Accepting { addresses: Vec::new() });
    let mut late = harness.client();
    late.send("GET /health HTTP/1.1\r\nHost: a.b\r\n\r\n");
    process.send(OK);
    client.response();
    harness.ended();
    assert!(!late.is_told());
    assert!(is_waited_at(&harness.sockets[0].0), "it waits for the successor");
}

#[test]
fn an_idle_connection_has_one_more_answer() {
    // Mutation: idle connections closed at once: seen red.
    let mut harness = ending(AGES, AGES);
    let _main = harness.up("main", 1);
    let mut idle = harness.client();
    let mut silent = harness.client();
    idle.send("GET /health HTTP/1.1\r\nHost: a.b\r\n\r\n");
    idle.response();
    // It is let in before: this one comes after it, and is answered.
    let mut last = harness.client();
    last.send("GET /health HTTP/1.1\r\nHost: a.b\r\nConnection: close\r\n\r\n");
    last.response();
    harness.retire(AGES);
    let retired = Instant::now();
    while retired.elapsed() < Duration::from_millis(20) {
        let table = harness.table_line();
        harness.send(&table);
        harness.hear();
    }
    for client in [&mut idle, &mut silent] {
        client.send("GET /health HTTP/1.1\r\nHost: a.b\r\n\r\n");
        let (head, _) = client.response();
        assert_eq!(header(&head, "connection"), Some("close"));
        assert!(client.is_over());
    }
    harness.ended();
}

#[test]
fn an_idle_connection_does_not_keep_it_for_longer_than_any() {
    // Mutation: no limit: seen red.
    let mut harness = ending(AGES, Duration::from_secs(1));
    let generic = harness.up("generic-1", 1);
    let mut idle = harness.request("GET", VERSIONS);
    let _process = answer(&generic);
    idle.response();
    harness.retire(AGES);
    assert!(idle.is_over());
    harness.ended();
}

#[test]
fn its_time_is_limited() {
    // Mutations, each seen red: no limit; the limit that another supervisor names taken for the first.
    let Busy { mut harness, generic: _generic, mut client, mut process } = Busy::with(SYNC, 1);
    harness.tell(&ToRouter::Retire { limit_ms: 1 });
    harness.tell(&ToRouter::Retire { limit_ms: 3_600_000 });
    harness.ended();
    assert!(client.is_over());
    assert!(process.is_over());
}

#[test]
fn a_stop_ends_it_as_it_would_any_router() {
    // Mutation: the signal not heard by one that is retired: seen red.
    let mut harness = ending(Duration::ZERO, AGES);
    let generic = harness.up("generic-1", 1);
    let mut client = harness.request("GET", SYNC);
    let mut process = accept(&generic);
    process.head();
    harness.retire(AGES);
    // Answered, so that it has come to where it waits for its end.
    harness.counts("generic-1");
    drop(harness.stop.take());
    harness.ended();
    assert!(client.is_over());
    assert!(process.is_over());
}

#[test]
fn a_process_restarts_behind_it() {
    // Mutation: Drain not obeyed by a router that is retired: seen red.
    let Busy { mut harness, generic: _generic, mut client, mut process } = Busy::with(SYNC, 7);
    harness.retire(AGES);
    let drained = harness.drain("generic-1", 7);
    assert_eq!(harness.hear(), drained);
    assert!(process.is_over());
    harness.parked("generic-1", 1);
    let generic = harness.up("generic-1", 8);
    let _process = answer(&generic);
    assert_eq!(client.response().1, "ok");
    harness.ended();
}

#[test]
fn another_supervisor_finds_it() {
    // Mutation: its control socket closed when it is retired: seen red.
    let Busy { mut harness, generic: _generic, mut client, mut process } = Busy::with(SYNC, 7);
    harness.retire(AGES);
    harness.supervisor = connect_supervisor(&harness.directory.path().join("router.sock"));
    harness.retire(AGES);
    assert_eq!(harness.counts("generic-1").cut, 0);
    process.send(OK);
    assert_eq!(client.response().1, "ok");
    harness.hang_up();
    harness.ended();
}
