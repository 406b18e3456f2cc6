//! An administrator's order and when it counts as carried out.

use std::collections::BTreeMap;

use crate::topology::UnitName;
use crate::wire::Incarnation;

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
    pub(super) ticket: Ticket,
    pub(super) goals: Vec<(UnitName, Goal)>,
}

/// Marks a unit with what was ordered.
pub(super) fn give(unit: &mut Unit, verb: Verb) -> Goal {
    let next = Incarnation(unit.incarnation.0 + 1);
    match verb {
        Verb::Stop => {
            unit.wanted = false;
            Goal::Down
        }
        Verb::Restart => {
            unit.pardon();
            unit.wanted = true;
            unit.replace = unit.state != State::Down;
            Goal::Ready(next)
        }
        Verb::Start => {
            let running = unit.wanted && !unit.replace && unit.alive();
            unit.wanted = true;
            if running {
                return Goal::Ready(unit.incarnation);
            }
            unit.pardon();
            // It does not sit out a delay that was meant for automatic restarts.
            unit.replace |= matches!(unit.state, State::Backoff { .. } | State::Failed { .. });
            Goal::Ready(next)
        }
    }
}

impl Pending {
    /// The answer, once there is one.
    pub(super) fn outcome(&self, units: &BTreeMap<UnitName, Unit>) -> Option<Outcome> {
        let mut done = true;
        for (name, goal) in &self.goals {
            match reached(name, *goal, units.get(name)) {
                Ok(reached) => done &= reached,
                Err(why) => return Some(Outcome::Failed(why)),
            }
        }
        done.then_some(Outcome::Done)
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
        Goal::Down if unit.state == State::Down => Ok(true),
        Goal::Down if unit.wanted => Err(format!("{name} was started again by a later order")),
        Goal::Down => Ok(false),
        Goal::Ready(at_least) if unit.stillborn >= Some(at_least) => {
            Err(format!("{name} did not start: {}", unit.reason.as_deref().unwrap_or("no reason known")))
        }
        Goal::Ready(_) if !unit.wanted => Err(format!("{name} was stopped by a later order")),
        Goal::Ready(at_least) => Ok(unit.state == State::Ready && unit.incarnation >= at_least),
    }
}
