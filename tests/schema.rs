//! What synvisor says about the configuration as such: its schema, its effective values, its problems as JSON, and the
//! settings that it believes Synapse to have.

#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "tests run the command line and Python, write files into directories of their own, and may panic"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value as Json;
use synvisor::config::schema;
use synvisor::config::settings;
use synvisor::host;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    String::from_utf8(fs::read(path).unwrap()).unwrap()
}

fn venv() -> PathBuf {
    let venv = std::env::var("SYNVISOR_TEST_VENV").expect(
        "SYNVISOR_TEST_VENV must name a virtualenv with Synapse: run `make test`, which prepares one and sets it",
    );
    PathBuf::from(venv)
}

/// What the command line prints, and its exit code.
fn synvisor(arguments: &[&str], config: &Path) -> (String, i32) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_synvisor"));
    let output = command.args(arguments).arg("--config").arg(config).output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.code().unwrap())
}

fn toml_files(directory: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(directory)).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|end| end == "toml")).collect();
    files.sort();
    files
}

#[test]
fn the_shipped_schema_is_the_one_that_is_printed() {
    let path = root().join("config/synvisor.schema.json");
    let (printed, code) = synvisor(&["schema"], Path::new("/nowhere"));
    assert_eq!((printed.as_str(), code), (schema::schema().as_str(), 0));
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &printed).unwrap();
    }
    assert_eq!(read(&path), printed, "UPDATE=1 writes it anew");
}

/// Mistakes that only synvisor sees: what a value means, and how one goes with another.
const BEYOND_THE_SCHEMA: [&str; 49] = [
    "base-url-ftp",
    "base-url-with-query",
    "base-url-with-space",
    "base-url-with-user",
    "base-url-without-host",
    "base-url-without-scheme",
    "database-embedded-with-host",
    "database-host-is-url",
    "database-host-with-port",
    "directories-the-same",
    "duration-out-of-bounds",
    "health-timeout-too-short",
    "listen-host-name",
    "listen-port-only",
    "listen-port-zero",
    "listen-twice",
    "listen-wildcard-covers",
    "listen-without-address",
    "listen-without-port",
    "proxies-bad-network",
    "proxies-host-name",
    "python-packages-without-synapse",
    "python-venv-and-synapse",
    "redis-embedded-with-path",
    "redis-embedded-with-port",
    "redis-host-is-url",
    "redis-path-and-host",
    "run-dir-too-long",
    "secrets-credential-with-directory",
    "secrets-credential-without-name",
    "listen-tls-not-a-credential",
    "listen-tls-without-key",
    "server-name-bad-ipv6",
    "server-name-bad-port",
    "server-name-is-url",
    "server-name-is-user",
    "server-name-not-ascii",
    "server-name-port-too-large",
    "server-name-too-long",
    "server-name-upper-case",
    "server-name-with-underscore",
    "synapse-secret-file-beside-others",
    "synapse-secret-file-credential",
    "synapse-secret-file-not-a-path",
    "unit-environment-cache-factor",
    "unit-environment-own",
    "unit-pool-reversed",
    "user-malformed",
    "user-root",
];

#[test]
fn the_schema_accepts_what_is_right_and_refuses_what_an_editor_can_see() {
    // Mutations, each seen red: additionalProperties left out; `not` of the owned settings left out; the bounds of
    // numbers left out.
    let dir = tempfile::tempdir().unwrap();
    let schema_file = dir.path().join("schema.json");
    fs::write(&schema_file, schema::schema()).unwrap();
    let mut arguments = vec![schema_file];
    let mut names = Vec::new();
    for file in toml_files("config/examples").into_iter().chain(toml_files("tests/config/bad")) {
        // What is no TOML has no JSON.
        let Ok(table) = toml::from_str::<toml::Table>(&read(&file)) else { continue };
        let name = file.file_stem().unwrap().to_str().unwrap().to_owned();
        let json = dir.path().join(format!("{name}.json"));
        fs::write(&json, serde_json::to_vec(&table).unwrap()).unwrap();
        arguments.push(json);
        names.push((file.parent().unwrap().ends_with("examples"), name));
    }
    let mut python = Command::new(venv().join("bin/python"));
    let output =
        python.arg("-I").arg(root().join("tests/render/schema.py")).args(&arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let valid: Vec<bool> = serde_json::from_slice(&output.stdout).unwrap();
    assert!(valid.len() > 100);
    let unseen: BTreeSet<&str> = names
        .iter()
        .zip(valid)
        .filter(|((shipped, name), valid)| {
            assert!(*valid || !shipped, "the schema refuses the example {name}");
            *valid && !shipped && !name.starts_with("warning-")
        })
        .map(|((_, name), _)| name.as_str())
        .collect();
    assert_eq!(unseen, BTreeSet::from(BEYOND_THE_SCHEMA));
}

#[test]
fn the_known_settings_are_those_of_the_installed_synapse() {
    // Mutation: a line of settings.tsv removed: seen red.
    let installed = host::settings::installed(&venv()).unwrap().settings;
    let known: BTreeSet<String> = settings::names().map(str::to_owned).collect();
    let differing: Vec<_> = installed.symmetric_difference(&known).collect();
    // `config["args"]` is of a database there.
    assert_eq!(differing, ["args"]);
}

#[test]
fn what_takes_effect_is_shown_with_its_origin_and_without_secrets() {
    // Mutations, each seen red: masking left out; the preset's origin taken for a default; lines counted from 0.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("synvisor.toml");
    let text = "server_name = \"example.com\"
[workers]
preset = \"little-federation-helper\"
generic = 2
[units.generic]
max_memory = \"1G\"
[python]
venv = \"venv\"
[synapse]
turn_shared_secret = \"hunter2\"
email = { smtp_pass = \"hunter2\", smtp_host = \"mail\" }
";
    fs::write(&file, text).unwrap();
    let (printed, code) = synvisor(&["config", "show"], &file);
    assert_eq!(code, 0);
    assert!(!printed.contains("hunter2"), "{printed}");
    let lines: Vec<String> =
        printed.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let venv = format!("venv = \"{}\" # line 8", dir.path().join("venv").display());
    for expected in [
        "server_name = \"example.com\" # line 1",
        "public_baseurl = \"https://example.com/\" # default: https:// and server_name",
        "generic = 2 # line 4",
        "federation_sender = 1 # preset little-federation-helper",
        "[units.generic]",
        "max_memory = \"1G\" # line 6",
        venv.as_str(),
        "turn_shared_secret = \"…\" # line 10",
        "email = { smtp_host = \"mail\", smtp_pass = \"…\" } # line 11",
    ] {
        assert!(lines.iter().any(|line| line == expected), "{expected} is not in\n{printed}");
    }
    printed.parse::<toml::Table>().unwrap();

    let (json, _) = synvisor(&["config", "show", "--json"], &file);
    let rows: Vec<Json> = serde_json::from_str(&json).unwrap();
    let row = rows.iter().find(|row| row["key"] == "federation_sender").unwrap();
    assert_eq!(
        (&row["table"], &row["value"], &row["origin"]),
        (&"workers".into(), &"1".into(), &"preset little-federation-helper".into())
    );
    // Every key of the schema's tables is there, unless nothing holds for it.
    for key in ["sslmode", "path"] {
        assert!(rows.iter().all(|row| row["key"] != key), "{key} has no value");
    }
}

#[test]
fn problems_are_there_for_programs_too() {
    // Mutation: `position` counted in bytes: seen red by the column behind the umlauts.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("synvisor.toml");
    fs::write(&file, "server_name = \"a.b\"\nredis = { \"ü\" = 1, hsot = \"x\" }\n").unwrap();
    let (printed, code) = synvisor(&["check", "--json"], &file);
    let json: Json = serde_json::from_str(&printed).unwrap();
    assert_eq!((code, &json["usable"]), (78, &false.into()));
    let problem = &json["problems"][1];
    assert_eq!((&problem["line"], &problem["column"]), (&2.into(), &20.into()));
    assert_eq!(
        (&problem["severity"], &problem["remedy"]),
        (&"error".into(), &"did you mean \"host\"?".into())
    );

    fs::write(&file, "server_name = \"a.b\"\n").unwrap();
    let (printed, code) = synvisor(&["check", "--json"], &file);
    let json: Json = serde_json::from_str(&printed).unwrap();
    assert_eq!((code, &json["usable"], &json["units"]), (0, &true.into(), &4.into()));
    assert_eq!(json["problems"], Json::Array(Vec::new()));
}
