//! `[units.NAME]`: what one process, one kind of worker, all workers or all processes have that others have not.

use std::collections::BTreeMap;

use toml::Table;
use toml::Value;

use super::Workers;
use super::keys;
use super::nearest::nearest;
use super::roles::WorkerKind;

/// The scope of every Synapse process.
const ALL: &str = "all";
/// The scope of every worker.
const WORKERS: &str = "workers";
/// Main's scope, and its unit.
const MAIN: &str = "main";

/// What one `[units.NAME]` says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UnitSettings {
    pub log_level: Option<String>,
    pub cp_min: Option<u16>,
    pub cp_max: Option<u16>,
    pub caches: Table,
    pub nice: Option<u16>,
    /// Bytes.
    pub max_memory: Option<u64>,
    pub environment: BTreeMap<String, String>,
    /// Settings of homeserver.yaml.
    pub settings: Table,
}

/// `[units]`, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Units(pub BTreeMap<String, UnitSettings>);

impl Units {
    /// What holds for main, or for the unit of this name that is a worker of this kind.
    ///
    /// A narrower scope is laid over a wider one: all processes, all workers, the kind, the unit.
    pub fn of(&self, unit: &str, kind: Option<WorkerKind>) -> UnitSettings {
        let scopes = match kind {
            Some(kind) => vec![ALL, WORKERS, kind.key(), unit],
            None => vec![ALL, MAIN],
        };
        let mut settings = UnitSettings::default();
        if kind.is_none() {
            settings.cp_max = Some(keys::MAIN_CP_MAX);
        }
        for scope in scopes {
            if let Some(over) = self.0.get(scope) {
                settings.lay_over(over);
            }
        }
        settings
    }
}

impl UnitSettings {
    /// The least and the most connections to PostgreSQL.
    pub fn pool(&self) -> (u16, u16) {
        let most = self.cp_max.unwrap_or(keys::CP_MAX);
        // Who asks for few connections did not think of the number that a process starts with.
        (self.cp_min.unwrap_or(keys::CP_MIN).min(most), most)
    }

    fn lay_over(&mut self, over: &Self) {
        let over = over.clone();
        self.log_level = over.log_level.or(self.log_level.take());
        self.cp_min = over.cp_min.or(self.cp_min);
        self.cp_max = over.cp_max.or(self.cp_max);
        self.nice = over.nice.or(self.nice);
        self.max_memory = over.max_memory.or(self.max_memory);
        merge(&mut self.caches, over.caches);
        self.environment.extend(over.environment);
        self.settings.extend(over.settings);
    }
}

/// Lays one table over another; tables within are laid over each other too.
pub fn merge(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Table(under)), Value::Table(over)) => merge(under, over),
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

/// What the name of a `[units.NAME]` is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// It concerns at least one process.
    Known,
    /// It could, with other counts.
    Idle {
        remedy: String,
    },
    Unknown {
        remedy: String,
    },
}

impl Scope {
    pub(super) fn of(name: &str, workers: &Workers) -> Self {
        if [ALL, WORKERS, MAIN].contains(&name) {
            return Self::Known;
        }
        if let Some(kind) = WorkerKind::all().find(|kind| kind.key() == name) {
            if workers.count(kind) > 0 {
                return Self::Known;
            }
            let remedy = format!("set {name} in [workers], or remove it");
            return Self::Idle { remedy };
        }
        if workers.units().any(|(_, unit)| unit == name) {
            return Self::Known;
        }
        let numbered =
            name.rsplit_once('-').filter(|(_, index)| index.parse::<u16>().is_ok_and(|index| index > 0));
        let kind = numbered.and_then(|(kind, _)| {
            WorkerKind::all()
                .find(|held| held.unit_name(1).rsplit_once('-').is_some_and(|(held, _)| held == kind))
        });
        if let Some(kind) = kind {
            let count = workers.count(kind);
            let remedy = format!("[workers] has {} = {count}: raise it, or remove this table", kind.key());
            return Self::Idle { remedy };
        }
        let units: Vec<String> = workers.units().map(|(_, unit)| unit).collect();
        let mut known: Vec<&str> = units.iter().map(String::as_str).collect();
        known.extend([ALL, WORKERS, MAIN]);
        known.extend(WorkerKind::all().map(|kind| -> &str { kind.key() }));
        let remedy = match nearest(name, known) {
            Some(nearest) => format!("did you mean \"{nearest}\"?"),
            None => {
                "allowed: all, workers, main, a kind of [workers] like generic, or one unit like generic-1"
                    .to_owned()
            }
        };
        Self::Unknown { remedy }
    }
}

/// Settings that may differ from process to process (Synapse reads them for itself alone).
const OWN: [&str; 10] = [
    "enable_local_media_storage",
    "event_cache_size",
    "gc_min_interval",
    "gc_thresholds",
    "manhole_settings",
    "media_retention",
    "opentracing",
    "sentry",
    "soft_file_limit",
    "thumbnail_sizes",
];

/// Whether a setting may differ from process to process.
pub(super) fn may_differ(setting: &str) -> bool {
    OWN.contains(&setting)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::roles::Stream;

    fn workers() -> Workers {
        let counts = [(WorkerKind::Generic, 2), (WorkerKind::Writer(Stream::PushRules), 1)];
        Workers(counts.into_iter().collect())
    }

    #[test]
    fn a_narrower_scope_lies_over_a_wider_one() {
        // Mutation: the scopes in the reverse order: seen red.
        let nice = |nice| UnitSettings { nice: Some(nice), ..UnitSettings::default() };
        let scopes = [("all", 1), ("workers", 2), ("generic", 3), ("generic-2", 4)];
        let units = Units(scopes.into_iter().map(|(name, value)| (name.to_owned(), nice(value))).collect());
        let of = |unit, kind| units.of(unit, kind).nice;
        assert_eq!(of("main", None), Some(1));
        assert_eq!(of("push-rules-1", Some(WorkerKind::Writer(Stream::PushRules))), Some(2));
        assert_eq!(of("generic-1", Some(WorkerKind::Generic)), Some(3));
        assert_eq!(of("generic-2", Some(WorkerKind::Generic)), Some(4));
    }

    #[test]
    fn tables_within_tables_are_laid_over_each_other() {
        // Mutation: `merge` replaced by `extend`: seen red.
        let table = |text| toml::from_str::<Table>(text).unwrap();
        let mut under = table("a = 1\nb = { c = 1, d = 2 }");
        merge(&mut under, table("b = { d = 3, e = 4 }\nf = 5"));
        assert_eq!(under, table("a = 1\nb = { c = 1, d = 3, e = 4 }\nf = 5"));
    }

    #[test]
    fn names_are_scopes_or_units() {
        // Mutation: the count ignored: seen red by generic-3.
        for known in ["all", "workers", "main", "generic", "generic-2", "push_rules", "push-rules-1"] {
            assert_eq!(Scope::of(known, &workers()), Scope::Known, "{known}");
        }
        for idle in ["pusher", "generic-3", "pusher-1"] {
            assert!(matches!(Scope::of(idle, &workers()), Scope::Idle { .. }), "{idle}");
        }
        for unknown in ["genric", "generic-0", "push_rules-1", "router", ""] {
            assert!(matches!(Scope::of(unknown, &workers()), Scope::Unknown { .. }), "{unknown}");
        }
    }
}
