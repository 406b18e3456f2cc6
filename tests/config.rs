//! The TOML: shipped files check, and every kind of mistake has its exact message.
//!
//! tests/config/bad/NAME.toml is a broken file, NAME.txt what is printed for it. `UPDATE=1 cargo test --test config`
//! writes the transcripts anew; read the difference.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests read files and the environment, and may panic"
)]

use std::path::Path;
use std::path::PathBuf;

use synvisor::config::Config;
use synvisor::config::problem;
use synvisor::config::roles::WorkerKind;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn parse(text: &str) -> Config {
    Config::parse(text, Path::new("/etc/synvisor")).unwrap_or_else(|problems| panic!("{problems:?}")).config
}

fn files(directory: &str, suffix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(directory)).unwrap();
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.extension().is_some_and(|held| held == suffix));
    found.sort();
    found
}

#[test]
fn every_mistake_has_its_message() {
    // Mutations: `Reader::finish` that reports nothing, `parse` that stops at the first problem, a caret one column to
    // the right: each seen red.
    let update = std::env::var("UPDATE").is_ok();
    let bad = files("tests/config/bad", "toml");
    assert!(bad.len() >= 50, "{} cases", bad.len());
    let mut wrong = Vec::new();
    for path in bad {
        let text = std::fs::read_to_string(&path).unwrap();
        let Err(problems) = Config::parse(&text, Path::new("/etc/synvisor")) else {
            panic!("{} is taken for good", path.display())
        };
        let printed = problem::print_all(&problems, "synvisor.toml", &text);
        let expected = path.with_extension("txt");
        if update {
            std::fs::write(&expected, &printed).unwrap();
        } else if std::fs::read_to_string(&expected).ok().as_deref() != Some(printed.as_str()) {
            wrong.push(format!("{}:\n{printed}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "not as in the transcript:\n{}", wrong.join("\n"));
}

#[test]
fn twelve_mistakes_are_twelve_problems() {
    let text = std::fs::read_to_string(root().join("tests/config/bad/twelve-mistakes.toml")).unwrap();
    let problems = Config::parse(&text, Path::new("/")).unwrap_err();
    assert_eq!(problems.len(), 12, "{problems:#?}");
}

#[test]
fn shipped_files_check() {
    for path in files("config/examples", "toml").into_iter().chain([root().join("config/synvisor.toml")]) {
        let parsed = Config::parse(&std::fs::read_to_string(&path).unwrap(), Path::new("/etc/synvisor"));
        let parsed = parsed.unwrap_or_else(|problems| panic!("{}: {problems:?}", path.display()));
        assert!(parsed.warnings.is_empty(), "{}", path.display());
    }
}

/// The reference with its commented keys switched on, but for those that exclude others or have no default.
fn reference_uncommented() -> String {
    let text = std::fs::read_to_string(root().join("config/synvisor.toml")).unwrap();
    let is_key = |line: &str| {
        line.strip_prefix('#')
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '['))
    };
    let without_default = [
        "public_baseurl",
        "password_file",
        "sslmode",
        "path =",
        "venv",
        "enable_registration",
        "max_upload_size",
    ];
    let on = |line: &str| is_key(line) && !without_default.iter().any(|key| line[1..].starts_with(key));
    text.lines()
        .map(|line| if on(line) { format!("{}\n", &line[1..]) } else { format!("{line}\n") })
        .collect()
}

#[test]
fn the_reference_shows_every_key_with_its_default() {
    // Mutation: a default changed in src/config/presets.rs: seen red.
    let text = reference_uncommented();
    assert_eq!(parse(&text), parse("server_name = \"example.com\""));
    for kind in WorkerKind::all() {
        let count = format!("{} = 0", kind.key());
        assert!(text.lines().any(|line| line.starts_with(&count)), "{count}");
    }
    // The keys that a mistyped one is compared with are all there are.
    for table in ["[workers]", "[database]", "[redis]", "[python]", "[supervisor]"] {
        let wrong = format!("server_name = \"a.b\"\n{table}\nqqqqqqqqqqqq = 1\n");
        let problems = Config::parse(&wrong, Path::new("/")).unwrap_err();
        let allowed = problems[0].remedy.strip_prefix("allowed are ").unwrap();
        for key in allowed.split(", ") {
            let shown =
                text.lines().any(|line| line.trim_start_matches('#').starts_with(&format!("{key} = ")));
            assert!(shown, "{key} of {table} is not in config/synvisor.toml");
        }
    }
}

#[test]
fn presets_are_what_they_are_called() {
    let total = |preset: &str| -> u16 {
        let config = parse(&format!("server_name = \"a.b\"\n[workers]\npreset = \"{preset}\""));
        config.workers.0.values().sum()
    };
    assert_eq!(total("none"), 0);
    assert_eq!(total("little-federation-helper"), 1);
    assert_eq!(total("one-of-each"), 16);
    assert_eq!(total("specialized-workers"), 19);
    let config = parse("server_name = \"a.b\"\n[workers]\npreset = \"one-of-each\"\ngeneric = 4\ntyping = 0");
    assert_eq!(config.workers.count(WorkerKind::Generic), 4);
    assert_eq!(config.workers.0.values().sum::<u16>(), 18);
}

#[test]
fn relative_paths_start_at_the_file() {
    let config =
        parse("server_name = \"a.b\"\n[python]\nvenv = \"venv\"\n[supervisor]\nstate_dir = \"/srv\"");
    assert_eq!(config.python.venv, Path::new("/etc/synvisor/venv"));
    assert_eq!(config.supervisor.state_dir, Path::new("/srv"));
}
