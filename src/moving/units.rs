//! Which units of systemd an old server consists of, by what `systemctl show` says of all units.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use serde::Deserialize;
use serde::Serialize;

/// Units that belong together or need each other (systemd.unit(5)).
const KIN: [&str; 13] = [
    "BindsTo",
    "BoundBy",
    "ConsistsOf",
    "PartOf",
    "PropagatesStopTo",
    "RequiredBy",
    "Requires",
    "Requisite",
    "RequisiteOf",
    "UpheldBy",
    "Upholds",
    "WantedBy",
    "Wants",
];
/// Units that are only started in an order.
const ORDERED: [&str; 2] = ["After", "Before"];
/// Those that stop when a unit is stopped.
const FOLLOWERS: [&str; 5] = ["BoundBy", "ConsistsOf", "PropagatesStopTo", "RequiredBy", "RequisiteOf"];

/// In the command that starts a process of Synapse, in a container or not: its modules, and the scripts of its package
/// (1.163: `[project.scripts]` in `pyproject.toml`).
const MAIN: [&str; 2] = ["synapse.app.homeserver", "synapse_homeserver"];
const WORKER: [&str; 2] = ["synapse.app.", "synapse_worker"];

/// An old server as units.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Family {
    /// As they were named.
    pub named: Vec<String>,
    /// Whatever runs Synapse, or was named.
    pub synapse: Vec<String>,
    /// Those of them that are to be started to have it as it was.
    pub running: Vec<String>,
    /// Whoever runs, is no part of it and stops with it, like bridges.
    pub followers: Vec<String>,
}

/// What else is asked of a unit.
const OWN: [&str; 6] = ["Id", "Names", "LoadState", "ActiveState", "ExecStartPre", "ExecStart"];

/// What `systemctl show` is asked of each unit.
pub fn properties() -> String {
    OWN.into_iter().chain(KIN).chain(ORDERED).collect::<Vec<_>>().join(",")
}

fn is_property(name: &str) -> bool {
    OWN.contains(&name) || KIN.contains(&name) || ORDERED.contains(&name)
}

/// The name of a unit as systemd writes it out.
pub fn full_name(name: &str) -> String {
    if name.ends_with(".service") || name.ends_with(".target") {
        name.to_owned()
    } else {
        format!("{name}.service")
    }
}

/// The units that were named, and every one that runs Synapse and belongs to one of these: one that stays would write to the
/// database of the new server. Who is only started before or after belongs to it as a worker; a main process may be that of
/// another homeserver.
///
/// # Errors
/// There is no such unit.
pub fn family(shown: &str, asked: &[String]) -> Result<Family, String> {
    let blocks = blocks(shown);
    let units: Vec<Unit<'_>> = blocks.iter().map(|block| Unit::of(block)).collect();
    let by_name: BTreeMap<&str, &Unit<'_>> =
        units.iter().flat_map(|unit| unit.words("Names").map(move |name| (name, unit))).collect();
    let mut synapse: Vec<&Unit<'_>> = Vec::new();
    for name in asked {
        let unit = by_name.get(full_name(name).as_str()).copied();
        let Some(unit) = unit.filter(|unit| unit.get("LoadState") == "loaded") else {
            let state = unit.map_or("not-found", |unit| unit.get("LoadState"));
            return Err(format!(
                "systemd cannot start a unit {name} ({state})\n  \
                 systemctl list-units --all '*synapse*' shows how they are called"
            ));
        };
        if synapse.iter().all(|held| held.get("Id") != unit.get("Id")) {
            synapse.push(unit);
        }
    }
    if synapse.iter().any(|unit| unit.words("Names").any(|name| name == "synvisor.service")) {
        return Err("synvisor is the new server\n  --old-unit names the old one".to_owned());
    }
    if let Some(unit) = synapse.iter().find(|unit| !unit.speaks_of_synapse()) {
        let unit = unit.get("Id");
        return Err(format!(
            "neither the name nor a command of {unit} speaks of Synapse: is it the old server?\n  \
             if it is: --old-stop 'systemctl stop {unit}' --old-start 'systemctl start {unit}'"
        ));
    }
    let named: BTreeSet<&str> = synapse.iter().map(|unit| unit.get("Id")).collect();
    let beside = |unit: &Unit<'_>, kinds: &[&str]| {
        let names = kinds.iter().flat_map(|kind| unit.words(kind));
        let units = names.filter_map(|name| by_name.get(name).copied());
        // Others may speak of one that there is not.
        units.filter(|unit| unit.get("LoadState") == "loaded").collect::<Vec<_>>()
    };
    let synapse = reached(synapse, |unit| {
        let mut found = beside(unit, &KIN);
        found.retain(|unit| unit.runs(&MAIN) || unit.is_worker());
        let mut ordered = beside(unit, &ORDERED);
        ordered.retain(|unit| unit.is_worker() && !unit.runs(&MAIN));
        [found, ordered].concat()
    });
    let stopping = reached(synapse.clone(), |unit| beside(unit, &FOLLOWERS));
    let (own, others) = stopping.split_at(synapse.len());
    let runs = |unit: &&&Unit<'_>| named.contains(unit.get("Id")) || unit.is_active();
    Ok(Family {
        named: asked.iter().map(|name| full_name(name)).collect(),
        synapse: ids(own.iter()),
        running: ids(own.iter().filter(runs)),
        followers: ids(others.iter().filter(|unit| unit.is_active())),
    })
}

fn ids<'u, 'a: 'u>(units: impl Iterator<Item = &'u &'u Unit<'a>>) -> Vec<String> {
    units.map(|unit| unit.get("Id").to_owned()).collect()
}

/// What is shown of each unit, a property a line: commands may have lines of their own, and empty ones, as there is one between
/// two units.
fn blocks(shown: &str) -> Vec<String> {
    let mut blocks = vec![String::new()];
    let mut after_gap = false;
    for line in shown.lines() {
        let begins = line.split_once('=').is_some_and(|(name, _)| is_property(name));
        if begins && after_gap {
            blocks.push(String::new());
        }
        if let Some(block) = blocks.last_mut() {
            block.push(if begins { '\n' } else { ' ' });
            block.push_str(line);
        }
        after_gap = line.is_empty();
    }
    blocks
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
        let pairs = shown.lines().filter_map(|line| line.split_once('='));
        Self(pairs.map(|(name, value)| (name, value.trim_end())).collect())
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

    /// A container that somebody else makes shows no command: its unit has a name as is usual.
    fn is_worker(&self) -> bool {
        let name = self.get("Id");
        self.runs(&WORKER) || name.contains("synapse") && name.contains("worker")
    }

    fn speaks_of_synapse(&self) -> bool {
        let said = |text: &str| ["synapse", "matrix", "homeserver"].iter().any(|word| text.contains(word));
        let names = |name: &str| name == "Names" || name.starts_with("ExecStart");
        self.0.iter().any(|(name, text)| names(name) && said(text))
    }

    /// Whether it starts one of these programs itself, or makes a container for it.
    fn runs(&self, programs: &[&str]) -> bool {
        // There is a line for each command, and some only wait for such a process.
        let starts = |name: &str, command: &str| match name {
            "ExecStart" => true,
            "ExecStartPre" => [" create ", " run "].iter().any(|verb| command.contains(verb)),
            _ => false,
        };
        self.0.iter().any(|(name, command)| {
            starts(name, command) && programs.iter().any(|program| command.contains(program))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(id: &str, state: &str, rest: &str) -> String {
        format!("Id={id}\nNames={id} alias-of-{id}\nLoadState=loaded\nActiveState={state}\n{rest}\n")
    }

    /// Those of a playbook, with a bridge, and a homeserver that is only started later.
    fn shown() -> String {
        let run = |app: &str| {
            format!(
                "ExecStartPre={{ docker rm }}\nExecStartPre={{ docker create\n\nx run -m synapse.app.{app} }}\nExecStart={{ x }}"
            )
        };
        let wait = "ExecStartPre={ sh -c 'until pgrep synapse.app.homeserver' }\nExecStart={ mautrix }";
        [
            unit(
                "matrix-synapse.service",
                "active",
                &format!(
                    "{}\nWants=worker-1.service\nRequires=postgres.service\nRequiredBy=worker-2.service bridge.service\n\
                     WantedBy=multi-user.target companion.service synapse-worker-5.service\nBefore=worker-3.service other.service synapse-worker-4.service",
                    run("homeserver")
                ),
            ),
            unit("worker-1.service", "active", &run("generic_worker")),
            unit("worker-2.service", "failed", &run("generic_worker")),
            unit("worker-3.service", "active", "ExecStart={ /opt/bin/synapse_worker }"),
            unit("synapse-worker-4.service", "inactive", "ExecStart={ docker start --attach x }"),
            unit("bridge.service", "activating", &format!("{wait}\nRequiredBy=bot.service idle.service")),
            unit("bot.service", "active", ""),
            unit("idle.service", "inactive", ""),
            unit("companion.service", "active", "ExecStart={ nginx matrix }"),
            unit("matrix-idle.service", "inactive", ""),
            unit("synvisor.service", "inactive", "ExecStart={ synvisor matrix }"),
            unit("postgres.service", "active", "ExecStart={ postgres }"),
            unit("other.service", "active", &run("homeserver")),
            "Id=synapse-worker-5.service\nNames=synapse-worker-5.service\nLoadState=not-found\n".to_owned(),
            "Id=gone.service\nNames=gone.service\nLoadState=masked\nActiveState=inactive\n".to_owned(),
        ]
        .join("\n")
    }

    fn found(names: &[&str]) -> Result<Family, String> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        family(&shown(), &names)
    }

    #[test]
    fn whatever_runs_synapse_and_belongs_together_is_one_server() {
        // Mutations: one that there is not taken; kin not looked at; who is ordered not looked at, or a main process among them taken; whoever waits for one
        // taken for it; the rest of a command with an empty line lost; followers of followers left out: each seen red.
        let family = found(&["matrix-synapse"]).unwrap();
        let workers =
            ["worker-2.service", "worker-1.service", "worker-3.service", "synapse-worker-4.service"];
        assert_eq!(family.synapse, [&["matrix-synapse.service"][..], &workers].concat());
        assert_eq!(family.running, ["matrix-synapse.service", "worker-1.service", "worker-3.service"]);
        assert_eq!(family.followers, ["bridge.service", "bot.service"]);
    }

    #[test]
    fn who_was_named_counts_whatever_it_runs() {
        // Mutations: an alias taken for another unit; what does not run left out of what is started; what speaks of no Synapse
        // taken; this very service taken: each seen red.
        let family = found(&["alias-of-companion", "matrix-idle.service", "companion"]).unwrap();
        assert_eq!(family.synapse, ["companion.service", "matrix-idle.service"]);
        assert_eq!(family.running, family.synapse);
        assert!(found(&["gone"]).unwrap_err().contains("a unit gone (masked)"));
        assert!(found(&["none"]).unwrap_err().contains("a unit none (not-found)"));
        assert!(found(&["postgres"]).unwrap_err().contains("speaks of Synapse"));
        assert!(found(&["synvisor"]).unwrap_err().contains("is the new server"));
        assert_eq!(family.named, ["alias-of-companion.service", "matrix-idle.service", "companion.service"]);
    }
}
