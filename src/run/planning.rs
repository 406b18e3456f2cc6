//! What the configuration on disk would change of what runs.

use std::collections::BTreeMap;

use crate::host::digest;
use crate::host::toml;
use crate::host::toml::Usable;
use crate::host::venv;
use crate::plan::Deployment;
use crate::plan::Digest;
use crate::sys::fs;
use crate::wire::PlanReport;

use super::Driver;
use super::reload::UnderWay;

/// What a configuration asks for, with the files that its settings name as they are now.
pub(super) fn deployment(usable: &Usable) -> Deployment {
    // A virtualenv without Synapse has no version, which differs from every version.
    let version = venv::synapse_version(&usable.parsed.config.python.venv).unwrap_or_default();
    // Most files are named by every process.
    let mut known = BTreeMap::new();
    Deployment::of(&usable.parsed, &usable.secrets, &version, |path| {
        known.entry(path.to_owned()).or_insert_with(|| Digest(digest::of(path))).clone()
    })
}

impl Driver {
    /// Compares the configuration on disk with what runs; changes nothing.
    pub(super) fn plan(&self) -> PlanReport {
        if let Some(UnderWay::Applying(applying)) = &self.under_way {
            let message = format!("{}\n  ask again when it is done", applying.describe());
            return PlanReport::Busy { message };
        }
        let usable = match toml::usable(&self.config_path, self.credentials.as_ref()) {
            Ok(usable) => usable,
            Err(unusable) => return PlanReport::Unusable { message: unusable.to_string() },
        };
        if !usable.without_certificate.is_empty() {
            return PlanReport::Unusable { message: usable.without_certificate };
        }
        match self.plan_for(&deployment(&usable)) {
            Ok(plan) => PlanReport::Planned {
                empty: plan.is_empty(),
                text: plan.to_string(),
                plan: serde_json::to_value(&plan).unwrap_or_default(),
                warnings: usable.warnings,
            },
            Err(message) => PlanReport::Refused { message },
        }
    }

    /// What `status` says where the configuration on disk is not the one that runs.
    pub(super) fn differs(&mut self) -> Option<String> {
        let Ok(text) = fs::read(&self.config_path) else {
            return Some(format!(
                "{} cannot be read: what was read before runs on",
                self.config_path.display()
            ));
        };
        if text == self.text {
            return None;
        }
        // A plan takes a while, and many ask for the status again and again.
        if self.looked_at.as_ref().is_none_or(|(before, _)| *before != text) {
            let undone = self.generations.undone(&text, &self.config_path);
            self.looked_at = Some((text, undone.or_else(|| self.judge())));
        }
        self.looked_at.as_ref().and_then(|(_, note)| note.clone())
    }

    fn judge(&self) -> Option<String> {
        let path = self.config_path.display();
        match self.plan() {
            PlanReport::Planned { empty: true, .. } => None,
            PlanReport::Planned { empty: false, .. } => {
                Some(format!("{path} differs from what runs: `synvisor plan` says how"))
            }
            PlanReport::Refused { .. } => Some(format!(
                "{path} differs from what runs in what cannot change while it runs: `synvisor plan` says why"
            )),
            PlanReport::Busy { .. } => None,
            PlanReport::Unusable { .. } => Some(format!(
                "{path} has mistakes, and what was read before runs on: `synvisor check` shows them"
            )),
        }
    }
}
