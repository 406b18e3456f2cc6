//! Processes that outgrow `max_memory` are restarted, as gracefully as an administrator would.

use crate::render;
use crate::supervise::Input;
use crate::supervise::Ticket;
use crate::supervise::Verb;
use crate::sys::clock;
use crate::sys::process;
use crate::topology::UnitName;

use super::Driver;

/// A limit below what a process starts with must not keep it from all work.
const LEAST_LIFE_MS: u64 = 30_000;

impl Driver {
    /// Restarts what has outgrown its limit: memory grows over minutes, and a look costs one read of a file for each
    /// process that has one.
    pub(super) fn recycle(&mut self) {
        for unit in self.outgrown() {
            self.tickets += 1;
            self.input(Input::Order(Ticket(self.tickets), Verb::Restart { at_once: false }, vec![unit]));
        }
    }

    fn outgrown(&self) -> Vec<UnitName> {
        let now = clock::now();
        let old = |name: &UnitName| {
            self.core.status().into_iter().any(|unit| {
                unit.name == *name && unit.state == "ready" && now.since(unit.since) >= LEAST_LIFE_MS
            })
        };
        let too_big = |(pid, life): (i32, &crate::supervise::Life)| {
            let unit = self.running.topology.unit(&life.unit)?;
            let most = render::unit_settings(&self.running.config, unit).max_memory?;
            let used = process::resident(pid).filter(|used| *used > most)?;
            old(&unit.name).then(|| {
                let mib = |bytes: u64| bytes >> 20;
                tracing::warn!(
                    "{} has grown to {} MiB, more than its max_memory of {} MiB: it is restarted",
                    unit.name,
                    mib(used),
                    mib(most)
                );
                unit.name.clone()
            })
        };
        self.pids.iter().filter_map(too_big).collect()
    }
}
