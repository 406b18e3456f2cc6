//! TLS on a listener: which certificate whom gets, what becomes of it when it is renewed, and how a connection ends.

use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;

use rcgen::CertifiedKey;
use rcgen::generate_simple_self_signed;
use synvisor::router::KeepAlive;
use synvisor::topology::UnitName;
use synvisor::wire::ToRouter;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::ClientConnection;
use tokio_rustls::rustls::HandshakeKind;
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::StreamOwned;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use super::harness::Harness;
use super::harness::OK;
use super::harness::PATIENCE;
use super::harness::Peer;
use super::harness::VERSIONS;
use super::harness::accept;
use super::harness::header;
use super::http2;

/// A chain with its key, for these names.
pub(crate) fn certificate(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).unwrap();
    cert.pem() + &signing_key.serialize_pem()
}

fn own(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// Somebody who believes these certificates and no others, and speaks these protocols.
pub(crate) fn trusting(pems: &[String], protocols: &[&[u8]]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for pem in pems {
        roots.add(own(pem)).unwrap();
    }
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config
}

pub(crate) type Secured = StreamOwned<ClientConnection, TcpStream>;

/// A connection over which TLS is spoken with whoever is called `name`.
fn secured(config: &Arc<ClientConfig>, name: &str, port: u16) -> Secured {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    over(config, name, stream).0.into_inner()
}

/// TLS spoken over a connection that stands.
pub(crate) fn over(config: &Arc<ClientConfig>, name: &str, stream: TcpStream) -> Peer<Secured> {
    let name = name.to_owned().try_into().unwrap();
    let connection = ClientConnection::new(Arc::clone(config), name).unwrap();
    Peer(BufReader::new(StreamOwned::new(connection, stream)))
}

fn client(config: &Arc<ClientConfig>, name: &str, port: u16) -> Peer<Secured> {
    Peer(BufReader::new(secured(config, name, port)))
}

fn ask(client: &mut Peer<Secured>, target: &str) {
    client.send(&format!("GET {target} HTTP/1.1\r\nHost: a.b\r\n\r\n"));
}

impl Harness {
    /// From now on its first address speaks TLS with these.
    pub(crate) fn certify(&mut self, pems: &[&String]) {
        self.tls.insert(self.port, pems.iter().map(|pem| (*pem).clone()).collect());
        self.table();
    }
}

/// A router that speaks TLS with a certificate for `a.b`, and who believes it.
pub(crate) fn secure(protocols: &[&[u8]]) -> (Harness, Arc<ClientConfig>) {
    let mut harness = Harness::new();
    let pem = certificate(&["a.b"]);
    harness.certify(&[&pem]);
    (harness, Arc::new(trusting(&[pem], protocols)))
}

#[test]
fn a_client_gets_the_certificate_of_the_name_that_it_asks_for() {
    let mut harness = Harness::new();
    let _main = harness.up("main", 1);
    let pems = [certificate(&["a.b", "127.0.0.1"]), certificate(&["*.c.d"]), certificate(&["e.f"])];
    harness.certify(&pems.iter().collect::<Vec<_>>());
    let everybody = Arc::new(trusting(&pems, &[]));
    for (name, expected) in [("a.b", 0), ("x.c.d", 1), ("e.f", 2)] {
        let mut client = client(&everybody, name, harness.port);
        ask(&mut client, "/health");
        assert!(client.response().0.starts_with("HTTP/1.1 200"), "{name}");
        assert_eq!(client.0.get_ref().conn.peer_certificates().unwrap(), [own(&pems[expected])], "{name}");
    }
    // An address is no name of SNI.
    let mut by_address = client(&everybody, "127.0.0.1", harness.port);
    ask(&mut by_address, "/health");
    by_address.response();
    let mut stranger = secured(&everybody, "unknown.example", harness.port);
    let refused = stranger.flush().unwrap_err().to_string();
    assert!(refused.contains("unknown.example") && refused.contains("a.b"), "{refused}");
}

#[test]
fn who_comes_by_tls_came_by_https() {
    let (mut harness, config) = secure(&[b"http/1.1"]);
    let upstream = harness.up("generic-1", 1);
    let mut client = client(&config, "a.b", harness.port);
    ask(&mut client, VERSIONS);
    let mut process = accept(&upstream);
    let head = process.head();
    assert_eq!(header(&head, "x-forwarded-proto"), Some("https"));
    assert_eq!(header(&head, "x-forwarded-for"), Some("127.0.0.1"));
    process.send(OK);
    assert_eq!(client.response().1, "ok");
}

#[test]
fn a_renewed_certificate_is_for_those_who_come_and_nobody_leaves_for_it() {
    let mut harness = Harness::new();
    let _main = harness.up("main", 1);
    let pems = [certificate(&["a.b"]), certificate(&["a.b"])];
    harness.certify(&[&pems[0]]);
    let both = Arc::new(trusting(&pems, &[]));
    let comes = |harness: &Harness| {
        let mut client = client(&both, "a.b", harness.port);
        ask(&mut client, "/health");
        client.response();
        let connection = &client.0.get_ref().conn;
        (connection.peer_certificates().unwrap()[0].clone().into_owned(), connection.handshake_kind())
    };
    let mut before = client(&both, "a.b", harness.port);
    ask(&mut before, "/health");
    before.response();
    harness.certify(&[&pems[0]]);
    assert_eq!(comes(&harness), (own(&pems[0]), Some(HandshakeKind::Resumed)));
    harness.certify(&[&pems[1]]);
    assert_eq!(comes(&harness), (own(&pems[1]), Some(HandshakeKind::Full)));
    ask(&mut before, "/health");
    let (head, _) = before.response();
    assert_eq!(header(&head, "connection"), None);
    harness.certify(&[]);
    assert_eq!(comes(&harness).0, own(&pems[1]));
}

#[test]
fn metrics_say_when_the_certificates_in_force_expire() {
    // Mutation: what is gone not removed (`certify` in src/router/metrics.rs): seen red.
    let mut harness = Harness::new();
    harness.sockets[0].1 = true;
    let pems = [certificate(&["a.b"]), certificate(&["c.d", "e.f"])];
    let both = Arc::new(trusting(&pems, &[]));
    for (pem, name) in pems.iter().zip(["a.b", "c.d"]) {
        harness.certify(&[pem]);
        let mut client = client(&both, name, harness.port);
        ask(&mut client, "/_synvisor/metrics");
        let (_, text) = client.response();
        let metric = "synvisor_router_certificate_expiry_timestamp_seconds";
        let told: Vec<&str> = text.lines().filter(|line| line.starts_with(metric)).collect();
        // In the year 4096, as rcgen has it.
        assert_eq!(
            told,
            [format!("{metric}{{listen=\"127.0.0.1:{}\",name=\"{name}\"}} 67090118400", harness.port)]
        );
    }
}

#[test]
fn a_certificate_that_cannot_be_used_changes_nothing() {
    let (mut harness, config) = secure(&[]);
    let _main = harness.up("main", 1);
    harness.sockets[0].1 = true;
    harness.tls.insert(harness.port, vec!["no PEM".to_owned()]);
    harness.send(&harness.table_line());
    let mut rest = Vec::new();
    harness.supervisor.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty(), "the connection ends without an answer");
    let mut client = client(&config, "a.b", harness.port);
    ask(&mut client, "/_synapse/admin/v1/server_version");
    assert!(client.response().0.starts_with("HTTP/1.1 403"));
}

#[test]
fn a_listener_without_any_certificate_serves_nobody() {
    let mut harness = Harness::new();
    let _main = harness.up("main", 1);
    harness.certify(&[]);
    let mut plain = harness.client();
    plain.send("GET /health HTTP/1.1\r\nHost: a.b\r\n\r\n");
    let mut rest = Vec::new();
    let _ = plain.0.read_to_end(&mut rest);
    assert!(rest.is_empty());
}

#[test]
fn who_never_greets_is_let_go() {
    let limit = std::time::Duration::from_millis(50);
    let keep_alive = KeepAlive { timeout: limit, ..KeepAlive::default() };
    let mut harness = Harness::keeping(keep_alive);
    harness.certify(&[&certificate(&["a.b"])]);
    let mut silent = harness.client();
    assert!(silent.is_over());
}

#[test]
fn the_last_answer_arrives_whole_however_slowly_it_is_read() {
    const LARGE: usize = 8 << 20;
    let (mut harness, config) = secure(&[b"http/1.1"]);
    let upstream = harness.up("generic-1", 1);
    let mut client = client(&config, "a.b", harness.port);
    ask(&mut client, VERSIONS);
    let mut process = accept(&upstream);
    process.head();
    harness.sockets.clear();
    harness.table();
    // More than the kernel's buffers hold, so that most of it is still here when the last of it is taken over.
    let sending = thread::spawn(move || {
        process.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n"));
        process.send(&"x".repeat(LARGE));
        process
    });
    let head = client.head();
    assert_eq!(header(&head, "connection"), Some("close"));
    // It says something that nobody asks it for, as a client does that pipelines.
    ask(&mut client, "/health");
    assert_eq!(client.bytes(LARGE), "x".repeat(LARGE));
    // An end that TLS does not vouch for is an error.
    assert!(client.is_over());
    drop(sending.join().unwrap());
}

#[test]
fn a_stop_under_tls_lets_requests_in_flight_finish() {
    let (mut harness, config) = secure(&[b"http/1.1"]);
    let upstream = harness.up("generic-1", 1);
    let mut client = client(&config, "a.b", harness.port);
    ask(&mut client, VERSIONS);
    let mut process = accept(&upstream);
    process.head();
    drop(harness.stop.take());
    process.send(OK);
    assert_eq!(client.response().1, "ok");
    assert!(client.is_over());
}

#[test]
fn nobody_fails_while_certificates_and_addresses_come_and_go() {
    const ROUNDS: usize = 25;
    let mut harness = Harness::new();
    let upstream = harness.up("generic-1", 1);
    thread::spawn(move || {
        for process in upstream.incoming() {
            let mut process = Peer(BufReader::new(process.unwrap()));
            thread::spawn(move || while answers(&mut process) {});
        }
    });
    let pems = [certificate(&["a.b"]), certificate(&["a.b"])];
    harness.certify(&[&pems[0]]);
    let port = harness.port;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let one = {
        let (config, stopped) = (Arc::new(trusting(&pems, &[b"http/1.1"])), stopped.clone());
        thread::spawn(move || {
            let (mut count, mut connections) = (0, 0);
            while !*stopped.borrow() {
                let mut client = client(&config, "a.b", port);
                connections += 1;
                loop {
                    ask(&mut client, VERSIONS);
                    let (head, body) = client.response();
                    assert_eq!((head.split(' ').nth(1), body.as_str()), (Some("200"), "ok"));
                    count += 1;
                    if *stopped.borrow() || header(&head, "connection").is_some() {
                        break;
                    }
                }
            }
            (count, connections)
        })
    };
    let other = {
        let config = Arc::new(trusting(&pems, &[b"h2"]));
        thread::spawn(move || http2::load(port, &config, stopped))
    };
    for round in 0..ROUNDS {
        harness.certify(&[&pems[round % 2]]);
        let socket = harness.sockets.pop().unwrap();
        harness.table();
        harness.sockets.push(socket);
        harness.table();
        // The supervisor's messages are answered faster than a client asks.
        harness.parked("generic-1", 0);
        thread::sleep(std::time::Duration::from_millis(40));
    }
    stop.send_replace(true);
    for (what, (count, connections)) in [("HTTP/1", one.join().unwrap()), ("HTTP/2", other.join().unwrap())] {
        assert!(count > ROUNDS && connections > 5, "{what}: {count} requests on {connections} connections");
    }
    harness.tell(&ToRouter::Down { unit: UnitName::new("generic-1") });
}

/// Answers the next request on a connection; false at its end.
fn answers<S: Read + Write>(process: &mut Peer<S>) -> bool {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        match std::io::BufRead::read_line(&mut process.0, &mut head) {
            Ok(0) | Err(_) => return false,
            Ok(_) => {}
        }
    }
    process.0.get_mut().write_all(OK.as_bytes()).is_ok()
}
