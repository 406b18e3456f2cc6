//! Addresses that come and go while clients are served.

use std::net::TcpStream;

use synvisor::wire::ToRouter;

use super::harness::Harness;
use super::harness::OK;
use super::harness::Peer;
use super::harness::VERSIONS;
use super::harness::accept;
use super::harness::answer;
use super::harness::bind;
use super::harness::connect_supervisor;
use super::harness::header;

const SYNC: &str = "/_matrix/client/v3/sync?since=s1&timeout=30000";
const ADMIN: &str = "/_synapse/admin/v1/server_version";

fn ask(client: &mut Peer<TcpStream>, target: &str) {
    client.send(&format!("GET {target} HTTP/1.1\r\nHost: a.b\r\n\r\n"));
}

/// The status of a request on a connection that stands.
fn status(client: &mut Peer<TcpStream>, target: &str) -> String {
    ask(client, target);
    client.response().0.split(' ').nth(1).unwrap().to_owned()
}

fn is_refused(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_err()
}

impl Harness {
    /// From now on it listens at one address more.
    fn open(&mut self) -> u16 {
        let (socket, port) = bind();
        self.sockets.push((socket, false));
        self.table();
        port
    }

    /// From now on it does not listen at its first address any more, nor does the supervisor.
    fn close_first(&mut self) {
        self.sockets.remove(0);
        self.table();
    }
}

#[test]
fn an_address_is_added_and_nobody_notices() {
    // Mutations, each seen red: sockets of known listeners registered anew, their old ones closed; new ones left out.
    let mut harness = Harness::new();
    let upstream = harness.up("generic-1", 1);
    let mut there = harness.request("GET", VERSIONS);
    let mut process = accept(&upstream);
    process.head();
    let port = harness.open();
    let mut new = Harness::client_at(port);
    ask(&mut new, VERSIONS);
    let _second = answer(&upstream);
    assert_eq!(new.response().1, "ok");
    process.send(OK);
    let (head, body) = there.response();
    assert_eq!((body.as_str(), header(&head, "connection")), ("ok", None));
    assert_eq!(status(&mut there, "/health"), "503", "and it goes on");
}

#[test]
fn whoever_came_by_an_address_that_goes_has_one_more_answer_and_is_told_to_leave() {
    // Mutations, each seen red: their answers without `Connection: close`; the socket kept.
    let mut harness = Harness::new();
    let upstream = harness.up("generic-1", 1);
    let main = harness.up("main", 1);
    let (old, new) = (harness.port, harness.open());
    let mut idle = harness.client();
    ask(&mut idle, "/health");
    assert_eq!(idle.response().1, "OK");
    let mut stays = Harness::client_at(new);
    ask(&mut stays, "/health");
    stays.response();
    let mut silent = harness.client();
    let mut poll = harness.request("GET", SYNC);
    let mut process = accept(&upstream);
    process.head();

    harness.close_first();
    assert!(is_refused(old));
    // It is still with the process that it was with, and is not hurried.
    harness.table();
    assert!(!poll.is_told());
    process.send(OK);
    for (client, asks) in [(&mut poll, false), (&mut idle, true), (&mut silent, true)] {
        if asks {
            ask(client, "/health");
        }
        let (head, _) = client.response();
        assert_eq!(head.split(' ').nth(1), Some("200"));
        assert_eq!(header(&head, "connection"), Some("close"));
        assert!(client.is_over());
    }
    ask(&mut stays, "/health");
    assert_eq!(header(&stays.response().0, "connection"), None);
    drop(main);
}

#[test]
fn who_waits_in_the_kernel_when_an_address_goes_is_let_in() {
    // Mutation: the socket closed with who waits in it: seen red (a connection is reset).
    let mut harness = Harness::new();
    let _main = harness.up("main", 1);
    let (socket, port) = bind();
    harness.sockets.push((socket, false));
    let mut clients: Vec<_> = (0..50).map(|_| Harness::client_at(port)).collect();
    // The table that takes it away is there as soon as the one that brings it.
    harness.send(harness.table_line().trim_end());
    let with = harness.accepting();
    harness.sockets.pop();
    harness.send(&format!("\n{}", harness.table_line()));
    assert_eq!((harness.hear(), harness.hear()), (with, harness.accepting()));
    assert!(is_refused(port));
    for client in &mut clients {
        assert_eq!(status(client, "/health"), "200");
        assert!(client.is_over());
    }
}

#[test]
fn the_admin_api_follows_the_address() {
    // Mutations, each seen red: the flag kept as it was at accept; settings found by the place in the table.
    let mut harness = Harness::new();
    let upstream = harness.up("main", 1);
    let port = harness.open();
    let mut first = harness.client();
    let mut second = Harness::client_at(port);
    assert_eq!(status(&mut first, ADMIN), "403");
    harness.sockets[1].1 = true;
    harness.table();
    ask(&mut second, ADMIN);
    let mut process = answer(&upstream);
    second.response();
    assert_eq!(status(&mut first, ADMIN), "403");
    // The first goes; the second is the first of the table now, and the connection to each is what it was.
    harness.close_first();
    assert_eq!(status(&mut first, ADMIN), "403");
    ask(&mut second, ADMIN);
    process.head();
    process.send(OK);
    assert_eq!(second.response().1, "ok");
    harness.sockets[0].1 = false;
    harness.table();
    assert_eq!(status(&mut second, ADMIN), "403");
}

#[test]
fn an_address_that_comes_back_is_a_new_one() {
    // Mutation: a closed listener kept among the known: seen red (no answer).
    let mut harness = Harness::new();
    let _main = harness.up("main", 1);
    let (old, _new) = (harness.port, harness.open());
    let mut before = harness.client();
    assert_eq!(status(&mut before, "/health"), "200");
    harness.close_first();
    let again = std::net::TcpListener::bind(("127.0.0.1", old)).unwrap();
    harness.sockets.push((again, true));
    harness.table();
    let mut after = Harness::client_at(old);
    ask(&mut after, "/health");
    assert_eq!(header(&after.response().0, "connection"), None);
    ask(&mut before, "/health");
    assert_eq!(header(&before.response().0, "connection"), Some("close"));
}

#[test]
fn a_supervisor_that_reconnects_hands_over_what_is_there_already() {
    // Mutation: a socket that is known taken for a new one: seen red (the connection is told to leave).
    let mut harness = Harness::new();
    let _main = harness.up("main", 1);
    let mut client = harness.client();
    assert_eq!(status(&mut client, "/health"), "200");
    harness.supervisor = connect_supervisor(&harness.directory.path().join("router.sock"));
    harness.table();
    let (head, _) = {
        ask(&mut client, "/health");
        client.response()
    };
    assert_eq!(header(&head, "connection"), None);
    assert_eq!(status(&mut harness.client(), "/health"), "200");
}

#[test]
fn a_table_that_lacks_its_sockets_is_not_obeyed() {
    let mut harness = Harness::new();
    let _main = harness.up("main", 1);
    harness.table();
    let settings = synvisor::wire::ListenerSettings {
        address: "127.0.0.1:9".parse().unwrap(),
        admin: true,
        metrics: false,
        tls: false,
        certificates: 0,
        proxy_protocol: false,
    };
    let topology = harness.topology.clone();
    harness.tell(&ToRouter::Table {
        topology,
        listeners: vec![settings],
        trusted_proxies: Vec::new(),
        largest_upload: 0,
        access_log: synvisor::config::AccessLog::Off,
    });
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut harness.supervisor, &mut rest).unwrap();
    assert!(rest.is_empty(), "the connection ends without an answer");
    assert_eq!(status(&mut harness.client(), "/health"), "200", "what was in force still is");
}
