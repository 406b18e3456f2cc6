//! One unit: its state, and the step that every event makes in every state.

use std::collections::VecDeque;

use crate::wire::Incarnation;

use super::Policy;
use super::backoff::Backoff;
use super::backoff::Verdict;
use super::event::Effect;
use super::event::Ending;
use super::event::Kept;
use super::event::Life;
use super::event::Spec;
use super::event::Time;
use super::retired;
use super::retired::Retired;

/// Where a unit is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// No process, and none wanted.
    Down,
    /// Wanted, but a unit that it needs is not ready.
    Waiting,
    /// A process exists that has not said READY.
    Starting,
    Ready,
    /// Asked to stop; requests in flight may finish until then. Once it is quiet it waits for the rest of its batch,
    /// whose last requests may need it.
    Draining {
        until: Time,
        flight: Flight,
    },
    /// SIGTERM sent; SIGKILL follows then. Who was overdue is still answering.
    Stopping {
        until: Time,
        overdue: bool,
    },
    /// SIGKILL sent.
    Killing,
    /// It did not answer any more: SIGTERM sent, SIGKILL follows then, unless it was sent. Its end is an unasked one, and
    /// what follows is decided.
    Stuck {
        until: Time,
        killed: bool,
        then: Verdict,
    },
    /// Ended by itself; started again then.
    Backoff {
        until: Time,
    },
    /// Ended too often without READY; tried again then.
    Failed {
        until: Time,
    },
}

/// The requests of a unit that is asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flight {
    /// Some are answered still.
    Busy,
    /// Some are, and outlasted the drain: it is told to end, and has as long as that takes.
    Overdue,
    /// None is left.
    Quiet,
}

impl State {
    /// Whether a process may exist.
    const fn alive(self) -> bool {
        match self {
            Self::Starting
            | Self::Ready
            | Self::Draining { .. }
            | Self::Stopping { .. }
            | Self::Killing
            | Self::Stuck { .. } => true,
            Self::Down | Self::Waiting | Self::Backoff { .. } | Self::Failed { .. } => false,
        }
    }
}

/// What can happen to a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// It may start: it is wanted and what it needs is there.
    Go,
    /// Its process, if any, shall end.
    Stop,
    Ready,
    /// Its process ended or could not be started: why, and what that says of the unit.
    Ended(String, Blame),
    /// Its process does not answer any more.
    Stuck(String),
    Drained,
    /// Nobody of its batch needs it any more.
    Release,
    /// Time passed.
    Tick,
}

/// What an end before READY says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blame {
    /// Something is wrong with the unit.
    Unit,
    /// Nothing of it ran: the machine had no room for it.
    Machine,
}

#[derive(Clone, Debug)]
pub(super) struct Unit {
    pub(super) spec: Spec,
    pub(super) state: State,
    /// When `state` was entered.
    pub(super) since: Time,
    pub(super) incarnation: Incarnation,
    /// Whether a process shall run.
    pub(super) wanted: bool,
    /// Whether the present process shall make room for a new one.
    pub(super) replace: bool,
    /// Whether the unit shall be forgotten once it is down.
    pub(super) leaving: bool,
    pub(super) ever_ready: bool,
    /// Why it last ended unasked.
    pub(super) reason: Option<String>,
    /// The last incarnation that ended without READY.
    pub(super) stillborn: Option<Incarnation>,
    /// How often it ended unasked.
    pub(super) restarts: u32,
    /// Whether a change says when it may start.
    pub(super) held: bool,
    /// Units that were asked to stop together.
    pub(super) batch: u64,
    /// Processes that finish beside the present one.
    pub(super) retired: Vec<Retired>,
    /// Whether its sockets are held.
    bound: bool,
    /// When its last process ended.
    ended: Time,
    backoff: Backoff,
}

/// A socket is held only while somebody is due back this soon, in milliseconds: a caller that gave up leaves its request
/// behind, and the next process would carry it out once more.
const HELD: u64 = 30_000;

/// What does not answer cannot finish anything, but may still let go of its locks in the database, which SIGKILL leaves
/// for two minutes (1.163: `synapse/storage/databases/main/lock.py`): in milliseconds.
const STUCK_STOP: u64 = 5_000;

impl Unit {
    pub(super) fn new(spec: Spec, now: Time) -> Self {
        Self {
            spec,
            state: State::Down,
            since: now,
            incarnation: Incarnation(0),
            wanted: true,
            replace: false,
            leaving: false,
            ever_ready: false,
            reason: None,
            stillborn: None,
            restarts: 0,
            held: false,
            batch: 0,
            retired: Vec::new(),
            bound: false,
            ended: now,
            backoff: Backoff::default(),
        }
    }

    /// One that an earlier supervisor had; a process that it had told to end, or to finish, is told once more.
    pub(super) fn adopted(kept: Kept, now: Time, policy: &Policy, effects: &mut VecDeque<Effect>) -> Self {
        let Kept { spec, incarnation, alive, ending, wanted, leaving, retired } = kept;
        let retire =
            |incarnation| Retired::new(Life { unit: spec.name.clone(), incarnation }, now, policy, effects);
        let retired = retired.into_iter().map(retire).collect();
        let state = match alive {
            Some(true) => State::Ready,
            Some(false) => State::Starting,
            None => State::Down,
        };
        Self {
            state,
            incarnation,
            wanted,
            leaving,
            retired,
            replace: ending && alive.is_some(),
            ever_ready: alive == Some(true),
            bound: spec.inherits && alive.is_some(),
            ..Self::new(spec, now)
        }
    }

    pub(super) fn life(&self) -> Life {
        Life { unit: self.spec.name.clone(), incarnation: self.incarnation }
    }

    /// Whether the unit must come down before anything else can happen to it.
    pub(super) fn falling(&self) -> bool {
        (!self.wanted || self.replace) && self.state != State::Down
            || !self.stays() && !self.retired.is_empty()
    }

    /// Whether it is to have a process from now on; a late order may want one of a unit that leaves.
    const fn stays(&self) -> bool {
        self.wanted && !self.leaving
    }

    /// Whether no process of it is left.
    pub(super) fn is_gone(&self) -> bool {
        self.state == State::Down && self.retired.is_empty()
    }

    /// Whether its present process finishes beside the next one.
    fn hands_over(&self) -> bool {
        self.spec.overlaps && self.stays() && self.replace
    }

    /// Whether this is one of its retired processes.
    pub(super) fn has_retired(&self, incarnation: Incarnation) -> bool {
        self.retired.iter().any(|retired| retired.incarnation == incarnation)
    }

    pub(super) const fn alive(&self) -> bool {
        self.state.alive()
    }

    /// Whether it is READY, or will not be soon.
    pub(super) const fn settled(&self) -> bool {
        match self.state {
            State::Ready | State::Backoff { .. } | State::Failed { .. } => true,
            State::Down
            | State::Waiting
            | State::Starting
            | State::Draining { .. }
            | State::Stopping { .. }
            | State::Killing
            | State::Stuck { .. } => false,
        }
    }

    /// When time alone would change something.
    pub(super) fn deadline(&self) -> Option<Time> {
        let state = match self.state {
            State::Draining { until, flight: Flight::Busy }
            | State::Stopping { until, .. }
            | State::Stuck { until, killed: false, .. }
            | State::Backoff { until }
            | State::Failed { until } => Some(until),
            State::Draining { flight: Flight::Overdue | Flight::Quiet, .. }
            | State::Stuck { killed: true, .. }
            | State::Down
            | State::Waiting
            | State::Starting
            | State::Ready
            | State::Killing => None,
        };
        let retired = self.retired.iter().filter_map(Retired::deadline);
        state.into_iter().chain(self.unlisten_at()).chain(retired).min()
    }

    /// When its sockets are to be closed, if they are held.
    fn unlisten_at(&self) -> Option<Time> {
        let overdue = self.ended.after(HELD);
        match self.state {
            State::Down if !self.wanted => Some(self.ended),
            State::Down | State::Waiting => Some(overdue),
            State::Failed { .. } => Some(self.ended),
            State::Backoff { until } if until > overdue => Some(self.ended),
            State::Backoff { .. }
            | State::Starting
            | State::Ready
            | State::Draining { .. }
            | State::Stopping { .. }
            | State::Killing
            | State::Stuck { .. } => None,
        }
        .filter(|_| self.bound)
    }

    /// Lets go of its sockets when nobody is due back for them.
    pub(super) fn unlisten(&mut self, now: Time, effects: &mut VecDeque<Effect>) {
        if self.unlisten_at().is_some_and(|at| now >= at) {
            self.bound = false;
            effects.push_back(Effect::Unlisten(self.spec.name.clone()));
        }
    }

    /// An administrator's order: what went wrong before no longer counts.
    pub(super) fn pardon(&mut self) {
        self.backoff.forget();
        self.reason = None;
    }

    /// Makes one step; `jitter` is a random number for the delays.
    pub(super) fn step(
        &mut self,
        event: Event,
        now: Time,
        policy: &Policy,
        jitter: u64,
        effects: &mut VecDeque<Effect>,
    ) {
        self.step_retired(&event, now, policy, effects);
        let next = match (self.state, event) {
            (State::Starting | State::Ready, Event::Stop) if self.hands_over() => {
                self.withdraw(effects);
                self.retired.push(Retired::new(self.life(), now, policy, effects));
                State::Down
            }

            (State::Down, Event::Go) => self.start(effects),
            (
                State::Down,
                Event::Stop | Event::Ready | Event::Ended(..) | Event::Drained | Event::Release | Event::Tick,
            ) => State::Down,

            (State::Waiting, Event::Go) => self.start(effects),
            (State::Waiting, Event::Stop) => State::Down,
            (
                State::Waiting,
                Event::Ready | Event::Ended(..) | Event::Drained | Event::Release | Event::Tick,
            ) => State::Waiting,

            (State::Starting, Event::Ready) => {
                self.ever_ready = true;
                self.backoff.ready();
                if self.spec.routed {
                    effects.push_back(Effect::Admit(self.life()));
                }
                State::Ready
            }
            (State::Starting, Event::Stop) => self.terminate(false, now, policy, effects),
            (State::Starting, Event::Ended(reason, blame)) => {
                self.stillborn = Some(self.incarnation);
                self.ended_unasked(reason);
                after(match blame {
                    Blame::Machine => self.backoff.not_started(now, jitter),
                    Blame::Unit => self.backoff.ended_before_ready(now, jitter),
                })
            }
            (State::Starting, Event::Go | Event::Drained | Event::Release | Event::Tick) => State::Starting,

            (State::Ready, Event::Stop) => {
                let flight = if self.spec.routed {
                    effects.push_back(Effect::Drain(self.life()));
                    Flight::Busy
                } else {
                    Flight::Quiet
                };
                State::Draining { until: now.after(policy.drain_timeout), flight }
            }
            (State::Ready, Event::Ended(reason, _)) => {
                self.withdraw(effects);
                self.ended_unasked(reason);
                after(self.backoff.ended_after_ready(self.since, now, jitter))
            }
            (State::Ready, Event::Stuck(reason)) => {
                self.withdraw(effects);
                self.ended_unasked(reason);
                effects.push_back(Effect::Signal(self.life(), Ending::Terminate));
                let then = self.backoff.ended_after_ready(self.since, now, jitter);
                State::Stuck { until: now.after(policy.stop_timeout.min(STUCK_STOP)), killed: false, then }
            }
            (State::Ready, Event::Go | Event::Ready | Event::Drained | Event::Release | Event::Tick) => {
                State::Ready
            }

            (State::Draining { until, .. }, Event::Drained) => {
                State::Draining { until, flight: Flight::Quiet }
            }
            (State::Draining { until, flight: Flight::Busy }, Event::Tick) if now >= until => {
                State::Draining { until, flight: Flight::Overdue }
            }
            (State::Draining { flight, .. }, Event::Release) if flight != Flight::Busy => {
                self.withdraw(effects);
                self.terminate(flight == Flight::Overdue, now, policy, effects)
            }
            (State::Draining { .. }, Event::Ended(..)) => {
                self.withdraw(effects);
                State::Down
            }
            (
                state @ State::Draining { .. },
                Event::Go | Event::Stop | Event::Ready | Event::Release | Event::Tick,
            ) => state,

            (State::Stopping { until, .. }, Event::Tick) if now >= until => {
                effects.push_back(Effect::Signal(self.life(), Ending::Kill));
                State::Killing
            }
            (State::Stopping { .. }, Event::Ended(..)) => State::Down,
            (
                state @ State::Stopping { .. },
                Event::Go | Event::Stop | Event::Ready | Event::Drained | Event::Release | Event::Tick,
            ) => state,

            (State::Killing, Event::Ended(..)) => State::Down,
            (
                State::Killing,
                Event::Go | Event::Stop | Event::Ready | Event::Drained | Event::Release | Event::Tick,
            ) => State::Killing,

            (State::Stuck { until, killed: false, then }, Event::Tick) if now >= until => {
                effects.push_back(Effect::Signal(self.life(), Ending::Kill));
                State::Stuck { until, killed: true, then }
            }
            (State::Stuck { then, .. }, Event::Ended(..)) => after(then),
            (
                state @ State::Stuck { .. },
                Event::Go | Event::Stop | Event::Ready | Event::Drained | Event::Release | Event::Tick,
            ) => state,

            (State::Backoff { until } | State::Failed { until }, Event::Tick) if now >= until => {
                State::Waiting
            }
            (State::Backoff { .. } | State::Failed { .. }, Event::Stop) => State::Down,
            (
                state @ (State::Backoff { .. } | State::Failed { .. }),
                Event::Go | Event::Ready | Event::Ended(..) | Event::Drained | Event::Release | Event::Tick,
            ) => state,

            // Who has not been READY may be slow, and who is on the way out is given a time for that.
            (
                state @ (State::Down
                | State::Waiting
                | State::Starting
                | State::Draining { .. }
                | State::Stopping { .. }
                | State::Killing
                | State::Stuck { .. }
                | State::Backoff { .. }
                | State::Failed { .. }),
                Event::Stuck(_),
            ) => state,
        };
        if self.alive() && !next.alive() {
            self.ended = now;
        }
        if next != self.state {
            self.state = next;
            self.since = now;
        }
        if self.state == State::Down {
            self.replace = false;
        }
    }

    fn step_retired(&mut self, event: &Event, now: Time, policy: &Policy, effects: &mut VecDeque<Effect>) {
        let event = match event {
            // What is only replaced leaves those alone that were replaced before.
            Event::Stop if self.stays() => return,
            Event::Stop => retired::Event::Stop,
            Event::Tick => retired::Event::Tick,
            Event::Go
            | Event::Ready
            | Event::Stuck(_)
            | Event::Ended(..)
            | Event::Drained
            | Event::Release => return,
        };
        for retired in &mut self.retired {
            retired.step(&self.spec.name, event, now, policy, effects);
        }
    }

    fn start(&mut self, effects: &mut VecDeque<Effect>) -> State {
        self.bound = self.spec.inherits;
        self.incarnation = Incarnation(self.incarnation.0 + 1);
        effects.push_back(Effect::Start(self.life()));
        State::Starting
    }

    fn terminate(&self, overdue: bool, now: Time, policy: &Policy, effects: &mut VecDeque<Effect>) -> State {
        effects.push_back(Effect::Signal(self.life(), Ending::Terminate));
        State::Stopping { until: now.after(policy.stop_timeout), overdue }
    }

    fn withdraw(&self, effects: &mut VecDeque<Effect>) {
        if self.spec.routed {
            effects.push_back(Effect::Withdraw(self.spec.name.clone()));
        }
    }

    fn ended_unasked(&mut self, reason: String) {
        self.restarts = self.restarts.saturating_add(1);
        self.reason = Some(reason);
    }
}

const fn after(verdict: Verdict) -> State {
    match verdict {
        Verdict::Now => State::Waiting,
        Verdict::At(until) => State::Backoff { until },
        Verdict::Failed(until) => State::Failed { until },
    }
}
