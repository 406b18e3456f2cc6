//! Waiting for a process that is away.

use std::time::Duration;

use synvisor::router::Parking;
use synvisor::topology::UnitName;
use synvisor::wire::Incarnation;
use synvisor::wire::ToRouter;
use tokio::time::Instant;

use super::harness::Harness;
use super::harness::OK;
use super::harness::PATIENCE;
use super::harness::TYPING;
use super::harness::VERSIONS;
use super::harness::accept;
use super::harness::answer;
use super::harness::header;
use super::harness::is_quiet;

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
fn a_request_that_waits_follows_a_new_table() {
    // Mutation: who waits left out of the new table's queues: seen red (429).
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

fn typing_in(room: &str) -> String {
    format!("/_matrix/client/v3/rooms/{room}/typing/@u:x")
}

#[test]
fn those_who_wait_go_in_the_order_in_which_they_came() {
    // Mutation: the last one first: seen red.
    let mut harness = Harness::new();
    let mut clients = Vec::new();
    for room in 1..=5 {
        clients.push(harness.request("PUT", &typing_in(&format!("!{room}"))));
        harness.parked("typing-1", room);
    }
    let owner = harness.up("typing-1", 1);
    let mut servers = Vec::new();
    for room in 1..=5 {
        let mut server = accept(&owner);
        assert!(server.head().contains(&format!("/!{room}/")));
        servers.push(server);
    }
    for (mut client, mut server) in clients.into_iter().zip(servers) {
        server.send(OK);
        assert_eq!(client.response().1, "ok");
    }
}

#[test]
fn a_crowd_is_let_in_to_the_last_though_nobody_is_answered() {
    // Mutation: the next group only after answers: seen red (no connection comes).
    let mut harness = Harness::with(Parking { most: 100, longest: PATIENCE });
    let mut clients: Vec<_> = (0..40).map(|_| harness.request("PUT", TYPING)).collect();
    harness.parked("typing-1", 40);
    let owner = harness.up("typing-1", 1);
    let mut servers: Vec<_> = (0..40).map(|_| accept(&owner)).collect();
    for server in &mut servers {
        server.head();
        server.send(OK);
    }
    for client in &mut clients {
        assert_eq!(client.response().1, "ok");
    }
}

#[test]
fn a_unit_that_is_away_takes_no_place_of_others() {
    // Mutation: places counted over all pools: seen red (the second pool is told 429).
    let mut harness = Harness::with(Parking { most: 1, longest: Duration::from_secs(3_600) });
    let _waits = harness.request("PUT", TYPING);
    harness.parked("typing-1", 1);
    assert!(harness.request("PUT", TYPING).head().starts_with("HTTP/1.1 429 "));
    let mut versions = harness.request("GET", VERSIONS);
    harness.parked("generic-1", 1);
    let generic = harness.up("generic-1", 1);
    let _server = answer(&generic);
    assert_eq!(versions.response().1, "ok");
}

#[test]
fn a_client_that_leaves_while_it_waits_frees_its_place() {
    // Mutation: the place kept until the time is over: seen red, 429 comes again and again.
    let mut harness = Harness::with(Parking { most: 1, longest: Duration::from_secs(3_600) });
    let mut client = harness.client();
    client.send(&format!("PUT {TYPING} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{{}}"));
    harness.parked("typing-1", 1);
    drop(client);
    let began = Instant::now();
    // Refused until the router has noticed.
    let mut second = harness.request("PUT", TYPING);
    while harness.counts("typing-1").parked < 2 {
        assert!(began.elapsed() < PATIENCE, "its place is still taken");
        if second.is_told() {
            assert!(second.head().starts_with("HTTP/1.1 429 "));
            second = harness.request("PUT", TYPING);
        }
    }
    let owner = harness.up("typing-1", 1);
    let _server = answer(&owner);
    assert_eq!(second.response().1, "ok");
    assert!(is_quiet(&owner));
}

#[test]
fn nothing_is_sent_to_a_process_that_is_away_though_its_socket_is_there() {
    // Mutation: `Down` ignored: seen red.
    let mut harness = Harness::new();
    let owner = harness.up("typing-1", 1);
    harness.down("typing-1");
    let mut client = harness.request("PUT", TYPING);
    harness.parked("typing-1", 1);
    assert!(is_quiet(&owner));
    harness.tell(&ToRouter::Up { unit: UnitName::new("typing-1"), incarnation: Incarnation(2) });
    let _server = answer(&owner);
    assert_eq!(client.response().1, "ok");
}

#[test]
fn the_longest_wait_is_told_once() {
    // Mutations, each seen red: it is never reset; those who still wait are left out; whose wait is over are.
    let mut harness = Harness::new();
    let mut client = harness.request("PUT", TYPING);
    harness.parked("typing-1", 1);
    let waits = Duration::from_millis(3);
    let began = Instant::now();
    while began.elapsed() < waits {
        harness.table();
    }
    assert!(harness.counts("typing-1").longest_ms >= 3);
    let owner = harness.up("typing-1", 1);
    let _server = answer(&owner);
    client.response();
    assert!(harness.counts("typing-1").longest_ms >= 3);
    let counts = harness.counts("typing-1");
    assert_eq!((counts.parked, counts.longest_ms), (1, 0));
}
