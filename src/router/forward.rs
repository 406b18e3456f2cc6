//! One request: whom it is for, waiting for that process if need be, and the bytes both ways.

use std::cell::Cell;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;

use http_body_util::combinators::UnsyncBoxBody;
use hyper::Method;
use hyper::Request;
use hyper::Response;
use hyper::body::Body as HttpBody;
use hyper::body::Bytes;
use hyper::body::Frame;
use hyper::body::Incoming;
use hyper::body::SizeHint;
use hyper::header;
use hyper::header::HeaderValue;
use tokio::time::Instant;

use crate::route::Clues;
use crate::route::Decision;
use crate::route::RequestHead;
use crate::route::RouteTable;
use crate::topology::UnitName;

use super::answer;
use super::answer::Refusal;
use super::headers;
use super::headers::Client;
use super::state::State;
use super::upstream::Connection;
use super::upstream::InFlight;
use super::upstream::Upstream;

/// How long a process may take for the head of its response once it has the whole request.
const RESPONSE: Duration = Duration::from_secs(180);
/// After a failed attempt to connect: the process is starting to listen, or its end is about to be known.
const RECONNECT: Duration = Duration::from_millis(50);

/// Answers one request.
pub(super) async fn answer(
    state: &Rc<State>,
    listener: usize,
    peer: IpAddr,
    request: Request<Incoming>,
) -> Response<Body> {
    let uri = request.uri();
    if request.method() == Method::OPTIONS && uri.path() == "*" {
        return answer::options();
    }
    if uri.scheme().is_some() || uri.authority().is_some() || !uri.path().starts_with('/') {
        return Refusal::BadTarget.response();
    }
    let table = state.table();
    let head = RequestHead {
        method: request.method().as_str(),
        path: uri.path(),
        query: uri.query().unwrap_or_default(),
        admin: state.admin(listener),
    };
    match table.routes.decide(&head) {
        Decision::Health => answer::health(state.is_up(&UnitName::main())),
        Decision::Denied => Refusal::NotForClients.response(),
        Decision::AdminClosed => Refusal::AdminClosed.response(),
        Decision::To(route) => {
            let client = Client::of(peer, request.headers(), &table.trusted_proxies);
            let authorization = request.headers().get(header::AUTHORIZATION);
            let clues = Clues {
                path: head.path,
                query: head.query,
                authorization: authorization.and_then(|value| value.to_str().ok()),
                client: Some(client.address),
            };
            let key = RouteTable::key(route, &clues, state.turn());
            let choice = Choice { state, rule: route.rule.number, key };
            let (request, activity) = prepare(request, client);
            match send(state, &choice, request, &activity).await {
                Ok(response) => response,
                Err(refusal) => refusal.response(),
            }
        }
    }
}

/// Makes of a request that came in the one that goes out; its target is not touched.
fn prepare(request: Request<Incoming>, client: Client) -> (Request<Upload>, Activity) {
    let activity = Activity(Rc::new(Cell::new(Instant::now())));
    let (mut head, body) = request.into_parts();
    headers::remove_hop_by_hop(&mut head.headers);
    headers::forwarded(&mut head.headers, client);
    if !body.is_end_stream() && !head.headers.contains_key(header::CONTENT_LENGTH) {
        // Without it hyper takes for granted that a GET has no body.
        head.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    head.version = hyper::Version::HTTP_11;
    (Request::from_parts(head, Upload { body, activity: activity.clone() }), activity)
}

/// What decides which process a request goes to, whenever that is asked.
struct Choice<'a> {
    state: &'a State,
    /// The number of its rule.
    rule: usize,
    /// What keeps it with its like.
    key: u64,
}

impl Choice<'_> {
    /// The process to ask now, by the table in force: while a request waits, its owner may become another one.
    fn now(&self, without: &[Rc<Upstream>]) -> Option<Rc<Upstream>> {
        let table = self.state.table();
        let route = table.routes.route(self.rule)?;
        let usable = |unit: &UnitName| {
            let upstream = self.state.upstream(unit)?;
            (!without.iter().any(|refused| Rc::ptr_eq(refused, &upstream))).then_some(upstream)
        };
        let unit = table.routes.choose(route, self.key, |unit| usable(unit).is_some())?;
        usable(unit)
    }
}

/// Waits until somebody who may answer is up; at most until `deadline`, and not if too many wait already.
///
/// Who is in `refused` is asked again only when nobody else is there, and after a pause; then the list is empty.
async fn wait(
    state: &Rc<State>,
    choice: &Choice<'_>,
    refused: &mut Vec<Rc<Upstream>>,
    deadline: Instant,
) -> Result<Rc<Upstream>, Refusal> {
    let mut changes = state.changes();
    if let Some(upstream) = choice.now(refused) {
        return Ok(upstream);
    }
    let _parked = state.park().ok_or(Refusal::Busy)?;
    loop {
        let pause = if refused.is_empty() { deadline } else { deadline.min(Instant::now() + RECONNECT) };
        refused.clear();
        if tokio::time::timeout_at(pause, changes.changed()).await.is_err() && pause == deadline {
            return Err(Refusal::Busy);
        }
        if let Some(upstream) = choice.now(&[]) {
            return Ok(upstream);
        }
    }
}

async fn send(
    state: &Rc<State>,
    choice: &Choice<'_>,
    mut request: Request<Upload>,
    activity: &Activity,
) -> Result<Response<Body>, Refusal> {
    let deadline = Instant::now() + state.parking.longest;
    let mut refused = Vec::new();
    loop {
        let upstream = wait(state, choice, &mut refused, deadline).await?;
        let flight = upstream.enter();
        let reused = upstream.reuse();
        let fresh = reused.is_none();
        let connected = match reused {
            Some(connection) => Ok(connection),
            None => upstream.connect().await,
        };
        let Ok(mut connection) = connected else {
            refused.push(upstream);
            continue;
        };
        match attempt(&upstream, &mut connection, request, activity).await {
            Attempt::Answered(response) => return Ok(pass_on(response, connection, flight)),
            // It never left: it may go again, whatever it asks for.
            Attempt::Unsent(unsent) => {
                request = unsent;
                if fresh {
                    refused.push(upstream);
                }
            }
            Attempt::Failed(refusal) => return Err(refusal),
        }
    }
}

enum Attempt {
    Answered(Response<Incoming>),
    /// No byte of it was written.
    Unsent(Request<Upload>),
    /// The process may have acted on it: asking again could do it twice.
    Failed(Refusal),
}

async fn attempt(
    upstream: &Upstream,
    connection: &mut Connection,
    request: Request<Upload>,
    activity: &Activity,
) -> Attempt {
    let answering = connection.sender.try_send_request(request);
    tokio::pin!(answering);
    loop {
        // An upload takes what time it takes; only silence counts.
        let patience = activity.last() + RESPONSE;
        tokio::select! {
            answered = &mut answering => return match answered {
                Ok(response) => Attempt::Answered(response),
                Err(mut error) => match error.take_message() {
                    Some(request) => Attempt::Unsent(request),
                    None => {
                        // A client that left in the middle of its upload is no news.
                        if !error.error().is_user() {
                            tracing::warn!("a request was lost: {}: {}", upstream.socket(), error.error());
                        }
                        Attempt::Failed(Refusal::Broken)
                    }
                },
            },
            () = tokio::time::sleep_until(patience) => {
                if activity.last() + RESPONSE <= Instant::now() {
                    tracing::warn!("a request was not answered: {}", upstream.socket());
                    return Attempt::Failed(Refusal::TooSlow);
                }
            }
        }
    }
}

fn pass_on(response: Response<Incoming>, connection: Connection, flight: InFlight) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    headers::remove_hop_by_hop(&mut head.headers);
    let mut body = Download { body, connection: Some((connection, flight)) };
    if body.body.is_end_stream() {
        body.ended();
    }
    Response::from_parts(head, Body::Upstream(body))
}

/// When bytes of a request last came in.
#[derive(Clone)]
pub(super) struct Activity(Rc<Cell<Instant>>);

impl Activity {
    fn last(&self) -> Instant {
        self.0.get()
    }
}

/// A request's body on its way to a process.
pub(super) struct Upload {
    body: Incoming,
    activity: Activity,
}

impl HttpBody for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if polled.is_ready() {
            self.activity.0.set(Instant::now());
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A response's body on its way to the client; at its end the connection that it came by is free again.
pub(super) struct Download {
    body: Incoming,
    connection: Option<(Connection, InFlight)>,
}

impl Download {
    fn ended(&mut self) {
        if let Some((connection, flight)) = self.connection.take() {
            flight.upstream().keep(connection);
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
                    // A connection that broke is not kept.
                    Poll::Ready(Some(Err(_))) => download.connection = None,
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
