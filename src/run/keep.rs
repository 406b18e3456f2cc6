//! What is kept for the next supervisor: written whenever it changes, and always before a process begins.

use crate::host::state;
use crate::host::state::Known;
use crate::host::state::Process;
use crate::host::state::State;
use crate::supervise::Life;
use crate::supervise::UnitStatus;
use crate::sys::fs;

use super::Driver;
use super::reload::UnderWay;

impl Driver {
    /// Keeps what there is, if that has changed; where it cannot be written, `status` says so until it can.
    pub(super) fn keep(&mut self) {
        let text = self.state().print(state::newest());
        if text == self.kept {
            return;
        }
        // Not to write is no reason to stop. It is tried again whenever anything happens, every few seconds at least.
        match fs::replace_fleeting(&self.around.layout.state_file(), text.as_bytes()) {
            Ok(()) => (self.kept, self.unkept) = (text, None),
            Err(error) => {
                let why = format!("a supervisor that takes over would not find every process: {error}");
                if self.unkept.as_ref() != Some(&why) {
                    tracing::warn!("{why}");
                }
                self.unkept = Some(why);
            }
        }
    }

    /// Keeps what processes run with; before their files are written.
    pub(super) fn keep_images(&self) -> Result<(), String> {
        state::write_images(&self.around.layout, &self.running.images).map_err(|error| error.to_string())
    }

    pub(super) fn state(&self) -> State {
        let units = self.core.status();
        let known = units.iter().filter_map(|status| Some((status.name.clone(), self.known(status)?)));
        State {
            boot: self.around.boot.clone(),
            synvisor: env!("CARGO_PKG_VERSION").to_owned(),
            takeovers: self.takeovers,
            generation: self.in_force,
            towards: match &self.under_way {
                Some(UnderWay::Applying(applying)) => Some(applying.towards),
                Some(UnderWay::Trial(_)) | None => self.unfinished,
            },
            units: known.collect(),
            #[cfg(feature = "next-state")]
            written_by: "a later version".to_owned(),
        }
    }

    fn known(&self, status: &UnitStatus) -> Option<Known> {
        let unit = self.unit(&status.name)?.clone();
        let process = |incarnation| {
            let known = self.pids.of(&Life { unit: status.name.clone(), incarnation })?;
            Some(Process {
                pid: known.pid(),
                started: known.started,
                ready: matches!(status.state, "ready" | "draining"),
                ending: matches!(status.state, "stopping" | "killing"),
                made: self.births.made.get(&status.name).copied(),
            })
        };
        let retired = status.retired.iter().map(|retired| retired.incarnation);
        Some(Known {
            unit,
            incarnation: status.incarnation,
            wanted: status.wanted,
            leaving: status.leaving,
            process: process(status.incarnation),
            retired: retired.filter_map(|incarnation| Some((incarnation, process(incarnation)?))).collect(),
        })
    }
}
