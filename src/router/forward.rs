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
use tokio::time::Instant;

use crate::route::Clues;
use crate::route::Decision;
use crate::route::RequestHead;
use crate::route::Route;
use crate::topology::UnitName;

use super::answer;
use super::answer::Refusal;
use super::headers;
use super::state::Known;
use super::state::State;
use super::upstream::InFlight;
use super::upstream::Sender;
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
            let client = headers::client_address(peer, request.headers());
            let choice = Choice::new(state, &table, route, &request, client);
            let (request, activity) = prepare(request, peer, client);
            match send(state, &choice, request, &activity).await {
                Ok(response) => response,
                Err(refusal) => refusal.response(),
            }
        }
    }
}

/// Makes of a request that came in the one that goes out; its target is not touched.
fn prepare(request: Request<Incoming>, peer: IpAddr, client: IpAddr) -> (Request<Upload>, Activity) {
    let activity = Activity(Rc::new(Cell::new(Instant::now())));
    let (mut head, body) = request.into_parts();
    headers::remove_hop_by_hop(&mut head.headers);
    headers::forwarded(&mut head.headers, peer, client);
    head.version = hyper::Version::HTTP_11;
    (Request::from_parts(head, Upload { body, activity: activity.clone() }), activity)
}

/// What decides which process a request goes to, whenever that is asked.
struct Choice<'a> {
    state: &'a State,
    table: &'a Known,
    route: &'a Route,
    path: String,
    authorization: Option<String>,
    client: IpAddr,
    turn: u64,
}

impl<'a> Choice<'a> {
    fn new(
        state: &'a State,
        table: &'a Known,
        route: &'a Route,
        request: &Request<Incoming>,
        client: IpAddr,
    ) -> Self {
        let authorization = request.headers().get(header::AUTHORIZATION);
        Self {
            state,
            table,
            route,
            path: request.uri().path().to_owned(),
            authorization: authorization.and_then(|value| value.to_str().ok()).map(str::to_owned),
            client,
            turn: state.turn(),
        }
    }

    fn now(&self) -> Option<Rc<Upstream>> {
        let clues = Clues {
            path: &self.path,
            authorization: self.authorization.as_deref(),
            client: Some(self.client),
        };
        let unit = self.table.routes.choose(self.route, &clues, self.turn, |unit| self.state.is_up(unit))?;
        self.state.upstream(unit)
    }
}

/// Waits until somebody who may answer is up; at most until `deadline`, and not if too many wait already.
async fn wait(state: &Rc<State>, choice: &Choice<'_>, deadline: Instant) -> Result<Rc<Upstream>, Refusal> {
    let mut changes = state.changes();
    if let Some(upstream) = choice.now() {
        return Ok(upstream);
    }
    let _parked = state.park().ok_or(Refusal::Busy)?;
    loop {
        match tokio::time::timeout_at(deadline, changes.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err(Refusal::Busy),
        }
        if let Some(upstream) = choice.now() {
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
    loop {
        let upstream = wait(state, choice, deadline).await?;
        let flight = upstream.enter();
        let (mut sender, fresh) = match upstream.reuse() {
            Some(sender) => (sender, false),
            None => match upstream.connect().await {
                Ok(sender) => (sender, true),
                Err(_) if Instant::now() < deadline => {
                    drop(flight);
                    tokio::time::sleep(RECONNECT).await;
                    continue;
                }
                Err(_) => return Err(Refusal::Busy),
            },
        };
        match attempt(&mut sender, request, activity).await {
            Attempt::Answered(response) => return Ok(pass_on(response, sender, flight)),
            // It never left: it may go again, whatever it asks for.
            Attempt::Unsent(unsent) if Instant::now() < deadline => {
                request = unsent;
                if fresh {
                    drop(flight);
                    tokio::time::sleep(RECONNECT).await;
                }
            }
            Attempt::Unsent(_) => return Err(Refusal::Busy),
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

async fn attempt(sender: &mut Sender, request: Request<Upload>, activity: &Activity) -> Attempt {
    let answering = sender.try_send_request(request);
    tokio::pin!(answering);
    loop {
        // An upload takes what time it takes; only silence counts.
        let patience = activity.last() + RESPONSE;
        tokio::select! {
            answered = &mut answering => return match answered {
                Ok(response) => Attempt::Answered(response),
                Err(mut error) => match error.take_message() {
                    Some(request) => Attempt::Unsent(request),
                    None => Attempt::Failed(Refusal::Broken),
                },
            },
            () = tokio::time::sleep_until(patience) => {
                if activity.last() + RESPONSE <= Instant::now() {
                    return Attempt::Failed(Refusal::TooSlow);
                }
            }
        }
    }
}

fn pass_on(response: Response<Incoming>, sender: Sender, flight: InFlight) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    headers::remove_hop_by_hop(&mut head.headers);
    let mut body = Download { body, connection: Some((sender, flight)) };
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
    connection: Option<(Sender, InFlight)>,
}

impl Download {
    fn ended(&mut self) {
        if let Some((sender, flight)) = self.connection.take() {
            flight.upstream().keep(sender);
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
