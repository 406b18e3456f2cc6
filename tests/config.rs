//! The TOML file as a person meets it: shipped examples that are fine, and broken ones with what is printed for each.
//!
//! `UPDATE=1 cargo test --test config` writes the transcripts anew; read the difference before it is committed.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests run the command line, write golden files, and may panic"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use synvisor::config::Config;
use synvisor::config::Database;
use synvisor::config::Endpoint;
use synvisor::config::Parsed;
use synvisor::config::Redis;
use synvisor::config::problem;
use synvisor::config::roles::Stream;
use synvisor::config::roles::WorkerKind;
use synvisor::config::schema;
use synvisor::config::secret::SecretSource;
use synvisor::topology::Topology;
use synvisor::topology::Unit;

const BASE: &str = "/etc/synvisor";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    String::from_utf8(fs::read(path).unwrap()).unwrap()
}

fn files_in(directory: &str, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(directory)).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|held| held == extension)).collect();
    files.sort();
    files
}

fn parsed(text: &str) -> Parsed {
    Config::parse(text, Path::new(BASE))
        .unwrap_or_else(|problems| panic!("{}", problem::print_all(&problems, "f", text)))
}

/// What `synvisor check` says about a file, and its exit code.
fn check(file: &Path) -> (String, i32) {
    let directory = file.parent().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_synvisor"));
    command.args(["check", "--config"]).arg(file.file_name().unwrap()).current_dir(directory);
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap().replace(root().to_str().unwrap(), "ROOT");
    (said, output.status.code().unwrap())
}

#[test]
fn every_mistake_is_told_with_its_place_and_its_remedy() {
    // Mutations, each seen red: unknown keys not reported; only the first problem kept; the order of the file not
    // restored; `collide` comparing whole addresses; the bounds of counts off by one; exit code 1 for a bad file.
    let cases = files_in("tests/config/bad", "toml");
    assert!(cases.len() >= 120, "{} cases", cases.len());
    let mut differing = Vec::new();
    for case in cases {
        let (said, code) = check(&case);
        let warns = case.file_stem().unwrap().to_str().unwrap().starts_with("warning-");
        assert!(!said.is_empty() && code == if warns { 0 } else { 78 }, "{}: {code}\n{said}", case.display());
        let printed = format!("{said}exit {code}\n");
        let golden = case.with_extension("txt");
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&golden, &printed).unwrap();
        } else if !golden.exists() || read(&golden) != printed {
            differing.push(format!("{}:\n{printed}", case.display()));
        }
    }
    assert!(
        differing.is_empty(),
        "not as in tests/config/bad (UPDATE=1 rewrites):\n{}",
        differing.join("\n")
    );
}

#[test]
fn only_the_cases_that_say_so_are_mere_warnings() {
    // Mutation: a warning counted as an error: seen red.
    for case in files_in("tests/config/bad", "toml") {
        let warns = case.file_stem().unwrap().to_str().unwrap().starts_with("warning-");
        assert_eq!(Config::parse(&read(&case), Path::new(BASE)).is_ok(), warns, "{}", case.display());
    }
}

#[test]
fn every_problem_has_a_remedy() {
    // Mutation: the remedy of a number out of bounds left empty: seen red.
    for case in files_in("tests/config/bad", "toml") {
        let problems = match Config::parse(&read(&case), Path::new(BASE)) {
            Ok(parsed) => parsed.warnings,
            Err(problems) => problems,
        };
        assert!(
            problems.iter().all(|problem| !problem.remedy.is_empty()),
            "{}: {problems:#?}",
            case.display()
        );
    }
}

#[test]
fn twelve_mistakes_are_twelve_problems() {
    let text = read(&root().join("tests/config/bad/twelve-mistakes.toml"));
    assert_eq!(Config::parse(&text, Path::new(BASE)).unwrap_err().len(), 12);
}

#[test]
fn what_is_no_text_is_told_so() {
    // Mutations, each seen red: the place of the first foreign byte taken for 0; no bound of the size.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("synvisor.toml");
    fs::write(&file, b"server_name = \"a.b\"\npublic_baseurl = \"https://\xe4.b/\"\n").unwrap();
    let (said, code) = check(&file);
    assert!(
        said.starts_with("synvisor.toml:2:27: error: this is not UTF-8")
            && said.contains("save the file as UTF-8"),
        "{said}"
    );
    assert_eq!(code, 78);
    fs::write(&file, "a\n".repeat(200_000)).unwrap();
    let (said, code) = check(&file);
    assert!(said.contains("larger than 256 KiB") && said.contains("--config FILE"), "{said}");
    assert_eq!(code, 78);
    fs::write(&file, "a\n".repeat(2_000)).unwrap();
    let (said, _) = check(&file);
    assert_eq!(said.matches(": error: ").count(), 101);
    assert!(said.contains("1900 more lines are not TOML"), "{said}");
}

#[test]
fn a_reader_who_leaves_early_is_no_failure() {
    // Mutation: println! in src/cli/output.rs: seen red (a panic, as in `synvisor schema | head`).
    for arguments in [["schema", "--config", "x"], ["check", "--config", "config/examples/smallest.toml"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_synvisor"));
        let output = command.args(arguments).current_dir(root()).stdout(writer).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), &*said), (Some(0), ""));
    }
}

#[test]
fn what_is_shipped_is_right_and_needs_no_warning() {
    let mut shipped = files_in("config/examples", "toml");
    shipped.push(root().join("config/synvisor.toml"));
    for file in shipped {
        let (said, code) = check(&file);
        // Its secrets are not on this machine.
        let about_secrets = |line: &str| line.contains("warning: cannot read /etc/synvisor/");
        let problems: Vec<&str> = said.lines().filter(|line| line.contains(".toml:")).collect();
        assert!(problems.iter().all(|line| about_secrets(line)), "{}: {said}", file.display());
        assert_eq!(code, 0, "{}: {said}", file.display());
    }
}

#[test]
fn the_example_of_the_readme_is_right() {
    // Mutation: `generic` misspelt in README.md: seen red.
    let readme = read(&root().join("README.md"));
    let example = readme.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let parsed = parsed(example);
    assert!(parsed.warnings.is_empty(), "{:#?}", parsed.warnings);
    // Main and the preset's sixteen workers, with three generic ones more.
    assert_eq!(Topology::of(&parsed.config).synapse().count(), 20);
}

#[test]
fn the_readme_calls_what_the_makefile_can_do() {
    let makefile = read(&root().join("Makefile"));
    let readme = read(&root().join("README.md"));
    let commands: Vec<&str> =
        readme.split("```sh\n").skip(1).filter_map(|block| block.split("```").next()).collect();
    let called: Vec<&str> = commands
        .iter()
        .flat_map(|block| block.split("make ").skip(1))
        .filter_map(|rest| rest.split([' ', ';', '\n']).next())
        .collect();
    assert!(called.len() >= 4, "{called:?}");
    for target in called {
        assert!(makefile.contains(&format!("\n{target}:")), "{target}");
    }
}

/// The reference with everything switched on that has a default; what has none is an example only.
fn reference_switched_on() -> String {
    let schema: serde_json::Value = serde_json::from_str(&schema::schema()).unwrap();
    let text = read(&root().join("config/synvisor.toml"));
    let mut table = "";
    let lines = text.lines().map(|line| {
        let Some(setting) = line.strip_prefix('#') else {
            table = if line.starts_with('[') { line } else { table };
            return line;
        };
        let Some((key, _)) = setting.split_once(" = ").filter(|(key, _)| !key.contains(' ')) else {
            // [units.all] is an example, and what stands below it are the defaults of every process.
            table = if setting.starts_with("[units") { "" } else { table };
            return line;
        };
        let of_table = &schema["properties"][table.trim_matches(['[', ']'])];
        let keys = if of_table["items"].is_null() { of_table } else { &of_table["items"] };
        let top = table.is_empty() && !schema["properties"][key].is_null();
        let known = !keys["properties"][key]["default"].is_null() || table == "[synapse]" || top;
        if known { setting } else { line }
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_reference_shows_every_default_as_it_is() {
    // Mutations, each seen red: the default of drain_timeout changed in the code alone; a key added in the code alone.
    let text = reference_switched_on();
    let reference = parsed(&text).config;
    let smallest = parsed(&format!("server_name = \"{}\"", reference.server_name)).config;
    assert_eq!(reference, smallest);
    let schema: serde_json::Value = serde_json::from_str(&schema::schema()).unwrap();
    let tables = schema["properties"].as_object().unwrap();
    for key in tables.keys() {
        let shown = [format!("{key} = "), format!("[{key}"), format!("[[{key}]]")];
        let shows = |line: &str| shown.iter().any(|shown| line.trim_start_matches('#').starts_with(shown));
        assert!(text.lines().any(shows), "{key} is not in config/synvisor.toml");
    }
    for (table, keys) in tables.iter().filter(|(table, _)| *table != "synapse") {
        let keys =
            [&keys["properties"], &keys["items"]["properties"], &keys["additionalProperties"]["properties"]];
        for (key, of) in keys.iter().filter_map(|keys| keys.as_object()).flatten() {
            let shown = |line: &&str| line.trim_start_matches('#').starts_with(&format!("{key} = "));
            let line = text.lines().find(shown);
            let line = line.unwrap_or_else(|| panic!("{key} of {table} is not in config/synvisor.toml"));
            if let Some(default) = of.get("default").filter(|_| table == "units") {
                assert!(line.contains(&format!("= {default}")), "{line}: the default is {default}");
            }
        }
    }
}

#[test]
fn the_smallest_file_stands_for_main_alone_on_services_of_the_machine() {
    let config = parsed("server_name = \"example.com\"").config;
    assert_eq!(config.public_baseurl, "https://example.com/");
    assert_eq!(Topology::of(&config).synapse().count(), 1);
    assert_eq!(config.listen[0].address.to_string(), "127.0.0.1:8008");
    assert!(!config.database.is_embedded() && !config.redis.is_embedded());
    assert_eq!(config.python.venv, Path::new("/var/lib/synvisor/venv"));
}

#[test]
fn counts_lie_over_the_preset() {
    // Mutation: the preset's counts last: seen red by pusher.
    let config = parsed(
        "server_name = \"a.b\"\n[workers]\npreset = \"one-of-each\"\ngeneric = 4\npusher = 0\nevents = 2",
    )
    .config;
    assert_eq!(config.workers.count(WorkerKind::Generic), 4);
    assert_eq!(config.workers.count(WorkerKind::Pusher), 0);
    assert_eq!(config.workers.count(WorkerKind::Writer(Stream::Events)), 2);
    assert_eq!(config.workers.count(WorkerKind::UserDir), 1);
}

#[test]
fn the_presets_have_the_number_of_processes_that_their_names_promise() {
    // Mutation: a pusher added to little-federation-helper: seen red. The numbers are those of the tool that the names are from.
    for (preset, workers) in
        [("none", 0), ("little-federation-helper", 1), ("one-of-each", 16), ("specialized-workers", 19)]
    {
        let config = parsed(&format!("server_name = \"a.b\"\nworkers.preset = \"{preset}\"")).config;
        assert_eq!(Topology::of(&config).synapse().count(), 1 + workers, "{preset}");
    }
}

#[test]
fn another_worker_renames_nobody() {
    // Mutation: units numbered over all kinds: seen red.
    let sockets = |counts: &BTreeMap<WorkerKind, u16>| {
        let lines: String =
            counts.iter().map(|(kind, count)| format!("{} = {count}\n", kind.key())).collect();
        let config = parsed(&format!("server_name = \"a.b\"\n[workers]\n{lines}")).config;
        let unit = |unit: Unit| (unit.name.to_string(), (unit.client_socket, unit.private_socket));
        Topology::of(&config).units.into_iter().map(unit).collect::<BTreeMap<_, _>>()
    };
    let one_of_each: BTreeMap<WorkerKind, u16> = WorkerKind::all().map(|kind| (kind, 1)).collect();
    let before = sockets(&one_of_each);
    for kind in WorkerKind::all().filter(|kind| WorkerKind::max(*kind) > 1) {
        let mut more = one_of_each.clone();
        more.insert(kind, 3);
        let after = sockets(&more);
        assert_eq!(after.len(), before.len() + 2);
        assert!(before.iter().all(|unit| after.get(unit.0) == Some(unit.1)), "{kind:?}: {after:#?}");
    }
}

#[test]
fn relative_paths_start_at_the_file_and_are_known_with_their_place() {
    // Mutation: `base` ignored for password_file: seen red.
    let text = "server_name = \"a.b\"\n[database]\npassword_file = \"db\"\n[redis]\npath = \"r.sock\"\npassword_file = \"/r\"\n[supervisor]\nstate_dir = \"state\"\nrun_dir = \"run\"";
    let Parsed { config, files, warnings, .. } = parsed(text);
    assert!(warnings.is_empty());
    assert_eq!(config.supervisor.state_dir, Path::new("/etc/synvisor/state"));
    assert_eq!(config.python.venv, Path::new("/etc/synvisor/state/venv"));
    let (Database::External(database), Redis::External(redis)) = (&config.database, &config.redis) else {
        panic!()
    };
    assert_eq!(database.password, Some(SecretSource::File("/etc/synvisor/db".into())));
    assert_eq!(redis.endpoint, Endpoint::Unix("/etc/synvisor/r.sock".into()));
    let referred: Vec<_> =
        files.iter().map(|file| (file.source.to_string(), &text[file.place.clone()])).collect();
    assert_eq!(referred, [("/etc/synvisor/db".to_owned(), "\"db\""), ("/r".to_owned(), "\"/r\"")]);
}

#[test]
fn settings_of_synapse_are_passed_through_as_they_are() {
    // Mutation: dates left as dates: seen red.
    let config = parsed(
        "server_name = \"a.b\"\n[synapse]\nenable_registration = false\nmax_upload_size = \"700M\"\nbig = 0xff\nratio = 1.5\nversion = 2026-01-01\nauto_join_rooms = [\"#a:b\"]\n[synapse.email]\nsmtp_port = 25",
    )
    .config;
    let expected: toml::Table = toml::from_str(
        "enable_registration = false\nmax_upload_size = \"700M\"\nbig = 255\nratio = 1.5\nversion = \"2026-01-01\"\nauto_join_rooms = [\"#a:b\"]\nemail = { smtp_port = 25 }",
    )
    .unwrap();
    for (key, value) in expected {
        assert_eq!(config.synapse[&key], value, "{key}");
    }
    assert_eq!(config.synapse["report_stats"], toml::Value::Boolean(false));
}
