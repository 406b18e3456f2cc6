//! The TOML file as a person meets it: shipped examples that are fine, and broken ones with what is printed for each.
//!
//! `UPDATE=1 cargo test --test config` writes the transcripts anew; read the difference before it is committed.

#![expect(clippy::panic, clippy::unwrap_used, reason = "tests may panic")]

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use synvisor::config::Config;
use synvisor::config::Database;
use synvisor::config::Endpoint;
use synvisor::config::Parsed;
use synvisor::config::Redis;
use synvisor::config::problem;
use synvisor::config::roles::Stream;
use synvisor::config::roles::WorkerKind;
use synvisor::topology::Topology;

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

fn transcript(text: &str, name: &str) -> String {
    match Config::parse(text, Path::new(BASE)) {
        Ok(parsed) => problem::print_all(&parsed.warnings, name, text),
        Err(problems) => problem::print_all(&problems, name, text),
    }
}

#[test]
fn every_mistake_is_told_with_its_place_and_its_remedy() {
    // Mutations, each seen red: unknown keys not reported; only the first problem kept; the order of the file not
    // restored; `collide` comparing whole addresses; the bounds of counts off by one.
    let cases = files_in("tests/config/bad", "toml");
    assert!(cases.len() >= 40, "{} cases", cases.len());
    let mut differing = Vec::new();
    for case in cases {
        let name = case.file_name().unwrap().to_str().unwrap();
        let printed = transcript(&read(&case), name);
        let golden = case.with_extension("txt");
        if std::env::var_os("UPDATE").is_some() {
            fs::File::create(&golden)
                .and_then(|mut file| std::io::Write::write_all(&mut file, printed.as_bytes()))
                .unwrap();
        } else if !golden.exists() || read(&golden) != printed {
            differing.push(format!("{name}:\n{printed}"));
        }
        assert!(!printed.is_empty(), "{name} is not broken");
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
fn what_is_shipped_is_right_and_needs_no_warning() {
    let mut shipped = files_in("config/examples", "toml");
    shipped.push(root().join("config/synvisor.toml"));
    for file in shipped {
        assert_eq!(transcript(&read(&file), "shipped"), "", "{}", file.display());
    }
}

/// The reference with everything switched on that has a default; what has none is an example only.
fn reference_switched_on() -> String {
    let without_default = ["password_file", "path", "sslmode"];
    let text = read(&root().join("config/synvisor.toml"));
    let lines =
        text.lines().map(|line| match line.strip_prefix('#').map(|rest| (rest, rest.split_once(" = "))) {
            Some((setting, Some((key, _)))) if !key.contains(' ') && !without_default.contains(&key) => {
                setting
            }
            Some(_) | None => line,
        });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_reference_shows_every_default_as_it_is() {
    // Mutation: DRAIN_TIMEOUT changed in the code alone: seen red.
    let text = reference_switched_on();
    let mut reference = parsed(&text).config;
    assert!(!reference.synapse.is_empty());
    reference.synapse.clear();
    let smallest = parsed(&format!("server_name = \"{}\"", reference.server_name)).config;
    assert_eq!(reference, smallest);
    // The keys that a mistyped one is compared with are all there are.
    for table in ["[workers]", "[database]", "[redis]", "[python]", "[[listen]]", "[supervisor]"] {
        let wrong = format!("server_name = \"a.b\"\n{table}\nqqqqqqqqqqqq = 1\n");
        let problems = Config::parse(&wrong, Path::new(BASE)).unwrap_err();
        let allowed = problems.iter().find_map(|problem| problem.remedy.strip_prefix("allowed: ")).unwrap();
        for key in allowed.split(", ") {
            let shown = |line: &str| line.trim_start_matches('#').starts_with(&format!("{key} = "));
            assert!(text.lines().any(shown), "{key} of {table} is not in config/synvisor.toml");
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
fn relative_paths_start_at_the_file_and_are_known_with_their_place() {
    // Mutation: `base` ignored for password_file: seen red.
    let text = "server_name = \"a.b\"\n[database]\npassword_file = \"db\"\n[redis]\npath = \"r.sock\"\npassword_file = \"/r\"\n[supervisor]\nstate_dir = \"state\"\nrun_dir = \"run\"";
    let Parsed { config, files, warnings } = parsed(text);
    assert!(warnings.is_empty());
    assert_eq!(config.supervisor.state_dir, Path::new("/etc/synvisor/state"));
    assert_eq!(config.python.venv, Path::new("/etc/synvisor/state/venv"));
    let (Database::External(database), Redis::External(redis)) = (&config.database, &config.redis) else {
        panic!()
    };
    assert_eq!(database.password_file.as_deref(), Some(Path::new("/etc/synvisor/db")));
    assert_eq!(redis.endpoint, Endpoint::Unix("/etc/synvisor/r.sock".into()));
    let referred: Vec<_> =
        files.iter().map(|file| (file.path.to_str().unwrap(), &text[file.place.clone()])).collect();
    assert_eq!(referred, [("/etc/synvisor/db", "\"db\""), ("/r", "\"/r\"")]);
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
    assert_eq!(config.synapse, expected);
}
