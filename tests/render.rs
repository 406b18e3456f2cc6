//! The files that Synapse reads: as they should look, as PyYAML reads them, and as Synapse itself judges them.
//!
//! tests/golden/PRESET/ holds every file of a preset; `UPDATE=1 cargo test --test render` writes them anew.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests read files and the environment, run Python, and may panic"
)]

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use synvisor::config::Config;
use synvisor::host::secrets;
use synvisor::render::FileSet;
use synvisor::render::render;
use synvisor::topology::Topology;

const PRESETS: [&str; 4] = ["none", "little-federation-helper", "one-of-each", "specialized-workers"];

fn files(toml: &str) -> FileSet {
    let config =
        Config::parse(toml, Path::new("/etc/synvisor")).unwrap_or_else(|problems| panic!("{problems:?}"));
    render(&config.config, &Topology::of(&config.config), Some("the password"))
}

fn python() -> PathBuf {
    let venv = std::env::var("SYNVISOR_TEST_VENV").unwrap_or_else(|_| {
        panic!("run `make test`, or set SYNVISOR_TEST_VENV to a virtualenv that holds Synapse")
    });
    Path::new(&venv).join("bin/python")
}

/// Runs Python with a script and arguments; its output.
fn run(script: &str, arguments: &[&str]) -> String {
    let output = Command::new(python()).args(["-c", script]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn write(files: &FileSet) {
    for (path, file) in files {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &file.bytes).unwrap();
    }
}

#[test]
fn presets_render_as_they_always_did() {
    // Mutation: any line of src/render/mod.rs changed: seen red.
    let update = std::env::var("UPDATE").is_ok();
    for preset in PRESETS {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(preset);
        let files = files(&format!("server_name = \"example.com\"\n[workers]\npreset = \"{preset}\"\n"));
        if update {
            let _ = std::fs::remove_dir_all(&golden);
            std::fs::create_dir_all(&golden).unwrap();
        }
        for (path, file) in &files {
            let held = golden.join(path.file_name().unwrap());
            if update {
                std::fs::write(&held, &file.bytes).unwrap();
            }
            let expected = std::fs::read(&held).unwrap_or_default();
            assert!(
                expected == file.bytes,
                "{} differs:\n{}",
                held.display(),
                String::from_utf8_lossy(&file.bytes)
            );
            assert_eq!(file.mode, 0o600);
        }
        assert_eq!(std::fs::read_dir(&golden).unwrap().count(), files.len(), "{preset}");
    }
}

/// Reads files with PyYAML and prints them as JSON, keyed by unit.
const READ: &str = "
import json, sys, pathlib, yaml
print(json.dumps({path.stem: yaml.safe_load(path.read_text())
    for path in pathlib.Path(sys.argv[1]).glob('*.yaml') if not path.name.endswith('.log.yaml')}))
";

#[test]
fn pyyaml_reads_what_was_meant() {
    // Mutation: the document written as JSON, which is YAML to all but PyYAML: seen red (U+007F, U+0085).
    let hard = [
        "=",
        "<<",
        "0o17",
        "0660",
        "1e3",
        ".5",
        "1_000",
        "0x1F",
        "on",
        "yes",
        "No",
        "y",
        "~",
        "null",
        "Null",
        "",
        " ",
        "2026-01-01",
        "12:30:45",
        "190:20:30",
        "-",
        "--- a",
        "a: b",
        "a #b",
        "# c",
        "'",
        "\"",
        "\\",
        "a\nb",
        "a\n",
        "\n a\n",
        " lead",
        "trail ",
        "\ttab",
        "\u{1}\u{7f}\u{85}\u{a0}",
        "\u{2028}\u{feff}",
        "ünïcödé 🦀",
        "%tag",
        "@at",
        "`tick`",
        "!bang",
        "&anchor",
        "*alias",
        "[list",
        "{map",
        "|",
        ">",
        "? q",
        "NaN",
        ".inf",
        "true",
        "a\r\nb",
        "\u{1b}[31m",
        "very long ".repeat(40).leak(),
    ];
    let mut settings = toml::Table::new();
    let mut nested = toml::Table::new();
    for (number, text) in hard.iter().enumerate() {
        settings.insert(format!("x_{number:03}"), toml::Value::String((*text).to_owned()));
        nested.insert((*text).to_owned(), toml::Value::Integer(number as i64));
    }
    settings.insert("keys".to_owned(), toml::Value::Table(nested));
    let numbers = [("int", toml::Value::Integer(i64::MIN)), ("float", toml::Value::Float(1e300))];
    settings.extend(numbers.map(|(key, value)| (key.to_owned(), value)));
    let mut whole = toml::Table::new();
    whole.insert("server_name".to_owned(), "example.com".into());
    whole.insert("synapse".to_owned(), settings.clone().into());

    let dir = tempfile::tempdir().unwrap();
    for (path, file) in files(&toml::to_string(&whole).unwrap()) {
        std::fs::write(dir.path().join(path.file_name().unwrap()), file.bytes).unwrap();
    }
    let read: serde_json::Value = serde_json::from_str(&run(READ, &[dir.path().to_str().unwrap()])).unwrap();
    for (key, meant) in settings {
        assert_eq!(read["main"][&key], serde_json::to_value(&meant).unwrap(), "{key}");
    }
    // chmod wants a number.
    assert_eq!(read["main"]["listeners"][0]["mode"], 0o660);
    assert_eq!(read["main"]["database"]["args"]["password"], "the password");
}

#[test]
fn roles_are_named_as_synapse_names_them_and_shared_by_all() {
    // Mutations: `main` in place of `master` among writers, a role list in the own part of a process: each seen red.
    let dir = tempfile::tempdir().unwrap();
    for (path, file) in
        files("server_name = \"a.b\"\n[workers]\npreset = \"one-of-each\"\nfederation_sender = 2")
    {
        std::fs::write(dir.path().join(path.file_name().unwrap()), file.bytes).unwrap();
    }
    let read = run(READ, &[dir.path().to_str().unwrap()]);
    let read: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&read).unwrap();
    let main = &read["main"];
    assert!(main["instance_map"].get("main").is_some() && main["instance_map"].get("master").is_none());
    let writers = &main["stream_writers"];
    assert_eq!(
        writers["quarantined_media_changes"],
        serde_json::json!(["master", "quarantined-media-changes-1"])
    );
    assert_eq!(
        main["federation_sender_instances"],
        serde_json::json!(["federation-sender-1", "federation-sender-2"])
    );
    assert_eq!(main["pusher_instances"], serde_json::json!(["pusher-1"]));
    for (stream, names) in writers.as_object().unwrap() {
        for name in names.as_array().unwrap() {
            let known = name == "master" || main["instance_map"].get(name.as_str().unwrap()).is_some();
            assert!(known, "{name} writes {stream} and is not in instance_map");
        }
    }
    // But for what is a process's own, every file is the same.
    let own = [
        "listeners",
        "log_config",
        "worker_app",
        "worker_name",
        "worker_listeners",
        "worker_log_config",
        "enable_media_repo",
    ];
    let shared = |unit: &serde_json::Value| {
        let mut settings = unit.as_object().unwrap().clone();
        settings.retain(|key, _| !own.contains(&key.as_str()));
        settings
    };
    for (name, unit) in &read {
        assert_eq!(shared(unit), shared(main), "{name}");
        let media = name == "media-repository-1" || name == "quarantined-media-changes-1";
        assert_eq!(unit["enable_media_repo"], media, "{name}");
        assert!(name == "main" || unit["worker_name"] == name.as_str());
    }
}

/// Synapse's own parser on many files in one process: what `python -m synapse.config -c FILE` does.
const JUDGE: &str = "
import sys
from synapse.config.homeserver import HomeServerConfig
for path in sys.argv[1:]:
    try:
        HomeServerConfig.load_config('', ['-c', path])
    except BaseException as error:
        sys.exit(f'{path}: {error!r}')
";

#[test]
fn synapse_accepts_every_file_of_every_preset() {
    // Mutation: a stream writer that is not in instance_map: seen red.
    let dir = tempfile::tempdir().unwrap();
    for preset in PRESETS {
        let state = dir.path().join(preset);
        let toml = format!(
            "server_name = \"example.com\"\n[workers]\npreset = \"{preset}\"\n[supervisor]\nstate_dir = \"{}\"",
            state.display()
        );
        std::fs::create_dir_all(state.join("secrets")).unwrap();
        secrets::complete(&state.join("secrets"), None).unwrap();
        let files = files(&toml);
        write(&files);
        let configs =
            files.keys().map(|path| path.to_str().unwrap()).filter(|path| !path.ends_with(".log.yaml"));
        run(JUDGE, &configs.collect::<Vec<_>>());
    }
}
