//! What `status` says.

use std::collections::BTreeMap;

use crate::config::Config;
use crate::supervise::Life;
use crate::supervise::Time;
use crate::supervise::UnitStatus;
use crate::topology::Role;
use crate::topology::Topology;
use crate::topology::UnitName;
use crate::wire::CertificateReport;
use crate::wire::Made;
use crate::wire::OverallState;
use crate::wire::StatusReport;
use crate::wire::UnitReport;

use super::processes::Processes;

/// What the driver knows beside the core.
pub(super) struct Facts<'a> {
    pub(super) config: &'a Config,
    pub(super) topology: &'a Topology,
    pub(super) certificates: Vec<CertificateReport>,
    pub(super) pids: &'a Processes,
    pub(super) made: &'a BTreeMap<UnitName, Made>,
    /// What of this Synapse the bootstrap does not recognise.
    pub(super) problems: &'a [String],
    /// Why a unit is not ready yet.
    pub(super) troubles: &'a BTreeMap<UnitName, String>,
    pub(super) notes: Vec<String>,
    /// How often a supervisor took over what another one had left.
    pub(super) takeovers: u64,
    pub(super) started: bool,
    pub(super) stopping: bool,
    pub(super) now: Time,
}

pub(super) fn report(units: Vec<UnitStatus>, facts: &Facts<'_>) -> StatusReport {
    let all_ready = units.iter().all(|unit| unit.state == "ready" || (unit.state == "down" && !unit.wanted));
    let state = match (facts.stopping, facts.started, all_ready) {
        (true, _, _) => OverallState::Stopping,
        (false, false, _) => OverallState::Starting,
        (false, true, true) => OverallState::Ready,
        (false, true, false) => OverallState::Degraded,
    };
    let known = units.into_iter().map(|unit| (unit.name.clone(), unit)).collect::<BTreeMap<_, _>>();
    // In the order of the topology; what is on its way out comes last.
    let ordered = facts.topology.units.iter().filter_map(|unit| known.get(&unit.name));
    let leaving = known.values().filter(|unit| facts.topology.unit(&unit.name).is_none());
    StatusReport {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        takeovers: facts.takeovers,
        state,
        listen: facts.config.listen.iter().map(|listen| listen.address.to_string()).collect(),
        certificates: facts.certificates.clone(),
        notes: facts.notes.iter().cloned().chain(how_made(facts)).collect(),
        units: ordered.chain(leaving).map(|unit| unit_report(unit, facts)).collect(),
    }
}

fn unit_report(unit: &UnitStatus, facts: &Facts<'_>) -> UnitReport {
    let present = |life: &Life| life.unit == unit.name && life.incarnation == unit.incarnation;
    let pid = facts.pids.iter().find(|(_, life)| present(life)).map(|(pid, _)| pid);
    let seconds = |until: Time| until.since(facts.now).div_ceil(1_000);
    let of_topology = facts.topology.unit(&unit.name);
    let external = pid.is_none()
        && of_topology.is_some_and(|unit| {
            matches!(unit.role, Role::Postgres { embedded: false } | Role::Redis { embedded: false })
        });
    let reason = match (unit.state, facts.troubles.get(&unit.name), &unit.reason, unit.retry_at) {
        ("ready", _, _, _) if external => None,
        ("ready", _, Some(reason), _) => Some(reason.clone()),
        (_, Some(trouble), _, None) => Some(trouble.clone()),
        (_, _, Some(reason), Some(at)) => Some(format!("{reason}; next try in {} s", seconds(at))),
        (_, _, Some(reason), None) => Some(reason.clone()),
        (_, _, None, _) => None,
    };
    let reason =
        if unit.state == "down" && !unit.wanted { Some("stopped by order".to_owned()) } else { reason };
    let waits: Vec<&str> = unit.waits_for.iter().map(UnitName::as_str).collect();
    let reason = if waits.is_empty() { reason } else { Some(format!("waits for {}", waits.join(", "))) };
    UnitReport {
        role: of_topology.map_or_else(|| "removed".to_owned(), |unit| role(unit.role)),
        name: unit.name.clone(),
        // What is not ours does not start, and does not crash.
        state: if external && unit.state != "ready" { "away" } else { unit.state }.to_owned(),
        pid,
        incarnation: unit.incarnation,
        restarts: if external { 0 } else { unit.restarts },
        since_ms: facts.now.since(unit.since),
        reason,
        made: facts.made.get(&unit.name).copied(),
    }
}

/// What there is to say when processes are not forked.
fn how_made(facts: &Facts<'_>) -> Option<String> {
    let of = |wanted: Made| -> Vec<&str> {
        facts.made.iter().filter(|(_, made)| **made == wanted).map(|(name, _)| name.as_str()).collect()
    };
    let why = facts.problems.first().map_or_else(String::new, |problem| format!(": {problem}"));
    match (of(Made::Plain), of(Made::Executed)) {
        (none, alone) if none.is_empty() && alone.is_empty() => None,
        (none, executed) if none.is_empty() => Some(format!(
            "started without the fork server, which was not there: {} (a restart of them is quick again)",
            executed.join(", ")
        )),
        (plain, _) => Some(format!(
            "started plainly, so that restarts are slow and cut requests{why}: {}",
            plain.join(", ")
        )),
    }
}

fn role(role: Role) -> String {
    match role {
        Role::Postgres { embedded: true } | Role::Redis { embedded: true } => "embedded".to_owned(),
        Role::Postgres { embedded: false } | Role::Redis { embedded: false } => "external".to_owned(),
        Role::Main => "main".to_owned(),
        Role::Worker(kind) => kind.key().to_owned(),
        Role::ForkServer => "fork server".to_owned(),
        Role::Router => "router".to_owned(),
    }
}
