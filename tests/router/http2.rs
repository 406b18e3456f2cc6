//! HTTP/2 from a client's end: by hand, frame by frame, and by a client library.

use std::io::Read;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use http_body_util::Empty;
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::TokioExecutor;
use hyper_util::rt::TokioIo;
use synvisor::router::KeepAlive;
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;

use super::harness::Harness;
use super::harness::OK;
use super::harness::PATIENCE;
use super::harness::VERSIONS;
use super::harness::accept;
use super::harness::header;
use super::tls;

/// Types and flags of frames (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ENHANCE_YOUR_CALM: u32 = 11;
const NO_ERROR: u32 = 0;

/// A connection without TLS that begins as one does that knows what it will meet.
struct Frames(TcpStream);

struct Frame {
    kind: u8,
    flags: u8,
    payload: Vec<u8>,
}

impl Frames {
    fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut frames = Self(stream);
        frames.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        frames.send(SETTINGS, 0, 0, &[]);
        frames
    }

    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.try_send(kind, flags, stream, payload).unwrap();
    }

    fn try_send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> std::io::Result<()> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let frame = [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat();
        self.0.write_all(&frame)
    }

    /// None at the end of the connection.
    fn receive(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        self.0.read_exact(&mut payload).ok()?;
        Some(Frame { kind: head[3], flags: head[4], payload })
    }

    /// The next frame of a kind, whatever comes before it; pings are answered.
    fn await_frame(&mut self, kind: u8) -> Frame {
        loop {
            let frame = self.receive().unwrap_or_else(|| panic!("the connection ended without {kind}"));
            if frame.kind == PING && frame.flags & ACK == 0 {
                self.send(PING, ACK, 0, &frame.payload);
            }
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// Asks for a path that is in HPACK's own table, or for another one.
    fn ask(&mut self, stream: u32, path: &str) {
        // GET and http are in the table, and so are the names of the other two (RFC 7541, appendix A).
        let text = |index: u8, text: &str| {
            [&[0x40 | index, u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
        };
        let block = [vec![0x82, 0x86], text(4, path), text(1, "a.b")].concat();
        self.send(HEADERS, END_STREAM | END_HEADERS, stream, &block);
    }
}

fn code(frame: &Frame) -> u32 {
    u32::from_be_bytes(frame.payload[4..8].try_into().unwrap())
}

#[test]
fn it_is_known_by_its_beginning_where_there_is_no_tls() {
    let mut harness = Harness::new();
    let _main = harness.up("main", 1);
    let mut frames = Frames::connect(harness.port);
    frames.ask(1, "/health");
    // 200 is the eighth of HPACK's table.
    assert_eq!(frames.await_frame(HEADERS).payload[0], 0x88);
    assert_eq!(frames.await_frame(DATA).payload, b"OK");
    // Methods that begin alike, in one piece and in two.
    for pieces in [["PUT", " /health HTTP/1.1\r\nHost: a.b\r\nContent-Length: 0\r\n\r\n"], ["P", "RI"]] {
        let mut client = harness.client();
        client.send(pieces[0]);
        // It is asked for what is there until there is more.
        let mut other = harness.client();
        other.send("GET /health HTTP/1.1\r\nHost: a.b\r\n\r\n");
        other.response();
        client.send(pieces[1]);
        client.send("X /health HTTP/1.1\r\nHost: a.b\r\nContent-Length: 0\r\n\r\n");
        assert!(client.head().starts_with("HTTP/1.1 "), "{pieces:?}");
    }
}

#[test]
fn its_limits_are_told_and_who_only_resets_is_sent_away() {
    let mut harness = Harness::new();
    let generic = harness.up("generic-1", 1);
    let mut frames = Frames::connect(harness.port);
    let settings = frames.await_frame(SETTINGS).payload;
    let value = |id: u16| {
        let mut all = settings.chunks(6).filter(|setting| setting[..2] == id.to_be_bytes());
        all.next().map(|setting| u32::from_be_bytes(setting[2..].try_into().unwrap()))
    };
    const MAX_CONCURRENT_STREAMS: u16 = 3;
    const MAX_HEADER_LIST_SIZE: u16 = 6;
    assert_eq!((value(MAX_CONCURRENT_STREAMS), value(MAX_HEADER_LIST_SIZE)), (Some(128), Some(65_536)));
    for stream in (1..20_000).step_by(2) {
        let block = [0x82, 0x86, 0x84, 0x41, 3, b'a', b'.', b'b'];
        let sent = frames.try_send(HEADERS, END_STREAM | END_HEADERS, stream, &block);
        let sent = sent.and_then(|()| frames.try_send(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
        if sent.is_err() {
            break;
        }
    }
    assert_eq!(code(&frames.await_frame(GOAWAY)), ENHANCE_YOUR_CALM);
    drop(generic);
}

#[test]
fn who_asks_for_nothing_is_let_go() {
    let limit = Duration::from_millis(50);
    let keep_alive = KeepAlive { timeout: limit, ..KeepAlive::default() };
    let mut harness = Harness::keeping(keep_alive);
    let generic = harness.up("generic-1", 1);
    let mut frames = Frames::connect(harness.port);
    frames.ask(1, VERSIONS);
    let mut process = accept(&generic);
    process.head();
    // It waits for its answer, for longer than that.
    let mut idle = Frames::connect(harness.port);
    assert_eq!(code(&idle.await_frame(GOAWAY)), NO_ERROR);
    process.send(OK);
    assert_eq!(frames.await_frame(DATA).payload, b"ok");
    assert_eq!(code(&frames.await_frame(GOAWAY)), NO_ERROR);
}

#[test]
fn an_old_connection_is_told_to_end_and_has_what_it_asks_until_it_does() {
    // Mutation: its age not looked at: seen red.
    let keep_alive = KeepAlive { time: Duration::ZERO, ..KeepAlive::default() };
    let mut harness = Harness::keeping(keep_alive);
    let generic = harness.up("generic-1", 1);
    let mut frames = Frames::connect(harness.port);
    assert_eq!(code(&frames.await_frame(GOAWAY)), NO_ERROR);
    frames.ask(1, VERSIONS);
    let mut process = accept(&generic);
    process.head();
    process.send(OK);
    assert_eq!(frames.await_frame(DATA).payload, b"ok");
}

#[test]
fn an_address_that_goes_tells_its_clients_and_answers_what_they_have_asked() {
    let mut harness = Harness::new();
    let generic = harness.up("generic-1", 1);
    let mut frames = Frames::connect(harness.port);
    frames.ask(1, VERSIONS);
    let mut process = accept(&generic);
    process.head();
    harness.sockets.clear();
    harness.table();
    assert_eq!(code(&frames.await_frame(GOAWAY)), NO_ERROR);
    process.send(OK);
    assert_eq!(frames.await_frame(DATA).payload, b"ok");
    while frames.receive().is_some() {}
}

#[test]
fn its_requests_become_those_of_http_1() {
    let (mut harness, config) = tls::secure(&[b"h2"]);
    let upstream = harness.up("generic-1", 1);
    let port = harness.port;
    let asking = std::thread::spawn(move || {
        on_a_thread(async {
            let (mut sender, connection) = connect(port, &config).await;
            let connection = tokio::spawn(connection);
            let request = Request::builder()
                .uri(format!("https://matrix.a.b:8448{VERSIONS}?at=%20b"))
                .header("cookie", "a=1")
                .header("cookie", "b=2")
                .header("te", "trailers")
                .body(Empty::<Bytes>::new());
            let response = sender.send_request(request.unwrap()).await.unwrap();
            let (head, body) = response.into_parts();
            drop(sender);
            let body = body.collect().await.unwrap().to_bytes();
            connection.await.unwrap();
            (head, body)
        })
    });
    let mut process = accept(&upstream);
    let head = process.head();
    assert_eq!(head.lines().next(), Some(format!("GET {VERSIONS}?at=%20b HTTP/1.1").as_str()));
    assert_eq!(header(&head, "host"), Some("matrix.a.b:8448"));
    assert_eq!(header(&head, "cookie"), Some("a=1; b=2"));
    assert_eq!(header(&head, "x-forwarded-proto"), Some("https"));
    assert_eq!((header(&head, "te"), header(&head, "transfer-encoding")), (None, None));
    process.send(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: X-Drop\r\nX-Drop: 1\r\nX-Keep: 1\r\n\r\nok",
    );
    let (head, body) = asking.join().unwrap();
    assert_eq!((head.version, body.as_ref()), (hyper::Version::HTTP_2, &b"ok"[..]));
    assert_eq!((head.headers.contains_key("x-keep"), head.headers.contains_key("x-drop")), (true, false));
}

type Sender = http2::SendRequest<Empty<Bytes>>;

async fn connect(
    port: u16,
    config: &Arc<ClientConfig>,
) -> (Sender, impl Future<Output = ()> + Send + 'static) {
    let stream = TcpSocket::new_v4().unwrap().connect(([127, 0, 0, 1], port).into()).await.unwrap();
    let name = "a.b".try_into().unwrap();
    let stream = TlsConnector::from(Arc::clone(config)).connect(name, stream).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    (sender, async { drop(connection.await) })
}

fn on_a_thread<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Asks again and again until told to stop, on another connection whenever one is said to end: how often, and on how many.
pub(crate) fn load(
    port: u16,
    config: &Arc<ClientConfig>,
    stopped: tokio::sync::watch::Receiver<bool>,
) -> (usize, usize) {
    on_a_thread(async {
        let (mut count, mut connections) = (0, 0);
        while !*stopped.borrow() {
            let (mut sender, connection) = connect(port, config).await;
            let connection = tokio::spawn(connection);
            connections += 1;
            while !*stopped.borrow() && sender.ready().await.is_ok() {
                let request = Request::get(format!("https://a.b{VERSIONS}")).body(Empty::new()).unwrap();
                match sender.try_send_request(request).await {
                    Ok(response) => {
                        assert_eq!(response.status(), 200);
                        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
                        count += 1;
                    }
                    // The connection was told to end before this was sent.
                    Err(mut error) => {
                        assert!(error.take_message().is_some(), "request {count}: {}", error.error());
                        break;
                    }
                }
            }
            drop(sender);
            connection.await.unwrap();
        }
        (count, connections)
    })
}
