//! When a unit went and came, for the account that an order gives of itself.

use std::collections::BTreeMap;

use crate::supervise::Time;
use crate::topology::UnitName;

#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    /// It got no new requests from then on.
    left: Option<Time>,
    ended: Option<Time>,
    began: Option<Time>,
    ready: Option<Time>,
}

/// How long the last restart of a unit took, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Spans {
    pub(super) stop: Option<u64>,
    pub(super) start: Option<u64>,
    pub(super) gap: Option<u64>,
}

/// The last departure and arrival of every unit.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    units: BTreeMap<UnitName, Moments>,
}

impl Timeline {
    /// It leaves: a stop begins. What is said of one that has left already changes nothing.
    pub(super) fn leaves(&mut self, unit: &UnitName, now: Time) {
        let moments = self.units.entry(unit.clone()).or_default();
        if moments.left.is_none() || moments.ready >= moments.left {
            *moments = Moments { left: Some(now), ..Moments::default() };
        }
    }

    pub(super) fn ended(&mut self, unit: &UnitName, now: Time) {
        self.leaves(unit, now);
        let moments = self.units.entry(unit.clone()).or_default();
        // A successor that ends before it was ready is part of the start.
        if moments.began.is_none() {
            moments.ended = Some(now);
        }
    }

    pub(super) fn begins(&mut self, unit: &UnitName, now: Time) {
        self.units.entry(unit.clone()).or_default().began = Some(now);
    }

    pub(super) fn ready(&mut self, unit: &UnitName, now: Time) {
        self.units.entry(unit.clone()).or_default().ready = Some(now);
    }

    pub(super) fn spans(&self, unit: &UnitName) -> Spans {
        let Moments { left, ended, began, ready } = self.units.get(unit).copied().unwrap_or_default();
        let span = |from: Option<Time>, to: Option<Time>| Some(to?.since(from?));
        Spans { stop: span(left, ended), start: span(began, ready), gap: span(left, ready) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_is_measured_from_the_last_new_request_to_ready() {
        // Mutation: every end counted, and a second departure taken for another stop: both seen red.
        let (unit, mut timeline) = (UnitName::main(), Timeline::default());
        let spans = |stop, start, gap| Spans { stop, start, gap };
        timeline.begins(&unit, Time(10));
        timeline.ready(&unit, Time(110));
        assert_eq!(timeline.spans(&unit), spans(None, Some(100), None));
        timeline.leaves(&unit, Time(1_000));
        timeline.leaves(&unit, Time(1_040));
        timeline.ended(&unit, Time(1_050));
        assert_eq!(timeline.spans(&unit), spans(Some(50), None, None));
        timeline.begins(&unit, Time(1_051));
        timeline.ready(&unit, Time(1_200));
        assert_eq!(timeline.spans(&unit), spans(Some(50), Some(149), Some(200)));
        // What the way to READY took, one try that failed included.
        timeline.leaves(&unit, Time(1_300));
        timeline.ended(&unit, Time(1_310));
        timeline.begins(&unit, Time(1_310));
        timeline.ended(&unit, Time(1_400));
        timeline.begins(&unit, Time(1_400));
        timeline.ready(&unit, Time(1_500));
        assert_eq!(timeline.spans(&unit), spans(Some(10), Some(100), Some(200)));
        // A crash: it leaves as it ends.
        timeline.ended(&unit, Time(2_000));
        assert_eq!(timeline.spans(&unit), spans(Some(0), None, None));
    }
}
