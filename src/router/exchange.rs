//! One attempt to have a request answered: it is sent, and the head of the answer is waited for.

use std::future::poll_fn;
use std::io;
use std::io::IoSlice;
use std::io::Write as _;
use std::pin::Pin;
use std::pin::pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use tokio::io::AsyncWrite;
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::http1;
use crate::http1::Length;
use crate::http1::ResponseHead;

use super::asker::Asker;
use super::buffer::LARGEST_HEAD;
use super::outgoing::Outgoing;
use super::upstream::Connection;
use super::upstream::Upstream;

/// How long a process may take for the head of its response once it has the whole request.
pub const RESPONSE: Duration = Duration::from_secs(180);

pub(super) enum Attempt {
    Answered(Head),
    /// No byte of it was written.
    Unsent,
    /// The process may have acted on it: asking again could do it twice.
    Lost(io::Error),
    /// A long-poll whose process stops.
    Left,
    TooSlow,
    /// The client's part came to no end, or it does not wait any more.
    Client(io::ErrorKind),
}

/// The head of an answer, as a client of HTTP/1 gets it.
pub(super) struct Head {
    pub(super) status: u16,
    /// From the status line to the last field; what frames the body and speaks of the connection is for whoever sends it.
    pub(super) lines: Vec<u8>,
    pub(super) body: Length,
    /// Whether the answer came to a request that had been sent as a whole, on a connection that persists.
    pub(super) reusable: bool,
}

/// Sends a request and waits for the head of its answer; `poll` says that it only waits for news.
pub(super) async fn attempt(
    upstream: &Upstream,
    connection: &mut Connection,
    outgoing: &mut Outgoing,
    asker: &mut dyn Asker,
    poll: bool,
) -> Attempt {
    let mut left = pin!(poll.then(|| upstream.left()));
    let mut sending = Sending::default();
    // Since when nothing goes on.
    let mut since = None;
    poll_fn(|context| {
        if sending.stage == Stage::Sending {
            match sending.poll(context, connection, outgoing, asker) {
                Poll::Ready(Ok(())) => {
                    sending.stage = Stage::Sent;
                }
                Poll::Ready(Err(Broken::Process(_))) if !sending.began => {
                    return Poll::Ready(Attempt::Unsent);
                }
                // It may have answered before it closed: what it did not read was too much for it.
                Poll::Ready(Err(Broken::Process(error))) => sending.stage = Stage::Broken(error.kind()),
                Poll::Ready(Err(Broken::Client(error))) => {
                    return Poll::Ready(Attempt::Client(error.kind()));
                }
                Poll::Pending => {}
            }
        }
        match poll_head(context, connection, outgoing.is_head) {
            Poll::Ready(Ok(mut head)) => {
                head.reusable &= sending.stage == Stage::Sent;
                return Poll::Ready(Attempt::Answered(head));
            }
            Poll::Ready(Err(error)) => return Poll::Ready(Attempt::Lost(error)),
            Poll::Pending => {}
        }
        if sending.stage == Stage::Sent && asker.poll_left(context).is_ready() {
            return Poll::Ready(Attempt::Client(io::ErrorKind::NotConnected));
        }
        if outgoing.is_whole()
            && sending.stage == Stage::Sent
            && let Some(left) = left.as_mut().as_pin_mut()
            && left.poll(context).is_ready()
        {
            return Poll::Ready(Attempt::Left);
        }
        // An upload takes what time it takes; only silence counts.
        if sending.progress {
            sending.progress = false;
            since = None;
        }
        let since = *since.get_or_insert_with(Instant::now);
        if asker.is_over(context, since + RESPONSE) { Poll::Ready(Attempt::TooSlow) } else { Poll::Pending }
    })
    .await
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Sending,
    Sent,
    /// The process takes nothing more of it.
    Broken(io::ErrorKind),
}

/// Who is to blame for a request that cannot be sent to its end.
enum Broken {
    Process(io::Error),
    Client(io::Error),
}

/// How much of a request was written.
#[derive(Default)]
struct Sending {
    stage: Stage,
    /// Bytes of the head.
    head: usize,
    /// Bytes of the body that were kept from an earlier attempt, or by this one.
    kept: usize,
    /// A chunk on its way, and how much of it was written.
    chunk: Vec<u8>,
    chunk_at: usize,
    /// Whether the client has sent all of it, and the last chunk was made.
    over: bool,
    /// Whether anything was written.
    began: bool,
    /// Whether anything went on since that was last asked.
    progress: bool,
}

impl Sending {
    fn poll(
        &mut self,
        context: &mut Context<'_>,
        connection: &mut Connection,
        outgoing: &mut Outgoing,
        asker: &mut dyn Asker,
    ) -> Poll<Result<(), Broken>> {
        loop {
            // A chunk is taken from the client only for a process that takes the request at all.
            let may_take = !outgoing.chunked || self.began;
            let waits = may_take && self.gather(context, outgoing, asker).map_err(Broken::Client)?;
            let head = outgoing.head().get(self.head..).unwrap_or_default();
            let kept = outgoing.kept().get(self.kept..).unwrap_or_default();
            let chunk = self.chunk.get(self.chunk_at..).unwrap_or_default();
            let payload = if outgoing.chunked {
                chunk
            } else if kept.is_empty() {
                asker.body()
            } else {
                kept
            };
            if head.is_empty() && payload.is_empty() {
                if !may_take {
                    continue;
                }
                return if waits { Poll::Pending } else { Poll::Ready(Ok(())) };
            }
            let written =
                ready!(write(context, &mut connection.stream, head, payload)).map_err(Broken::Process)?;
            (self.began, self.progress) = (true, true);
            let of_head = written.min(head.len());
            let of_payload = written - of_head;
            self.head += of_head;
            if outgoing.chunked {
                self.chunk_at += of_payload;
            } else if kept.is_empty() {
                let body = asker.body().get(..of_payload).unwrap_or_default();
                outgoing.keep(body);
                self.kept = outgoing.kept().len();
                asker.took(of_payload);
            } else {
                self.kept += of_payload;
            }
        }
    }

    /// Sees to it that there is something of the body to write; says whether the client is waited for.
    fn gather(
        &mut self,
        context: &mut Context<'_>,
        outgoing: &mut Outgoing,
        asker: &mut dyn Asker,
    ) -> io::Result<bool> {
        let of_before = outgoing.kept().len() > self.kept;
        if self.over || self.chunk_at < self.chunk.len() || of_before && !outgoing.chunked {
            return Ok(false);
        }
        self.chunk.clear();
        self.chunk_at = 0;
        if of_before {
            let kept = outgoing.kept().get(self.kept..).unwrap_or_default();
            chunk(&mut self.chunk, kept);
            self.kept += kept.len();
            return Ok(false);
        }
        let Poll::Ready(more) = asker.poll_body(context) else { return Ok(true) };
        if !more? {
            self.over = true;
            if outgoing.chunked {
                self.chunk.extend(b"0\r\n\r\n");
            }
        } else if outgoing.chunked {
            let body = asker.body();
            let count = body.len();
            chunk(&mut self.chunk, body);
            outgoing.keep(body);
            self.kept = outgoing.kept().len();
            asker.took(count);
        }
        Ok(false)
    }
}

fn chunk(into: &mut Vec<u8>, data: &[u8]) {
    // Writing to a vector does not fail.
    let _ = write!(into, "{:x}\r\n", data.len());
    into.extend_from_slice(data);
    into.extend_from_slice(b"\r\n");
}

fn write(
    context: &mut Context<'_>,
    stream: &mut UnixStream,
    head: &[u8],
    payload: &[u8],
) -> Poll<io::Result<usize>> {
    let stream = Pin::new(stream);
    let written = match (head, payload) {
        (head, []) => stream.poll_write(context, head),
        ([], payload) => stream.poll_write(context, payload),
        (head, payload) => stream.poll_write_vectored(context, &[IoSlice::new(head), IoSlice::new(payload)]),
    };
    match ready!(written)? {
        0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        count => Poll::Ready(Ok(count)),
    }
}

/// Waits for the head of the answer; interim ones are not for the client.
fn poll_head(
    context: &mut Context<'_>,
    connection: &mut Connection,
    to_head: bool,
) -> Poll<io::Result<Head>> {
    loop {
        if !connection.buffer.is_empty() {
            match read_head(connection.buffer.data(), to_head)? {
                Read::Head(head, length) => {
                    connection.buffer.consume(length);
                    return Poll::Ready(Ok(head));
                }
                Read::Interim(length) => {
                    connection.buffer.consume(length);
                    continue;
                }
                Read::Part if connection.buffer.is_full() => return Poll::Ready(Err(too_large())),
                Read::Part => {}
            }
        }
        if ready!(connection.buffer.poll_fill(context, &mut connection.stream))? == 0 {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "it closed its connection",
            )));
        }
    }
}

fn too_large() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the head of its answer is too large")
}

enum Read {
    Head(Head, usize),
    Interim(usize),
    Part,
}

fn read_head(data: &[u8], to_head: bool) -> io::Result<Read> {
    let mut room = http1::room();
    let parsed = ResponseHead::parse(data, &mut room, to_head);
    let parsed =
        parsed.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "its answer is none of HTTP/1"))?;
    let Some((head, length)) = parsed else { return Ok(Read::Part) };
    if length > LARGEST_HEAD {
        return Err(too_large());
    }
    if head.is_interim() {
        return Ok(Read::Interim(length));
    }
    if head.status < 200 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it changed to a protocol that nobody asked for",
        ));
    }
    // With room for what is added, and for a short body.
    let mut lines = Vec::with_capacity(length + 1024);
    let digit = |place: u16| b'0' + u8::try_from(head.status / place % 10).unwrap_or_default();
    for part in [b"HTTP/1.1 ", &[digit(100), digit(10), digit(1), b' '][..], head.reason.as_bytes(), b"\r\n"]
    {
        lines.extend_from_slice(part);
    }
    for field in head.fields {
        let named = head.names_others && http1::is_named(head.fields, field.name);
        if !named && !http1::is_hop_by_hop(field.name) {
            for part in [field.name.as_bytes(), b": ", field.value, b"\r\n"] {
                lines.extend_from_slice(part);
            }
        }
    }
    Ok(Read::Head(Head { status: head.status, lines, body: head.body, reusable: head.persists }, length))
}
