//! Stands where Synapse would in `make bench-router`: fast, with Synapse's response headers, and it counts.
//!
//! `backend DIRECTORY UNIT…` listens at `DIRECTORY/UNIT.sock` for each; whoever connects to `DIRECTORY/counts` is told what
//! was counted so far, as JSON. What is asked decides what is answered: see [`Kind::of`].
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "a benchmark may")]

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::rc::Rc;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio::net::UnixStream;
use tokio::task::LocalSet;

const SMALL: usize = 64 * 1024;
const LARGE: usize = 50 * 1024 * 1024;
/// Bytes of a large body that are written, or read, at once.
const PORTION: usize = 256 * 1024;
static ZEROS: [u8; PORTION] = [0; PORTION];

/// What all of Synapse's answers of JSON have (1.163: `synapse/http/server.py`): their length is not said.
const HEAD: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nServer: Synapse/1.163.0\r\n\
    Date: Sun, 29 Nov 2026 08:00:00 GMT\r\nContent-Type: application/json\r\n\
    Cache-Control: no-cache, no-store, must-revalidate\r\nAccess-Control-Allow-Origin: *\r\n\
    Access-Control-Allow-Methods: GET, HEAD, POST, PUT, DELETE, OPTIONS\r\n\
    Access-Control-Allow-Headers: X-Requested-With, Content-Type, Authorization, Date\r\n\
    Access-Control-Expose-Headers: Synapse-Trace-Id, Server\r\n\r\n";
/// Those of media (1.163: `synapse/media/_base.py`), up to their length.
const MEDIA: &str = "HTTP/1.1 200 OK\r\nServer: Synapse/1.163.0\r\nDate: Sun, 29 Nov 2026 08:00:00 GMT\r\n\
    Content-Type: application/octet-stream\r\nContent-Disposition: attachment\r\n\
    Cache-Control: public,max-age=86400,s-maxage=86400\r\nAccess-Control-Allow-Origin: *\r\n\
    Cross-Origin-Resource-Policy: cross-origin\r\nX-Content-Type-Options: nosniff\r\n\
    Content-Security-Policy: sandbox; default-src 'none'; script-src 'none'; plugin-types application/pdf; \
    style-src 'unsafe-inline'; media-src 'self'; object-src 'self';\r\nContent-Length: ";

/// Since the start.
#[derive(Default)]
struct Counts {
    /// Answers that are complete.
    answered: Cell<u64>,
    /// Bytes of bodies of requests.
    received: Cell<u64>,
    /// Bytes of large bodies of answers.
    sent: Cell<u64>,
    /// Long-polls that wait at this moment.
    held: Cell<u64>,
}

fn add(counter: &Cell<u64>, count: usize) {
    counter.set(counter.get() + count as u64);
}

enum Kind {
    Json,
    Small,
    Large,
    /// Never answered.
    Held,
}

impl Kind {
    fn of(target: &[u8]) -> Self {
        match target {
            _ if target.ends_with(b"/64k") => Self::Small,
            _ if target.ends_with(b"/50m") => Self::Large,
            _ if target.ends_with(b"&timeout=3600000") => Self::Held,
            _ => Self::Json,
        }
    }
}

/// Of a request: where its head ends, how long its body is, what it asks for.
struct Head {
    end: usize,
    length: usize,
    kind: Kind,
}

impl Head {
    fn of(bytes: &[u8]) -> Option<Self> {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let mut lines = bytes[..end].split(|byte| *byte == b'\n');
        let target = lines.next()?.split(|byte| *byte == b' ').nth(1)?;
        let value = |line: &[u8]| {
            let (name, value) = line.split_at_checked(15)?;
            name.eq_ignore_ascii_case(b"content-length:")
                .then(|| str::from_utf8(value).unwrap().trim().parse())
        };
        let length = lines.find_map(value).map_or(0, Result::unwrap);
        Some(Self { end, length, kind: Kind::of(target) })
    }
}

/// The answers that are always the same.
struct Answers {
    json: Vec<u8>,
    small: Vec<u8>,
    large: Vec<u8>,
}

impl Answers {
    /// Those of a unit, whose name they tell.
    fn of(unit: &str) -> Self {
        let body = format!("{:<199}}}", format!("{{\"unit\":\"{unit}\""));
        let json = format!("{HEAD}{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).into_bytes();
        let mut small = format!("{MEDIA}{SMALL}\r\n\r\n").into_bytes();
        small.resize(small.len() + SMALL, 0);
        Self { json, small, large: format!("{MEDIA}{LARGE}\r\n\r\n").into_bytes() }
    }
}

async fn serve(mut stream: UnixStream, answers: Rc<Answers>, counts: Rc<Counts>) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(2048);
    loop {
        let head = loop {
            if let Some(head) = Head::of(&bytes) {
                break head;
            }
            if stream.read_buf(&mut bytes).await? == 0 {
                return Ok(());
            }
        };
        let mut rest = head.length;
        let here = rest.min(bytes.len() - head.end);
        bytes.drain(..head.end + here);
        rest -= here;
        add(&counts.received, here);
        let mut portion = if rest > 0 { vec![0; PORTION] } else { Vec::new() };
        while rest > 0 {
            let most = rest.min(PORTION);
            let read = stream.read(&mut portion[..most]).await?;
            if read == 0 {
                return Ok(());
            }
            rest -= read;
            add(&counts.received, read);
        }
        match head.kind {
            Kind::Json => stream.write_all(&answers.json).await?,
            Kind::Small => stream.write_all(&answers.small).await?,
            Kind::Large => {
                stream.write_all(&answers.large).await?;
                let mut left = LARGE;
                while left > 0 {
                    let written = stream.write(&ZEROS[..left.min(PORTION)]).await?;
                    left -= written;
                    add(&counts.sent, written);
                }
            }
            Kind::Held => {
                counts.held.set(counts.held.get() + 1);
                let _ = stream.read_buf(&mut bytes).await;
                counts.held.set(counts.held.get() - 1);
                return Ok(());
            }
        }
        add(&counts.answered, 1);
    }
}

fn listen(directory: &Path, unit: &str, counts: &Rc<Counts>) {
    let listener = UnixListener::bind(directory.join(format!("{unit}.sock"))).unwrap();
    let (answers, counts) = (Rc::new(Answers::of(unit)), Rc::clone(counts));
    tokio::task::spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // Who leaves in the middle of something is the load generator at its end.
            let served = serve(stream, Rc::clone(&answers), Rc::clone(&counts));
            tokio::task::spawn_local(async { drop(served.await) });
        }
    });
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let Some(directory) = arguments.next() else {
        eprintln!("usage: backend DIRECTORY UNIT…\n  `make bench-router` starts it");
        return;
    };
    let directory = Path::new(&directory);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let counts = Rc::<Counts>::default();
        for unit in arguments {
            listen(directory, &unit, &counts);
        }
        let listener = UnixListener::bind(directory.join("counts")).unwrap();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let Counts { answered, received, sent, held } = &*counts;
            let text = format!(
                "{{\"answered\":{},\"received\":{},\"sent\":{},\"held\":{}}}",
                answered.get(),
                received.get(),
                sent.get(),
                held.get()
            );
            let _ = stream.write_all(text.as_bytes()).await;
        }
    });
}
