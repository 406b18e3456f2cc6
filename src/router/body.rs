//! Bodies on their way: a request's to a process, kept as long as it may have to go again, and a response's to the client.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;

use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Body as HttpBody;
use hyper::body::Bytes;
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::body::SizeHint;
use tokio::time::Instant;

use super::charge::Charge;
use super::upstream::Connection;
use super::upstream::InFlight;

/// More of a request's body is not kept, so that it cannot be sent again once it was sent.
const KEPT: usize = 64 * 1024;

struct Stored {
    body: Incoming,
    /// What was read of it, while that is all of it.
    kept: Option<Vec<Bytes>>,
    bytes: usize,
    /// Which attempt may read; an older one could still be on its way out.
    reader: u32,
    /// When bytes last came in.
    active: Instant,
}

/// A request's body, of which each attempt gets a reader.
#[derive(Clone)]
pub(super) struct Source(Rc<RefCell<Stored>>);

impl Source {
    /// `keep` if the request may have to go again after it was sent.
    pub(super) fn new(body: Incoming, keep: bool) -> Self {
        let kept = keep.then(Vec::new);
        Self(Rc::new(RefCell::new(Stored { body, kept, bytes: 0, reader: 0, active: Instant::now() })))
    }

    /// A reader from the start; those before it get nothing any more.
    pub(super) fn reader(&self) -> Upload {
        let mut stored = self.0.borrow_mut();
        stored.reader += 1;
        stored.active = Instant::now();
        Upload { source: self.clone(), at: 0, reader: stored.reader }
    }

    /// Whether another reader would find all of it.
    pub(super) fn is_whole(&self) -> bool {
        self.0.borrow().kept.is_some()
    }

    /// When bytes of it last came in, or an attempt began.
    pub(super) fn active(&self) -> Instant {
        self.0.borrow().active
    }
}

impl Stored {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        let Some(kept) = &mut self.kept else { return };
        match frame.data_ref() {
            Some(data) if self.bytes + data.len() <= KEPT => {
                self.bytes += data.len();
                kept.push(data.clone());
            }
            Some(_) | None => self.kept = None,
        }
    }

    fn kept(&self) -> &[Bytes] {
        self.kept.as_deref().unwrap_or_default()
    }
}

/// A request's body as one attempt reads it.
pub(super) struct Upload {
    source: Source,
    /// How much of what is kept it has read.
    at: usize,
    reader: u32,
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        let stored = &mut *this.source.0.borrow_mut();
        if stored.reader != this.reader {
            return Poll::Ready(Some(Err(io::ErrorKind::Interrupted.into())));
        }
        if let Some(data) = stored.kept().get(this.at) {
            this.at += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        let polled = Pin::new(&mut stored.body).poll_frame(context);
        if polled.is_ready() {
            stored.active = Instant::now();
        }
        if let Poll::Ready(Some(Ok(frame))) = &polled {
            stored.keep(frame);
            this.at = stored.kept().len();
        }
        polled.map_err(io::Error::other)
    }

    fn is_end_stream(&self) -> bool {
        let stored = self.source.0.borrow();
        self.at >= stored.kept().len() && stored.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let stored = self.source.0.borrow();
        let left = stored.body.size_hint();
        let kept: usize = stored.kept().iter().skip(self.at).map(Bytes::len).sum();
        let mut hint = SizeHint::new();
        hint.set_lower(left.lower() + kept as u64);
        if let Some(upper) = left.upper() {
            hint.set_upper(upper + kept as u64);
        }
        hint
    }
}

/// A response's body on its way to the client; at its end the connection that it came by is free again.
pub(super) struct Download {
    body: Incoming,
    connection: Option<(Connection, InFlight, Charge)>,
}

impl Download {
    pub(super) fn new(body: Incoming, connection: Connection, flight: InFlight, charge: Charge) -> Self {
        let mut download = Self { body, connection: Some((connection, flight, charge)) };
        if download.body.is_end_stream() {
            download.ended();
        }
        download
    }

    fn ended(&mut self) {
        if let Some((connection, flight, _)) = self.connection.take() {
            flight.upstream().keep(connection);
        }
    }

    /// The client has a part of the answer and gets no end of it: hyper breaks its connection.
    fn broke(&mut self, error: &hyper::Error) {
        if let Some((_, flight, charge)) = self.connection.take() {
            tracing::warn!("a response broke off: {}: {error}", flight.upstream().socket());
            charge.add(|counts| counts.cut += 1);
        }
    }
}

/// What a client gets.
pub(super) enum Body {
    Own(UnsyncBoxBody<Bytes, hyper::Error>),
    Upstream(Download),
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Self::Own(body) => Pin::new(body).poll_frame(context),
            Self::Upstream(download) => {
                let polled = Pin::new(&mut download.body).poll_frame(context);
                match &polled {
                    Poll::Ready(None) => download.ended(),
                    Poll::Ready(Some(Ok(_))) if download.body.is_end_stream() => download.ended(),
                    Poll::Ready(Some(Err(error))) => download.broke(error),
                    Poll::Ready(Some(Ok(_))) | Poll::Pending => {}
                }
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_end_stream(),
            Self::Upstream(download) => download.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.size_hint(),
            Self::Upstream(download) => download.body.size_hint(),
        }
    }
}
