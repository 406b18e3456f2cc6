//! Which units of systemd an old server consists of, by what `systemctl show` says of all units.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use serde::Deserialize;
use serde::Serialize;

/// Units that belong or depend together, in whatever way.
const NEIGHBOURS: [&str; 14] = [
    "After",
    "Before",
    "BindsTo",
    "BoundBy",
    "ConsistsOf",
    "PartOf",
    "RequiredBy",
    "Requires",
    "Requisite",
    "RequisiteOf",
    "UpheldBy",
    "Upholds",
    "WantedBy",
    "Wants",
];
/// Those of them that stop when a unit is stopped (systemd.unit(5)).
const FOLLOWERS: [&str; 4] = ["BoundBy", "ConsistsOf", "RequiredBy", "RequisiteOf"];

/// In the commands of whoever starts a process of Synapse, in a container or not: its modules, and the scripts of its package
/// (1.163: `[project.scripts]` in `pyproject.toml`).
const PROGRAMS: [&str; 3] = ["synapse.app.", "synapse_homeserver", "synapse_worker"];

/// An old server as units.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Family {
    /// Whatever runs Synapse, or was named.
    pub synapse: Vec<String>,
    /// What is to be started to have it as it was; beside Synapse whoever stops with it.
    pub running: Vec<String>,
}

/// What `systemctl show` is asked of each unit.
pub fn properties() -> String {
    let own = ["Id", "Names", "LoadState", "ActiveState", "ExecStartPre", "ExecStart"];
    own.into_iter().chain(NEIGHBOURS).collect::<Vec<_>>().join(",")
}

/// The name of a unit as systemd writes it out.
pub fn full_name(name: &str) -> String {
    if name.ends_with(".service") || name.ends_with(".target") {
        name.to_owned()
    } else {
        format!("{name}.service")
    }
}

/// The units that were named, and every one that runs Synapse and has to do with one of these: one that stays would write to the
/// database of the new server.
///
/// # Errors
/// There is no such unit.
pub fn family(shown: &str, named: &[String]) -> Result<Family, String> {
    let units: Vec<Unit<'_>> = shown.split("\n\n").map(Unit::of).collect();
    let by_name: BTreeMap<&str, &Unit<'_>> =
        units.iter().flat_map(|unit| unit.words("Names").map(move |name| (name, unit))).collect();
    let mut synapse: Vec<&Unit<'_>> = Vec::new();
    for name in named {
        let unit = by_name.get(full_name(name).as_str()).filter(|unit| unit.get("LoadState") == "loaded");
        let unit = unit.ok_or_else(|| {
            format!(
                "systemd has no unit {name}\n  systemctl list-units '*synapse*' shows how they are called"
            )
        })?;
        if synapse.iter().all(|held| held.get("Id") != unit.get("Id")) {
            synapse.push(unit);
        }
    }
    let named: BTreeSet<&str> = synapse.iter().map(|unit| unit.get("Id")).collect();
    let beside = |unit: &Unit<'_>, kinds: &[&str]| {
        let names = kinds.iter().flat_map(|kind| unit.words(kind));
        names.filter_map(|name| by_name.get(name).copied()).collect::<Vec<_>>()
    };
    let synapse = reached(synapse, |unit| {
        let mut found = beside(unit, &NEIGHBOURS);
        found.retain(|unit| unit.runs_synapse());
        found
    });
    let stopping = reached(synapse.clone(), |unit| beside(unit, &FOLLOWERS));
    let running = stopping.iter().filter(|unit| named.contains(unit.get("Id")) || unit.is_active());
    let ids = |units: &[&Unit<'_>]| units.iter().map(|unit| unit.get("Id").to_owned()).collect();
    Ok(Family { synapse: ids(&synapse), running: ids(&running.copied().collect::<Vec<_>>()) })
}

/// These, and whatever comes after each, once.
fn reached<'u, 'a>(
    mut units: Vec<&'u Unit<'a>>,
    after: impl Fn(&Unit<'a>) -> Vec<&'u Unit<'a>>,
) -> Vec<&'u Unit<'a>> {
    let mut at = 0;
    while let Some(unit) = units.get(at) {
        for next in after(unit) {
            if units.iter().all(|held| held.get("Id") != next.get("Id")) {
                units.push(next);
            }
        }
        at += 1;
    }
    units
}

/// What is shown of one unit: properties with their values, in lines.
struct Unit<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Unit<'a> {
    fn of(shown: &'a str) -> Self {
        Self(shown.lines().filter_map(|line| line.split_once('=')).collect())
    }

    fn get(&self, property: &str) -> &'a str {
        self.0.iter().find(|(name, _)| *name == property).map(|(_, value)| *value).unwrap_or_default()
    }

    fn words(&self, property: &str) -> impl Iterator<Item = &'a str> + use<'a> {
        self.get(property).split_whitespace()
    }

    fn is_active(&self) -> bool {
        !matches!(self.get("ActiveState"), "inactive" | "failed" | "")
    }

    fn runs_synapse(&self) -> bool {
        // There is a line for each command.
        let mut commands = self.0.iter().filter(|(name, _)| name.starts_with("ExecStart"));
        commands.any(|(_, command)| PROGRAMS.iter().any(|program| command.contains(program)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(id: &str, state: &str, rest: &str) -> String {
        format!("Id={id}\nNames={id} alias-of-{id}\nLoadState=loaded\nActiveState={state}\n{rest}\n")
    }

    /// Those of a playbook, with a bridge, and a homeserver that has nothing to do with them.
    fn shown() -> String {
        let run = |app: &str| {
            format!("ExecStartPre={{ docker rm }}\nExecStartPre={{ docker run -m synapse.app.{app} }}")
        };
        [
            unit(
                "matrix-synapse.service",
                "active",
                &format!(
                    "{}\nWants=worker-1.service\nRequires=postgres.service\nRequiredBy=worker-1.service worker-2.service \
                     bridge.service\nWantedBy=multi-user.target companion.service\nBefore=worker-1.service",
                    run("homeserver")
                ),
            ),
            unit("worker-1.service", "active", &run("generic_worker")),
            unit("worker-2.service", "failed", &run("generic_worker")),
            unit("bridge.service", "activating", "ExecStart={ mautrix }\nRequiredBy=bot.service idle.service"),
            unit("bot.service", "active", ""),
            unit("idle.service", "inactive", ""),
            unit("companion.service", "active", "ExecStart={ nginx }"),
            unit("postgres.service", "active", "ExecStart={ postgres }"),
            unit("other.service", "active", &run("homeserver")),
            "Id=gone.service\nNames=gone.service\nLoadState=not-found\nActiveState=inactive\n".to_owned(),
        ]
        .join("\n")
    }

    fn found(names: &[&str]) -> Result<Family, String> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        family(&shown(), &names)
    }

    #[test]
    fn whatever_runs_synapse_and_belongs_together_is_one_server() {
        // Mutations: neighbours not looked at; followers of followers left out; who did not run started: each seen red.
        let family = found(&["matrix-synapse"]).unwrap();
        assert_eq!(family.synapse, ["matrix-synapse.service", "worker-1.service", "worker-2.service"]);
        assert_eq!(
            family.running,
            ["matrix-synapse.service", "worker-1.service", "bridge.service", "bot.service"]
        );
    }

    #[test]
    fn who_was_named_counts_whatever_it_runs() {
        // Mutations: an alias taken for another unit; what does not run left out of what is started: each seen red.
        let family = found(&["alias-of-companion", "idle.service", "companion"]).unwrap();
        assert_eq!(family.synapse, ["companion.service", "idle.service"]);
        assert_eq!(family.running, family.synapse);
        assert!(found(&["gone"]).unwrap_err().contains("no unit gone"));
        assert!(found(&["none"]).unwrap_err().contains("no unit none"));
    }
}
