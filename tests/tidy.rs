//! The rules of the source tree that the compiler does not hold: layers, purity, sizes, reasons.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "this test reads the sources, and a source that cannot be read is its failure"
)]

use std::path::Path;

/// The pure core; a module may import only what stands below it.
const PURE: [&str; 12] = [
    "import",
    "plan",
    "moving",
    "doctor",
    "supervise",
    "wire",
    "render",
    "route",
    "topology",
    "config",
    "certificate",
    "http1",
];

/// The shell; a module may import what stands below it, and all of the core.
const SHELL: [&str; 10] =
    ["main", "cli", "run", "admin", "control", "router", "forkserver", "host", "observe", "sys"];

/// What a pure file must not name, since each of them reaches the machine, the clock or the environment.
const IMPURE: [&str; 18] = [
    "std::fs",
    "std::io",
    "std::os",
    "std::time",
    "net::Tcp",
    "net::Udp",
    "UnixStream",
    "tokio",
    "nix::",
    "libc::",
    "tracing::",
    "getrandom",
    "std::env",
    "Instant::now",
    "SystemTime",
    "std::process",
    "std::thread",
    // A group at the root would hide the names above.
    "std::{",
];

const MOST_LINES: usize = 600;

/// A source file: its path below the root of the repository, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    /// The layer that it belongs to: the first part of its path below src/.
    fn layer(&self) -> &str {
        let below = self.path.strip_prefix("src/").unwrap_or(&self.path);
        below.split('/').next().unwrap_or(below).trim_end_matches(".rs")
    }

    /// The text without lines that are comments.
    fn code(&self) -> String {
        let lines = self.text.lines().filter(|line| !line.trim_start().starts_with("//"));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// The modules of the crate's root that it names, in whichever way.
    fn imports(&self) -> Vec<String> {
        let depth = self.path.matches('/').count();
        let at_the_top = depth == 1 || self.path.ends_with("/mod.rs") && depth == 2;
        let root = if at_the_top { "super::" } else { "super::super::" };
        let code = self.code();
        let mut names = Vec::new();
        for prefix in ["crate::", "synvisor::", root] {
            for (at, _) in code.match_indices(prefix) {
                // `supercrate::x` is another name, and `super::super::x` of a top file is outside of the crate.
                if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                    continue;
                }
                names.extend(names_at(&code[at + prefix.len()..]));
            }
        }
        let known = |name: &String| PURE.contains(&name.as_str()) || SHELL.contains(&name.as_str());
        names.retain(|name| known(name) && name != self.layer());
        names
    }
}

/// `a` of `a::b`, or `a` and `b` of `{a::{x, y}, b}`.
fn names_at(text: &str) -> Vec<String> {
    let word =
        |text: &str| text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let Some(group) = text.strip_prefix('{') else { return vec![word(text)] };
    let mut depth = 0_usize;
    let mut names = vec![word(group)];
    for (at, sign) in group.char_indices() {
        match sign {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(word(&group[at + 1..])),
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Imports that do not go down, as `path: layer names other`.
fn wrong_imports(source: &Source) -> Vec<String> {
    let layer = source.layer();
    let place = |order: &[&str], name: &str| order.iter().position(|other| *other == name);
    let allowed = |other: &str| match (place(&PURE, layer), place(&SHELL, layer)) {
        (Some(own), _) => place(&PURE, other).is_some_and(|its| its > own),
        (None, Some(own)) => {
            place(&PURE, other).is_some() || place(&SHELL, other).is_some_and(|its| its > own)
        }
        // lib.rs names every module, and nothing else of the root has a layer.
        (None, None) => layer == "lib",
    };
    let wrong = source.imports().into_iter().filter(|other| !allowed(other));
    wrong.map(|other| format!("{}: {layer} must not name {other}", source.path)).collect()
}

fn impurities(source: &Source) -> Vec<String> {
    if !PURE.contains(&source.layer()) {
        return Vec::new();
    }
    let code = source.code();
    let found = IMPURE.into_iter().filter(|word| code.contains(word));
    found.map(|word| format!("{}: the pure core must not name {word}", source.path)).collect()
}

/// Suppressed lints without a reason, and `allow`, which nobody notices when it has become needless.
fn bare_suppressions(source: &Source) -> Vec<String> {
    let code = source.code();
    let mut wrong = Vec::new();
    for attribute in ["[expect(", "[allow("] {
        for (at, _) in code.match_indices(attribute) {
            if !code[..at].ends_with('#') && !code[..at].ends_with("#!") {
                continue;
            }
            let arguments = code[at..].split_once(")]").map_or("", |(arguments, _)| arguments);
            let reason = arguments.split_once("reason = \"").map_or("", |(_, reason)| reason);
            if attribute == "[allow(" {
                wrong.push(format!("{}: #[allow]; write #[expect(…, reason = \"…\")]", source.path));
            } else if !reason.starts_with(|c: char| c.is_alphanumeric() || c == '`') {
                wrong.push(format!("{}: #[expect] without a reason", source.path));
            }
        }
    }
    wrong
}

fn too_long(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    if lines > MOST_LINES {
        return vec![format!("{}: {lines} lines, more than {MOST_LINES}", source.path)];
    }
    Vec::new()
}

/// Every Rust file below a folder.
fn sources(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = vec![root.join(folder)];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap();
                found.push(Source::new(name, &std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

fn all(check: fn(&Source) -> Vec<String>, sources: &[Source]) -> String {
    sources.iter().flat_map(check).collect::<Vec<_>>().join("\n")
}

#[test]
fn imports_go_down_only() {
    // Mutation: `use crate::wire::Incarnation` in topology, `use crate::host` in sys: each seen red.
    let found = all(wrong_imports, &sources("src"));
    assert!(found.is_empty(), "{found}");
}

#[test]
fn every_module_has_its_layer() {
    // Mutation: a new src/extra.rs: seen red.
    // A module that is in neither list would be held by nothing.
    for source in sources("src") {
        let layer = source.layer();
        let known = PURE.contains(&layer) || SHELL.contains(&layer) || layer == "lib";
        assert!(known, "{}: give `{layer}` its place in PURE or SHELL", source.path);
    }
    let layers: Vec<String> = sources("src").iter().map(|source| source.layer().to_owned()).collect();
    for layer in PURE.into_iter().chain(SHELL) {
        assert!(layers.iter().any(|held| held == layer), "there is no module `{layer}`");
    }
}

#[test]
fn the_pure_core_touches_nothing() {
    // Mutation: `use std::fs` in route/balance.rs: seen red.
    let found = all(impurities, &sources("src"));
    assert!(found.is_empty(), "{found}");
}

#[test]
fn files_are_of_a_size_to_be_read() {
    // Mutation: 400 lines added to run/mod.rs: seen red.
    let found = all(too_long, &sources("src"));
    assert!(found.is_empty(), "{found}");
}

#[test]
fn every_suppressed_lint_has_its_reason() {
    // Mutation: the reason of cli/output.rs dropped: seen red.
    let mut all_sources = sources("src");
    all_sources.extend(sources("tests"));
    // This file holds attributes in strings.
    all_sources.retain(|source| source.path != "tests/tidy.rs");
    let found = all(bare_suppressions, &all_sources);
    assert!(found.is_empty(), "{found}");
}

#[test]
fn unsafe_code_stays_in_sys() {
    // Mutation: an unsafe block in host/layout.rs: seen red.
    for source in sources("src") {
        assert!(source.layer() == "sys" || !source.code().contains("unsafe "), "{}", source.path);
    }
}

/// Clocks other than the one that deadlines are kept by: one can be set, another stands while the machine sleeps.
const CLOCKS: [&str; 4] = ["CLOCK_", "SystemTime", "UNIX_EPOCH", "clock::wall"];

/// Where they may be, by a file and what the line holds.
const MAY_READ_CLOCKS: [(&str, &str); 12] = [
    ("src/sys/clock.rs", "CLOCK_BOOTTIME"),
    ("src/sys/clock.rs", "CLOCK_REALTIME"),
    // When a generation was made is for people to read.
    ("src/run/apply.rs", "generations.begin("),
    ("src/run/chosen.rs", "generations.begin("),
    // So is when a backup was made.
    ("src/cli/backup.rs", "made: clock::wall()"),
    // Synapse counts the life of a registration token to an hour of the calendar.
    ("src/admin/registration_tokens.rs", "clock::wall()"),
    // A certificate ends at an hour of the calendar.
    ("src/host/certificates.rs", "validity("),
    ("src/host/checkup.rs", "clock::wall()"),
    ("src/run/certificates.rs", "clock::wall()"),
    // When a request was answered is for people to read.
    ("src/router/access_log.rs", "common("),
    ("src/router/access_log.rs", "as_json("),
    // What systemd wants to hear with RELOADING=1.
    ("src/run/reload.rs", "CLOCK_MONOTONIC"),
];

fn other_clocks(source: &Source) -> Vec<String> {
    let may =
        |line: &str| MAY_READ_CLOCKS.iter().any(|(path, words)| source.path == *path && line.contains(words));
    let code = source.code();
    let found = code.lines().filter(|line| CLOCKS.iter().any(|clock| line.contains(clock)) && !may(line));
    found.map(|line| format!("{}: {}", source.path, line.trim())).collect()
}

#[test]
fn no_deadline_goes_by_a_clock_that_can_be_set() {
    let found = all(other_clocks, &sources("src"));
    assert!(found.is_empty(), "{found}");
}

#[test]
fn the_changelog_has_a_place_for_what_comes_next() {
    // Mutation: the heading renamed to `[0.1.0]`: seen red.
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("CHANGELOG.md");
    let text = std::fs::read_to_string(&path).expect("CHANGELOG.md at the root of the repository");
    let unreleased =
        text.lines().any(|line| line.trim_start_matches('#').trim().trim_matches(['[', ']']) == "Unreleased");
    assert!(unreleased, "CHANGELOG.md needs a section `## [Unreleased]`");
}

#[test]
fn the_checks_of_this_file_find_what_they_look_for() {
    // Mutation: `super::` not followed to the root: seen red.
    let imports = |path: &str, text: &str| wrong_imports(&Source::new(path, text)).len();
    assert_eq!(imports("src/config/parse.rs", "use crate::topology::Unit;"), 1);
    assert_eq!(imports("src/config/mod.rs", "use super::sys;"), 1);
    assert_eq!(imports("src/config/reader.rs", "use super::super::route::Rule;"), 1);
    assert_eq!(
        imports("src/wire.rs", "use crate::{topology::{Unit, UnitName}, supervise, host::Layout};"),
        2
    );
    assert_eq!(imports("src/sys/fs.rs", "fn f() { crate::run::now() }"), 1);
    assert_eq!(imports("src/extra.rs", "use crate::config::Config;"), 1);
    assert_eq!(imports("src/run/mod.rs", "use crate::{config, sys};\nuse crate::control;"), 0);
    assert_eq!(
        imports("src/config/parse.rs", "// crate::sys\nuse super::reader;\nuse crate::config::roles;"),
        0
    );
    // A sibling that is called like a layer is not that layer.
    assert_eq!(imports("src/router/forward.rs", "use super::control;"), 0);

    let impure = |path: &str, text: &str| impurities(&Source::new(path, text)).len();
    for word in IMPURE {
        assert_eq!(impure("src/route/rules.rs", &format!("use {word}")), 1, "{word}");
    }
    assert_eq!(impure("src/sys/fs.rs", "use std::fs;"), 0);
    assert_eq!(impure("src/render/mod.rs", "use std::net::IpAddr;\n/// Not by std::fs."), 0);

    let bare = |text: &str| bare_suppressions(&Source::new("src/sys/fs.rs", text)).len();
    assert_eq!(bare("#[expect(unused)]"), 1);
    assert_eq!(bare("#![expect(\n    unused,\n    clippy::panic\n)]"), 1);
    assert_eq!(bare("#[expect(unused, reason = \"\")]"), 1);
    assert_eq!(bare("#[allow(unused, reason = \"so\")]"), 1);
    assert_eq!(bare("#[expect(unused, reason = \"see f()\")]"), 0);

    assert_eq!(too_long(&Source::new("src/a.rs", &"\n".repeat(MOST_LINES + 1))).len(), 1);
    assert_eq!(too_long(&Source::new("src/a.rs", &"\n".repeat(MOST_LINES))).len(), 0);
}
