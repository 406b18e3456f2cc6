//! The machine: ports, files, clock, disks and memory.

use crate::config::Config;
use crate::config::units;
use crate::topology::Role;
use crate::topology::Topology;
use crate::topology::Unit;

use super::Facts;
use super::Finding;
use super::Kept;
use super::Place;
use super::Room;
use super::Trouble;

/// A process of Synapse has two sockets and some files of its own, and each client of the router two.
const LEAST_FILES: u64 = 4_096;

/// Less than this is soon none, in bytes and of a hundred.
const LITTLE: u64 = 1 << 30;
const LITTLE_SHARE: u64 = 5;

pub(super) fn examine(config: &Config, facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<Finding> = facts.ports.iter().map(port).collect();
    findings.push(files(facts));
    findings.push(clock(facts));
    findings.extend(facts.places.iter().flat_map(disk));
    findings.push(modes(&facts.kept));
    findings.extend(memory(config, facts));
    findings
}

fn port(port: &super::Port) -> Finding {
    match &port.taken {
        None => Finding::fine("port", format!("{} is ours, or free", port.address)),
        Some(why) => Finding::error(
            "port",
            format!("{} cannot be had: {why}", port.address),
            format!(
                "see who has it (ss -ltnp 'sport = :{}'), or write another address in [[listen]]",
                port.address.port()
            ),
        ),
    }
}

fn files(facts: &Facts) -> Finding {
    match facts.most_files {
        Ok(most) if most >= LEAST_FILES => {
            Finding::fine("open files", format!("up to {most} for each process"))
        }
        Ok(most) => Finding::warning(
            "open files",
            format!("a process may have {most} files open, and a busy router needs two for each client"),
            "LimitNOFILE=65536 in the unit (systemctl edit synvisor), or ulimit -n before synvisor supervise",
        ),
        Err(ref why) => Finding::unknown("open files", why),
    }
}

fn clock(facts: &Facts) -> Finding {
    match facts.clock_is_kept {
        Ok(true) => Finding::fine("clock", "is kept right"),
        Ok(false) => Finding::warning(
            "clock",
            "nothing keeps the machine's clock right, and other servers refuse events and keys from another time",
            "apt-get install systemd-timesyncd (or chrony), then: timedatectl set-ntp true",
        ),
        Err(ref why) => Finding::unknown("clock", why),
    }
}

fn disk(place: &Place) -> Vec<Finding> {
    let Place { what, path, room, open } = place;
    let shown = path.display();
    let Room { free, size, free_files, files } = match room {
        Ok(room) => *room,
        Err(trouble) => {
            let trouble = match trouble {
                Trouble::Fault(why) => {
                    Trouble::Fault(format!("{what} is not where it should be, {shown}: {why}"))
                }
                Trouble::Unseen(why) => Trouble::Unseen(format!("{what}, {shown}: {why}")),
            };
            let remedy = "mount what should be there, or correct the link that leads to it";
            return vec![Finding::trouble("disk", &trouble, remedy)];
        }
    };
    let mut findings = Vec::new();
    let share = free.saturating_mul(100) / size.max(1);
    if free < LITTLE || share < LITTLE_SHARE {
        findings.push(Finding::warning(
            "disk",
            format!("{} MiB are free for {what}, {shown} ({share} %)", free >> 20),
            "make room, or move it: a full disk stops PostgreSQL and every upload",
        ));
    }
    if files > 0 && free_files.saturating_mul(100) / files < LITTLE_SHARE {
        findings.push(Finding::warning(
            "disk",
            format!("{free_files} files can still be made where {what} lies, {shown}"),
            "a media store has many small files: move it to a file system that was made with more inodes",
        ));
    }
    if !open {
        findings.push(Finding::error(
            "disk",
            format!("the unit does not let the service write to {what}, {shown}"),
            format!("systemctl edit synvisor, and below [Service]: ReadWritePaths={shown}"),
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::fine("disk", format!("{} GiB are free for {what}, {shown}", free >> 30)));
    }
    findings
}

fn modes(kept: &[Kept]) -> Finding {
    let wrong = |kept: &Kept| {
        let shown = kept.path.display();
        if !kept.owners.iter().any(|(uid, _)| *uid == kept.owner) {
            let name = kept.owners.first().map_or("root", |(_, name)| name);
            return Some((format!("{shown} belongs to uid {}", kept.owner), format!("chown {name} {shown}")));
        }
        let right = kept.mode & !kept.never;
        (right != kept.mode)
            .then(|| (format!("{shown} has mode {:04o}", kept.mode), format!("chmod {right:04o} {shown}")))
    };
    let found: Vec<(String, String)> = kept.iter().filter_map(wrong).collect();
    if found.is_empty() {
        return Finding::fine("modes", format!("{} files and directories are closed to others", kept.len()));
    }
    let (whats, remedies): (Vec<String>, Vec<String>) = found.into_iter().unzip();
    Finding::error("modes", whats.join("; "), remedies.join("; "))
}

/// Bytes that a process of Synapse takes before it has done anything, forked.
const FORKED: u64 = 50 << 20;

/// Bytes that caches of a busy process grow to for each unit of the factor: our own rule of thumb, Synapse's documentation
/// has none.
const FACTOR: f64 = (256_u64 << 20) as f64;

/// What the caches of one process may grow to.
struct Caches {
    /// Bytes; none where the file says nothing.
    most: Option<u64>,
    /// A bound that Synapse does not keep, since without jemalloc it does not know what its caches take (1.163:
    /// `synapse/util/caches/lrucache.py`, `_expire_old_entries`).
    unkept: bool,
}

fn caches(config: &Config, unit: &Unit) -> Caches {
    let kind = match unit.role {
        Role::Worker(kind) => Some(kind),
        Role::Main | Role::Router | Role::ForkServer | Role::Postgres { .. } | Role::Redis { .. } => None,
    };
    let own = config.units.of(unit.name.as_str(), kind);
    let shared = config.synapse.get("caches").and_then(toml::Value::as_table);
    let mut caches = shared.cloned().unwrap_or_default();
    units::merge(&mut caches, own.caches);
    let bound = caches.get("cache_autotuning").and_then(|tuning| tuning.get("max_cache_memory_usage"));
    let bound = bound.and_then(bytes);
    let kept = own.environment.get("LD_PRELOAD").is_some_and(|libraries| libraries.contains("jemalloc"));
    let factor = caches.get("global_factor");
    let factor =
        factor.and_then(|factor| factor.as_float().or_else(|| factor.as_integer().map(|whole| whole as f64)));
    let grown = factor.map(|factor| (factor * FACTOR) as u64);
    Caches { most: bound.filter(|_| kept).or(grown), unkept: bound.is_some() && !kept }
}

fn memory(config: &Config, facts: &Facts) -> Vec<Finding> {
    let topology = Topology::of(config);
    let all: Vec<Caches> = topology.synapse().map(|unit| caches(config, unit)).collect();
    let processes = all.len() as u64;
    let least = processes * FORKED;
    let most = all.iter().filter_map(|caches| caches.most).fold(least, u64::saturating_add);
    let shown = |bytes: u64| format!("{} MiB", bytes >> 20);
    let has = shown(facts.memory);
    let mut findings = Vec::new();
    if all.iter().any(|caches| caches.unkept) {
        findings.push(Finding::warning(
            "memory",
            "max_cache_memory_usage has no effect: Synapse knows what its caches take only with jemalloc",
            "apt-get install libjemalloc2, and in [units.all]: environment = { LD_PRELOAD = \"libjemalloc.so.2\" }",
        ));
    }
    if least > facts.memory {
        findings.push(Finding::error(
            "memory",
            format!(
                "{processes} processes take {} before they do anything, and the machine has {has}",
                shown(least)
            ),
            "fewer workers: a smaller preset, or counts in [workers]",
        ));
    } else if most > facts.memory {
        findings.push(Finding::warning(
            "memory",
            format!("{processes} processes may grow to {} with their caches, and the machine has {has}", shown(most)),
            "lower what [synapse] or [units.NAME] says of caches, which counts for each process: global_factor, \
             or max_cache_memory_usage where there is jemalloc",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::fine("memory", format!("{processes} processes, {has}")));
    }
    findings
}

/// A size as Synapse reads it: a number, or one with K, M or G.
fn bytes(value: &toml::Value) -> Option<u64> {
    if let Some(number) = value.as_integer() {
        return u64::try_from(number).ok();
    }
    let text = value.as_str()?;
    let digits = text.trim_end_matches(['K', 'M', 'G', 'T']);
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_shl(shift)
}
