//! Processes that have made room for their successor and finish what they have beside it.

use std::collections::VecDeque;

use crate::topology::UnitName;
use crate::wire::Incarnation;

use super::Policy;
use super::event::Effect;
use super::event::Ending;
use super::event::Life;
use super::event::Time;

/// A process of a unit that is no longer its unit's present one, as `status` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retired {
    pub incarnation: Incarnation,
    phase: Phase,
}

/// Where it is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It ends by itself when it has finished; SIGTERM then.
    Finishing { until: Time },
    /// SIGTERM sent; SIGKILL follows then.
    Stopping { until: Time },
    /// SIGKILL sent.
    Killing,
}

/// What can happen to it, short of its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Its unit shall have no process any more.
    Stop,
    /// Time passed.
    Tick,
}

impl Retired {
    /// Tells the process to finish.
    pub(super) fn new(life: Life, now: Time, policy: &Policy, effects: &mut VecDeque<Effect>) -> Self {
        let incarnation = life.incarnation;
        effects.push_back(Effect::Retire(life));
        Self { incarnation, phase: Phase::Finishing { until: now.after(policy.retire_timeout) } }
    }

    pub(super) fn step(
        &mut self,
        unit: &UnitName,
        event: Event,
        now: Time,
        policy: &Policy,
        effects: &mut VecDeque<Effect>,
    ) {
        let mut signal = |ending| {
            let life = Life { unit: unit.clone(), incarnation: self.incarnation };
            effects.push_back(Effect::Signal(life, ending));
        };
        self.phase = match (self.phase, event) {
            (Phase::Finishing { until }, Event::Tick) if now < until => Phase::Finishing { until },
            (Phase::Finishing { .. }, Event::Stop | Event::Tick) => {
                signal(Ending::Terminate);
                Phase::Stopping { until: now.after(policy.stop_timeout) }
            }
            (Phase::Stopping { until }, Event::Tick) if now >= until => {
                signal(Ending::Kill);
                Phase::Killing
            }
            (phase @ Phase::Stopping { .. }, Event::Stop | Event::Tick) => phase,
            (Phase::Killing, Event::Stop | Event::Tick) => Phase::Killing,
        };
    }

    /// When it is told to end, or made to; none once it was killed.
    pub const fn deadline(&self) -> Option<Time> {
        match self.phase {
            Phase::Finishing { until } | Phase::Stopping { until } => Some(until),
            Phase::Killing => None,
        }
    }
}
