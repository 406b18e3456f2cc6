//! The unit of systemd as this machine has it: the shipped one or another in its place, and the drop-ins.

use std::path::Path;
use std::path::PathBuf;

use super::DropIn;
use super::Facts;
use super::Finding;

/// What the service reads unless its command says otherwise.
const CONFIGURATION: &str = "/etc/synvisor/synvisor.toml";

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

pub(super) fn examine(facts: &Facts) -> Vec<Finding> {
    facts.unit.iter().map(|unit| whole(unit, facts.shipped)).chain([drop_ins(&facts.drop_ins)]).collect()
}

/// Judges a unit in the place of the shipped one, as `systemctl edit --full` makes it.
fn whole(unit: &DropIn, shipped: &str) -> Finding {
    let shown = unit.path.display();
    let values = |text, name| assigned([text], name).join(" ");
    let found = RESTS_ON.iter().filter_map(|(name, why)| {
        let value = values(unit.text.as_str(), name);
        (value != values(shipped, name)).then(|| format!("{shown} has {name}={value}: {why}"))
    });
    let found: Vec<String> = found.collect();
    if found.is_empty() {
        return Finding::fine(
            "unit",
            format!("{shown} is in the place of the package's, and rests on the same"),
        );
    }
    Finding::warning(
        "unit",
        found.join("; "),
        "systemctl revert synvisor, and say what you need in a drop-in (systemctl edit synvisor)",
    )
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

/// Whether a path lies in one of those that the unit, or a drop-in, opens for writing.
pub fn is_open(path: &Path, unit: &str, drop_ins: &[DropIn]) -> bool {
    let values = |name| assigned(texts(unit, drop_ins), name);
    let paths = values("ReadWritePaths").into_iter().flat_map(words);
    let own = values("StateDirectory").into_iter().flat_map(words);
    paths
        .map(|open| PathBuf::from(open.trim_start_matches(['-', '+'])))
        .chain(own.map(|name| Path::new("/var/lib").join(name)))
        .any(|open| path.starts_with(open))
}

/// The configuration that the service runs with.
pub fn configuration(unit: &str, drop_ins: &[DropIn]) -> PathBuf {
    let command = assigned(texts(unit, drop_ins), "ExecStart").pop().map(words).unwrap_or_default();
    let behind = command.iter().skip_while(|word| *word != "--config").nth(1).map(String::as_str);
    let joined = command.iter().find_map(|word| word.strip_prefix("--config="));
    PathBuf::from(joined.or(behind).unwrap_or(CONFIGURATION))
}

fn texts<'t>(unit: &'t str, drop_ins: &'t [DropIn]) -> impl Iterator<Item = &'t str> {
    std::iter::once(unit).chain(drop_ins.iter().map(|drop_in| drop_in.text.as_str()))
}

/// What a directive holds in the end: an empty value takes back what was said before (systemd.syntax(7)).
fn assigned<'t>(texts: impl IntoIterator<Item = &'t str>, name: &str) -> Vec<&'t str> {
    let mut values = Vec::new();
    for (_, value) in texts.into_iter().flat_map(directives).filter(|(directive, _)| *directive == name) {
        if value.is_empty() {
            values.clear();
        } else {
            values.push(value);
        }
    }
    values
}

/// The name and value of each directive of a unit's text.
fn directives(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';', '[']));
    lines.filter_map(|line| line.split_once('=')).map(|(name, value)| (name.trim(), value.trim()))
}

/// The words of a value: quotes hold one together, a backslash takes a sign as it is, and %% is one %
/// (systemd.syntax(7), systemd.unit(5)).
fn words(value: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None, None);
    let mut signs = value.chars().peekable();
    while let Some(sign) = signs.next() {
        match sign {
            '\\' => word.get_or_insert_with(String::new).extend(signs.next()),
            _ if quote == Some(sign) => quote = None,
            '"' | '\'' if quote.is_none() => {
                quote = Some(sign);
                word.get_or_insert_with(String::new);
            }
            _ if quote.is_none() && sign.is_whitespace() => words.extend(word.take()),
            _ => {
                let _ = signs.next_if(|next| sign == '%' && *next == '%');
                word.get_or_insert_with(String::new).push(sign);
            }
        }
    }
    words.extend(word);
    words
}
