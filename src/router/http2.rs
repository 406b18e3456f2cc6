//! HTTP/2 on a connection: its requests become those of HTTP/1.1, which is all that Synapse speaks.

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::time::Duration;

use hyper::HeaderMap;
use hyper::Request;
use hyper::Uri;
use hyper::body::Incoming;
use hyper::header;
use hyper::header::HeaderValue;
use hyper::http::uri;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use tokio::io::AsyncRead;
use tokio::io::AsyncWrite;
use tokio::sync::Notify;

use super::answer::Refusal;
use super::buffer::LARGEST_HEAD;
use super::crowd::In;
use super::listen::Door;
use super::listen::Visit;
use super::translate;

/// Requests that a client may have open at once: RFC 9113 advises against fewer than 100.
const MOST_STREAMS: u32 = 128;
/// Streams that a client has reset and that we have not seen yet, and those that we had to reset for an error of its own:
/// beyond, it wants nothing but our time (CVE-2023-44487, CVE-2025-8671).
const MOST_RESET: usize = 32;
const MOST_ERRORS: usize = 128;
/// Bytes that a client may send before we have taken them: with a tenth of a second to it and back, 10 MB a second.
const WINDOW: u32 = 1 << 20;
/// Bytes of one answer that wait for a client, beside what its own window lets through.
const MOST_UNSENT: usize = 64 * 1024;
/// A client that is gone without a word is noticed in a minute.
const PING: Duration = Duration::from_secs(40);
const PONG: Duration = Duration::from_secs(20);

/// Serves a connection until its end.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, visit: Visit) {
    let visit = Rc::new(visit);
    let door = &visit.door;
    let streams = Rc::new(Streams::default());
    let service = service_fn(|request: Request<Incoming>| {
        let (visit, open) = (Rc::clone(&visit), Streams::open(&streams, door));
        async move {
            let Some(open) = open else { return Ok(translate::refuse(Refusal::Busy)) };
            let response = translate::answer(&visit, as_http1(request)).await;
            Ok::<_, Infallible>(response.map(|body| body.with(open)))
        }
    });
    let connection = http2::Builder::new(Local)
        .timer(TokioTimer::new())
        .max_concurrent_streams(MOST_STREAMS)
        .max_pending_accept_reset_streams(MOST_RESET)
        .max_local_error_reset_streams(MOST_ERRORS)
        .max_header_list_size(LARGEST_HEAD as u32)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_send_buf_size(MOST_UNSENT)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .serve_connection(TokioIo::new(&mut stream), service);
    tokio::pin!(connection);
    // GOAWAY says which requests were taken, so that none is lost that is on its way to an idle connection.
    tokio::select! {
        biased;
        _ = &mut connection => return,
        () = door.closes() => {}
        () = streams.silent(door.keep_alive.timeout) => {}
        () = tokio::time::sleep_until(visit.ends) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

/// The requests of a connection that are open.
#[derive(Default)]
struct Streams {
    count: Cell<usize>,
    changed: Notify,
}

/// One of them, until it is dropped.
pub(super) struct Open {
    streams: Rc<Streams>,
    /// The first one has the room that its connection has.
    _in: Option<In>,
}

impl Streams {
    /// None if there is no room for another one.
    fn open(streams: &Rc<Self>, door: &Door) -> Option<Open> {
        let room = if streams.count.get() > 0 { Some(door.enter()?) } else { None };
        streams.count.set(streams.count.get() + 1);
        streams.changed.notify_one();
        Some(Open { streams: Rc::clone(streams), _in: room })
    }

    /// Resolves once none has been open for so long.
    async fn silent(&self, limit: Duration) {
        loop {
            let changed = self.changed.notified();
            if self.count.get() > 0 {
                changed.await;
            } else if tokio::time::timeout(limit, changed).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.streams.count.set(self.streams.count.get() - 1);
        self.streams.changed.notify_one();
    }
}

/// Runs what a connection wants run on the thread that has it.
#[derive(Clone)]
struct Local;

impl<F: Future<Output = ()> + 'static> Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// What the request would be in HTTP/1.1 (RFC 9113, sections 8.2.3 and 8.3.1). One that would be none is left as it is, and
/// refused for its target.
fn as_http1(request: Request<Incoming>) -> Request<Incoming> {
    let (mut head, body) = request.into_parts();
    let target = head.uri.path_and_query().cloned();
    let host = head.uri.authority().map(|authority| HeaderValue::from_str(authority.as_str()));
    if let (Some(target), None | Some(Ok(_))) = (target, &host)
        && !head.uri.authority().is_some_and(|authority| authority.as_str().contains('@'))
    {
        let mut parts = uri::Parts::default();
        parts.path_and_query = Some(target);
        if let Ok(uri) = Uri::from_parts(parts) {
            head.uri = uri;
        }
        if let Some(Ok(host)) = host {
            head.headers.insert(header::HOST, host);
        }
    }
    join_cookies(&mut head.headers);
    Request::from_parts(head, body)
}

/// HTTP/2 lets a client cut its cookies into pieces, and HTTP/1.1 knows one header of them.
fn join_cookies(headers: &mut HeaderMap) {
    let pieces: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if pieces.len() > 1
        && let Ok(whole) = HeaderValue::from_bytes(&pieces.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, whole);
    }
}
