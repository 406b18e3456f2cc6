//! One client's connection that speaks HTTP/1: its requests one after the other, and what it is answered.

use std::future::poll_fn;
use std::io;
use std::io::IoSlice;
use std::io::Write as _;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use hyper::StatusCode;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::http1;
use crate::http1::BadRequest;
use crate::http1::Length;
use crate::http1::RequestHead;

use super::answer::Own;
use super::answer::Refusal;
use super::asker::Asker;
use super::buffer::Buffer;
use super::buffer::LARGEST_HEAD;
use super::forward;
use super::forward::Course;
use super::forward::Failed;
use super::greeting;
use super::inbound::Found;
use super::inbound::Inbound;
use super::limits::Pace;
use super::limits::STALL;
use super::listen::Visit;
use super::reading::Answered;
use super::timer::Timer;
use super::trace::Trace;

/// From its first byte to its last a head takes no longer; a client that sends byte after byte holds a connection for it.
const HEAD: Duration = Duration::from_secs(20);
/// What is left of a request's body after the answer is read up to here, so that the connection can go on.
const MOST_DISCARDED: u64 = 64 * 1024;
/// The beginning of a body goes with the head in one piece if it is not larger: to copy it costs less than a second piece.
const JOINED: usize = 8 * 1024;
/// A client.
struct Http1<S> {
    stream: S,
    buffer: Buffer,
    timer: Timer,
    /// Of the request that is being answered.
    body: Inbound,
    pace: Pace,
    /// What it is to be told before it sends its body.
    word: &'static [u8],
    request: Kind,
    /// Resolves when nobody may ask any more.
    stopping: Pin<Box<dyn Future<Output = ()>>>,
}

/// What of a request decides how it is answered.
#[derive(Clone, Copy)]
struct Kind {
    persists: bool,
    is_http_1_1: bool,
    is_head: bool,
}

/// What comes next on a connection.
enum Next {
    Request,
    Refused(Refusal),
    Over,
}

/// What becomes of a connection after an answer.
enum After {
    Next,
    Close {
        /// Whether the client may still send something.
        linger: bool,
    },
    /// The client is.
    Gone,
}

/// Serves a client until either has had enough.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(visit: Visit, stream: S) {
    let mut client = Http1::new(stream, Box::pin(visit.door.stopping()));
    loop {
        let refusal = match client.next(&visit).await {
            Next::Over => return client.close(false).await,
            Next::Refused(refusal) => refusal,
            Next::Request => match client.take(&visit) {
                Ok((course, trace)) => match client.answer(&visit, course, trace).await {
                    After::Next => continue,
                    After::Close { linger } => return client.close(linger).await,
                    After::Gone => return,
                },
                Err(refusal) => refusal,
            },
        };
        client.request = Kind { persists: false, is_http_1_1: true, is_head: false };
        visit.door.state.metrics.refuse();
        if client.write_own(&refusal.answer(), true).await.is_ok() {
            client.close(true).await;
        }
        return;
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Http1<S> {
    fn new(stream: S, stopping: Pin<Box<dyn Future<Output = ()>>>) -> Self {
        Self {
            stream,
            buffer: Buffer::default(),
            timer: Timer::new(),
            body: Inbound::new(Length::Known(0)),
            pace: Pace::new(0),
            word: b"",
            request: Kind { persists: true, is_http_1_1: true, is_head: false },
            stopping,
        }
    }

    /// Waits for a whole head.
    async fn next(&mut self, visit: &Visit) -> Next {
        let timeout = visit.door.keep_alive.timeout;
        let mut begun = !self.buffer.is_empty();
        // Most heads come whole, and need no clock.
        let mut since = None;
        let mut looked = 0;
        poll_fn(|context| {
            loop {
                match ends(self.buffer.data(), &mut looked) {
                    Ends::Whole => return Poll::Ready(Next::Request),
                    Ends::NoRequest => return Poll::Ready(Next::Refused(Refusal::BadRequest)),
                    Ends::Part if self.buffer.is_full() => {
                        return Poll::Ready(Next::Refused(Refusal::HeadTooLarge));
                    }
                    Ends::Part => {}
                }
                match self.buffer.poll_fill(context, &mut self.stream) {
                    Poll::Ready(Ok(1..)) if begun => {}
                    Poll::Ready(Ok(1..)) => (begun, since) = (true, None),
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Next::Over),
                    Poll::Pending => break,
                }
            }
            // What has come in is read before an idle connection is closed.
            if !begun && self.stopping.as_mut().poll(context).is_ready() {
                return Poll::Ready(Next::Over);
            }
            let limit = if begun { HEAD.min(timeout) } else { timeout };
            let since = *since.get_or_insert_with(Instant::now);
            match (self.timer.is_over(context, since + limit), begun) {
                (false, _) => Poll::Pending,
                (true, false) => Poll::Ready(Next::Over),
                (true, true) => Poll::Ready(Next::Refused(Refusal::TooSlowClient)),
            }
        })
        .await
    }

    /// Takes the head that is there, and decides what becomes of the request.
    fn take(&mut self, visit: &Visit) -> Result<(Course, Trace), Refusal> {
        let mut room = http1::room();
        let (head, length) = match RequestHead::parse(self.buffer.data(), &mut room) {
            Ok(Some((_, length))) if length > LARGEST_HEAD => return Err(Refusal::HeadTooLarge),
            Ok(Some(parsed)) => parsed,
            Ok(None) => return Err(Refusal::BadRequest),
            Err(bad) => return Err(refusal(bad)),
        };
        let request =
            Kind { persists: head.persists, is_http_1_1: head.is_http_1_1, is_head: head.method == "HEAD" };
        let (body, expects_continue) = (head.body, head.expects_continue);
        let (course, trace, allowed) = forward::course(visit, &head);
        self.buffer.consume(length);
        self.request = request;
        self.body = Inbound::new(body);
        self.word = if expects_continue { b"HTTP/1.1 100 Continue\r\n\r\n" } else { b"" };
        self.pace = Pace::new(allowed);
        Ok((course, trace))
    }

    /// Answers a request.
    async fn answer(&mut self, visit: &Visit, course: Course, mut trace: Trace) -> After {
        let answered = match course {
            Course::Own(own) => Err(own),
            Course::To(errand) => match errand.run(self, &mut trace).await {
                Ok(answered) => Ok(answered),
                Err(Failed::Refused(refusal)) => Err(refusal.answer()),
                Err(Failed::Left) => return After::Gone,
            },
        };
        // A client that expects our word before it sends its body does not send it any more.
        let closes = !self.request.persists
            || visit.door.is_closing()
            || trace.started() >= visit.ends
            || !self.word.is_empty() && !self.body.is_over()
            || self.body.left().is_none_or(|left| left > MOST_DISCARDED);
        let done = match answered {
            Ok(answered) => self.pass_on(answered, closes, &mut trace).await,
            Err(own) => {
                trace.status = own.status;
                trace.bytes = own.body.len() as u64;
                self.write_own(&own, closes).await.map(|()| !closes)
            }
        };
        drop(trace);
        match done {
            Ok(true) if self.discard().await => After::Next,
            Ok(true) => After::Close { linger: true },
            // Who asked for the end sends nothing more.
            Ok(false) => After::Close { linger: self.request.persists || !self.body.is_over() },
            Err(_) => After::Gone,
        }
    }

    /// Sends an answer of our own.
    async fn write_own(&mut self, own: &Own, closes: bool) -> io::Result<()> {
        let reason = StatusCode::from_u16(own.status).ok().and_then(|status| status.canonical_reason());
        let mut bytes = Vec::with_capacity(512);
        write!(bytes, "HTTP/1.1 {} {}\r\n{}", own.status, reason.unwrap_or_default(), own.fields)?;
        if own.status != 204 {
            write!(bytes, "Content-Length: {}\r\n", own.body.len())?;
        }
        bytes.extend(if closes { b"Connection: close\r\n\r\n".as_slice() } else { b"\r\n" });
        if !self.request.is_head {
            bytes.extend(own.body.as_bytes());
        }
        let mut at = 0;
        let since = Instant::now();
        poll_fn(|context| {
            while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
                match Pin::new(&mut self.stream).poll_write(context, rest) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(written) => at += written?,
                    Poll::Pending if self.timer.is_over(context, since + STALL) => {
                        return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                    }
                    Poll::Pending => return Poll::Pending,
                }
            }
            Pin::new(&mut self.stream).poll_flush(context)
        })
        .await
    }

    /// Passes on a process's answer; says whether the connection can have another request.
    async fn pass_on(&mut self, answered: Answered, closes: bool, trace: &mut Trace) -> io::Result<bool> {
        let Answered { status, lines: mut head, length, body } = answered;
        trace.status = status;
        let chunked = length == Length::Chunked;
        let closes = closes || length == Length::UntilClose || chunked && !self.request.is_http_1_1;
        if chunked && self.request.is_http_1_1 {
            head.extend_from_slice(b"Transfer-Encoding: chunked\r\n");
        }
        head.extend_from_slice(if closes { b"Connection: close\r\n\r\n".as_slice() } else { b"\r\n" });
        let mut body = if chunked && self.request.is_http_1_1 { body.raw() } else { body };
        let mut at = 0;
        // Since when nothing goes on.
        let mut since = None;
        poll_fn(|context| {
            loop {
                let more = match body.poll(context) {
                    Poll::Ready(more) => Some(more?),
                    Poll::Pending => None,
                };
                if at == 0 && more == Some(true) && head.len() + body.portion().len() <= JOINED {
                    let portion = body.portion();
                    let count = portion.len();
                    head.extend_from_slice(portion);
                    body.took(count);
                    trace.bytes += count as u64;
                    continue;
                }
                let head = head.get(at..).unwrap_or_default();
                let portion: &[u8] = if more == Some(true) { body.portion() } else { &[] };
                let stream = Pin::new(&mut self.stream);
                let written = match (head, portion) {
                    ([], []) => {
                        ready!(stream.poll_flush(context))?;
                        if more == Some(false) {
                            return Poll::Ready(Ok(!closes));
                        }
                        // The process has as long for the rest as it had for the beginning.
                        let since = *since.get_or_insert_with(Instant::now);
                        let silent = self.timer.is_over(context, since + super::RESPONSE);
                        return if silent { stalled() } else { Poll::Pending };
                    }
                    (head, []) => stream.poll_write(context, head),
                    ([], portion) => stream.poll_write(context, portion),
                    (head, portion) => {
                        stream.poll_write_vectored(context, &[IoSlice::new(head), IoSlice::new(portion)])
                    }
                };
                match written {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(written) => {
                        let written = written?;
                        let of_head = written.min(head.len());
                        at += of_head;
                        body.took(written - of_head);
                        trace.bytes += (written - of_head) as u64;
                        since = None;
                    }
                    Poll::Pending => {
                        let since = *since.get_or_insert_with(Instant::now);
                        let stuck = self.timer.is_over(context, since + STALL);
                        return if stuck { stalled() } else { Poll::Pending };
                    }
                }
            }
        })
        .await
    }

    /// Reads what is left of a body that nobody wants; says whether its end was reached.
    async fn discard(&mut self) -> bool {
        let mut left = MOST_DISCARDED;
        poll_fn(|context| {
            loop {
                match ready!(self.poll_body(context)) {
                    Ok(true) => {
                        let count = self.body().len();
                        self.took(count);
                        left = left.saturating_sub(count as u64);
                        if left == 0 {
                            return Poll::Ready(false);
                        }
                    }
                    Ok(false) => return Poll::Ready(true),
                    Err(_) => return Poll::Ready(false),
                }
            }
        })
        .await
    }

    /// Ends the connection so that the client gets what it was sent last.
    async fn close(mut self, linger: bool) {
        if linger {
            greeting::linger(self.stream).await;
        } else {
            let _ = tokio::time::timeout(greeting::LINGER, self.stream.shutdown()).await;
        }
    }
}

fn stalled() -> Poll<io::Result<bool>> {
    Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
}

impl<S: AsyncRead + AsyncWrite + Unpin> Asker for Http1<S> {
    fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            let before = self.body.portion(&self.buffer).len();
            match self.body.look(&mut self.buffer)? {
                Found::Portion => {
                    let portion = self.body.portion(&self.buffer).len();
                    return Poll::Ready(self.pace.comes(portion - before).map(|()| true));
                }
                Found::Over => return Poll::Ready(Ok(false)),
                Found::Nothing => {}
            }
            while !self.word.is_empty() {
                let written = ready!(Pin::new(&mut self.stream).poll_write(context, self.word))?;
                self.word = self.word.get(written..).unwrap_or_default();
                ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            }
            match self.buffer.poll_fill(context, &mut self.stream) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Poll::Ready(filled) => {
                    filled?;
                }
                Poll::Pending if self.timer.is_over(context, self.pace.limit()) => {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn body(&self) -> &[u8] {
        self.body.portion(&self.buffer)
    }

    fn took(&mut self, count: usize) {
        self.body.took(&mut self.buffer, count);
    }

    fn is_over(&mut self, context: &mut Context<'_>, limit: Instant) -> bool {
        self.timer.is_over(context, limit)
    }

    fn poll_left(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while !self.buffer.is_full() {
            match ready!(self.buffer.poll_fill(context, &mut self.stream)) {
                // Its next request, which waits.
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }
}

/// Whether a whole head is there.
enum Ends {
    Whole,
    Part,
    /// It does not begin as a request does; TLS, for one.
    NoRequest,
}

/// Looks for the empty line at the end of a head; `looked` is how far that was done before.
fn ends(data: &[u8], looked: &mut usize) -> Ends {
    match data.iter().find(|byte| !b"\r\n".contains(byte)) {
        Some(first) if !first.is_ascii_alphabetic() => return Ends::NoRequest,
        Some(_) => {}
        None if data.len() > 8 => return Ends::NoRequest,
        None => return Ends::Part,
    }
    let begins = data.iter().position(|byte| byte.is_ascii_alphabetic()).unwrap_or_default();
    // The three bytes before may be the beginning of the end.
    let from = looked.saturating_sub(3).max(begins);
    let new = data.get(from..).unwrap_or_default();
    *looked = data.len();
    let empty = |at: usize| {
        let after = new.get(at + 1..).unwrap_or_default();
        after.starts_with(b"\n") || after.starts_with(b"\r\n")
    };
    if memchr::memchr_iter(b'\n', new).any(empty) { Ends::Whole } else { Ends::Part }
}

fn refusal(bad: BadRequest) -> Refusal {
    match bad {
        BadRequest::Syntax | BadRequest::Host | BadRequest::Framing => Refusal::BadRequest,
        BadRequest::Target => Refusal::BadTarget,
        BadRequest::Version => Refusal::BadVersion,
        BadRequest::TooLarge => Refusal::HeadTooLarge,
        BadRequest::Expectation => Refusal::BadExpectation,
    }
}
