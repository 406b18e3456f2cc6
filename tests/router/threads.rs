//! Several threads that are one router to everybody else.

use std::time::Duration;

use synvisor::wire::FromRouter;
use synvisor::wire::ToRouter;
use tokio::time::Instant;

use super::harness::Harness;
use super::harness::OK;
use super::harness::PATIENCE;
use super::harness::TYPING;
use super::harness::VERSIONS;
use super::harness::accept;

#[test]
fn a_drain_is_over_when_it_is_on_every_thread() {
    // Mutation: the first thread's answer passed on: seen red.
    let mut harness = Harness::of_threads(3);
    let generic = harness.up("generic-1", 1);
    harness.table();
    let mut clients: Vec<_> = (0..12)
        .map(|number| harness.request("POST", &format!("/_matrix/client/v3/keys/query?{number}")))
        .collect();
    // Whoever has been connected to and has no request yet would have none any more.
    let asked = clients.iter().map(|_| {
        let mut server = accept(&generic);
        let head = server.head();
        (server, head)
    });
    let asked: Vec<_> = asked.collect();
    let drained = harness.drain("generic-1", 1);
    for (mut server, head) in asked {
        // A thread that had told of the drain's end would have done so before it told its counts.
        harness.counts("generic-1");
        server.send(OK);
        let number: usize = head.split(['?', ' ']).nth(2).unwrap().parse().unwrap();
        assert_eq!(clients[number].response().1, "ok");
    }
    assert_eq!(harness.hear(), drained);
}

#[test]
fn counts_are_those_of_all_threads_and_who_waits_anywhere_goes() {
    // Mutations, each seen red: the counts of one thread taken for all; only one thread told who is up.
    let mut harness = Harness::of_threads(3);
    let began = Instant::now();
    let mut clients = Vec::new();
    // More than one thread lets wait, so that at least two have some.
    while clients.len() < 12 {
        let client = harness.request("PUT", TYPING);
        let waits = loop {
            assert!(began.elapsed() < PATIENCE, "{} of them wait", clients.len());
            if harness.counts("typing-1").parked > clients.len() as u64 {
                break true;
            }
            if client.is_told() {
                break false;
            }
        };
        if waits {
            clients.push(client);
        }
    }
    let typing = harness.up("typing-1", 1);
    let answering = std::thread::spawn(move || {
        for _ in 0..12 {
            let mut server = accept(&typing);
            server.head();
            server.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        }
    });
    for client in &mut clients {
        assert_eq!(client.response().1, "ok");
    }
    answering.join().unwrap();
}

#[test]
fn who_has_nobody_left_still_answers_as_a_part_of_the_whole() {
    // Mutation: a thread that ends when its last client has gone: seen red, nobody is ever told what was counted.
    let mut harness = Harness::of_threads(3);
    let generic = harness.up("generic-1", 1);
    harness.table();
    let mut client = harness.request("GET", VERSIONS);
    let mut server = accept(&generic);
    server.head();
    harness.tell(&ToRouter::Retire { limit_ms: 3_600_000 });
    assert_eq!(harness.hear(), FromRouter::Accepting { addresses: Vec::new() });
    for _ in 0..3 {
        assert_eq!(harness.counts("generic-1").parked, 0);
    }
    server.send(OK);
    assert_eq!(client.response().1, "ok");
    drop(client);
    let ended = harness.end.recv_timeout(Duration::from_secs(10));
    assert_eq!(ended, Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
}

#[test]
fn all_threads_retire_and_end() {
    // Mutation: only the first thread told to retire: seen red.
    let mut harness = Harness::of_threads(3);
    let generic = harness.up("generic-1", 1);
    harness.table();
    let mut clients: Vec<_> = (0..12).map(|_| harness.request("GET", VERSIONS)).collect();
    let mut servers: Vec<_> = clients.iter().map(|_| accept(&generic)).collect();
    harness.tell(&ToRouter::Retire { limit_ms: 3_600_000 });
    assert_eq!(harness.hear(), FromRouter::Accepting { addresses: Vec::new() });
    for server in &mut servers {
        server.head();
        server.send(OK);
    }
    for client in &mut clients {
        assert_eq!(client.response().1, "ok");
        assert!(client.is_over());
    }
    drop(clients);
    let ended = harness.end.recv_timeout(Duration::from_secs(10));
    assert_eq!(ended, Err(std::sync::mpsc::RecvTimeoutError::Disconnected));
}
