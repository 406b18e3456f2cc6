//! One request: whom it is for, the attempts to get it answered, and what becomes of it when one fails.

use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use crate::http1;
use crate::http1::Length;
use crate::route::Clues;
use crate::route::Decision;
use crate::route::Replay;
use crate::route::RequestHead;
use crate::route::RouteTable;
use crate::topology::UnitName;

use super::answer;
use super::answer::Own;
use super::answer::Refusal;
use super::asker::Asker;
use super::charge::Charge;
use super::charge::Choice;
use super::client::Client;
use super::exchange;
use super::exchange::Attempt;
use super::listen::Visit;
use super::metrics;
use super::outgoing::Outgoing;
use super::park::Search;
use super::reading::Answered;
use super::state::State;
use super::trace::Trace;

/// A request that no process survives must not go on to the next one for ever.
const MOST_REPLAYS: u32 = 2;
/// A client that asked so long ago has most likely left its user alone with it.
pub const REPLAY_WITHIN: Duration = Duration::from_secs(120);

/// What becomes of a request.
pub(super) enum Course {
    /// The router answers for itself.
    Own(Own),
    /// A process answers it.
    To(Errand),
}

/// What is known of a request before anything is decided.
pub(super) struct Asked<'a> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) authorization: Option<&'a str>,
    pub(super) body: Length,
    pub(super) client: Client,
    pub(super) admin: bool,
    /// Whether the router's metrics are served there.
    pub(super) metrics: bool,
}

/// What was decided of it.
pub(super) enum Verdict {
    Own(Own),
    To {
        class: &'static str,
        choice: Choice,
        /// Whether it may go again after it was sent.
        again: bool,
        /// Whether it only waits for news.
        poll: bool,
        /// How many bytes its body may have.
        allowed: u64,
    },
}

/// Decides about a request.
pub(super) fn judge(state: &State, asked: &Asked<'_>) -> Verdict {
    let table = state.table();
    if asked.path == "*" {
        return Verdict::Own(answer::preflight());
    }
    if asked.path == metrics::PATH && asked.metrics {
        return Verdict::Own(answer::metrics(state.metrics.text()));
    }
    let head = RequestHead { method: asked.method, path: asked.path, query: asked.query, admin: asked.admin };
    match table.routes.decide(&head) {
        Decision::Health => Verdict::Own(answer::health(state.is_up(&UnitName::main()), asked.client)),
        Decision::Denied => Verdict::Own(Refusal::NotForClients.answer()),
        Decision::AdminClosed => Verdict::Own(Refusal::AdminClosed.answer()),
        Decision::To(_) if asked.method == "OPTIONS" && !has_own_preflight(asked.path) => {
            Verdict::Own(answer::preflight())
        }
        Decision::To(route) => {
            let allowed = table.largest_body(route);
            if matches!(asked.body, Length::Known(length) if length > allowed) {
                return Verdict::Own(Refusal::TooLarge.answer());
            }
            let clues = Clues {
                path: asked.path,
                query: asked.query,
                authorization: asked.authorization,
                client: Some(asked.client.address),
            };
            let key = RouteTable::key(route, &clues, state.turn());
            let replay = route.rule.replay(asked.method);
            let again = !state.without_parking && replay.allows(asked.query, asked.authorization);
            let choice = Choice { rule: route.rule.number, key };
            let class = route.rule.class;
            Verdict::To { class, choice, again, poll: again && replay == Replay::Poll, allowed }
        }
    }
}

/// Where Synapse names other fields than everywhere else (`synapse/http/server.py`, `set_cors_headers`).
fn has_own_preflight(path: &str) -> bool {
    path.contains("/rendezvous")
}

/// Decides about a request of HTTP/1, and how many bytes its body may have.
pub(super) fn course(visit: &Visit, head: &http1::RequestHead<'_, '_>) -> (Course, Trace, u64) {
    let state = &visit.door.state;
    let said = http1::find(head.fields, "x-forwarded-for");
    let proto = http1::find(head.fields, "x-forwarded-proto");
    let client = Client::of(visit.peer, said, proto, &state.table().trusted_proxies);
    let asked = Asked {
        method: head.method,
        path: head.path(),
        query: head.query(),
        authorization: head.authorization,
        body: head.body,
        client,
        admin: visit.door.admin(),
        metrics: visit.door.metrics(),
    };
    let protocol = if head.is_http_1_1 { "HTTP/1.1" } else { "HTTP/1.0" };
    let mut trace = Trace::new(state, client.address, head.method, head.target, protocol);
    match judge(state, &asked) {
        Verdict::Own(own) => (Course::Own(own), trace, u64::MAX),
        Verdict::To { class, choice, again, poll, allowed } => {
            trace.class = class;
            let mut outgoing = Outgoing::new(head.method, head.target, head.body, again, trace.started());
            for field in head.fields {
                if !(head.names_others && http1::is_named(head.fields, field.name)) {
                    outgoing.field(field.name, field.value);
                }
            }
            outgoing.finish(client);
            let charge = Charge { state: Rc::clone(state), choice };
            (Course::To(Errand { charge, outgoing, poll }), trace, allowed)
        }
    }
}

/// A request for a process.
pub(super) struct Errand {
    pub(super) charge: Charge,
    pub(super) outgoing: Outgoing,
    /// Whether it only waits for news.
    pub(super) poll: bool,
}

/// Why a request has no answer of a process.
pub(super) enum Failed {
    Refused(Refusal),
    /// Nobody waits for one.
    Left,
}

/// Whether a request goes again that was sent and lost, if it may at all.
fn goes_again(replays: u32, since_arrival: Duration) -> bool {
    replays < MOST_REPLAYS && since_arrival < REPLAY_WITHIN
}

impl Errand {
    /// Has the request answered by whoever may.
    pub(super) async fn run(self, asker: &mut dyn Asker, trace: &mut Trace) -> Result<Answered, Failed> {
        let Self { charge, mut outgoing, poll } = self;
        let mut search = Search::new(&charge);
        let mut replays = 0;
        let mut late = false;
        loop {
            let (upstream, going) = tokio::select! {
                biased;
                next = search.next() => next.map_err(Failed::Refused)?,
                () = poll_fn(|context| asker.poll_left(context)) => return Err(Failed::Left),
            };
            if going.is_some() {
                trace.parked += search.waited();
            }
            let flight = upstream.enter();
            trace.unit = Some(Rc::clone(&upstream));
            trace.attempts += 1;
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
            let asked = if trace.attempts == 1 && going.is_none() { trace.started() } else { Instant::now() };
            let attempt = exchange::attempt(&upstream, &mut connection, &mut outgoing, asker, poll);
            match attempt.await {
                Attempt::Answered(head) => {
                    trace.upstream = Some(asked.elapsed());
                    return Ok(Answered::new(head, connection, flight, charge));
                }
                // It never left: it may go again, whatever it asks for.
                Attempt::Unsent => {
                    if fresh {
                        search.refused_by(upstream);
                    }
                }
                Attempt::Lost(error) => {
                    tracing::warn!("a request was lost: {}: {error}", upstream.socket());
                    if !goes_again(replays, outgoing.arrived.elapsed()) || !outgoing.is_whole() {
                        charge.add(|counts| counts.cut += 1);
                        return Err(Failed::Refused(Refusal::Broken));
                    }
                    replays += 1;
                    late = true;
                    charge.add(|counts| counts.replayed += 1);
                    search = Search::new(&charge);
                    // It has most likely ended, and the news of it is on its way.
                    search.refused_by(upstream);
                }
                Attempt::Left => {
                    late = true;
                    if upstream.is_draining() {
                        charge.add(|counts| counts.taken_back += 1);
                    } else {
                        charge.add(|counts| counts.replayed += 1);
                    }
                    search = Search::new(&charge);
                }
                Attempt::TooSlow => {
                    tracing::warn!("a request was not answered: {}", upstream.socket());
                    return Err(Failed::Refused(Refusal::TooSlow));
                }
                Attempt::Client(kind) => return Err(blame(kind)),
            }
        }
    }
}

/// What a client is told whose body did not come to its end.
fn blame(kind: io::ErrorKind) -> Failed {
    if kind == io::ErrorKind::FileTooLarge {
        Failed::Refused(Refusal::TooLarge)
    } else if kind == io::ErrorKind::TimedOut {
        Failed::Refused(Refusal::TooSlowClient)
    } else if kind == io::ErrorKind::InvalidData {
        Failed::Refused(Refusal::BadRequest)
    } else {
        Failed::Left
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
