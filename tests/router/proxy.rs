//! The PROXY protocol before a client's first byte.

use std::io::Read;
use std::io::Write;
use std::net::TcpStream;

use tokio::net::TcpSocket;

use super::harness::Harness;
use super::harness::OK;
use super::harness::PATIENCE;
use super::harness::Peer;
use super::harness::VERSIONS;
use super::harness::accept;
use super::harness::header;

const SAYS: &str = "PROXY TCP4 198.51.100.7 127.0.0.1 1234 443\r\n";
const ASKS: &str = "GET /_matrix/client/versions HTTP/1.1\r\nHost: a.b\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n";

fn proxied() -> Harness {
    let mut harness = Harness::new();
    harness.proxied.insert(harness.port);
    harness.table();
    harness
}

#[test]
fn a_trusted_proxy_says_who_asks() {
    let mut harness = proxied();
    let upstream = harness.up("generic-1", 1);
    for (pieces, address) in [
        (vec![SAYS, ASKS], "198.51.100.7"),
        // One piece after the other, so that each is looked at alone.
        (vec!["PROXY TCP4 198.51.1", "00.8 127.0.0.1 1234 443\r\n", ASKS], "198.51.100.8"),
        // The proxy asks for itself, and is believed as any other.
        (vec!["PROXY UNKNOWN\r\n", ASKS], "6.6.6.6"),
    ] {
        let mut client = harness.client();
        for piece in pieces {
            client.send(piece);
            harness.table();
        }
        let mut process = accept(&upstream);
        let head = process.head();
        assert_eq!(header(&head, "x-forwarded-for"), Some(address));
        assert!(head.starts_with(&format!("GET {VERSIONS} ")));
        process.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        assert_eq!(client.response().1, "ok");
    }
}

#[test]
fn nobody_else_does_and_without_it_nobody_is_served() {
    let mut harness = proxied();
    let _main = harness.up("main", 1);
    // Of the whole network only 127.0.0.1 is trusted.
    let mut stranger = from("127.0.0.2", harness.port);
    let _ = stranger.0.get_mut().write_all(SAYS.as_bytes());
    let mut without = harness.client();
    for client in [&mut stranger, &mut without] {
        // It may be gone already, and what is sent to it then comes back as a reset.
        let _ = client.0.get_mut().write_all(b"GET /health HTTP/1.1\r\nHost: a.b\r\n\r\n");
        let mut answer = Vec::new();
        let _ = client.0.read_to_end(&mut answer);
        assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    }
    let mut fine = harness.client();
    fine.send(&format!("{SAYS}GET /health HTTP/1.1\r\nHost: a.b\r\n\r\n"));
    assert_eq!(header(&fine.response().0, "synvisor-client"), Some("198.51.100.7"));
}

#[test]
fn it_comes_before_tls() {
    let (mut harness, config) = super::tls::secure(&[b"http/1.1"]);
    harness.proxied.insert(harness.port);
    harness.table();
    let upstream = harness.up("generic-1", 1);
    let mut plain = harness.client();
    plain.send(SAYS);
    let stream = plain.0.into_inner();
    let mut client = super::tls::over(&config, "a.b", stream);
    client.send(ASKS);
    let mut process = accept(&upstream);
    let head = process.head();
    assert_eq!(header(&head, "x-forwarded-for"), Some("198.51.100.7"));
    assert_eq!(header(&head, "x-forwarded-proto"), Some("https"));
    process.send(OK);
    assert_eq!(client.response().1, "ok");
}

fn from(address: &str, port: u16) -> Peer<TcpStream> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stream = runtime.block_on(async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
        let stream = socket.connect(([127, 0, 0, 1], port).into()).await.unwrap();
        stream.into_std().unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    Peer(std::io::BufReader::new(stream))
}
