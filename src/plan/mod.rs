//! From what runs and what shall run to the steps between them, each with its reason.
//!
//! The order of a plan: who only reads something anew; who must go down together; who is added; who restarts, one after
//! the other and main first; who is removed.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use serde::Serialize;

use crate::config::difference::Difference;
use crate::topology::Role;
use crate::topology::Topology;
use crate::topology::UnitName;

mod concern;
mod deployment;
mod groups;
mod matrix;
mod notes;
mod objections;
mod refusal;
mod settings;
mod text;

pub use deployment::Deployment;
pub use deployment::Digest;
pub use deployment::Image;
pub use objections::Verdict;
pub use objections::objections;
pub use refusal::Refusal;
pub use settings::Named;
pub use settings::files;
pub use text::compressed;

use concern::Concern;
use concern::of_unit;
use matrix::Effect;

/// What happens to a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// It ends for good.
    Stop,
    Restart,
    Start,
    /// It reads its files anew on SIGHUP.
    Hup,
}

/// What happens to a unit, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Move {
    pub action: Action,
    /// A clause each.
    pub why: Vec<String>,
}

/// What a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Files are read anew, nobody stops.
    Hup,
    /// Units that must not run side by side in their old and their new form.
    Together,
    /// Units that are added.
    Start,
    /// One unit that restarts.
    Restart,
    /// Units that are removed.
    Stop,
}

/// What is executed as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    pub kind: Kind,
    /// Who ends for good.
    pub leave: Vec<UnitName>,
    /// Who runs afterwards. Those of them that run, and all who leave, go down together; once all are down the first
    /// stage starts, and each other one once the one before is READY.
    pub stages: Vec<Vec<UnitName>>,
    /// Everybody whom the step concerns; their files are to be replaced when all who go down are down.
    pub moves: BTreeMap<UnitName, Move>,
}

/// What leads from one deployment to another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Every setting that differs, and every file whose content does.
    pub changes: Vec<Difference>,
    pub steps: Vec<Step>,
    /// Whether the router is to be told something; it never restarts for it.
    pub router: bool,
    /// Whether the supervisor itself goes by other time-outs or memory limits.
    pub supervisor: bool,
    /// Processes whose files differ in what does not concern them.
    pub rewritten: BTreeSet<UnitName>,
    /// Processes that run and that no step names.
    pub untouched: BTreeSet<UnitName>,
    /// What an administrator should know, a sentence each.
    pub notes: Vec<String>,
}

impl Plan {
    /// Whether there is nothing to do and nothing to tell.
    pub fn is_empty(&self) -> bool {
        let Self { changes, steps, router, supervisor, rewritten, untouched: _, notes: _ } = self;
        changes.is_empty() && steps.is_empty() && !router && !supervisor && rewritten.is_empty()
    }
}

/// The steps from one deployment to another.
///
/// # Errors
/// What no reload can change, with the reason and what to do.
pub fn plan(old: &Deployment, new: &Deployment) -> Result<Plan, Refusal> {
    refusal::refuse(old, new)?;
    let concerns: BTreeMap<&UnitName, Vec<Concern>> =
        both(old, new).map(|name| (name, of_unit(name, old, new))).collect();
    let groups = groups::of(old, new, &concerns);
    let grouped: BTreeSet<&UnitName> = groups.iter().flat_map(|group| &group.units).collect();
    let mut steps: Vec<Step> = groups.iter().map(|group| together(group, (old, new), &concerns)).collect();
    let alone = |effect: Effect| {
        let of = concerns
            .iter()
            .filter(|(name, concerns)| !grouped.contains(*name) && strongest(concerns) == Some(effect));
        of.map(|(name, concerns)| (*name, whys(concerns))).collect::<Vec<_>>()
    };
    let hups = alone(Effect::Hup);
    if !hups.is_empty() {
        let moves = hups.into_iter().map(|(name, why)| (name.clone(), Move { action: Action::Hup, why }));
        let step = Step { kind: Kind::Hup, leave: vec![], stages: vec![], moves: moves.collect() };
        steps.insert(0, step);
    }
    let only_in = |deployment: &Deployment, other: &Deployment, action: Action| {
        let missing = deployment.images.keys().filter(|name| !other.images.contains_key(*name));
        let free = missing.filter(|name| !grouped.contains(*name));
        free.map(|name| (name.clone(), Move { action, why: vec![count(name, old, new)] }))
            .collect::<BTreeMap<_, _>>()
    };
    let added = only_in(new, old, Action::Start);
    if !added.is_empty() {
        let stages = vec![in_order(&new.topology, added.keys())];
        steps.push(Step { kind: Kind::Start, leave: vec![], stages, moves: added });
    }
    let mut rolling = alone(Effect::Restart);
    rolling.sort_by_key(|(name, _)| place(&new.topology, name));
    steps.extend(rolling.into_iter().map(|(name, why)| {
        let moves = BTreeMap::from([(name.clone(), Move { action: Action::Restart, why })]);
        Step { kind: Kind::Restart, leave: vec![], stages: vec![vec![name.clone()]], moves }
    }));
    let removed = only_in(old, new, Action::Stop);
    if !removed.is_empty() {
        let leave = in_order(&old.topology, removed.keys());
        steps.push(Step { kind: Kind::Stop, leave, stages: vec![], moves: removed });
    }
    Ok(finish(old, new, steps))
}

/// What else there is to tell.
fn finish(old: &Deployment, new: &Deployment, steps: Vec<Step>) -> Plan {
    let moved: BTreeSet<&UnitName> = steps.iter().flat_map(|step| step.moves.keys()).collect();
    let differs = |name: &&UnitName| {
        let files = |deployment: &Deployment| {
            deployment.images.get(*name).map(|image| (image.settings.clone(), image.log.clone()))
        };
        files(old) != files(new)
    };
    let rewritten = both(old, new).filter(|name| !moved.contains(name)).filter(differs).cloned().collect();
    // An external service is no process of ours.
    let ours =
        |role: Role| !matches!(role, Role::Postgres { embedded: false } | Role::Redis { embedded: false });
    let runs = |name: &UnitName| old.topology.unit(name).is_some() && !moved.contains(name);
    let untouched = new.topology.units.iter().filter(|unit| ours(unit.role) && runs(&unit.name));
    let limits = |deployment: &Deployment| -> Vec<Option<u64>> {
        both(old, new).filter_map(|name| deployment.images.get(name)).map(|image| image.max_memory).collect()
    };
    Plan {
        changes: notes::changes(old, new),
        router: old.topology != new.topology
            || old.config.listen != new.config.listen
            || notes::certificates(old, new).next().is_some()
            || old.config.trusted_proxies != new.config.trusted_proxies
            || old.config.max_upload_size() != new.config.max_upload_size()
            || old.config.access_log != new.config.access_log,
        supervisor: old.config.supervisor != new.config.supervisor || limits(old) != limits(new),
        rewritten,
        untouched: untouched.map(|unit| unit.name.clone()).collect(),
        notes: notes::notes(old, new),
        steps,
    }
}

/// The step of those that must go together.
fn together(
    group: &groups::Group,
    (old, new): (&Deployment, &Deployment),
    concerns: &BTreeMap<&UnitName, Vec<Concern>>,
) -> Step {
    let moved = |name: &UnitName| {
        let action = match (old.topology.unit(name), new.topology.unit(name)) {
            (Some(_), None) => Action::Stop,
            (None, _) => Action::Start,
            (Some(_), Some(_)) => Action::Restart,
        };
        let mut why = group.whys(name);
        if let Some(concerns) = concerns.get(name) {
            why.extend(whys(concerns));
        }
        if action != Action::Restart && new.images.contains_key(name) | old.images.contains_key(name) {
            why.push(count(name, old, new));
        }
        (name.clone(), Move { action, why })
    };
    let rank = |name: &UnitName| match new.topology.unit(name).map(|unit| unit.role) {
        Some(Role::Postgres { .. } | Role::Redis { .. }) => 0,
        Some(Role::ForkServer) => 1,
        Some(Role::Main) => 2,
        Some(Role::Worker(_) | Role::Router) | None => 3,
    };
    let mut stages: BTreeMap<i32, Vec<UnitName>> = BTreeMap::new();
    let stays = group.units.iter().filter(|name| new.topology.unit(name).is_some());
    for name in in_order(&new.topology, stays) {
        stages.entry(rank(&name)).or_default().push(name);
    }
    let leaves = group.units.iter().filter(|name| new.topology.unit(name).is_none());
    Step {
        kind: Kind::Together,
        leave: in_order(&old.topology, leaves),
        stages: stages.into_values().collect(),
        moves: group.units.iter().map(moved).collect(),
    }
}

/// Synapse's processes before and after.
fn both<'d>(old: &'d Deployment, new: &'d Deployment) -> impl Iterator<Item = &'d UnitName> {
    new.images.keys().filter(|name| old.images.contains_key(*name))
}

/// What a unit needs by itself, beside what its groups ask of it.
fn strongest(concerns: &[Concern]) -> Option<Effect> {
    let own = concerns.iter().filter(|concern| concern.effect <= Effect::Restart);
    own.map(|concern| concern.effect).max()
}

/// The reasons that a unit has by itself.
fn whys(concerns: &[Concern]) -> Vec<String> {
    let own = concerns.iter().filter(|concern| concern.effect <= Effect::Restart);
    let mut whys: Vec<String> = Vec::new();
    for concern in own {
        if !whys.contains(&concern.what) {
            whys.push(concern.what.clone());
        }
    }
    whys
}

/// How the number of a kind of worker changes.
fn count(name: &UnitName, old: &Deployment, new: &Deployment) -> String {
    let role = [new, old].into_iter().find_map(|side| side.images.get(name)).map(|image| image.role);
    let (Some(role), Some(Role::Worker(kind))) = (role, role) else { return format!("there is {name}") };
    format!("{} {} → {}", kind.key(), old.count(role), new.count(role))
}

fn place(topology: &Topology, name: &UnitName) -> Option<usize> {
    topology.units.iter().position(|unit| unit.name == *name)
}

/// Units in the order in which the topology lists them.
fn in_order<'n>(topology: &Topology, names: impl Iterator<Item = &'n UnitName>) -> Vec<UnitName> {
    let mut names: Vec<UnitName> = names.cloned().collect();
    names.sort_by_key(|name| place(topology, name));
    names
}
