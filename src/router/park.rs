//! Waiting for a process that is away.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::topology::UnitName;

use super::answer::Refusal;
use super::charge::Charge;
use super::charge::Choice;
use super::queue::Ticket;
use super::state::State;
use super::upstream::Upstream;

/// After a failed attempt to connect: the process is starting to listen, or its end is about to be known.
const RECONNECT: Duration = Duration::from_millis(50);
/// What a group of requests that were let go has before the next one follows.
const GROUP_TIME: Duration = Duration::from_millis(20);

/// One who waits.
pub(super) struct Waiter {
    pub(super) choice: Choice,
    pub(super) since: Instant,
    go: oneshot::Sender<Going>,
}

/// A request's turn among those who wait, which it keeps if it has to wait again.
#[derive(Clone, Copy)]
struct Turn {
    arrival: u64,
    since: Instant,
}

/// A request's way to a process that takes it.
pub(super) struct Search<'a> {
    charge: &'a Charge,
    /// Who was asked in vain a moment ago: they are asked again only when nobody else is there, and after a pause.
    refused: Vec<Rc<Upstream>>,
    turn: Option<Turn>,
    deadline: Instant,
}

impl<'a> Search<'a> {
    pub(super) fn new(charge: &'a Charge) -> Self {
        let deadline = Instant::now() + charge.state.parking.longest;
        Self { charge, refused: Vec::new(), turn: None, deadline }
    }

    /// How long it has waited, if it had to.
    pub(super) fn waited(&self) -> Duration {
        self.turn.map_or(Duration::ZERO, |turn| turn.since.elapsed())
    }

    pub(super) fn refused_by(&mut self, upstream: Rc<Upstream>) {
        self.refused.push(upstream);
    }

    /// Waits until somebody who may answer is up; at most until the deadline, and not if too many wait already.
    ///
    /// The second is held until there is an answer, if the request had to wait.
    pub(super) async fn next(&mut self) -> Result<(Rc<Upstream>, Option<Going>), Refusal> {
        let Charge { state, choice } = self.charge;
        let pool = choice.pool(&state.table().routes).ok_or(Refusal::Busy)?;
        // Who waited has its turn already; a new one goes behind those who wait.
        if (self.turn.is_some() || !state.queues.borrow().is_waited_for(pool))
            && let Some(upstream) = choice.now(state, &self.refused)
        {
            return Ok((upstream, None));
        }
        loop {
            if !self.refused.is_empty() {
                self.refused.clear();
                state.hold(choice.pool(&state.table().routes).unwrap_or(pool));
            }
            let going = self.wait().await?;
            if let Some(upstream) = choice.now(state, &[]) {
                return Ok((upstream, Some(going)));
            }
        }
    }

    async fn wait(&mut self) -> Result<Going, Refusal> {
        let Charge { state, choice } = self.charge;
        if state.without_parking {
            return Err(Refusal::Busy);
        }
        let pool = choice.pool(&state.table().routes).ok_or(Refusal::Busy)?;
        let turn = self
            .turn
            .unwrap_or_else(|| Turn { arrival: state.queues.borrow_mut().number(), since: Instant::now() });
        let (go, gone) = oneshot::channel();
        let waiter = Waiter { choice: *choice, since: turn.since, go };
        state.queues.borrow_mut().add(pool, turn.arrival, waiter).map_err(|_| Refusal::Busy)?;
        let unit = state.owner(*choice);
        if let Some(unit) = &unit {
            state.metrics.waits(unit, 1);
        }
        let _parked = Parked { charge: self.charge, turn, unit };
        if self.turn.replace(turn).is_none() {
            self.charge.add(|counts| counts.parked += 1);
        }
        // Somebody of its pool may be up: it only had to get into line.
        state.release(pool);
        match tokio::time::timeout_at(self.deadline, gone).await {
            Ok(Ok(going)) => Ok(going),
            Ok(Err(_)) | Err(_) => Err(Refusal::Busy),
        }
    }
}

/// A place among those who wait; a client that leaves frees it.
struct Parked<'a> {
    charge: &'a Charge,
    turn: Turn,
    /// In whose depth it is counted.
    unit: Option<UnitName>,
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.charge.state.queues.borrow_mut().remove(self.turn.arrival);
        if let Some(unit) = &self.unit {
            self.charge.state.metrics.waits(unit, -1);
        }
        let waited = milliseconds(self.turn.since);
        self.charge.add(|counts| counts.longest_ms = counts.longest_ms.max(waited));
    }
}

pub(super) fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// A request that waited and is with a process now; when it is answered, the next may go.
pub(super) struct Going {
    state: Rc<State>,
    ticket: Ticket,
}

impl Drop for Going {
    fn drop(&mut self) {
        self.state.queues.borrow_mut().give_back(self.ticket);
        self.state.release(self.ticket.pool);
    }
}

impl State {
    /// Lets go who may go of a pool.
    pub(super) fn release(self: &Rc<Self>, pool: usize) {
        if !self.queues.borrow().is_waited_for(pool) || !self.is_served(pool) {
            return;
        }
        loop {
            let next = self.queues.borrow_mut().next(pool);
            let Some((waiter, ticket)) = next else { break };
            // Of one that has left in this instant the turn comes back at once.
            let _ = waiter.go.send(Going { state: Rc::clone(self), ticket });
        }
        let unfinished = self.queues.borrow_mut().unfinished(pool);
        if let Some(group) = unfinished {
            let state = Rc::clone(self);
            tokio::task::spawn_local(async move {
                tokio::time::sleep(GROUP_TIME).await;
                state.queues.borrow_mut().finish(group);
                state.release(group.pool);
            });
        }
    }

    /// Lets nobody of a pool go for a moment: all of it refused.
    fn hold(self: &Rc<Self>, pool: usize) {
        if self.queues.borrow_mut().hold(pool) {
            let state = Rc::clone(self);
            tokio::task::spawn_local(async move {
                tokio::time::sleep(RECONNECT).await;
                state.queues.borrow_mut().let_go(pool);
                state.release(pool);
            });
        }
    }
}
