//! The style guide as a test: layers, purity, size, suppressed lints, changelog.
//!
//! Mutations, each seen red: `use crate::sys::fs` in src/render/mod.rs, `std::env::var` in src/config/parse.rs,
//! `use crate::cli` in src/run/mod.rs, a file of 601 lines.
#![expect(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests read files and may panic")]

use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

/// A module may import those to its right; the core ends where the shell begins.
const LAYERS: [&str; 13] = [
    // shell
    "cli",
    "run",
    "control",
    "router",
    "host",
    "observe",
    "sys", // core
    "supervise",
    "wire",
    "render",
    "route",
    "topology",
    "config",
];
const FIRST_PURE: usize = 7;

/// What a pure module has no business with.
const IMPURE: [&str; 14] = [
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::os",
    "std::env",
    "std::process",
    "std::thread",
    "std::time",
    "std::io",
    "tokio",
    "nix::",
    "libc",
    "tracing",
    "getrandom",
];

/// Lines of a file without its tests.
const LONGEST: usize = 600;

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut directories = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|suffix| suffix == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(found.len() > 30);
    found
}

/// The module of the crate that a file belongs to; none for lib.rs and main.rs.
fn module(path: &Path) -> Option<usize> {
    let relative = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let first = relative.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
    if relative.iter().count() == 1 && matches!(first, "lib" | "main") {
        return None;
    }
    Some(LAYERS.iter().position(|layer| *layer == first).unwrap_or_else(|| panic!("{first} is in no layer")))
}

/// A file without its unit tests and its comments.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]").next().unwrap();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn imports_point_from_the_shell_to_the_core() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let Some(own) = module(&path) else { continue };
        let named: BTreeSet<&str> = text
            .match_indices("crate::")
            .map(|(at, found)| {
                text[at + found.len()..].split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap()
            })
            .collect();
        for name in named {
            match LAYERS.iter().position(|layer| *layer == name) {
                Some(other) if other >= own => {}
                Some(_) => wrong.push(format!("{} imports {name}", path.display())),
                None => wrong.push(format!("{} imports {name}, which is in no layer", path.display())),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_core_is_pure() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        if module(&path).is_some_and(|own| own >= FIRST_PURE) {
            let code = code(&text);
            wrong.extend(
                IMPURE
                    .iter()
                    .filter(|word| code.contains(**word))
                    .map(|word| format!("{}: {word}", path.display())),
            );
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_code_stays_in_sys() {
    for (path, text) in sources() {
        let inside = path.to_str().unwrap().contains("/src/sys/");
        assert!(inside || !code(&text).contains("unsafe "), "{}", path.display());
    }
}

#[test]
fn files_stay_readable() {
    for (path, text) in sources() {
        let lines = text.split("#[cfg(test)]").next().unwrap().lines().count();
        assert!(lines <= LONGEST, "{} has {lines} lines", path.display());
    }
}

#[test]
fn the_changelog_has_a_place_for_what_is_not_released() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("CHANGELOG.md")).unwrap();
    assert!(text.contains("\n## [Unreleased]\n"));
}
