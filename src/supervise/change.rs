//! A change of which units there are and what they run with: who is concerned goes down together and comes up in stages.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use crate::topology::UnitName;
use crate::wire::Incarnation;

use super::event::Change;
use super::event::Effect;
use super::event::Outcome;
use super::event::Ticket;
use super::event::Time;
use super::unit::State;
use super::unit::Unit;

/// A change that is not answered yet.
#[derive(Clone, Debug)]
pub(super) struct Changing {
    ticket: Ticket,
    leave: Vec<UnitName>,
    /// Everybody who comes up again.
    members: Vec<UnitName>,
    /// Who has not been let up yet.
    stages: VecDeque<Vec<UnitName>>,
    /// Whether everybody was down once.
    rising: bool,
    /// Whom it waits for now: READY in this incarnation or a later one.
    goals: Vec<(UnitName, Incarnation)>,
}

impl Changing {
    /// Takes down whom the change concerns. Units that were stopped by order stay as they are.
    pub(super) fn begin(
        ticket: Ticket,
        change: Change,
        units: &mut BTreeMap<UnitName, Unit>,
        batch: u64,
        now: Time,
    ) -> Self {
        // What a change that failed, or that this one replaces, has left undone is done with this one.
        let names = |units: &BTreeMap<UnitName, Unit>, which: fn(&Unit) -> bool| {
            units.values().filter(|unit| which(unit)).map(|unit| unit.spec.name.clone()).collect::<Vec<_>>()
        };
        let (mut waiting, mut leave) = (names(units, |unit| unit.held), names(units, |unit| unit.leaving));
        for name in &change.leave {
            if let Some(unit) = units.get_mut(name) {
                unit.wanted = false;
                unit.leaving = true;
                unit.batch = batch;
            }
        }
        for spec in change.enter {
            let unit = units.entry(spec.name.clone()).or_insert_with(|| Unit::new(spec.clone(), now));
            // One that was on its way out comes back.
            unit.wanted |= unit.leaving;
            unit.leaving = false;
            unit.spec = spec;
        }
        let mut members: Vec<UnitName> = change.stages.iter().flatten().cloned().collect();
        for name in &members {
            let Some(unit) = units.get_mut(name) else { continue };
            unit.held = true;
            if unit.wanted {
                unit.pardon();
                unit.replace = unit.state != State::Down;
                unit.batch = batch;
            }
        }
        leave.extend(change.leave);
        leave.retain(|name| units.get(name).is_some_and(|unit| unit.leaving));
        waiting.retain(|name| !members.contains(name) && !leave.contains(name));
        members.extend(waiting.clone());
        let mut stages = VecDeque::from(change.stages);
        stages.push_back(waiting);
        Self { ticket, leave, members, stages, rising: false, goals: Vec::new() }
    }

    /// Lets the next stage up if it is its turn; says whether anything was let.
    pub(super) fn advance(
        &mut self,
        units: &mut BTreeMap<UnitName, Unit>,
        effects: &mut VecDeque<Effect>,
    ) -> bool {
        let ticket = self.ticket;
        self.goals.retain(|(name, at_least)| {
            let there = reached(name, *at_least, units.get(name)) == Ok(true);
            if there {
                effects.push_back(Effect::Reached(ticket, name.clone()));
            }
            !there
        });
        if !self.rising && self.is_down(units) {
            self.rising = true;
            effects.push_back(Effect::AllDown(ticket));
        }
        if !self.rising || !self.goals.is_empty() {
            return false;
        }
        let Some(stage) = self.stages.pop_front() else { return false };
        for name in stage {
            if let Some(unit) = units.get_mut(&name) {
                unit.held = false;
                self.goals.push((name, Incarnation(unit.incarnation.0 + 1)));
            }
        }
        true
    }

    /// The answer, once there is one. Who has not been let up when it fails stays down for the change that mends it.
    pub(super) fn outcome(&self, units: &BTreeMap<UnitName, Unit>) -> Option<Effect> {
        for (name, at_least) in &self.goals {
            if let Err(why) = reached(name, *at_least, units.get(name)) {
                return Some(Effect::Reply(self.ticket, Outcome::Failed(why)));
            }
        }
        let done = self.rising && self.stages.is_empty() && self.goals.is_empty();
        done.then_some(Effect::Reply(self.ticket, Outcome::Done))
    }

    /// The answer to a change that another one takes the place of.
    pub(super) fn superseded(&self) -> Effect {
        Effect::Reply(self.ticket, Outcome::Failed("another change took its place".to_owned()))
    }

    /// Whether nobody is left of who was there before.
    fn is_down(&self, units: &BTreeMap<UnitName, Unit>) -> bool {
        let down = |unit: &Unit| !unit.alive() && !unit.falling();
        self.leave.iter().all(|name| !units.contains_key(name))
            && self.members.iter().all(|name| units.get(name).is_none_or(down))
    }
}

/// Whether a unit is where the change wants it: one that was stopped meanwhile, by order, need not be ready.
fn reached(name: &UnitName, at_least: Incarnation, unit: Option<&Unit>) -> Result<bool, String> {
    let Some(unit) = unit.filter(|unit| unit.wanted) else { return Ok(true) };
    if unit.stillborn >= Some(at_least) {
        return Err(format!("{name} did not start: {}", unit.reason.as_deref().unwrap_or("no reason known")));
    }
    Ok(unit.state == State::Ready && unit.incarnation >= at_least)
}
