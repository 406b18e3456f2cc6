//! Bodies both ways: as fast as the other reads, and framed once.

use std::io::Read;
use std::io::Write;
use std::time::Duration;

use super::harness::Harness;
use super::harness::OK;
use super::harness::VERSIONS;
use super::harness::accept;
use super::harness::header;

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
    let main = harness.up("main", 1);
    let mut client = harness.client();
    let lengths = format!("Content-Length: {LARGE}\r\n\r\n");
    client.send(&format!("POST /_matrix/media/v3/upload HTTP/1.1\r\nHost: a\r\n{lengths}"));
    let mut server = accept(&main);
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
    // Mutations, each seen red: the first of two lengths taken; a length beside chunks overlooked.
    let mut harness = Harness::new();
    let generic = harness.up("generic-1", 1);
    for lengths in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked",
        "Content-Length: 4\r\nContent-Length: 4",
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
