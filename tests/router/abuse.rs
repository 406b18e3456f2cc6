//! What attackers send: each case names the attack, and none reaches a process in another form than the router saw.

use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::net::Shutdown;
use std::net::TcpStream;
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt;
use synvisor::router::KeepAlive;

use super::harness::Harness;
use super::harness::OK;
use super::harness::Peer;
use super::harness::VERSIONS;
use super::harness::accept;
use super::harness::header;
use super::harness::is_quiet;

/// Heads that are refused before anybody is asked: attack, bytes, status.
fn heads() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let with =
        |field: &str| format!("POST {VERSIONS} HTTP/1.1\r\nHost: a.b\r\n{field}\r\n\r\nabcd").into_bytes();
    let line = |line: &str| format!("{line}\r\nHost: a.b\r\n\r\n").into_bytes();
    let mut cases = Vec::new();
    for (attack, field) in [
        ("CL.TE: a length beside chunks", "Content-Length: 4\r\nTransfer-Encoding: chunked"),
        ("TE.CL: chunks beside a length", "Transfer-Encoding: chunked\r\nContent-Length: 4"),
        ("the same length twice", "Content-Length: 4\r\nContent-Length: 4"),
        ("two lengths", "Content-Length: 4\r\nContent-Length: 0"),
        ("a list of lengths", "Content-Length: 4, 4"),
        ("a length with a plus", "Content-Length: +4"),
        ("a negative length", "Content-Length: -4"),
        ("a hexadecimal length", "Content-Length: 0x4"),
        ("an empty length", "Content-Length:"),
        ("a length with a space in it", "Content-Length: 4 4"),
        ("a length with a parameter", "Content-Length: 4;x"),
        ("a length beyond 64 bits", "Content-Length: 18446744073709551620"),
        ("a fraction of a length", "Content-Length: 4.0"),
        ("TE.TE: identity after chunked", "Transfer-Encoding: chunked, identity"),
        ("TE.TE: identity before chunked", "Transfer-Encoding: identity, chunked"),
        ("an encoding that nobody knows", "Transfer-Encoding: xchunked"),
        ("identity alone", "Transfer-Encoding: identity"),
        ("gzip below chunked", "Transfer-Encoding: gzip, chunked"),
        ("chunked twice in a list", "Transfer-Encoding: chunked, chunked"),
        ("chunked twice in two lines", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        ("chunked in quotes", "Transfer-Encoding: \"chunked\""),
        ("chunked with a parameter", "Transfer-Encoding: chunked;q=1"),
        ("chunked after a vertical tab", "Transfer-Encoding: \u{b}chunked"),
        ("an empty encoding", "Transfer-Encoding:"),
        ("chunked and a comma", "Transfer-Encoding: chunked,"),
        ("a length in the digits of another script", "Content-Length: ４"),
        ("a length in quotes", "Content-Length: \"4\""),
        ("a space before the colon", "Transfer-Encoding : chunked"),
        ("a tab before the colon", "Content-Length\t: 4"),
        ("obs-fold of a length", "Content-Length:\r\n 4"),
        ("obs-fold of a value", "X-Folded: one\r\n two"),
        ("a folded first line", " X-Folded: one"),
        ("a bare line feed between fields", "X-One: 1\nContent-Length: 4"),
        ("a bare carriage return in a value", "X-One: 1\rContent-Length: 4"),
        ("a NUL in a value", "X-One: \u{0}"),
        ("a NUL in a name", "X\u{0}One: 1"),
        ("a control character in a value", "X-One: \u{1}"),
        ("a DEL in a value", "X-One: \u{7f}"),
        ("a field without a colon", "Content-Length"),
        ("a field without a name", ": 4"),
        ("a name with a space", "Content Length: 4"),
        ("a name with a bracket", "Content(Length): 4"),
        ("a name that is not ASCII", "Cöntent-Length: 4"),
        ("two hosts", "Host: c.d"),
        ("an expectation that nobody has", "Expect: 200-ok"),
    ] {
        let status = if attack.contains("expectation") { "417" } else { "400" };
        cases.push((attack, with(field), status));
    }
    for (attack, first, status) in [
        ("two spaces before the target", "GET  /_matrix/client/versions HTTP/1.1", "400"),
        ("tabs for spaces", "GET\t/_matrix/client/versions\tHTTP/1.1", "400"),
        ("a space in the target", "GET /_matrix/client /versions HTTP/1.1", "400"),
        ("a NUL in the target", "GET /_matrix/client/versions\u{0} HTTP/1.1", "400"),
        ("a control character in the target", "GET /_matrix/client/versions\u{1} HTTP/1.1", "400"),
        ("a target that is not ASCII", "GET /_matrix/client/versiöns HTTP/1.1", "400"),
        ("a fragment", "GET /_matrix/client/versions#x HTTP/1.1", "400"),
        ("absolute form", "GET http://a.b/_matrix/client/versions HTTP/1.1", "400"),
        ("absolute form of another host", "GET https://c.d:8448/_synapse/admin/v1/users HTTP/1.1", "400"),
        ("authority form", "CONNECT c.d:443 HTTP/1.1", "400"),
        ("an asterisk for a GET", "GET * HTTP/1.1", "400"),
        ("a target without a slash", "GET _matrix/client/versions HTTP/1.1", "400"),
        ("HTTP/0.9", "GET /_matrix/client/versions", "400"),
        ("HTTP/1.2", "GET /_matrix/client/versions HTTP/1.2", "505"),
        ("HTTP/3.0", "GET /_matrix/client/versions HTTP/3.0", "505"),
        ("a version in small letters", "GET /_matrix/client/versions http/1.1", "400"),
        ("a version with more to it", "GET /_matrix/client/versions HTTP/1.1x", "400"),
        ("a method that is no token", "G(T /_matrix/client/versions HTTP/1.1", "400"),
        ("admin itself", "GET /_synapse/admin/v1/users HTTP/1.1", "403"),
        ("replication", "POST /_synapse/replication/send_event HTTP/1.1", "404"),
        ("metrics", "GET /_synapse/metrics HTTP/1.1", "404"),
    ] {
        cases.push((attack, line(first), status));
    }
    let head = |rest: &str| format!("GET {VERSIONS} HTTP/1.1\r\n{rest}").into_bytes();
    for (attack, rest) in [
        ("no host", "Accept: */*\r\n\r\n"),
        ("a list of hosts", "Host: a.b, c.d\r\n\r\n"),
        ("a host with a user", "Host: a.b@c.d\r\n\r\n"),
        ("a host with a path", "Host: a.b/c\r\n\r\n"),
        ("a host with a space", "Host: a.b c.d\r\n\r\n"),
        ("a bare line feed at the end", "Host: a.b\r\n\n"),
        ("bare line feeds everywhere", "Host: a.b\n\n"),
    ] {
        cases.push((attack, head(rest), "400"));
    }
    let many = |count: usize| "X: 1\r\n".repeat(count);
    cases.push(("more fields than Synapse takes", head(&format!("Host: a.b\r\n{}\r\n", many(501))), "431"));
    cases.push(("a field of 70 KB", head(&format!("Host: a.b\r\nX: {}", "x".repeat(70_000))), "431"));
    cases.push(("a target of 70 KB", format!("GET /{}", "x".repeat(70_000)).into_bytes(), "431"));
    cases.push((
        "chunks in HTTP/1.0",
        b"POST /_matrix/client/versions HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
        "400",
    ));
    cases.push(("TLS where there is none", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), "400"));
    cases.push(("another protocol", b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec(), "400"));
    cases.push(("zeros", vec![0; 100], "400"));
    cases.push(("empty lines without end", b"\r\n".repeat(100), "400"));
    cases
}

/// Sends all of it, however soon it is refused.
fn pour(client: &mut Peer<TcpStream>, bytes: &[u8]) {
    let _ = client.0.get_mut().write_all(bytes);
}

#[test]
fn heads_that_could_be_read_in_two_ways_reach_nobody() {
    // Mutations, each seen red: two equal lengths taken for one; a bare line feed for the end of a line; a length beside
    // chunks overlooked; any host taken.
    let mut harness = Harness::new();
    let (generic, main) = (harness.up("generic-1", 1), harness.up("main", 1));
    harness.table();
    let cases = heads();
    assert!(cases.len() >= 80, "{}", cases.len());
    for (attack, bytes, status) in cases {
        let mut client = harness.client();
        pour(&mut client, &bytes);
        let head = client.head();
        assert_eq!(head.split(' ').nth(1), Some(status), "{attack}: {head}");
        assert!(is_quiet(&generic) && is_quiet(&main), "{attack}: it was passed on");
        if status == "400" {
            assert_eq!(header(&head, "connection"), Some("close"), "{attack}");
        }
    }
}

#[test]
fn a_path_is_what_it_is_and_nothing_that_it_could_stand_for() {
    // Mutations, each seen red: dots resolved; what is percent-encoded decoded. Synapse compares the path as it is, too.
    let mut harness = Harness::new();
    let main = harness.up("main", 1);
    for target in [
        "/_matrix/../_synapse/admin/v1/users",
        "//_synapse/admin/v1/users",
        "/%5Fsynapse/admin/v1/users",
        "/_synapse%2Fadmin/v1/users",
        "/_SYNAPSE/admin/v1/users",
        "/_synapse/./admin/v1/users",
        "/_synapse/client/..;/admin/v1/users",
        "/_matrix/client/versions/%2e%2e/%00",
    ] {
        let mut client = harness.request("GET", target);
        let mut server = accept(&main);
        assert_eq!(server.head().lines().next().unwrap(), format!("GET {target} HTTP/1.1"));
        server.send("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        assert!(client.head().starts_with("HTTP/1.1 404 "));
    }
}

#[test]
fn chunks_that_are_none_end_the_request_and_its_connection() {
    // Mutation: chunks passed on unread: seen red (nobody refuses them).
    let mut harness = Harness::new();
    let main = harness.up("main", 1);
    let long = "x".repeat(5_000);
    for (attack, body) in [
        ("a negative size", "-4\r\nabcd\r\n0\r\n\r\n"),
        ("a size with a prefix", "0x4\r\nabcd\r\n0\r\n\r\n"),
        ("a size beyond 64 bits", "10000000000000004\r\nabcd\r\n0\r\n\r\n"),
        ("an empty size", "\r\nabcd\r\n0\r\n\r\n"),
        ("a space before the size", " 4\r\nabcd\r\n0\r\n\r\n"),
        ("a size that is no number", "four\r\nabcd\r\n0\r\n\r\n"),
        ("a bare line feed after the size", "4\nabcd\r\n0\r\n\r\n"),
        ("a bare line feed after the data", "4\r\nabcd\n0\r\n\r\n"),
        ("data longer than its size", "4\r\nabcdefgh\r\n0\r\n\r\n"),
        ("nothing after the data", "4\r\nabcd0\r\n\r\n"),
        ("a line feed in an extension", "4;a\nb\r\nabcd\r\n0\r\n\r\n"),
        ("an extension without end", &format!("4;{long}\r\nabcd\r\n0\r\n\r\n")),
        ("trailers without end", &format!("0\r\nX: {long}\r\n\r\n")),
        ("a bare line feed at the very end", "0\r\n\n"),
    ] {
        let mut client = harness.client();
        client.send(
            "POST /_matrix/client/v3/createRoom HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
        let mut server = accept(&main);
        server.head();
        pour(&mut client, body.as_bytes());
        assert!(client.head().starts_with("HTTP/1.1 400 "), "{attack}");
        let mut got = Vec::new();
        let end = server.0.read_to_end(&mut got);
        assert!(
            end.is_ok() || end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset),
            "{attack}"
        );
        let got = String::from_utf8(got).unwrap();
        assert!(!got.ends_with("0\r\n\r\n"), "{attack}: the process has a whole body: {got:?}");
    }
}

#[test]
fn a_request_in_a_body_stays_a_body() {
    // Mutation: the body of a GET taken for the next request: seen red.
    let mut harness = Harness::new();
    let generic = harness.up("generic-1", 1);
    let smuggled = "GET /_synapse/admin/v1/users HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut client = harness.client();
    client.send(&format!(
        "GET {VERSIONS} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{smuggled}GET /health HTTP/1.1\r\nHost: a\r\n\r\n",
        smuggled.len()
    ));
    let mut server = accept(&generic);
    server.head();
    assert_eq!(server.bytes(smuggled.len()), smuggled);
    server.send(OK);
    assert_eq!(client.response().1, "ok");
    assert!(client.head().starts_with("HTTP/1.1 503 "), "the next request is the client's own");
}

#[test]
fn nothing_of_the_connection_or_of_the_way_is_the_clients_to_say() {
    // Mutations, each seen red: Upgrade passed on; a field that Connection names passed on; ours removed by its word.
    let mut harness = Harness::new();
    let generic = harness.up("generic-1", 1);
    let mut client = harness.client();
    for (attack, fields) in [
        (
            "h2c smuggling",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
        ),
        ("a tunnel by Upgrade", "Connection: Upgrade\r\nUpgrade: websocket"),
        ("a tunnel that Connection does not name", "Upgrade: websocket"),
        ("our fields taken away", "Connection: X-Forwarded-For, X-Forwarded-Proto, Content-Length, Host"),
        ("a proxy's password", "Proxy-Authorization: Basic eDp4"),
        ("trailers to come", "TE: trailers\r\nTrailer: X-Late"),
        ("another host's word", "X-Forwarded-Host: evil\r\nForwarded: for=1.2.3.4;host=evil"),
        ("an address that is none", "X-Forwarded-For: 1.2.3.4\u{20}<script>"),
    ] {
        client
            .send(&format!("GET {VERSIONS} HTTP/1.1\r\nHost: a.b\r\nContent-Length: 0\r\n{fields}\r\n\r\n"));
        let mut server = accept(&generic);
        let head = server.head();
        assert_eq!(header(&head, "x-forwarded-for"), Some("127.0.0.1"), "{attack}");
        assert_eq!(header(&head, "x-forwarded-proto"), Some("http"), "{attack}");
        assert_eq!(header(&head, "content-length"), Some("0"), "{attack}");
        assert_eq!(header(&head, "host"), Some("a.b"), "{attack}");
        let fields = [
            "connection",
            "upgrade",
            "http2-settings",
            "proxy-authorization",
            "te",
            "trailer",
            "forwarded",
            "x-forwarded-host",
        ];
        for gone in fields {
            assert_eq!(header(&head, gone), None, "{attack}: {head}");
        }
        server.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        assert_eq!(client.response().1, "ok", "{attack}");
    }
}

#[test]
fn a_body_that_is_too_large_reaches_nobody_or_comes_to_no_end() {
    // Mutations, each seen red: the announced length not looked at; what comes in chunks not counted.
    let mut harness = Harness::new();
    let main = harness.up("main", 1);
    let too_large = 200 * 65_536 + 1;
    let mut client = harness.client();
    client.send(&format!(
        "POST /_matrix/client/v3/createRoom HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {too_large}\r\n\r\n"
    ));
    let (head, body) = client.response();
    assert!(head.starts_with("HTTP/1.1 413 ") && body.contains("M_TOO_LARGE"), "{head}");
    assert!(client.is_over());
    assert!(is_quiet(&main));

    let mut client = harness.client();
    client
        .send("POST /_matrix/client/v3/createRoom HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut server = accept(&main);
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        let _ = server.0.read_to_end(&mut got);
        got
    });
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    for _ in 0..201 {
        pour(&mut client, chunk.as_bytes());
    }
    assert!(client.head().starts_with("HTTP/1.1 413 "));
    assert!(!reader.join().unwrap().ends_with(b"0\r\n\r\n"));
}

#[test]
fn who_does_not_go_on_is_let_go() {
    // Mutations, each seen red: a head begun waited for without end; an idle client kept.
    let silence = Duration::from_millis(200);
    let keep_alive = KeepAlive { timeout: silence, ..KeepAlive::default() };
    let mut harness = Harness::keeping(keep_alive);
    let _main = harness.up("main", 1);
    harness.table();
    let mut idle = harness.client();
    let mut answered = harness.request("GET", "/health");
    answered.response();
    let mut slow = harness.client();
    slow.send("GET /health HTTP/1.1\r\nHost");
    assert!(slow.head().starts_with("HTTP/1.1 408 "));
    assert!(idle.is_over());
    assert!(answered.is_over());
}

#[test]
fn nobody_keeps_a_connection_for_good() {
    // Mutation: its age not looked at: seen red.
    let keep_alive = KeepAlive { time: Duration::ZERO, ..KeepAlive::default() };
    let mut harness = Harness::keeping(keep_alive);
    let _main = harness.up("main", 1);
    harness.table();
    let mut client = harness.request("GET", "/health");
    let (head, _) = client.response();
    assert_eq!(header(&head, "connection"), Some("close"));
    assert!(client.is_over());
}

#[test]
fn clients_that_hold_on_hinder_nobody() {
    // Mutation: one connection served at a time: seen red.
    let mut harness = Harness::new();
    let _main = harness.up("main", 1);
    harness.table();
    let mut slow: Vec<_> = (0..100).map(|_| harness.client()).collect();
    for client in &mut slow {
        client.send("POST /_matrix/client/v3/createRoom HTTP/1.1\r\nHost: a\r\nContent-Le");
    }
    // And somebody who connects, asks and resets, again and again.
    let (port, stop) = (harness.port, std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let until = std::sync::Arc::clone(&stop);
    let flood = std::thread::spawn(move || {
        let mut count = 0;
        while !until.load(std::sync::atomic::Ordering::Relaxed) {
            let mut client = Harness::client_at(port);
            client.send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n");
            let linger = libc::linger { l_onoff: 1, l_linger: 0 };
            setsockopt(client.0.get_ref(), sockopt::Linger, &linger).unwrap();
            count += 1;
        }
        count
    });
    for _ in 0..50 {
        assert!(harness.request("GET", "/health").head().starts_with("HTTP/1.1 200 "));
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(flood.join().unwrap() > 0);
}

#[test]
fn an_answer_that_could_be_read_in_two_ways_is_not_passed_on() {
    // Mutations, each seen red: two lengths of a process taken; a length beside chunks; its 101 passed on.
    let mut harness = Harness::new();
    let main = harness.up("main", 1);
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(70_000));
    for (case, answer) in [
        (
            "a length beside chunks",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"),
        ("an odd length", "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok"),
        ("another encoding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok"),
        ("another protocol", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n"),
        ("no HTTP", "220 mail.a.b ESMTP\r\n\r\n"),
        ("a head without end", &long),
    ] {
        let mut client = harness.request("POST", "/_matrix/client/v3/createRoom");
        let mut server = accept(&main);
        server.head();
        let _ = server.0.get_mut().write_all(answer.as_bytes());
        let head = client.head();
        assert!(head.starts_with("HTTP/1.1 502 "), "{case}: {head}");
    }
}

#[test]
fn a_client_that_only_closes_its_side_to_us_is_gone() {
    // As everywhere in HTTP/1: who wants the answer keeps its side open.
    let mut harness = Harness::new();
    let main = harness.up("main", 1);
    let client = harness.request("POST", "/_matrix/client/v3/createRoom");
    let mut server = accept(&main);
    server.head();
    client.0.get_ref().shutdown(Shutdown::Write).unwrap();
    assert!(server.is_over());
}
