//! The configuration, read again while everything runs.

use std::sync::Arc;

use crate::config::Config;
use crate::host::toml::Usable;
use crate::render;
use crate::render::FileSet;
use crate::supervise::Change;
use crate::supervise::Input;
use crate::supervise::Ticket;
use crate::sys::fs;
use crate::topology::Topology;
use crate::topology::Unit;
use crate::topology::UnitName;
use crate::wire::Answer;

use super::Driver;
use super::planning;
use super::specs;

impl Driver {
    /// Reads the TOML again and starts and stops what the counts ask for.
    ///
    /// A change that concerns processes that run already is refused as a whole: to apply it to some and not to
    /// others could make two processes believe that they own the same work.
    pub(super) fn reload(&mut self) -> Answer {
        let answer = match self.reread() {
            Ok(message) => Answer::done(message),
            Err(message) => Answer::failed(message),
        };
        tracing::info!("reload: {}", answer.message);
        answer
    }

    fn reread(&mut self) -> Result<String, String> {
        if self.stopping {
            return Err("synvisor is stopping".to_owned());
        }
        let usable = planning::load(&self.config_path, self.credentials.as_ref());
        let usable = usable.map_err(|problems| problems.to_string())?;
        let running = planning::deployment(&usable);
        let Usable { text, parsed, secrets, warnings } = usable;
        let config = parsed.config;
        let topology = Topology::of(&config);
        let files = render::render(&config, &topology, &secrets);
        if let Some(why) = self.needs_restart(&config, &topology, &files) {
            return Err(format!(
                "nothing was changed: {why}\n  apply it by a full restart: systemctl restart synvisor"
            ));
        }
        let (before, after) = (&self.topology.units, &topology.units);
        let names = |these: &[Unit], others: &[Unit]| {
            let of = these.iter().filter(|unit| !others.contains(unit)).map(|unit| unit.name.clone());
            of.collect::<Vec<_>>()
        };
        let (enter, leave) = (names(after, before), names(before, after));
        let listed = |names: &[UnitName]| names.iter().map(UnitName::as_str).collect::<Vec<_>>().join(", ");
        let (added, removed) = (listed(&enter), listed(&leave));
        let message = match (added.is_empty(), removed.is_empty()) {
            (true, true) => "no change".to_owned(),
            (false, true) => format!("starts {added}"),
            (true, false) => format!("stops {removed}"),
            (false, false) => format!("starts {added}; stops {removed}"),
        };
        self.around.layout.write(&files, &self.around.users).map_err(|error| error.to_string())?;
        (self.text, self.looked_at, self.running) = (text, None, running);
        self.config = Arc::new(config);
        self.secrets = secrets;
        self.topology = topology;
        let table = self.table();
        self.tell(table);
        let mut specs = specs(&self.topology, &self.around);
        specs.retain(|spec| enter.contains(&spec.name));
        self.tickets += 1;
        let change = Change { leave, enter: specs, stages: vec![enter] };
        self.input(Input::Change(Ticket(self.tickets), change));
        Ok(if warnings.is_empty() { message } else { format!("{message}\n{}", warnings.trim_end()) })
    }

    /// Why a new configuration concerns more than the processes that it adds and removes.
    fn needs_restart(&self, config: &Config, topology: &Topology, files: &FileSet) -> Option<String> {
        let (old, new) = (&self.config, config);
        if old.listen != new.listen {
            return Some("[[listen]] differs from what the router listens on".to_owned());
        }
        if old.supervisor != new.supervisor || old.python != new.python {
            return Some("[supervisor] or [python] differs from what runs".to_owned());
        }
        if old.database != new.database || old.redis != new.redis {
            return Some("[database] or [redis] differs from what the processes use".to_owned());
        }
        let layout = &self.around.layout;
        let changed = |name: &UnitName| {
            let path = layout.config_file(name);
            files
                .get(&path)
                .is_some_and(|file| fs::read(&path).is_ok_and(|held| held.as_bytes() != file.bytes))
        };
        let running = topology.synapse().filter(|unit| self.topology.unit(&unit.name).is_some());
        let concerned: Vec<&str> =
            running.filter(|unit| changed(&unit.name)).map(|unit| unit.name.as_str()).collect();
        (!concerned.is_empty()).then(|| format!("the change concerns {}", concerned.join(", ")))
    }
}
