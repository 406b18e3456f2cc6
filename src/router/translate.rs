//! A request of HTTP/2 on its way to a process, which speaks HTTP/1.1, and the answer on its way back.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use hyper::Request;
use hyper::Response;
use hyper::StatusCode;
use hyper::body::Body as HttpBody;
use hyper::body::Bytes;
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::body::SizeHint;
use hyper::header;
use hyper::header::HeaderName;
use hyper::header::HeaderValue;
use tokio::time::Instant;

use crate::http1::Length;

use super::answer::Own;
use super::answer::Refusal;
use super::asker::Asker;
use super::charge::Charge;
use super::client::Client;
use super::forward;
use super::forward::Asked;
use super::forward::Errand;
use super::forward::Failed;
use super::forward::Verdict;
use super::http2::Open;
use super::limits::Pace;
use super::listen::Visit;
use super::outgoing::Outgoing;
use super::reading::Answered;
use super::reading::Reading;
use super::timer::Timer;
use super::trace::Trace;

/// Answers a request whose target is a path, and which names its host as HTTP/1.1 does.
pub(super) async fn answer(visit: &Visit, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let target = head.uri.path_and_query().map_or("", |target| target.as_str());
    let visible = target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    let is_path = target.starts_with('/') || target == "*" && head.method == "OPTIONS";
    if head.uri.authority().is_some() || !visible || !is_path {
        return refuse(Refusal::BadTarget);
    }
    let fields = |name| head.headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let trusted = &visit.door.state.table().trusted_proxies;
    let client = Client::of(visit.peer, fields("x-forwarded-for"), fields("x-forwarded-proto"), trusted);
    let length = match head.headers.get(header::CONTENT_LENGTH).map(HeaderValue::to_str) {
        // The library counts the bytes.
        Some(length) => length.ok().and_then(|length| length.parse().ok()).map(Length::Known),
        None if body.is_end_stream() => Some(Length::Known(0)),
        None => Some(Length::Chunked),
    };
    let Some(length) = length else { return refuse(Refusal::BadRequest) };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let asked = Asked {
        method: head.method.as_str(),
        path,
        query,
        authorization: head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()),
        body: length,
        client,
        admin: visit.door.admin(),
        metrics: visit.door.metrics(),
    };
    let mut trace = Trace::new(&visit.door.state, client.address, head.method.as_str(), target, "HTTP/2.0");
    let (choice, again, poll, allowed) = match forward::judge(&visit.door.state, &asked) {
        Verdict::Own(answer) => return own(answer, Some(trace)),
        Verdict::To { class, choice, again, poll, allowed } => {
            trace.class = class;
            (choice, again, poll, allowed)
        }
    };
    let mut outgoing = Outgoing::new(head.method.as_str(), target, length, again, trace.started());
    for (name, value) in &head.headers {
        outgoing.field(name.as_str(), value.as_bytes());
    }
    outgoing.finish(client);
    let charge = Charge { state: Rc::clone(&visit.door.state), choice };
    let mut stream = Stream { body, portion: Bytes::new(), pace: Pace::new(allowed), timer: Timer::new() };
    match (Errand { charge, outgoing, poll }).run(&mut stream, &mut trace).await {
        Ok(answered) => pass_on(answered, trace),
        Err(Failed::Refused(refusal)) => own(refusal.answer(), Some(trace)),
        // Nobody reads it.
        Err(Failed::Left) => refuse(Refusal::BadRequest),
    }
}

/// A client's half of a stream.
struct Stream {
    body: Incoming,
    portion: Bytes,
    pace: Pace,
    timer: Timer,
}

impl Asker for Stream {
    fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        while self.portion.is_empty() {
            match Pin::new(&mut self.body).poll_frame(context) {
                Poll::Ready(None) => return Poll::Ready(Ok(false)),
                // Trailers are not for Synapse.
                Poll::Ready(Some(frame)) => {
                    self.portion = frame.map_err(io::Error::other)?.into_data().unwrap_or_default();
                    self.pace.comes(self.portion.len())?;
                }
                Poll::Pending if self.timer.is_over(context, self.pace.limit()) => {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(true))
    }

    fn body(&self) -> &[u8] {
        &self.portion
    }

    fn took(&mut self, count: usize) {
        let _ = self.portion.split_to(count);
    }

    fn is_over(&mut self, context: &mut Context<'_>, limit: Instant) -> bool {
        self.timer.is_over(context, limit)
    }

    fn poll_left(&mut self, _context: &mut Context<'_>) -> Poll<()> {
        // The library drops whoever answers a stream that was reset.
        Poll::Pending
    }
}

/// What a client of HTTP/2 gets.
pub(super) struct Body {
    content: Content,
    /// Of a request that is over with it.
    trace: Option<Trace>,
    /// The stream that it goes out by.
    _open: Option<Open>,
}

impl Body {
    fn new(content: Content, trace: Option<Trace>) -> Self {
        Self { content, trace, _open: None }
    }

    /// The same, which keeps its stream open.
    pub(super) fn with(self, open: Open) -> Self {
        Self { _open: Some(open), ..self }
    }
}

enum Content {
    Own(Bytes),
    Process(Reading),
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let data = match &mut self.content {
            Content::Own(bytes) => std::mem::take(bytes),
            Content::Process(reading) => {
                if !ready!(reading.poll(context))? {
                    return Poll::Ready(None);
                }
                let data = Bytes::copy_from_slice(reading.portion());
                reading.took(data.len());
                data
            }
        };
        if let Some(trace) = &mut self.trace {
            trace.bytes += data.len() as u64;
        }
        Poll::Ready((!data.is_empty()).then_some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Own(bytes) => bytes.is_empty(),
            Content::Process(reading) => reading.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Own(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Process(_) => SizeHint::default(),
        }
    }
}

/// A refusal of a request that is not looked at.
pub(super) fn refuse(refusal: Refusal) -> Response<Body> {
    own(refusal.answer(), None)
}

fn own(own: Own, mut trace: Option<Trace>) -> Response<Body> {
    if let Some(trace) = &mut trace {
        trace.status = own.status;
    }
    let mut response = Response::new(Body::new(Content::Own(Bytes::from(own.body)), trace));
    *response.status_mut() = StatusCode::from_u16(own.status).unwrap_or_default();
    fields(&mut response, own.fields.as_bytes());
    response
}

fn pass_on(answered: Answered, mut trace: Trace) -> Response<Body> {
    let Answered { status, lines, body, .. } = answered;
    trace.status = status;
    let mut response = Response::new(Body::new(Content::Process(body), Some(trace)));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    let after_status = memchr::memchr(b'\n', &lines).map_or(0, |end| end + 1);
    fields(&mut response, lines.get(after_status..).unwrap_or_default());
    response
}

/// Adds fields that stand one a line.
fn fields(response: &mut Response<Body>, lines: &[u8]) {
    for line in lines.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let (name, value) = line.split_at(colon);
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            response.headers_mut().append(name, value);
        }
    }
}
