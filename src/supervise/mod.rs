//! The supervisor's decisions: inputs in, effects out, no process, clock or file in sight.
//!
//! The shell calls [`Supervisor::handle`] for what happened and [`Supervisor::handle_timeout`] when the time of
//! [`Supervisor::poll_timeout`] has come, and after each carries out what [`Supervisor::poll_effect`] gives.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use crate::topology::UnitName;
use crate::wire::Incarnation;

mod backoff;
mod change;
mod event;
mod order;
mod retired;
mod unit;

pub use event::Change;
pub use event::Effect;
pub use event::Ending;
pub use event::Exit;
pub use event::Input;
pub use event::Kept;
pub use event::Life;
pub use event::Outcome;
pub use event::Spec;
pub use event::Ticket;
pub use event::Time;
pub use event::Verb;
pub use event::When;
pub use retired::Retired;

use change::Changing;
use order::Pending;
use unit::Blame;
use unit::Event;
use unit::Flight;
use unit::State;
use unit::Unit;

/// The time limits of stopping, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// How long requests in flight may take before a planned stop.
    pub drain_timeout: u64,
    /// From SIGTERM to SIGKILL.
    pub stop_timeout: u64,
    /// How long a process may finish beside its successor, before SIGTERM.
    pub retire_timeout: u64,
}

/// A unit as `status` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitStatus {
    pub name: UnitName,
    /// One word: down, waiting, starting, ready, draining, stopping, killing, backoff or failed.
    pub state: &'static str,
    pub since: Time,
    pub incarnation: Incarnation,
    /// How often it ended without being asked to.
    pub restarts: u32,
    /// Why it last ended unasked.
    pub reason: Option<String>,
    /// When a unit in backoff or failed is tried again.
    pub retry_at: Option<Time>,
    /// Units that it waits for.
    pub waits_for: Vec<UnitName>,
    /// Whether a process shall run.
    pub wanted: bool,
    /// Whether it is on its way out for good.
    pub leaving: bool,
    /// Processes that finish beside the present one, the oldest first.
    pub retired: Vec<Retired>,
}

/// The state machine of all units.
#[derive(Debug)]
pub struct Supervisor {
    policy: Policy,
    units: BTreeMap<UnitName, Unit>,
    /// The last incarnations of units that were forgotten, should one of that name come again.
    past: BTreeMap<UnitName, Incarnation>,
    pending: Vec<Pending>,
    changing: Option<Changing>,
    effects: VecDeque<Effect>,
    /// How many batches there have been.
    batches: u64,
    random: u64,
    shutting_down: bool,
    finished: bool,
}

impl Supervisor {
    /// `seed` decides the jitter of restart delays and nothing else.
    pub fn new(policy: Policy, seed: u64) -> Self {
        Self {
            policy,
            units: BTreeMap::new(),
            past: BTreeMap::new(),
            pending: Vec::new(),
            changing: None,
            effects: VecDeque::new(),
            batches: 0,
            random: seed,
            shutting_down: false,
            finished: false,
        }
    }

    /// Takes note of something that happened.
    pub fn handle(&mut self, input: Input, now: Time) {
        match input {
            Input::Adopt(kept) => {
                for kept in kept {
                    let name = kept.spec.name.clone();
                    let unit = Unit::adopted(kept, now, &self.policy, &mut self.effects);
                    self.units.insert(name, unit);
                }
            }
            Input::Desire(specs) => self.desire(specs, now),
            Input::Change(ticket, change) => self.change(ticket, change, now),
            Input::Order(ticket, verb, names) => self.order(ticket, verb, names),
            Input::Ready(life) => self.step(&life, Event::Ready, now),
            Input::Exited { life, exit, detail } => {
                let reason = detail.map_or_else(|| exit.to_string(), |detail| format!("{exit}: {detail}"));
                self.step(&life, Event::Ended(reason, Blame::Unit), now);
            }
            Input::StartFailed(life, reason) => {
                self.step(&life, Event::Ended(reason, Blame::Machine), now);
            }
            Input::Drained(life) => self.step(&life, Event::Drained, now),
            Input::Stuck(life, reason) => self.step(&life, Event::Stuck(reason), now),
            Input::Shutdown => {
                self.shutting_down = true;
                self.batches += 1;
                for unit in self.units.values_mut() {
                    unit.wanted = false;
                    unit.batch = self.batches;
                }
            }
        }
        self.settle(now);
    }

    /// Lets deadlines that have passed take effect.
    pub fn handle_timeout(&mut self, now: Time) {
        for name in self.names() {
            self.step_unit(&name, Event::Tick, now);
        }
        self.settle(now);
    }

    /// When [`Self::handle_timeout`] is due next.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.units.values().filter_map(Unit::deadline).min()
    }

    /// Goes by other time limits from now on; a stop that is under way keeps its own.
    pub const fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// The next thing to do, in order.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// The process of a unit that requests may be routed to at this moment.
    pub fn ready(&self, name: &UnitName) -> Option<Life> {
        self.units.get(name).filter(|unit| unit.state == State::Ready).map(Unit::life)
    }

    /// Whether a process finishes beside its successor.
    pub fn is_retired(&self, life: &Life) -> bool {
        self.units.get(&life.unit).is_some_and(|unit| unit.has_retired(life.incarnation))
    }

    /// Every unit, by name.
    pub fn status(&self) -> Vec<UnitStatus> {
        self.units
            .values()
            .map(|unit| UnitStatus {
                name: unit.spec.name.clone(),
                state: word(unit.state),
                since: unit.since,
                incarnation: unit.incarnation,
                restarts: unit.restarts,
                reason: unit.reason.clone(),
                retry_at: match unit.state {
                    State::Backoff { until } | State::Failed { until } => Some(until),
                    State::Down
                    | State::Waiting
                    | State::Starting
                    | State::Ready
                    | State::Draining { .. }
                    | State::Stopping { .. }
                    | State::Killing
                    | State::Stuck { .. } => None,
                },
                wanted: unit.wanted,
                leaving: unit.leaving,
                retired: unit.retired.clone(),
                waits_for: if unit.state == State::Waiting { self.unmet(unit) } else { Vec::new() },
            })
            .collect()
    }

    fn desire(&mut self, specs: Vec<Spec>, now: Time) {
        if self.shutting_down {
            return;
        }
        for spec in specs {
            self.units.entry(spec.name.clone()).or_insert_with(|| Unit::new(spec, now));
        }
    }

    fn change(&mut self, ticket: Ticket, change: Change, now: Time) {
        if self.shutting_down {
            self.reply(ticket, Outcome::Failed("synvisor is stopping".to_owned()));
            return;
        }
        if let Some(old) = self.changing.take() {
            self.effects.push_back(old.superseded());
        }
        self.batches += 1;
        self.changing = Some(Changing::begin(ticket, change, &mut self.units, self.batches, now));
        for (name, unit) in self.units.iter_mut().filter(|(_, unit)| unit.incarnation == Incarnation(0)) {
            unit.incarnation = self.past.remove(name).unwrap_or_default();
        }
    }

    fn order(&mut self, ticket: Ticket, verb: Verb, names: Vec<UnitName>) {
        if self.shutting_down && verb != Verb::Stop {
            self.reply(ticket, Outcome::Failed("synvisor is stopping".to_owned()));
            return;
        }
        if let Some(unknown) = names.iter().find(|name| !self.units.contains_key(name)) {
            let known: Vec<&str> = self.units.keys().map(UnitName::as_str).collect();
            let text = format!("there is no unit {unknown}; the units are {}", known.join(", "));
            self.reply(ticket, Outcome::Failed(text));
            return;
        }
        if verb == Verb::Stop {
            self.pending.iter_mut().for_each(|pending| pending.leave_out(&names));
        }
        self.pending.push(Pending::new(ticket, verb, names));
    }

    /// Brings every unit as far as it can go now, then answers the orders that are done.
    fn settle(&mut self, now: Time) {
        loop {
            self.batches += 1;
            let (batch, units, effects) = (self.batches, &mut self.units, &mut self.effects);
            let mut given = false;
            for pending in &mut self.pending {
                given |= pending.advance(units, batch, effects);
            }
            if let Some(changing) = &mut self.changing {
                given |= changing.advance(units, effects);
            }
            // A step can only open the way for units of another stage, so this ends after a few rounds.
            let mut moved = false;
            while self.settle_once(now) {
                moved = true;
            }
            if !given && !moved {
                break;
            }
        }
        let (units, effects) = (&self.units, &mut self.effects);
        if let Some(reply) = self.changing.as_ref().and_then(|changing| changing.outcome(units)) {
            effects.push_back(reply);
            self.changing = None;
        }
        self.pending.retain(|pending| match pending.outcome(units) {
            Some(reply) => {
                effects.push_back(reply);
                false
            }
            None => true,
        });
        for unit in self.units.values_mut() {
            unit.unlisten(now, &mut self.effects);
        }
        if self.shutting_down && !self.finished && self.units.values().all(Unit::is_gone) {
            self.finished = true;
            self.effects.push_back(Effect::Finished);
        }
    }

    /// Whether anything changed.
    fn settle_once(&mut self, now: Time) -> bool {
        let mut changed = false;
        for name in self.names() {
            let Some(unit) = self.units.get(&name) else { continue };
            let before = unit.state;
            if unit.falling() {
                if !unit.alive() && unit.retired.is_empty() || self.may_fall(unit) {
                    self.step_unit(&name, Event::Stop, now);
                }
            } else if unit.leaving {
                self.past.insert(name.clone(), unit.incarnation);
                self.units.remove(&name);
                self.effects.push_back(Effect::Forget(name));
                changed = true;
                continue;
            } else if unit.wanted && !unit.held && matches!(unit.state, State::Down | State::Waiting) {
                if self.unmet(unit).is_empty() {
                    self.step_unit(&name, Event::Go, now);
                } else if let Some(unit) = self.units.get_mut(&name)
                    && unit.state == State::Down
                {
                    unit.state = State::Waiting;
                    unit.since = now;
                }
            }
            changed |= self.units.get(&name).is_some_and(|unit| unit.state != before);
        }
        for name in self.names() {
            if self.units.get(&name).is_some_and(|unit| self.may_be_released(unit)) {
                self.step_unit(&name, Event::Release, now);
                changed = true;
            }
        }
        changed
    }

    /// Whether a unit's turn to stop has come. What stops for good goes down in stages. What restarts goes down together,
    /// but for services, which outlast those that use them.
    fn may_fall(&self, unit: &Unit) -> bool {
        let mut above =
            self.units.values().filter(|other| other.falling() && other.spec.stage > unit.spec.stage);
        unit.wanted && unit.spec.stage > 0 || above.next().is_none()
    }

    /// Whether a unit may be told to end: when everybody of its batch is quiet or overdue, and the quiet ones after the
    /// overdue, whose last requests may need them.
    fn may_be_released(&self, unit: &Unit) -> bool {
        let State::Draining { flight, .. } = unit.state else { return false };
        let needs_it = |other: &Unit| match other.state {
            State::Draining { flight: Flight::Busy, .. } => true,
            State::Draining { flight: Flight::Overdue, .. } | State::Stopping { overdue: true, .. } => {
                flight == Flight::Quiet
            }
            State::Draining { flight: Flight::Quiet, .. }
            | State::Stopping { overdue: false, .. }
            | State::Down
            | State::Waiting
            | State::Starting
            | State::Ready
            | State::Killing
            | State::Stuck { .. }
            | State::Backoff { .. }
            | State::Failed { .. } => false,
        };
        !self.units.values().any(|other| other.batch == unit.batch && needs_it(other))
    }

    /// What a unit needs that is not there.
    fn unmet(&self, unit: &Unit) -> Vec<UnitName> {
        unit.spec
            .needs
            .iter()
            .filter(|(name, when)| {
                // A unit that does not exist cannot be waited for.
                self.units.get(name).is_some_and(|needed| match when {
                    When::ReadyNow => needed.state != State::Ready,
                    When::ReadyOnce => !needed.ever_ready,
                    When::Settled => needed.wanted && !needed.settled(),
                })
            })
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// News of a process counts only while that process is its unit's present one; of a retired one, its end.
    fn step(&mut self, life: &Life, event: Event, now: Time) {
        if let Some(unit) = self.units.get_mut(&life.unit)
            && unit.has_retired(life.incarnation)
        {
            if matches!(event, Event::Ended(..)) {
                unit.retired.retain(|retired| retired.incarnation != life.incarnation);
            }
            return;
        }
        let present = self.units.get(&life.unit).is_some_and(|unit| unit.incarnation == life.incarnation);
        if present {
            self.step_unit(&life.unit, event, now);
        }
    }

    fn step_unit(&mut self, name: &UnitName, event: Event, now: Time) {
        let jitter = self.next_random();
        if let Some(unit) = self.units.get_mut(name) {
            unit.step(event, now, &self.policy, jitter, &mut self.effects);
        }
    }

    fn names(&self) -> Vec<UnitName> {
        self.units.keys().cloned().collect()
    }

    fn reply(&mut self, ticket: Ticket, outcome: Outcome) {
        self.effects.push_back(Effect::Reply(ticket, outcome));
    }

    /// SplitMix64: restart delays need spread, not secrecy.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

const fn word(state: State) -> &'static str {
    match state {
        State::Down => "down",
        State::Waiting => "waiting",
        State::Starting => "starting",
        State::Ready => "ready",
        State::Draining { .. } => "draining",
        State::Stopping { .. } | State::Stuck { killed: false, .. } => "stopping",
        State::Killing | State::Stuck { killed: true, .. } => "killing",
        State::Backoff { .. } => "backoff",
        State::Failed { .. } => "failed",
    }
}

#[cfg(test)]
mod tests;
