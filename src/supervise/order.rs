//! An administrator's order and when it counts as carried out.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use crate::topology::UnitName;
use crate::wire::Incarnation;

use super::event::Effect;
use super::event::Outcome;
use super::event::Ticket;
use super::event::Verb;
use super::unit::State;
use super::unit::Unit;

/// What an order wants of one unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// READY in this incarnation or a later one.
    Ready(Incarnation),
    Down,
}

/// An order that is not answered yet.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    ticket: Ticket,
    verb: Verb,
    /// What of it was given so far, and whether it was told that the goal is reached.
    goals: Vec<(UnitName, Goal, bool)>,
    /// Units that it goes on with, one at a time.
    rest: VecDeque<UnitName>,
}

/// Marks a unit with what was ordered.
fn give(unit: &mut Unit, verb: Verb, batch: u64) -> Goal {
    let next = Incarnation(unit.incarnation.0 + 1);
    // One that goes down in company already stays in it, unless it is to go down with others now.
    if verb != (Verb::Restart { at_once: false }) || !matches!(unit.state, State::Draining { .. }) {
        unit.batch = batch;
    }
    match verb {
        Verb::Stop => {
            unit.wanted = false;
            Goal::Down
        }
        Verb::Restart { .. } => {
            unit.pardon();
            unit.wanted = true;
            unit.replace = unit.state != State::Down;
            Goal::Ready(next)
        }
        Verb::Start => {
            // One whose turn to stop had not come runs on.
            let running = !unit.replace && matches!(unit.state, State::Starting | State::Ready);
            unit.wanted = true;
            if running {
                return Goal::Ready(unit.incarnation);
            }
            unit.pardon();
            // It does not sit out a delay that was meant for automatic restarts.
            unit.replace |=
                matches!(unit.state, State::Backoff { .. } | State::Failed { .. } | State::Stuck { .. });
            Goal::Ready(next)
        }
    }
}

impl Pending {
    pub(super) fn new(ticket: Ticket, verb: Verb, units: Vec<UnitName>) -> Self {
        Self { ticket, verb, goals: Vec::new(), rest: units.into() }
    }

    /// Leaves out units that a later order stops.
    pub(super) fn leave_out(&mut self, units: &[UnitName]) {
        self.rest.retain(|unit| !units.contains(unit));
    }

    /// Gives what of the order is due: everything, or the next unit once all before it have reached their goal.
    /// Says whether something was given.
    pub(super) fn advance(
        &mut self,
        units: &mut BTreeMap<UnitName, Unit>,
        batch: u64,
        effects: &mut VecDeque<Effect>,
    ) -> bool {
        for (name, goal, told) in &mut self.goals {
            if !*told && reached(name, *goal, units.get(name)) == Ok(true) {
                *told = true;
                effects.push_back(Effect::Reached(self.ticket, name.clone()));
            }
        }
        let together = match self.verb {
            Verb::Start | Verb::Stop | Verb::Restart { at_once: true } => true,
            Verb::Restart { at_once: false } => false,
        };
        let due = match (together, self.goals.iter().all(|(_, _, told)| *told)) {
            (true, _) => self.rest.len(),
            (false, true) => 1,
            (false, false) => 0,
        };
        let due = self.rest.drain(..due.min(self.rest.len())).collect::<Vec<_>>();
        for name in &due {
            // One that was removed meanwhile has nothing to reach.
            if let Some(unit) = units.get_mut(name) {
                self.goals.push((name.clone(), give(unit, self.verb, batch), false));
            }
        }
        !due.is_empty()
    }

    /// The answer, once there is one.
    pub(super) fn outcome(&self, units: &BTreeMap<UnitName, Unit>) -> Option<Effect> {
        let mut done = self.rest.is_empty();
        for (name, goal, _) in &self.goals {
            match reached(name, *goal, units.get(name)) {
                Ok(reached) => done &= reached,
                Err(why) => return Some(Effect::Reply(self.ticket, Outcome::Failed(self.and_the_rest(why)))),
            }
        }
        done.then_some(Effect::Reply(self.ticket, Outcome::Done))
    }

    fn and_the_rest(&self, why: String) -> String {
        if self.rest.is_empty() {
            return why;
        }
        let rest: Vec<&str> = self.rest.iter().map(UnitName::as_str).collect();
        format!("{why}\n  left as they were: {}", rest.join(", "))
    }
}

fn reached(name: &UnitName, goal: Goal, unit: Option<&Unit>) -> Result<bool, String> {
    let Some(unit) = unit else {
        return match goal {
            Goal::Down => Ok(true),
            Goal::Ready(_) => Err(format!("{name} was removed from the configuration")),
        };
    };
    match goal {
        Goal::Down if unit.is_gone() => Ok(true),
        Goal::Down if unit.wanted => Err(format!("{name} was started again by a later order")),
        Goal::Down => Ok(false),
        Goal::Ready(at_least) if unit.stillborn >= Some(at_least) => {
            Err(format!("{name} did not start: {}", unit.reason.as_deref().unwrap_or("no reason known")))
        }
        Goal::Ready(_) if !unit.wanted => Err(format!("{name} was stopped by a later order")),
        Goal::Ready(at_least) => Ok(unit.state == State::Ready && unit.incarnation >= at_least),
    }
}
