//! Who must go down together: nobody of a group may run in its new form while another does in its old one.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use toml::Value;

use crate::config::Database;
use crate::config::Redis;
use crate::topology::MASTER;
use crate::topology::UnitName;

use super::concern::Concern;
use super::deployment::Deployment;
use super::deployment::Image;
use super::matrix;
use super::matrix::Effect;

/// Most settings that a reason lists.
const LISTED: usize = 3;

/// Units that go down together.
#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    pub(super) units: BTreeSet<UnitName>,
    /// Each reason, and whom it concerns.
    reasons: Vec<(String, BTreeSet<UnitName>)>,
}

impl Group {
    fn new(units: BTreeSet<UnitName>, reason: String) -> Self {
        Self { reasons: vec![(reason, units.clone())], units }
    }

    /// Why this unit goes with the others.
    pub(super) fn whys(&self, name: &UnitName) -> Vec<String> {
        let of = self.reasons.iter().filter(|(_, units)| units.contains(name));
        of.map(|(reason, _)| reason.clone()).collect()
    }
}

/// The groups, main's first; no unit is in two of them.
pub(super) fn of(
    old: &Deployment,
    new: &Deployment,
    concerns: &BTreeMap<&UnitName, Vec<Concern>>,
) -> Vec<Group> {
    let mut found = Vec::new();
    let services = services(old, new);
    let mut whole = whole(old, new, concerns);
    if whole.is_empty() && !services.is_empty() {
        whole.push("what it stores its data in, or talks over, is another one".to_owned());
    }
    for reason in whole {
        let mut units: BTreeSet<UnitName> = old.images.keys().chain(new.images.keys()).cloned().collect();
        units.extend(services.iter().cloned());
        if is_another_synapse(old, new) {
            units.insert(UnitName::fork_server());
        }
        found.push(Group::new(units, reason));
    }
    let lists = [
        (Effect::Senders, "federation_sender_instances", Some(UnitName::main())),
        (Effect::Pushers, "pusher_instances", None),
    ];
    for (effect, setting, also) in lists {
        found.extend(holders_of(setting, effect, (old, new), concerns).map(|mut group| {
            // Main is concerned even where it never held the work itself.
            for (_, units) in &mut group.reasons {
                units.extend(also.clone());
            }
            group.units.extend(also);
            group
        }));
    }
    for setting in matrix::duties() {
        found.extend(holders_of(setting, Effect::Handover, (old, new), concerns));
    }
    merge(found)
}

/// The reasons for which every process of Synapse goes down.
fn whole(old: &Deployment, new: &Deployment, concerns: &BTreeMap<&UnitName, Vec<Concern>>) -> Vec<String> {
    let mut reasons = Vec::new();
    if old.synapse_version != new.synapse_version {
        reasons.push(format!(
            "Synapse {} → {}: the new main process migrates the database before any other uses it, and processes of two \
             versions misunderstand each other",
            old.synapse_version, new.synapse_version
        ));
    } else if old.config.python != new.config.python {
        reasons
            .push("python.venv: the fork server and all that it forks come from one virtualenv".to_owned());
    }
    let full = concerns.values().flatten().filter(|concern| concern.effect == Effect::Full);
    let mut settings: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for concern in full {
        settings.entry(concern.why).or_default().insert(&concern.what);
    }
    reasons.extend(settings.into_iter().map(|(why, names)| format!("{}: {why}", listed(&names))));
    reasons
}

fn is_another_synapse(old: &Deployment, new: &Deployment) -> bool {
    old.synapse_version != new.synapse_version || old.config.python != new.config.python
}

/// The first few, and how many more there are.
fn listed(names: &BTreeSet<&str>) -> String {
    let first: Vec<&str> = names.iter().take(LISTED).copied().collect();
    let more = names.len() - first.len();
    if more == 0 { first.join(", ") } else { format!("{} and {more} more", first.join(", ")) }
}

/// The services that are other ones than before.
fn services(old: &Deployment, new: &Deployment) -> BTreeSet<UnitName> {
    let mut changed = BTreeSet::new();
    let role =
        |deployment: &Deployment, name: &UnitName| deployment.topology.unit(name).map(|unit| unit.role);
    let other = |name: &UnitName| role(old, name) != role(new, name);
    if other(&UnitName::postgres()) || server(&old.config.database) != server(&new.config.database) {
        changed.insert(UnitName::postgres());
    }
    let redis = role(old, &UnitName::redis()).or(role(new, &UnitName::redis()));
    let elsewhere = endpoint(&old.config.redis) != endpoint(&new.config.redis);
    if other(&UnitName::redis()) || (redis.is_some() && elsewhere) {
        changed.insert(UnitName::redis());
    }
    changed
}

/// Which server and database it is, however one gets in.
fn server(database: &Database) -> Option<(&str, u16, &str)> {
    match database {
        Database::Embedded => None,
        Database::External(external) => Some((&external.host, external.port, &external.name)),
    }
}

fn endpoint(redis: &Redis) -> Option<&crate::config::Endpoint> {
    match redis {
        Redis::Embedded => None,
        Redis::External(external) => Some(&external.endpoint),
    }
}

/// Everybody who does, or will do, what a setting names processes for; none where these are the same as before.
fn holders_of(
    setting: &str,
    effect: Effect,
    (old, new): (&Deployment, &Deployment),
    concerns: &BTreeMap<&UnitName, Vec<Concern>>,
) -> Option<Group> {
    let mut all = concerns.values().flatten();
    let concern = all.find(|concern| concern.effect == effect && concern.what == setting)?;
    let (before, after) = (holders(setting, old), holders(setting, new));
    let another = before != after;
    let units = before.into_keys().chain(after.into_keys()).collect();
    another.then(|| Group::new(units, format!("{setting}: {}", concern.why)))
}

/// Who goes by being named in a setting, each with everybody whom its own file names: half-way through a change they
/// differ.
fn holders(setting: &str, deployment: &Deployment) -> BTreeMap<UnitName, Vec<UnitName>> {
    let named = |(name, image): (&UnitName, &Image)| (name.clone(), named(setting, image));
    deployment.images.iter().map(named).filter(|(name, names)| names.contains(name)).collect()
}

/// Whom a setting names, in its order; main where nobody is named, as is Synapse's default.
fn named(setting: &str, image: &Image) -> Vec<UnitName> {
    let unit = |value: &Value| match value.as_str()? {
        MASTER => Some(UnitName::main()),
        name => Some(UnitName::new(name)),
    };
    match image.settings.get(setting) {
        // To name main and to name nobody is the same.
        None => vec![UnitName::main()],
        Some(Value::Array(list)) => list.iter().filter_map(unit).collect(),
        Some(one) => unit(one).into_iter().collect(),
    }
}

/// Makes one group of those that share a unit: nobody restarts twice.
fn merge(groups: Vec<Group>) -> Vec<Group> {
    let mut merged: Vec<Group> = Vec::new();
    for mut group in groups {
        let (touching, apart): (Vec<Group>, Vec<Group>) =
            merged.into_iter().partition(|other| !other.units.is_disjoint(&group.units));
        for other in touching.into_iter().rev() {
            group.units.extend(other.units);
            group.reasons.splice(0..0, other.reasons);
        }
        merged = apart;
        merged.push(group);
    }
    merged.sort_by_key(|group| !group.units.contains(&UnitName::main()));
    merged
}
