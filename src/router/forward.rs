//! One request: whom it is for, the attempts to get it answered, and what becomes of it when one fails.

use std::rc::Rc;
use std::time::Duration;

use hyper::HeaderMap;
use hyper::Method;
use hyper::Request;
use hyper::Response;
use hyper::Uri;
use hyper::body::Body as _;
use hyper::body::Incoming;
use hyper::header;
use hyper::header::HeaderValue;
use tokio::time::Instant;

use crate::route;
use crate::route::Clues;
use crate::route::Decision;
use crate::route::Replay;
use crate::route::RequestHead;
use crate::route::RouteTable;
use crate::topology::UnitName;

use super::answer;
use super::answer::Refusal;
use super::body::Body;
use super::body::Download;
use super::body::Source;
use super::body::Upload;
use super::charge::Charge;
use super::charge::Choice;
use super::headers;
use super::headers::Client;
use super::headers::Peer;
use super::listen::Listener;
use super::park;
use super::park::Search;
use super::state::State;
use super::upstream::Connection;
use super::upstream::Upstream;

/// How long a process may take for the head of its response once it has the whole request.
pub const RESPONSE: Duration = Duration::from_secs(180);
/// A request that no process survives must not go on to the next one for ever.
const MOST_REPLAYS: u32 = 2;
/// A client that asked so long ago has most likely left its user alone with it.
pub const REPLAY_WITHIN: Duration = Duration::from_secs(120);

/// Answers one request.
pub(super) async fn answer(
    state: &Rc<State>,
    listener: &Listener,
    peer: Peer,
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
        admin: listener.admin.get(),
    };
    match table.routes.decide(&head) {
        Decision::Health => {
            let client = Client::of(peer, request.headers(), &table.trusted_proxies);
            answer::health(state.is_up(&UnitName::main()), client)
        }
        Decision::Denied => Refusal::NotForClients.response(),
        Decision::AdminClosed => Refusal::AdminClosed.response(),
        Decision::To(route) => {
            let client = Client::of(peer, request.headers(), &table.trusted_proxies);
            let authorization = request.headers().get(header::AUTHORIZATION);
            let authorization = authorization.and_then(|value| value.to_str().ok());
            let clues =
                Clues { path: head.path, query: head.query, authorization, client: Some(client.address) };
            let key = RouteTable::key(route, &clues, state.turn());
            let replay = route.rule.replay(head.method);
            let again = !state.without_parking && replay.allows(head.query, authorization);
            let poll = again && replay == Replay::Poll;
            let choice = Choice { rule: route.rule.number, key };
            let charge = Charge { state: Rc::clone(state), choice };
            let outgoing = Outgoing::new(request, client, again);
            match send(charge, outgoing, poll).await {
                Ok(response) => response,
                Err(refusal) => refusal.response(),
            }
        }
    }
}

/// A request on its way out, as often as it has to go.
struct Outgoing {
    /// The one to send next, if it is made already.
    ready: Option<Request<Upload>>,
    /// What another one is made of; the client library takes the first one with all that is in it.
    again: Option<Head>,
    source: Source,
    arrived: Instant,
}

/// A request without its body.
struct Head {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

impl Outgoing {
    /// Makes of a request that came in the one that goes out; its target is not touched.
    fn new(request: Request<Incoming>, client: Client, again: bool) -> Self {
        let (mut head, body) = request.into_parts();
        headers::remove_hop_by_hop(&mut head.headers);
        headers::forwarded(&mut head.headers, client);
        if !body.is_end_stream() && !head.headers.contains_key(header::CONTENT_LENGTH) {
            // Without it hyper takes for granted that a GET has no body.
            head.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        head.version = hyper::Version::HTTP_11;
        let copy = again.then(|| Head {
            method: head.method.clone(),
            uri: head.uri.clone(),
            headers: head.headers.clone(),
        });
        let source = Source::new(body, again);
        let ready = Some(Request::from_parts(head, source.reader()));
        Self { ready, again: copy, source, arrived: Instant::now() }
    }

    /// Makes it anew after it was sent.
    fn renew(&mut self) -> bool {
        self.ready = self.again.as_ref().filter(|_| self.source.is_whole()).map(|head| {
            let mut request = Request::new(self.source.reader());
            *request.method_mut() = head.method.clone();
            *request.uri_mut() = head.uri.clone();
            *request.headers_mut() = head.headers.clone();
            request
        });
        self.ready.is_some()
    }

    /// Lets a long-poll wait no longer than the client asked for, the time since it came included.
    fn lower_timeout(&mut self) {
        if let (Some(request), Some(Head { uri, .. })) = (&mut self.ready, &self.again)
            && let Some(query) =
                route::with_time_left(uri.query().unwrap_or_default(), park::milliseconds(self.arrived))
            && let Ok(uri) = format!("{}?{query}", uri.path()).parse()
        {
            *request.uri_mut() = uri;
        }
    }
}

/// Whether a request goes again that was sent and lost, if it may at all.
fn goes_again(replays: u32, since_arrival: Duration) -> bool {
    replays < MOST_REPLAYS && since_arrival < REPLAY_WITHIN
}

/// Has a request answered by whoever may; `poll` says that it only waits for news.
async fn send(charge: Charge, mut outgoing: Outgoing, poll: bool) -> Result<Response<Body>, Refusal> {
    let mut search = Search::new(&charge);
    let mut replays = 0;
    let mut late = false;
    loop {
        let (upstream, going) = search.next().await?;
        let flight = upstream.enter();
        let reused = upstream.reuse();
        let fresh = reused.is_none();
        let connected = match reused {
            Some(connection) => Ok(connection),
            None => upstream.connect().await,
        };
        let Ok(mut connection) = connected else {
            search.refused_by(upstream);
            continue;
        };
        // It may have begun to stop while it was connected to.
        if !upstream.is_open() {
            continue;
        }
        late |= going.is_some();
        if poll && late {
            outgoing.lower_timeout();
        }
        let Some(request) = outgoing.ready.take() else { return Err(Refusal::Broken) };
        match attempt(&upstream, &mut connection, request, &outgoing.source, poll).await {
            Attempt::Answered(response) => {
                let (mut head, body) = response.into_parts();
                headers::remove_hop_by_hop(&mut head.headers);
                let body = Download::new(body, connection, flight, charge.clone());
                return Ok(Response::from_parts(head, Body::Upstream(body)));
            }
            // It never left: it may go again, whatever it asks for.
            Attempt::Unsent(unsent) => {
                outgoing.ready = Some(unsent);
                if fresh {
                    search.refused_by(upstream);
                }
            }
            Attempt::Lost => {
                if !goes_again(replays, outgoing.arrived.elapsed()) || !outgoing.renew() {
                    charge.add(|counts| counts.cut += 1);
                    return Err(Refusal::Broken);
                }
                replays += 1;
                late = true;
                charge.add(|counts| counts.replayed += 1);
                search = Search::new(&charge);
                // It has most likely ended, and the news of it is on its way.
                search.refused_by(upstream);
            }
            Attempt::Left => {
                if !outgoing.renew() {
                    return Err(Refusal::Broken);
                }
                late = true;
                if upstream.is_draining() {
                    charge.add(|counts| counts.taken_back += 1);
                } else {
                    charge.add(|counts| counts.replayed += 1);
                }
                search = Search::new(&charge);
            }
            Attempt::TooSlow => return Err(Refusal::TooSlow),
            Attempt::ClientLeft => return Err(Refusal::Broken),
        }
    }
}

enum Attempt {
    Answered(Response<Incoming>),
    /// No byte of it was written.
    Unsent(Request<Upload>),
    /// The process may have acted on it: asking again could do it twice.
    Lost,
    /// A long-poll whose process stops.
    Left,
    TooSlow,
    /// It left in the middle of its upload.
    ClientLeft,
}

async fn attempt(
    upstream: &Upstream,
    connection: &mut Connection,
    request: Request<Upload>,
    source: &Source,
    mut poll: bool,
) -> Attempt {
    let answering = connection.sender.try_send_request(request);
    tokio::pin!(answering);
    loop {
        // An upload takes what time it takes; only silence counts.
        let patience = source.active() + RESPONSE;
        tokio::select! {
            biased;
            answered = &mut answering => return match answered {
                Ok(response) => Attempt::Answered(response),
                Err(mut error) => match error.take_message() {
                    Some(request) => Attempt::Unsent(request),
                    None if error.error().is_user() => Attempt::ClientLeft,
                    None => {
                        tracing::warn!("a request was lost: {}: {}", upstream.socket(), error.error());
                        Attempt::Lost
                    }
                },
            },
            () = upstream.left(), if poll => {
                if source.is_whole() {
                    return Attempt::Left;
                }
                poll = false;
            }
            () = tokio::time::sleep_until(patience) => {
                if source.active() + RESPONSE <= Instant::now() {
                    tracing::warn!("a request was not answered: {}", upstream.socket());
                    return Attempt::TooSlow;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_request_goes_again_a_few_times_and_not_after_long() {
        // Mutations: either bound taken away: each seen red.
        assert!(goes_again(0, Duration::ZERO));
        assert!(goes_again(MOST_REPLAYS - 1, REPLAY_WITHIN - Duration::from_millis(1)));
        assert!(!goes_again(MOST_REPLAYS, Duration::ZERO));
        assert!(!goes_again(0, REPLAY_WITHIN));
    }
}
