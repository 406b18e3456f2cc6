//! What becomes of a request whose process was lost.

use std::io::Read;
use std::time::Duration;

use synvisor::router::Parking;
use synvisor::topology::UnitName;
use synvisor::wire::Counts;
use synvisor::wire::Incarnation;
use synvisor::wire::ToRouter;

use super::harness::Harness;
use super::harness::OK;
use super::harness::TYPING;
use super::harness::VERSIONS;
use super::harness::accept;
use super::harness::answer;
use super::harness::header;
use super::harness::is_quiet;

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
fn a_read_that_was_lost_is_asked_of_another() {
    // Mutations, each seen red: `Replay::allows` always false; the process that lost it asked again at once.
    let mut harness = Harness::new();
    let generic = harness.up("generic-1", 1);
    let main = harness.up("main", 1);
    let mut client = harness.request("GET", VERSIONS);
    accept(&generic).head();
    let _server = answer(&main);
    assert_eq!(client.response().1, "ok");
    let counts = harness.counts("generic-1");
    assert_eq!((counts.replayed, counts.cut, counts.taken_back), (1, 0, 0));
    assert_eq!(harness.counts("main"), Counts::default());
}

#[test]
fn a_write_that_may_be_repeated_waits_for_the_next_process_with_all_of_its_body() {
    // Mutations, each seen red: the second attempt reads on where the first one stopped; what was read not kept.
    let mut harness = Harness::new();
    let typing = harness.up("typing-1", 1);
    let mut client = harness.client();
    client.send(&format!("PUT {TYPING} HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nfirst"));
    let mut server = accept(&typing);
    server.head();
    assert_eq!(server.bytes(5), "first");
    drop(server);
    drop(typing);
    harness.parked("typing-1", 1);
    harness.down("typing-1");
    client.send("later");
    let typing = harness.up("typing-1", 2);
    let mut server = accept(&typing);
    assert_eq!(header(&server.head(), "content-length"), Some("10"));
    assert_eq!(server.bytes(10), "firstlater");
    server.send(OK);
    assert_eq!(client.response().1, "ok");
    let counts = harness.counts("typing-1");
    assert_eq!((counts.replayed, counts.cut, counts.parked), (1, 0, 1));
}

#[test]
fn only_so_much_of_a_body_is_kept() {
    // Mutations, each seen red: no bound; a bound of 32 KiB.
    let target = "/_matrix/client/v3/user/@u:x/account_data/m.x";
    for (length, kept) in [(65_536, true), (65_537, false)] {
        let mut harness = Harness::new();
        let generic = harness.up("generic-1", 1);
        let main = harness.up("main", 1);
        let body = "x".repeat(length);
        let mut client = harness.client();
        client.send(&format!("PUT {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"));
        let mut server = accept(&generic);
        server.head();
        assert_eq!(server.bytes(length), body);
        drop(server);
        if kept {
            let mut server = accept(&main);
            server.head();
            assert_eq!(server.bytes(length), body);
            server.send(OK);
        }
        let status = if kept { "HTTP/1.1 200 " } else { "HTTP/1.1 502 " };
        assert!(client.response().0.starts_with(status), "{length}");
        let counts = harness.counts("generic-1");
        assert_eq!((counts.replayed, counts.cut), (u64::from(kept), u64::from(!kept)));
    }
}

#[test]
fn a_message_is_sent_again_only_for_a_device() {
    // Mutation: any token taken for a device's: seen red.
    let target = "/_matrix/client/v3/rooms/!r/send/m.room.message/1";
    for (token, again) in [("syt_YWxpY2U_one_1", true), ("of_an_application_service", false)] {
        let mut harness = Harness::new();
        let generic = harness.up("generic-1", 1);
        let main = harness.up("main", 1);
        let mut client = harness.client();
        client.send(&format!(
            "PUT {target} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nContent-Length: 2\r\n\r\n{{}}"
        ));
        accept(&generic).head();
        if again {
            let mut server = accept(&main);
            assert_eq!(header(&server.head(), "authorization"), Some(format!("Bearer {token}").as_str()));
            assert_eq!(server.bytes(2), "{}");
            server.send(OK);
        }
        let status = if again { "HTTP/1.1 200 " } else { "HTTP/1.1 502 " };
        assert!(client.response().0.starts_with(status), "{token}");
        assert!(is_quiet(&main));
    }
}

#[test]
fn an_answer_that_breaks_off_ends_the_clients_connection() {
    // Mutations, each seen red: the body ended as if it were complete; no count.
    let mut harness = Harness::new();
    let generic = harness.up("generic-1", 1);
    let main = harness.up("main", 1);
    for framing in ["Content-Length: 10\r\n\r\nfirst", "Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n"] {
        let mut client = harness.request("GET", VERSIONS);
        let mut server = accept(&generic);
        server.head();
        server.send(&format!("HTTP/1.1 200 OK\r\n{framing}"));
        client.head();
        drop(server);
        let mut rest = String::new();
        client.0.read_to_string(&mut rest).unwrap();
        assert!(rest.ends_with(framing.rsplit("\r\n\r\n").next().unwrap()), "{rest:?}");
    }
    assert!(is_quiet(&main), "it was asked of another, though the client had a part");
    let counts = harness.counts("generic-1");
    assert_eq!((counts.cut, counts.replayed), (2, 0));
}

#[test]
fn a_request_that_no_process_survives_ends_after_a_few() {
    // Mutation: no bound: seen red (no answer comes).
    let mut harness = Harness::new();
    let generic = harness.up("generic-1", 1);
    let main = harness.up("main", 1);
    let mut client = harness.request("GET", VERSIONS);
    accept(&generic).head();
    accept(&main).head();
    accept(&generic).head();
    assert!(client.response().0.starts_with("HTTP/1.1 502 "));
    let counts = harness.counts("generic-1");
    assert_eq!((counts.replayed, counts.cut), (2, 1));
}

#[test]
fn what_a_process_had_not_taken_yet_is_left_to_the_next_one() {
    // Mutation: what is in flight given up at `Down`: seen red (the client gets 502).
    let mut harness = Harness::new();
    let generic = harness.up("generic-1", 1);
    let mut client = harness.request("POST", "/_matrix/client/v3/createRoom");
    // The supervisor holds the listening socket: in it this waits for the next process if the first one dies now.
    let mut server = accept(&generic);
    assert!(server.head().starts_with("POST "));
    harness.down("generic-1");
    harness.tell(&ToRouter::Up { unit: UnitName::new("generic-1"), incarnation: Incarnation(2) });
    server.send(OK);
    assert_eq!(client.response().1, "ok");
    assert!(is_quiet(&generic), "it came twice");
    assert_eq!(harness.counts("generic-1").cut, 0);
}

#[test]
fn a_client_that_leaves_during_its_upload_is_nobodys_loss() {
    // Mutation: every failed attempt counted as cut: seen red.
    let mut harness = Harness::new();
    let typing = harness.up("typing-1", 1);
    let mut client = harness.client();
    client.send(&format!("PUT {TYPING} HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nfirst"));
    let mut server = accept(&typing);
    server.head();
    assert_eq!(server.bytes(5), "first");
    drop(client);
    assert!(server.is_over());
    assert_eq!(harness.counts("typing-1"), Counts::default());
}

#[test]
fn without_parking_nothing_waits_and_nothing_is_repeated() {
    // Mutations, each seen red: the switch without effect on parking, on replays, on drains.
    let longest = Duration::from_secs(3_600);
    let mut harness = Harness::of("generic = 1\ntyping = 1", Parking { most: 10, longest }, true);
    let generic = harness.up("generic-1", 1);
    assert!(harness.request("PUT", TYPING).head().starts_with("HTTP/1.1 429 "));
    let mut client = harness.request("GET", VERSIONS);
    accept(&generic).head();
    assert!(client.head().starts_with("HTTP/1.1 502 "));
    let mut client = harness.request("GET", "/_matrix/client/v3/sync?since=s1");
    let mut server = accept(&generic);
    server.head();
    let drained = harness.drain("generic-1", 1);
    assert_eq!(harness.hear(), drained, "though a request is in flight");
    server.send(OK);
    assert_eq!(client.response().1, "ok");
}
