//! What Synapse is given: golden files for each preset, YAML that PyYAML reads as it was meant, and every file read by
//! Synapse's own configuration parser.
//!
//! `UPDATE=1 cargo test --test render` writes the golden files anew. The Python of `SYNVISOR_TEST_VENV` is used.

#![expect(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "tests run Python, write files into directories of their own, and may panic"
)]

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value as Json;
use synvisor::config::Config;
use synvisor::config::problem;
use synvisor::config::roles::Resource;
use synvisor::config::roles::Stream;
use synvisor::config::secret::Secret;
use synvisor::config::secret::SecretValues;
use synvisor::render;
use synvisor::topology::Role;
use synvisor::topology::Topology;
use synvisor::topology::Unit;

/// Every preset, and the mixes that could go wrong; the shipped examples join them.
const SETUPS: [(&str, &str); 8] = [
    ("none", "[database]\npassword_file = \"db\"\nsslmode = \"require\"\nhost = \"db.example.com\""),
    (
        "little-federation-helper",
        "[workers]\npreset = \"little-federation-helper\"\n[redis]\npath = \"/run/redis/redis.sock\"\npassword_file = \"/etc/redis\"",
    ),
    (
        "one-of-each",
        "[workers]\npreset = \"one-of-each\"\n[database]\nmode = \"embedded\"\n[redis]\nmode = \"embedded\"\n[synapse]\nreport_stats = true\nmax_upload_size = \"700M\"\n[synapse.caches]\nglobal_factor = 2.0",
    ),
    ("specialized-workers", "[workers]\npreset = \"specialized-workers\"\n[redis]\nhost = \"10.0.0.7\""),
    (
        "several-of-each",
        "[workers]\npreset = \"one-of-each\"\ngeneric = 4\nfederation_sender = 3\npusher = 2\nevents = 2\nreceipts = 2\nthread_subscriptions = 2\nmedia_repository = 2",
    ),
    ("media-without-a-writer-of-quarantine", "[workers]\nmedia_repository = 2"),
    ("writer-of-quarantine-without-media", "[workers]\nquarantined_media_changes = 1\ngeneric = 1"),
    ("overrides", OVERRIDES),
];

const OVERRIDES: &str = "[workers]
generic = 2
pusher = 1
[synapse.caches]
global_factor = 2.0
per_cache_factors = { get_users_in_room = 3.0 }
[units.all]
log_level = \"WARNING\"
[units.main]
cp_max = 20
[units.generic]
cp_min = 2
cp_max = 7
caches.global_factor = 4.0
[units.generic-2]
log_level = \"DEBUG\"
settings.gc_thresholds = [700, 11, 12]
";

/// What stands in every file with a secret.
const HARD: &str = "p%ss: 'w\"rd # on";

struct Setup {
    config: Config,
    topology: Topology,
    files: render::FileSet,
}

/// Names and whole files.
fn setups() -> Vec<(String, String)> {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples");
    let mut examples: Vec<PathBuf> =
        fs::read_dir(shipped).unwrap().map(|entry| entry.unwrap().path()).collect();
    examples.sort();
    let example = |path: PathBuf| {
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        (format!("example-{name}"), String::from_utf8(fs::read(path).unwrap()).unwrap())
    };
    let ours = SETUPS.into_iter().map(|(name, settings)| (name.to_owned(), whole(settings)));
    ours.chain(examples.into_iter().map(example)).collect()
}

fn whole(settings: &str) -> String {
    format!("server_name = \"example.com\"\n{settings}\n")
}

fn setup(text: &str, directories: &str) -> Setup {
    let text = format!("{text}\n{directories}");
    let parsed = Config::parse(&text, Path::new("/etc/synvisor"));
    let parsed = parsed.unwrap_or_else(|problems| panic!("{}", problem::print_all(&problems, "f", &text)));
    let strange = parsed.warnings.iter().find(|problem| problem.what.contains("no setting"));
    assert_eq!(strange, None);
    let topology = Topology::of(&parsed.config);
    let mut secrets = SecretValues::default();
    for file in &parsed.files {
        let signing = parsed.config.secrets.files.get(&Secret::SigningKey) == Some(&file.source);
        secrets.insert(file.source.clone(), if signing { SIGNING_KEY } else { HARD }.to_owned());
    }
    let files = render::render(&parsed.config, &topology, &secrets);
    Setup { config: parsed.config, topology, files }
}

const SIGNING_KEY: &str = "ed25519 a_test H7g1x3mSSlyFPgRlzOrQfsDQcpTBUmoWFMEyKEJcoB4";

fn python(script: &str, arguments: &[PathBuf]) -> String {
    let venv = std::env::var("SYNVISOR_TEST_VENV").expect(
        "SYNVISOR_TEST_VENV must name a virtualenv with Synapse: run `make test`, which prepares one and sets it",
    );
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/render").join(script);
    let mut command = Command::new(Path::new(&venv).join("bin/python"));
    let output = command.arg("-I").arg(script).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} in {venv}: {errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// The settings of a document, each with its lines.
fn blocks(document: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    for line in document.lines().filter(|line| !line.starts_with('#')) {
        let goes_on = line.starts_with([' ', '-', '}', ']']) || line.is_empty();
        match blocks.last_mut().filter(|_| goes_on) {
            Some(block) => block.push_str(&format!("\n{line}")),
            None => blocks.push(line.to_owned()),
        }
    }
    blocks
}

/// All files of a setup: what they share once, then what each has alone.
fn portrait(setup: &Setup) -> String {
    let documents: Vec<(&Unit, Vec<String>)> = setup
        .topology
        .synapse()
        .map(|unit| {
            let file = &setup.files[&render::homeserver_path(&setup.config, &unit.name)];
            (unit, blocks(text(&file.bytes)))
        })
        .collect();
    let in_all = |block: &&String| documents.iter().all(|(_, blocks)| blocks.contains(block));
    let mut portrait = "# every process\n".to_owned();
    let (_, first) = &documents[0];
    for block in first.iter().filter(in_all) {
        portrait.push_str(&format!("{block}\n"));
    }
    for (unit, blocks) in &documents {
        portrait.push_str(&format!("\n# {}\n", unit.name));
        for block in blocks.iter().filter(|block| !in_all(block)) {
            portrait.push_str(&format!("{block}\n"));
        }
        let log = text(&setup.files[&render::log_config_path(&setup.config, &unit.name)].bytes);
        let level = log.rsplit_once("level: ").unwrap().1.lines().next().unwrap();
        portrait.push_str(&format!("# logs {level}\n"));
    }
    portrait
}

#[test]
fn rendered_files_are_as_they_were() {
    // Mutation: anything in render/ that changes what is written is seen red here by definition.
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut expected: BTreeSet<PathBuf> = BTreeSet::new();
    let mut differing = Vec::new();
    for (name, toml) in setups() {
        let portrait = portrait(&setup(&toml, ""));
        let path = golden.join(format!("{name}.yaml"));
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, &portrait).unwrap();
        }
        if !fs::read(&path).is_ok_and(|held| held == portrait.as_bytes()) {
            differing.push(format!("{}:\n{portrait}", path.display()));
        }
        expected.insert(path);
    }
    // In the folders below are the golden files of other tests.
    let entries = fs::read_dir(golden).unwrap().map(|entry| entry.unwrap().path());
    for entry in entries.filter(|entry| entry.is_file()) {
        assert!(expected.contains(&entry), "{} is no longer rendered", entry.display());
    }
    assert!(differing.is_empty(), "not as in tests/golden (UPDATE=1 rewrites):\n{}", differing.join("\n"));
}

#[test]
fn every_process_has_its_own_files_that_nobody_else_may_read() {
    // Mutation: mode 0o640: seen red.
    for (name, toml) in setups() {
        let Setup { config, topology, files } = setup(&toml, "");
        assert_eq!(files.len(), 2 * topology.synapse().count(), "{name}");
        assert!(files.values().all(|file| file.mode == 0o600), "{name}");
        for unit in topology.synapse() {
            let log = text(&files[&render::log_config_path(&config, &unit.name)].bytes);
            assert!(log.contains("ext://sys.stderr") && log.contains("%(request)s"), "{name}: {log}");
        }
    }
}

#[test]
fn the_shared_part_is_the_same_in_every_process() {
    // Mutation: `run_background_tasks_on` left out of main: seen red.
    let own =
        ["caches", "database", "enable_media_repo", "gc_thresholds", "listeners", "log_config", "worker_"];
    for (name, toml) in setups() {
        let Setup { config, topology, files } = setup(&toml, "");
        let shared = |unit: &Unit| {
            let yaml = text(&files[&render::homeserver_path(&config, &unit.name)].bytes).to_owned();
            let mut skipping = false;
            let kept = yaml.lines().filter(|line| {
                if !line.starts_with([' ', '-']) {
                    let secret = line.starts_with("worker_replication_secret_path");
                    skipping = !secret && own.iter().any(|key| line.starts_with(key));
                }
                !skipping
            });
            kept.map(str::to_owned).collect::<Vec<_>>()
        };
        let all: BTreeSet<Vec<String>> = topology.synapse().map(shared).collect();
        assert_eq!(all.len(), 1, "{name}: {all:#?}");
    }
}

/// Strings that one YAML parser or another takes for something else, and every character that is not a plain letter.
fn hard_strings() -> Vec<String> {
    let listed = [
        "",
        "=",
        "<<",
        "0o17",
        "017",
        "0x1f",
        "0b1",
        "1e3",
        "1.5",
        ".5",
        "1_000",
        "12:30:45",
        "+1",
        "-0",
        ".inf",
        "-.INF",
        ".nan",
        "on",
        "off",
        "yes",
        "No",
        "y",
        "n",
        "true",
        "FALSE",
        "null",
        "Null",
        "~",
        "2026-01-01",
        "2026-01-01T10:00:00Z",
        "2026-01-01 10:00:00",
        "- a",
        "-",
        "--",
        "---",
        "...",
        "? a",
        "?",
        ": a",
        ":",
        "a: b",
        "a :b",
        "a #b",
        "#a",
        "&a",
        "*a",
        "!a",
        "!!str a",
        "|",
        ">",
        "%a",
        "@a",
        "`a",
        "{a}",
        "[a]",
        "a, b",
        "{",
        "]",
        "'a'",
        "\"a\"",
        "it's",
        " a",
        "a ",
        "a\n",
        "\na",
        "a\nb",
        "a\n\nb\n\n",
        "a\r\nb",
        "\r",
        "\t",
        "a\tb",
        "\\",
        "\\n",
        "a\\",
        "%(request)s",
        "ä",
        "日本語",
        "🦀",
        "e\u{301}",
        "\u{feff}a",
        "\u{2028}",
        "\u{85}",
        "\u{a0}",
        "\u{10ffff}",
        "\u{fffe}",
        "\u{d7ff}",
        "\u{e000}",
    ];
    let characters = (0..0x300).chain(0x2000..0x2070).filter_map(char::from_u32);
    let around =
        characters.flat_map(|c| [c.to_string(), format!("a{c}b"), format!("{c} "), format!("x {c}")]);
    let long = ["a ".repeat(200), "a".repeat(2000), format!("{}\n{}", "b ".repeat(100), "c".repeat(100))];
    listed.into_iter().map(str::to_owned).chain(around).chain(long).chain(random_strings()).collect()
}

/// Strings of any characters, the same at each run; YAML's own signs are among them more often than chance has it.
fn random_strings() -> Vec<String> {
    let signs: Vec<char> =
        " \n\t-?:,[]{}#&*!|>'\"%@`=<~0123456789eEoxX._+TZyn\u{feff}\u{85}\u{2028}".chars().collect();
    let mut state = 1_u64;
    let mut next = |below: usize| {
        // A linear congruential generator, Knuth's MMIX.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % below
    };
    let mut character = || match next(3) {
        0 => char::from_u32(u32::try_from(next(0x11_0000)).unwrap()).unwrap_or('\u{d7ff}'),
        _ => signs[next(signs.len())],
    };
    let mut strings: Vec<String> =
        (0..3_000).map(|at| (0..=at % 12).map(|_| character()).collect()).collect();
    strings.sort();
    strings.dedup();
    strings
}

#[test]
fn pyyaml_reads_what_was_meant() {
    // Mutations, each seen red: the document written as JSON (which PyYAML does not always read); double quotes turned
    // into single ones.
    let dir = tempfile::tempdir().unwrap();
    let mut hard = setup(&whole(""), "");
    let strings = hard_strings();
    let value = |text: &String| toml::Value::String(text.clone());
    let list = toml::Value::Array(strings.iter().map(value).collect());
    let table = toml::Value::Table(strings.iter().map(|text| (text.clone(), value(text))).collect());
    let nested =
        toml::Value::Array(vec![list.clone(), toml::Value::Array(vec![table.clone(), table.clone()])]);
    let numbers: toml::Table = toml::from_str(
        "a = 0\nb = -1\nc = 9223372036854775807\nd = 1.0\ne = -0.5\nf = 1e300\ng = true\nh = []\ni = {}\nj = [[], {}]\nk = 1e-7",
    )
    .unwrap();
    for (key, value) in [("list", list), ("table", table), ("nested", nested), ("numbers", numbers.into())] {
        hard.config.synapse.insert(key.to_owned(), value);
    }
    let mut arguments = Vec::new();
    for key in ["list", "table", "nested", "numbers"] {
        let meant = BTreeMap::from([(key, &hard.config.synapse[key])]);
        let (written, expected) =
            (dir.path().join(format!("{key}.yaml")), dir.path().join(format!("{key}.json")));
        let mut config = hard.config.clone();
        config.synapse = toml::Table::from_iter([(key.to_owned(), hard.config.synapse[key].clone())]);
        let files = render::render(&config, &hard.topology, &SecretValues::default());
        let whole =
            text(&files[&render::homeserver_path(&config, &synvisor::topology::UnitName::main())].bytes)
                .to_owned();
        fs::write(&written, whole).unwrap();
        fs::write(&expected, serde_json::to_vec(&meant).unwrap()).unwrap();
        arguments.extend([written, expected]);
    }
    assert_eq!(python("same.py", &arguments), "");
}

#[test]
fn synapse_accepts_every_file_and_every_duty_has_its_process() {
    // Mutations, each seen red: main left out of quarantined_media_changes; media workers left out of instance_map
    // (Synapse refuses); `enable_media_repo` true for main always; socket modes as strings; `main` for `master` in
    // media_instance_running_background_jobs; pusher_instances left out.
    let dir = tempfile::tempdir().unwrap();
    let held: Vec<(String, Setup)> = setups()
        .into_iter()
        .enumerate()
        // By number, since the path of a socket is short.
        .map(|(number, (name, toml))| (name, written(&toml, &dir.path().join(number.to_string()))))
        .collect();
    // In one call, since importing Synapse takes longer than all that it reads.
    let paths: Vec<PathBuf> = held.iter().flat_map(|(_, setup)| paths(setup)).collect();
    let all: Vec<Json> = serde_json::from_str(&python("load.py", &paths)).unwrap();
    let mut rest = all.as_slice();
    for (name, setup) in &held {
        let Setup { config, topology, .. } = setup;
        let units: Vec<&Unit> = topology.synapse().collect();
        let loaded;
        (loaded, rest) = rest.split_at(units.len());
        for (unit, loaded) in units.iter().zip(loaded) {
            let at = format!("{name}, {}", unit.name);
            assert_eq!(loaded.get("error"), None, "{at}");
            check(&at, unit, topology, loaded);
            check_secrets(&at, config, loaded);
        }
        match name.as_str() {
            "overrides" => check_overrides(&units, loaded),
            "example-blog" => {
                assert_eq!(loaded[0]["oidc_secrets"], serde_json::json!([HARD]));
                assert_eq!([&loaded[0]["smtp_pass"], &loaded[0]["turn_secret"]], [HARD, HARD]);
            }
            "example-s3-media" => {
                let of_media =
                    units.iter().position(|unit| unit.name.as_str() == "media-repository-1").unwrap();
                assert_eq!(loaded[of_media]["storage"].as_array().unwrap().len(), 1, "{loaded:#?}");
            }
            _ => {}
        }
    }
    assert!(rest.is_empty());
}

/// A setup whose files are below a directory, with the secrets that they name.
fn written(toml: &str, directory: &Path) -> Setup {
    let shown = directory.to_str().unwrap();
    let directories = format!("[supervisor]\nstate_dir = \"{shown}/state\"\nrun_dir = \"{shown}/run\"");
    let setup = setup(toml, &directories);
    let state = &setup.config.supervisor.state_dir;
    for (path, file) in &setup.files {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, &file.bytes).unwrap();
    }
    fs::create_dir_all(state.join("secrets")).unwrap();
    for secret in Secret::ALL {
        let content = match secret {
            Secret::SigningKey => SIGNING_KEY,
            Secret::MacaroonSecretKey
            | Secret::RegistrationSharedSecret
            | Secret::FormSecret
            | Secret::WorkerReplicationSecret => secret.setting(),
        };
        fs::write(secret.path(state), content).unwrap();
    }
    setup
}

/// What each process is given, in the order of the topology.
fn paths(setup: &Setup) -> impl Iterator<Item = PathBuf> {
    setup.topology.synapse().map(|unit| render::homeserver_path(&setup.config, &unit.name))
}

fn check(at: &str, unit: &Unit, topology: &Topology, loaded: &Json) {
    let strings = |value: &Json| -> Vec<String> { serde_json::from_value(value.clone()).unwrap() };
    let main = unit.role == Role::Main;
    assert_eq!(loaded["name"], if main { "master" } else { unit.name.as_str() }, "{at}");
    let duties: BTreeSet<String> = strings(&loaded["duties"]).into_iter().collect();
    assert_eq!(duties, meant(unit, topology), "{at}");
    let listeners = loaded["listeners"].as_array().unwrap();
    let of = |path: &Option<PathBuf>| {
        listeners.iter().find(|held| held["path"].as_str().map(Path::new) == path.as_deref())
    };
    let private = of(&unit.private_socket).unwrap();
    assert_eq!(private["mode"], 0o600, "{at}");
    let called = topology.has_workers() && topology.is_called(unit);
    assert_eq!(strings(&private["resources"]).contains(&"replication".to_owned()), called, "{at}");
    let instances = strings(&loaded["instance_map"]);
    let own_name = if main { ["main", "master"] } else { [unit.name.as_str(); 2] };
    assert_eq!(instances.iter().any(|held| own_name.contains(&held.as_str())), called, "{at}");
    assert_eq!(listeners.len(), 1 + usize::from(unit.client_socket.is_some()), "{at}");
    if unit.client_socket.is_some() {
        let client = of(&unit.client_socket).unwrap();
        assert_eq!(client["mode"], 0o666, "{at}");
        let offered = strings(&client["resources"]);
        let meant = unit.resources.iter().filter(|resource| !main || **resource != Resource::Media);
        assert_eq!(offered, meant.map(|resource| resource.name()).collect::<Vec<_>>(), "{at}");
    }
    assert_eq!(loaded["redis"][0], topology.has_workers() || loaded["redis"][1].is_string(), "{at}");
}

fn check_secrets(at: &str, config: &Config, loaded: &Json) {
    let secrets = [
        ("replication", Secret::WorkerReplicationSecret),
        ("registration", Secret::RegistrationSharedSecret),
        ("macaroon", Secret::MacaroonSecretKey),
        ("form", Secret::FormSecret),
    ];
    for (name, secret) in secrets {
        let held = loaded[format!("{name}_secret")].as_str().unwrap();
        let own = config.secrets.files.contains_key(&secret);
        assert_eq!(held, if own { HARD } else { secret.setting() }, "{at}: {name}");
    }
}

/// A narrower scope is laid over a wider one, and each process reads its own.
fn check_overrides(units: &[&Unit], loaded: &[Json]) {
    let found: Vec<_> = units
        .iter()
        .zip(loaded)
        .map(|(unit, loaded)| {
            let keys = ["cache_factor", "pool", "gc_thresholds", "log_level"];
            (unit.name.as_str(), keys.map(|key| loaded[key].to_string()).join(" "))
        })
        .collect();
    let expected = [
        ("main", "2.0 [1,20] null 30"),
        ("generic-1", "4.0 [2,7] null 30"),
        ("generic-2", "4.0 [2,7] [700,11,12] 10"),
        ("pusher-1", "2.0 [1,5] null 30"),
    ];
    assert_eq!(found, expected.map(|(name, values)| (name, values.to_owned())));
}

/// Who does what: the worker that is there for it, or else main.
fn meant(unit: &Unit, topology: &Topology) -> BTreeSet<String> {
    use synvisor::config::roles::WorkerKind as Kind;
    let mut duties = BTreeSet::new();
    let main = unit.role == Role::Main;
    for kind in [Kind::Background, Kind::FederationSender, Kind::Pusher, Kind::Appservice, Kind::UserDir] {
        if unit.role == Role::Worker(kind) || (main && topology.workers(kind).next().is_none()) {
            duties.insert(kind.key().to_owned());
        }
    }
    for stream in Stream::ALL {
        let own = unit.role == Role::Worker(Kind::Writer(stream));
        if own || (main && topology.workers(Kind::Writer(stream)).next().is_none()) {
            duties.insert(stream.key().to_owned());
        }
    }
    let media = unit.resources.contains(&Resource::Media);
    let first = topology.synapse().find(|unit| unit.resources.contains(&Resource::Media)).unwrap();
    if media {
        duties.insert("media".to_owned());
    }
    if first.name == unit.name {
        duties.insert("media_jobs".to_owned());
    }
    let quarantine = Stream::QuarantinedMediaChanges.key().to_owned();
    let alone = topology.workers(Kind::Writer(Stream::QuarantinedMediaChanges)).next().is_none();
    // Main always, for its background update; where media is, if nobody else was named for it.
    if main || (alone && unit.role == Role::Worker(Kind::MediaRepository)) {
        duties.insert(quarantine);
    }
    duties
}
