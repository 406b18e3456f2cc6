//! Planned stops: who may finish, who is asked to come again, and when it is over.

use std::net::TcpStream;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use synvisor::topology::UnitName;
use synvisor::wire::FromRouter;
use synvisor::wire::Incarnation;
use synvisor::wire::ToRouter;
use tokio::time::Instant;

use super::harness::Harness;
use super::harness::OK;
use super::harness::Peer;
use super::harness::TYPING;
use super::harness::VERSIONS;
use super::harness::accept;
use super::harness::answer;

/// A request that a process has, and has not answered: the client's end, and the process's.
fn in_flight(harness: &mut Harness, process: &UnixListener) -> (Peer<TcpStream>, Peer<UnixStream>) {
    let client = harness.request("GET", VERSIONS);
    let mut server = accept(process);
    server.head();
    (client, server)
}

#[test]
fn a_drain_is_over_when_the_last_request_is_answered() {
    // Mutations: Drained told at once, requests still sent to a unit that drains: each seen red.
    let mut harness = Harness::new();
    let generic = harness.up("generic-1", 7);
    let main = harness.up("main", 1);
    let (mut slow, mut server) = in_flight(&mut harness, &generic);
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
fn a_unit_that_is_configured_no_more_finishes_what_it_has() {
    // Mutation: processes of units that the table does not name dropped: seen red (Drained at once).
    let mut harness = Harness::new();
    let generic = harness.up("generic-1", 7);
    let main = harness.up("main", 1);
    let (mut slow, mut server) = in_flight(&mut harness, &generic);
    let unit = UnitName::new("generic-1");
    harness.topology.units.retain(|other| other.name != unit);
    harness.table();
    let mut other = harness.request("GET", VERSIONS);
    let _server = answer(&main);
    assert_eq!(other.response().1, "ok", "requests go on to who is left");
    let drained = harness.drain("generic-1", 7);
    harness.table();
    server.send(OK);
    assert_eq!(slow.response().1, "ok");
    assert_eq!(harness.hear(), drained);
    harness.tell(&ToRouter::Down { unit });
    harness.table();
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
fn a_drain_that_is_asked_for_again_is_over_no_sooner() {
    // Mutation: a unit that drains forgotten at once: seen red (Drained comes before the table's answer).
    let mut harness = Harness::new();
    let generic = harness.up("generic-1", 7);
    let (mut slow, mut server) = in_flight(&mut harness, &generic);
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

const SYNC: &str = "/_matrix/client/v3/sync?filter=%7b%7D&since=s1&timeout=30000&x=1";

/// The value of `timeout` in a request line that is otherwise the one of `SYNC`.
fn timeout_of(head: &str) -> u64 {
    let target = head.split(' ').nth(1).unwrap();
    let (before, rest) = target.split_once("timeout=").unwrap();
    let (value, after) = rest.split_once('&').unwrap();
    assert_eq!(format!("{before}timeout=30000&{after}"), SYNC);
    value.parse().unwrap()
}

#[test]
fn a_long_poll_is_taken_back_and_answered_in_the_time_that_the_client_asked_for() {
    // Mutations, each seen red: `left` never resolving; the time-out sent on as it was; no count.
    let mut harness = Harness::new();
    let generic = harness.up("generic-1", 7);
    let main = harness.up("main", 1);
    let mut client = harness.request("GET", SYNC);
    let mut server = accept(&generic);
    assert_eq!(timeout_of(&server.head()), 30_000);
    let asked = Instant::now();
    while asked.elapsed() < Duration::from_millis(2) {
        harness.table();
    }
    let drained = harness.drain("generic-1", 7);
    assert_eq!(harness.hear(), drained, "it waits for no answer");
    assert!(server.is_over());
    let mut other = accept(&main);
    assert!(timeout_of(&other.head()) <= 29_998);
    other.send(OK);
    assert_eq!(client.response().1, "ok");
    let counts = harness.counts("generic-1");
    assert_eq!((counts.taken_back, counts.replayed, counts.cut, counts.parked), (1, 0, 0, 0));
}

#[test]
fn a_long_poll_without_another_process_waits_for_the_next_one() {
    // Mutation: one that is taken back answered with 502: seen red.
    let mut harness = Harness::new();
    let generic = harness.up("generic-1", 7);
    let target = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync?pos=1&timeout=30000";
    let mut client = harness.client();
    client.send(&format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nlists"));
    let mut server = accept(&generic);
    server.head();
    assert_eq!(server.bytes(5), "lists");
    let drained = harness.drain("generic-1", 7);
    assert_eq!(harness.hear(), drained);
    assert!(server.is_over());
    harness.parked("generic-1", 1);
    harness.down("generic-1");
    let generic = harness.up("generic-1", 8);
    let mut server = accept(&generic);
    assert!(server.head().starts_with("POST "));
    assert_eq!(server.bytes(5), "lists", "its body goes with it");
    server.send(OK);
    assert_eq!(client.response().1, "ok");
    let counts = harness.counts("generic-1");
    assert_eq!((counts.taken_back, counts.parked, counts.replayed, counts.cut), (1, 1, 0, 0));
}

#[test]
fn what_works_or_is_being_answered_is_not_taken_back() {
    // Mutation: every GET taken for a long-poll: seen red.
    let mut harness = Harness::new();
    let generic = harness.up("generic-1", 7);
    let mut initial = harness.request("GET", "/_matrix/client/v3/sync?timeout=30000");
    let mut of_initial = accept(&generic);
    of_initial.head();
    let mut begun = harness.request("GET", SYNC);
    let mut of_begun = accept(&generic);
    of_begun.head();
    of_begun.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfirst");
    begun.head();
    assert_eq!(begun.bytes(5), "first");
    let drained = harness.drain("generic-1", 7);
    harness.table();
    of_begun.send("later");
    assert_eq!(begun.bytes(5), "later");
    of_initial.send(OK);
    assert_eq!(initial.response().1, "ok");
    assert_eq!(harness.hear(), drained);
    assert_eq!(harness.counts("generic-1").taken_back, 0);
}

#[test]
fn a_long_poll_leaves_a_process_that_went_without_a_word() {
    // Mutation: `Down` not telling those in flight: seen red (the request stays where nobody reads it).
    let mut harness = Harness::new();
    let generic = harness.up("generic-1", 7);
    let main = harness.up("main", 1);
    let mut client = harness.request("GET", SYNC);
    let mut server = accept(&generic);
    server.head();
    harness.down("generic-1");
    let _server = answer(&main);
    assert_eq!(client.response().1, "ok");
    assert_eq!(harness.counts("generic-1").taken_back, 0);
}

#[test]
fn idle_connections_are_closed_by_a_drain() {
    // Mutation: they are kept: seen red (read times out).
    let mut harness = Harness::new();
    let generic = harness.up("generic-1", 7);
    let mut client = harness.request("GET", VERSIONS);
    let mut server = answer(&generic);
    client.response();
    let drained = harness.drain("generic-1", 7);
    assert_eq!(harness.hear(), drained);
    assert!(server.is_over());
}

#[test]
fn a_body_on_its_way_may_arrive_while_its_process_drains() {
    // Mutation: uploads cut at the drain: seen red.
    let mut harness = Harness::new();
    let main = harness.up("main", 7);
    let mut client = harness.client();
    client.send("POST /_matrix/media/v3/upload HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nfirst");
    let mut server = accept(&main);
    server.head();
    assert_eq!(server.bytes(5), "first");
    let drained = harness.drain("main", 7);
    harness.table();
    client.send("later");
    assert_eq!(server.bytes(5), "later");
    server.send(OK);
    assert_eq!(client.response().1, "ok");
    assert_eq!(harness.hear(), drained);
    assert_eq!(harness.counts("main").cut, 0);
}
