//! What children say, and how they end.

use crate::supervise::Exit;
use crate::supervise::Input;
use crate::sys::clock;
use crate::sys::fs;
use crate::sys::process;
use crate::topology;
use crate::topology::UnitName;
use crate::wire::Made;

use super::Driver;
use super::probe;
use super::store;
use super::trial::is_trial;
use super::upgrade::is_check;

impl Driver {
    /// Messages of children, attributed by the kernel's word for who sent them.
    pub(super) fn hear(&mut self) {
        for notice in self.notify.drain() {
            let Some(life) = self.pids.get(notice.pid).cloned().filter(|_| notice.ready) else { continue };
            if self.has_read(&life) || self.core.ready(&life.unit).as_ref() == Some(&life) {
                continue;
            }
            let Some(unit) = self.unit(&life.unit) else { continue };
            if let (true, Some(socket)) = (unit.role.is_synapse(), unit.private_socket.clone()) {
                // The bootstrap says READY only when there is a connection; Synapse by itself says it before.
                let plain = self.births.made.get(&unit.name) == Some(&Made::Plain);
                let redis = plain && topology::uses_redis(&self.running.config);
                let task = tokio::spawn(probe::synapse(life.clone(), socket, redis, self.news.clone()));
                self.watch(&life, task);
            }
        }
    }

    pub(super) fn reap(&mut self) {
        // What a process said before it ended is heard before its end.
        self.hear();
        while let Some((pid, exit)) = process::reap() {
            self.ended(pid, exit);
        }
    }

    pub(super) fn ended(&mut self, pid: i32, exit: Exit) {
        let Some(life) = self.pids.remove(pid) else { return };
        if is_trial(&life) {
            return self.tried(&life, Some(exit));
        }
        if is_check(&life) {
            return self.checked(&life, exit);
        }
        store::drop_process(&life);
        self.routers.draining.forget(&life);
        // One that has a successor is watched no more, and its end is no part of the unit's absence.
        if !self.core.is_retired(&life) {
            self.unwatch(&life);
            self.timeline.ended(&life.unit, clock::now());
        }
        if life.unit == UnitName::router() {
            self.without_router(&life);
        }
        if life.unit == UnitName::fork_server() {
            self.without_fork_server();
        }
        let unasked = self.core.status().into_iter().any(|unit| {
            let present = unit.name == life.unit && unit.incarnation == life.incarnation;
            present && matches!(unit.state, "starting" | "ready") && !self.stopping
        });
        let detail = if unasked { self.last_words(&life.unit, exit) } else { None };
        if unasked {
            let words = detail.as_deref().map(|detail| format!(": {detail}")).unwrap_or_default();
            tracing::warn!("{} ended unasked: {exit}{words}", life.unit);
        }
        self.learn_from_exit(&life, exit, detail.as_deref());
        let born = self.core.ready(&life.unit).as_ref() == Some(&life);
        if unasked && !born {
            self.look_after_services();
        }
        self.input(Input::Exited { life: life.clone(), exit, detail });
        self.ended_reading(&life, exit, unasked);
        self.give_up_start();
    }

    /// What a failed process wrote last, which mostly says why.
    fn last_words(&self, unit: &UnitName, exit: Exit) -> Option<String> {
        if let Exit::Signal(_) = exit {
            return None;
        }
        let text = fs::tail(&self.around.layout.log(unit), 4_096).ok()?;
        // Synapse's own last line is none that says why (`synapse/app/_base.py`, handle_startup_exception).
        let said = |line: &&str| {
            line.chars().any(char::is_alphanumeric) && !line.starts_with("There may be more information")
        };
        let last = text.lines().rev().map(str::trim).find(said)?;
        let last = self.running.without_secrets(last);
        Some(last.chars().take(300).collect())
    }
}
