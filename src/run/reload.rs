//! The configuration, read again while everything runs.

use nix::sys::signal::Signal;

use crate::config::Config;
use crate::host::toml;
use crate::host::toml::Usable;
use crate::plan::Kind;
use crate::plan::Plan;
use crate::plan::plan;
use crate::supervise::Change;
use crate::supervise::Input;
use crate::supervise::Ticket;
use crate::sys::process;
use crate::topology::UnitName;
use crate::wire::Answer;

use super::Driver;
use super::planning;
use super::policy;
use super::specs;

impl Driver {
    /// Reads the TOML again and carries out what needs no restart: units that are added and removed, files that are read
    /// anew on SIGHUP, and what the router and the supervisor go by.
    ///
    /// A change that asks for a restart is refused as a whole: to apply it to some and not to others could make two
    /// processes believe that they own the same work.
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
        let usable = toml::usable(&self.config_path, self.credentials.as_ref());
        let usable = usable.map_err(|problems| problems.to_string())?;
        let deployment = planning::deployment(&usable);
        let plan =
            plan(&self.running, &deployment).map_err(|refusal| format!("nothing was changed: {refusal}"))?;
        self.refuse(&plan, &deployment.config)?;
        let anew: Vec<UnitName> = anew(&plan).cloned().collect();
        let leave: Vec<UnitName> = plan.steps.iter().flat_map(|step| &step.leave).cloned().collect();
        let stages: Vec<Vec<UnitName>> = plan.steps.iter().flat_map(|step| &step.stages).cloned().collect();
        let message = done(&plan, &anew, &leave, &stages.concat());
        let Usable { text, warnings, .. } = usable;
        self.around
            .layout
            .write(&deployment.render(), &self.around.users)
            .map_err(|error| error.to_string())?;
        (self.text, self.looked_at, self.running) = (text, None, deployment);
        let table = self.table();
        self.tell(table);
        self.core.set_policy(policy(&self.running.config));
        for unit in &anew {
            let pid = self.core.ready(unit).and_then(|life| self.pid(&life));
            if let Some(pid) = pid {
                // One that has ended this moment reads them when it starts.
                let _ = process::signal(pid, Signal::SIGHUP);
            }
        }
        let mut enter = specs(&self.running.topology, &self.around);
        enter.retain(|spec| stages.iter().flatten().any(|unit| *unit == spec.name));
        self.tickets += 1;
        self.input(Input::Change(Ticket(self.tickets), Change { leave, enter, stages }));
        Ok(if warnings.is_empty() { message } else { format!("{message}\n{}", warnings.trim_end()) })
    }

    /// Why this cannot be carried out while everything runs.
    fn refuse(&self, plan: &Plan, new: &Config) -> Result<(), String> {
        let addresses =
            |config: &Config| config.listen.iter().map(|listen| listen.address).collect::<Vec<_>>();
        let restarting = plan.steps.iter().filter(|step| matches!(step.kind, Kind::Together | Kind::Restart));
        let restarting: Vec<&str> =
            restarting.flat_map(|step| step.moves.keys()).map(UnitName::as_str).collect();
        let why = if addresses(&self.running.config) != addresses(new) {
            "the router listens on other addresses".to_owned()
        } else if !restarting.is_empty() {
            format!("`synvisor plan` shows a restart of {}", restarting.join(", "))
        } else {
            // Until it is READY the signal would end it (`synapse/app/_base.py`, start).
            let early = anew(plan).find(|unit| self.core.ready(unit).is_none());
            return early.map_or(Ok(()), |unit| {
                Err(format!(
                    "nothing was changed: {unit} is to read its files anew, and is not ready\n  \
                     reload again when `synvisor status` says that it is"
                ))
            });
        };
        Err(format!("nothing was changed: {why}\n  apply it by a full restart: systemctl restart synvisor"))
    }
}

/// Who reads its files anew.
fn anew(plan: &Plan) -> impl Iterator<Item = &UnitName> {
    plan.steps.iter().filter(|step| step.kind == Kind::Hup).flat_map(|step| step.moves.keys())
}

/// What a reload that restarts nobody did.
fn done(plan: &Plan, anew: &[UnitName], leave: &[UnitName], enter: &[UnitName]) -> String {
    let listed = |names: &[UnitName]| names.iter().map(UnitName::as_str).collect::<Vec<_>>().join(", ");
    let parts = [("starts", enter), ("stops", leave), ("read their files anew:", anew)];
    let parts = parts.into_iter().filter(|(_, units)| !units.is_empty());
    let parts: Vec<String> = parts.map(|(what, units)| format!("{what} {}", listed(units))).collect();
    if !parts.is_empty() {
        parts.join("; ")
    } else if plan.router {
        "the router is told".to_owned()
    } else if plan.is_empty() {
        "no change".to_owned()
    } else {
        "applied; it concerns no process".to_owned()
    }
}
