//! The machine: ports, files, clock, disks, and what systemd was told beside the unit.

use std::path::Path;

use crate::config::Config;
use crate::topology::Topology;

use super::DropIn;
use super::Facts;
use super::Finding;
use super::Kept;
use super::Place;

/// A process of Synapse has two sockets and some files of its own, and each client of the router two.
const LEAST_FILES: u64 = 4_096;

/// Less than this is soon none, in bytes and of a hundred.
const LITTLE: u64 = 1 << 30;
const LITTLE_SHARE: u64 = 5;

/// Directives whose values in the unit are what a mechanism rests on, and what comes of another one.
const RESTS_ON: [(&str, &str); 9] = [
    ("User", "directories and sockets belong to synvisor, and Synapse must not run as root"),
    ("Type", "systemd would not know when the homeserver serves"),
    ("NotifyAccess", "systemd would not hear what synvisor says"),
    ("KillMode", "systemd would end PostgreSQL and Synapse in no order, and whoever is to survive a crash"),
    ("Restart", "a supervisor that died would not come back"),
    ("RuntimeDirectoryPreserve", "the next supervisor could not take over what runs"),
    ("FileDescriptorStoreMax", "sockets would not survive the supervisor"),
    ("ExecStopPost", "what a supervisor left would run on after a stop"),
    ("ExecStart", "options that are not the package's"),
];

pub(super) fn examine(config: &Config, facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<Finding> = facts.ports.iter().map(port).collect();
    findings.push(files(facts));
    findings.push(clock(facts));
    findings.extend(facts.places.iter().flat_map(disk));
    findings.push(modes(&facts.kept));
    findings.push(drop_ins(&facts.drop_ins));
    findings.push(memory(config, facts));
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
    let Place { what, path, free, size, free_files, files, open } = place;
    let shown = path.display();
    let mut findings = Vec::new();
    let share = free.saturating_mul(100) / (*size).max(1);
    if *free < LITTLE || share < LITTLE_SHARE {
        findings.push(Finding::warning(
            "disk",
            format!("{} MiB are free for {what}, {shown} ({share} %)", free >> 20),
            "make room, or move it: a full disk stops PostgreSQL and every upload",
        ));
    }
    if *files > 0 && free_files.saturating_mul(100) / files < LITTLE_SHARE {
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

/// The name and value of each directive of a unit's text.
fn directives(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';', '[']));
    lines.filter_map(|line| line.split_once('=')).map(|(name, value)| (name.trim(), value.trim()))
}

fn drop_ins(drop_ins: &[DropIn]) -> Finding {
    let mut found = Vec::new();
    for DropIn { path, text } in drop_ins {
        for (name, value) in directives(text) {
            if let Some((_, why)) = RESTS_ON.iter().find(|(directive, _)| *directive == name) {
                found.push(format!("{} sets {name}={value}: {why}", path.display()));
            }
        }
    }
    if found.is_empty() {
        let count = drop_ins.len();
        return Finding::fine("drop-ins", format!("{count} change the unit, and nothing that it rests on"));
    }
    Finding::warning(
        "drop-ins",
        found.join("; "),
        "remove these lines (systemctl edit synvisor), then: systemctl daemon-reload",
    )
}

/// Bytes that a process of Synapse takes before it has done anything, forked, and main's or a plain one's.
const FORKED: u64 = 50 << 20;

fn memory(config: &Config, facts: &Facts) -> Finding {
    let topology = Topology::of(config);
    let processes = topology.synapse().count() as u64;
    // What Synapse's caches may grow to (`caches.cache_autotuning.max_cache_memory_usage`), in each process.
    let caches = config
        .synapse
        .get("caches")
        .and_then(|caches| caches.get("cache_autotuning")?.get("max_cache_memory_usage"))
        .and_then(bytes);
    let least = processes * FORKED;
    let most = caches.map(|caches| processes * (FORKED + caches));
    let shown = |bytes: u64| format!("{} MiB", bytes >> 20);
    if least > facts.memory {
        return Finding::error(
            "memory",
            format!(
                "{processes} processes take {} before they do anything, and the machine has {}",
                shown(least),
                shown(facts.memory)
            ),
            "fewer workers: a smaller preset, or counts in [workers]",
        );
    }
    if let Some(most) = most.filter(|most| *most > facts.memory) {
        return Finding::warning(
            "memory",
            format!(
                "caches may grow to {} in {processes} processes, and the machine has {}",
                shown(most),
                shown(facts.memory)
            ),
            "lower caches.cache_autotuning.max_cache_memory_usage in [synapse]: it counts for each process",
        );
    }
    let factor = config.synapse.get("caches").and_then(|caches| caches.get("global_factor"));
    let factor =
        factor.and_then(|factor| factor.as_float().or_else(|| factor.as_integer().map(|whole| whole as f64)));
    // Synapse's developers count on half a gigabyte for each unit of the factor in a busy process.
    let wanted = factor.map(|factor| (factor * processes as f64 * 256.0) as u64);
    if let Some(wanted) = wanted.filter(|wanted| *wanted << 20 > facts.memory) {
        return Finding::warning(
            "memory",
            format!(
                "a global_factor of {} in {processes} processes may ask for {wanted} MiB, and the machine has {}",
                factor.unwrap_or_default(),
                shown(facts.memory)
            ),
            "lower caches.global_factor in [synapse], or bound it by caches.cache_autotuning.max_cache_memory_usage",
        );
    }
    Finding::fine("memory", format!("{processes} processes, {}", shown(facts.memory)))
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

/// Whether a path lies in one of those that the unit, or a drop-in, opens for writing.
pub fn is_open(path: &Path, unit: &str, drop_ins: &[DropIn]) -> bool {
    let texts = std::iter::once(unit).chain(drop_ins.iter().map(|drop_in| drop_in.text.as_str()));
    let opened = texts.flat_map(directives).filter(|(name, _)| *name == "ReadWritePaths");
    let mut paths = opened.flat_map(|(_, value)| value.split_whitespace());
    paths.any(|open| path.starts_with(open.trim_start_matches(['-', '+']).trim_matches('"')))
}
