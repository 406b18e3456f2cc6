//! Import: what comes of a configuration is the same to Synapse's own parser, but for what the report names.
//!
//! The Python of `SYNVISOR_TEST_VENV` is used. Files below `tests/import` have ROOT for the directory that they lie in.

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
use serde_json::json;
use synvisor::config::Config;
use synvisor::config::problem;
use synvisor::config::secret::Secret;
use synvisor::config::secret::SecretSource;
use synvisor::config::secret::SecretValues;
use synvisor::import;
use synvisor::import::Imported;
use synvisor::import::report::Verdict;
use synvisor::import::source::Place;
use synvisor::import::source::Source;
use synvisor::render;
use synvisor::topology::Topology;

#[path = "import/cases.rs"]
mod cases;

use cases::Case;

/// Attributes of Synapse's configuration, and the setting by whose name the report has to tell of a difference.
///
/// Those that synvisor always decides itself are told of in the report's first paragraph.
const TOLD_AS: &[(&str, &str)] = &[
    ("server.listeners", ALWAYS),
    ("server.pid_file", ALWAYS),
    ("server.daemonize", ALWAYS),
    ("server.print_pidfile", ALWAYS),
    ("logging.log_config", ALWAYS),
    ("logging.log_file", ALWAYS),
    ("logging.no_redirect_stdio", ALWAYS),
    ("metrics.enable_metrics", ALWAYS),
    ("media.media_store_path", ALWAYS),
    ("worker.instance_map", ALWAYS),
    ("worker.worker_log_config", ALWAYS),
    ("worker.worker_listeners", ALWAYS),
    ("worker.worker_name", ALWAYS),
    ("worker.instance_name", ALWAYS),
    ("worker.worker_app", ALWAYS),
    ("worker.worker_pid_file", ALWAYS),
    ("worker.worker_daemonize", ALWAYS),
    ("database.databases", "database"),
    ("key.macaroon_secret_key", "macaroon_secret_key"),
    ("key.form_secret", "form_secret"),
    ("key.old_signing_keys", "old_signing_keys"),
    ("registration.registration_shared_secret", "registration_shared_secret"),
    ("worker.worker_replication_secret", "worker_replication_secret"),
    ("tls.tls_certificate_file", "tls_certificate_path"),
    ("tls.tls_private_key_file", "tls_private_key_path"),
    ("metrics.report_stats", "report_stats"),
    ("media.can_load_media_repo", "enable_media_repo"),
    ("media.media_instance_running_background_jobs", ALWAYS),
    ("redis.redis_enabled", "redis"),
    ("caches.cache_autotuning", "caches"),
    ("redis.redis_host", "redis"),
    ("redis.redis_port", "redis"),
    ("redis.redis_dbid", "redis"),
    ("redis.redis_use_tls", "redis"),
    ("redis.redis_path", "redis"),
    ("redis.redis_password", "redis"),
    ("server.public_baseurl", "public_baseurl"),
    ("server.serve_client_wellknown", "public_baseurl"),
    ("server.redaction_retention_period", "redaction_retention_period"),
    ("server.user_ips_max_age", "user_ips_max_age"),
    ("server.presence_include_offline_users_on_sync", "presence"),
    ("federation.allow_profile_lookup_over_federation", "allow_profile_lookup_over_federation"),
    ("roomdirectory.enable_room_list_search", "enable_room_list_search"),
    ("room.default_power_level_content_override", "default_power_level_content_override"),
    // Which workers there are: the names are synvisor's, and the counts are held below.
    ("worker.writers", ALWAYS),
    ("worker.events_shard_config", ALWAYS),
    ("worker.federation_shard_config", ALWAYS),
    ("worker.pusher_shard_config", ALWAYS),
];

const ALWAYS: &str = "";

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/import").join(path)
}

/// Copies a directory; ROOT in its files becomes where it lies now.
fn copy(from: &Path, to: &Path, replace: &[(&str, &str)]) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap().path();
        let target = to.join(entry.file_name().unwrap());
        if entry.is_dir() {
            copy(&entry, &target, replace);
            continue;
        }
        let mut text = String::from_utf8(fs::read(&entry).unwrap()).unwrap();
        for (old, new) in replace {
            text = text.replace(old, new);
        }
        fs::write(target, text).unwrap();
    }
}

fn python(script: &str, argument: &Path) -> Json {
    let venv = std::env::var("SYNVISOR_TEST_VENV").expect(
        "SYNVISOR_TEST_VENV must name a virtualenv with Synapse: run `make test`, which prepares one and sets it",
    );
    let mut command = Command::new(Path::new(&venv).join("bin/python"));
    let output = command.arg("-I").arg(here(script)).arg(argument).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    let last = errors.len() - errors.len().min(2_000);
    assert!(
        output.status.success(),
        "{} in {venv}: {}",
        output.status,
        errors.get(last..).unwrap_or(&errors)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A case in a directory of its own, imported.
struct Set {
    case: Case,
    root: PathBuf,
    imported: Imported,
    config: Config,
}

fn import_case(case: Case, root: &Path) -> Set {
    let root = root.join(case.name);
    let shown = root.to_str().unwrap().to_owned();
    copy(&here(case.directory), &root, &[("ROOT", &shown)]);
    let mut sources = Vec::new();
    for source in case.sources {
        let path = root.join(source);
        let text = String::from_utf8(fs::read(&path).unwrap()).unwrap();
        sources.push(Source { path: path.to_str().unwrap().to_owned(), text, place: Place::Named });
    }
    let found = import::read(&sources, &[]).unwrap_or_else(|why| panic!("{}: {why}", case.name));
    let files = found.wanted().into_iter().map(|path| {
        let text = fs::read(&path).map(|bytes| String::from_utf8(bytes).unwrap());
        (path.clone(), text.map_err(|error| format!("{path}: {error}")))
    });
    let imported = found.translate(&files.collect(), None);
    let directories = format!("[supervisor]\nstate_dir = \"{shown}/state\"\nrun_dir = \"/run/x\"\n");
    let text = format!("{}\n{directories}", imported.toml);
    let parsed = Config::parse(&text, &root);
    let parsed =
        parsed.unwrap_or_else(|problems| panic!("{}", problem::print_all(&problems, case.name, &text)));
    Set { case, root, imported, config: parsed.config }
}

impl Set {
    /// Writes what its processes read, and says where.
    fn render(&self) -> BTreeMap<String, PathBuf> {
        let state = &self.config.supervisor.state_dir;
        let mut secrets = SecretValues::default();
        for (name, secret) in &self.imported.secrets {
            let path = self.root.join(import::SECRETS).join(name);
            secrets.insert(SecretSource::File(path), secret.trim_end_matches('\n').to_owned());
        }
        fs::create_dir_all(state.join("secrets")).unwrap();
        for secret in Secret::ALL {
            let made = "made";
            fs::write(secret.path(state), if secret == Secret::SigningKey { SIGNING_KEY } else { made })
                .unwrap();
        }
        let key = SecretSource::File(self.root.join(import::SECRETS).join("signing.key"));
        if secrets.get(&key).is_empty() {
            secrets.insert(key, SIGNING_KEY.to_owned());
        }
        let topology = Topology::of(&self.config);
        for (path, file) in render::render(&self.config, &topology, &secrets) {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, file.bytes).unwrap();
        }
        let of = |unit: &synvisor::topology::Unit| {
            (unit.name.to_string(), render::homeserver_path(&self.config, &unit.name))
        };
        topology.synapse().map(of).collect()
    }

    /// What the original is to be compared with, and the unit that does it.
    fn pairs(&self) -> Vec<Json> {
        let units = self.render();
        let shown = self.root.to_str().unwrap();
        let originals = self.root.join("originals");
        let storage = format!("{shown}/storage");
        let inside =
            [("/data/", &*format!("{shown}/")), ("/matrix-media-store-parent", &storage), ("ROOT", shown)];
        copy(&here(self.case.directory), &originals, &inside);
        let shared: Vec<PathBuf> = self.case.original.iter().map(|path| originals.join(path)).collect();
        let mut pairs =
            vec![json!({ "name": self.case.name, "original": shared, "rendered": units["main"] })];
        for (file, unit) in self.case.workers {
            let mut original = shared.clone();
            original.push(originals.join(file));
            let rendered = units.get(*unit).unwrap_or_else(|| panic!("{}: no unit {unit}", self.case.name));
            pairs.push(json!({ "name": format!("{}, {unit}", self.case.name), "original": original, "rendered": rendered }));
        }
        pairs
    }

    /// Settings of which the report tells that something is not as it was.
    fn told(&self) -> BTreeSet<String> {
        let entries = self.imported.report.entries.iter();
        let entries = entries.filter(|entry| entry.verdict != Verdict::Carried);
        entries.map(|entry| entry.name.split(['.', '[']).next().unwrap().to_owned()).collect()
    }
}

const SIGNING_KEY: &str = "ed25519 a_test H7g1x3mSSlyFPgRlzOrQfsDQcpTBUmoWFMEyKEJcoB4";

#[test]
fn what_synapse_makes_of_it_is_the_same_but_for_what_is_told() {
    // Mutation: serve_server_wellknown left to synvisor's default: seen red.
    let dir = tempfile::tempdir().unwrap();
    let sets: Vec<Set> = cases::all().into_iter().map(|case| import_case(case, dir.path())).collect();
    assert!(sets.len() >= 30, "{}", sets.len());
    let pairs: Vec<Json> = sets.iter().flat_map(Set::pairs).collect();
    let path = dir.path().join("pairs.json");
    fs::write(&path, serde_json::to_vec(&pairs).unwrap()).unwrap();
    let mut wrong = Vec::new();
    for found in python("view.py", &path).as_array().unwrap() {
        let name = found["name"].as_str().unwrap();
        if let Some(error) = found.get("error") {
            wrong.push(format!("{name}: {error}"));
            continue;
        }
        assert!(found["attributes"].as_u64().unwrap() > 400, "{name}: {found}");
        let set = sets.iter().find(|set| set.case.name == name.split(',').next().unwrap()).unwrap();
        let told = set.told();
        for (attribute, [before, after]) in of_pairs(&found["differing"]) {
            let named = TOLD_AS.iter().find(|(held, _)| *held == attribute).map(|(_, name)| *name);
            let fine = match named {
                Some(ALWAYS) => true,
                Some(setting) => told.contains(setting) || told.contains(&format!("{setting}_path")),
                None => false,
            };
            let unit = name.split_once(", ").map_or("main", |(_, unit)| unit);
            let of_unit = format!("{unit}: {attribute}");
            let expected = set.case.differing.iter().any(|held| *held == attribute || *held == of_unit);
            if !fine && !expected {
                wrong.push(format!("{name}: {attribute}: {before} became {after}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differences that nothing tells of:\n{}", wrong.len(), wrong.join("\n"));
}

fn of_pairs(differing: &Json) -> impl Iterator<Item = (String, [&Json; 2])> {
    differing.as_object().unwrap().iter().map(|(key, pair)| (key.clone(), [&pair[0], &pair[1]]))
}

#[test]
fn no_secret_stands_in_the_toml_or_the_report() {
    // Mutation: a pepper taken for no secret: seen red.
    let dir = tempfile::tempdir().unwrap();
    for case in cases::all() {
        let set = import_case(case, dir.path());
        let report = set.imported.report.print("synvisor.toml");
        for (name, secret) in &set.imported.secrets {
            let secret = secret.trim();
            assert!(!report.contains(secret), "{}: {name} in the report", set.case.name);
            assert!(!set.imported.toml.contains(secret), "{}: {name} in the TOML", set.case.name);
        }
        // Whatever is called a secret in the fixtures.
        for text in [&report, &set.imported.toml] {
            assert!(!text.contains("hunter2"), "{}: {text}", set.case.name);
        }
    }
}

#[test]
fn everything_that_a_source_says_is_in_the_report() {
    // Mutation: what was carried over left out: seen red.
    let dir = tempfile::tempdir().unwrap();
    for case in cases::all() {
        let set = import_case(case, dir.path());
        let report = set.imported.report.print("synvisor.toml");
        for source in set.case.sources {
            let text = String::from_utf8(fs::read(set.root.join(source)).unwrap()).unwrap();
            for line in text.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_alphabetic())) {
                let Some((name, _)) = line.split_once([':', '=']) else { continue };
                // A file of logs is read for its level alone, and a compose file for one service.
                let foreign = ["version", "services", "volumes", "formatters", "handlers", "loggers", "root"];
                if !foreign.contains(&name) && !name.contains(' ') {
                    assert!(
                        report.contains(&format!("`{name}")),
                        "{}: {name} is not told of:\n{report}",
                        set.case.name
                    );
                }
            }
        }
    }
}

fn imported(name: &str) -> (tempfile::TempDir, Set) {
    let dir = tempfile::tempdir().unwrap();
    let case = cases::all().into_iter().find(|case| case.name == name).unwrap();
    let set = import_case(case, dir.path());
    (dir, set)
}

#[test]
fn each_worker_has_a_unit() {
    for (name, counts) in [
        (
            "workers",
            "account_data appservice background events*2 federation_reader federation_sender*2 generic*2 \
             media_repository presence pusher to_device typing user_dir",
        ),
        (
            "legacy",
            "appservice client_reader federation_reader federation_sender generic media_repository pusher sync*2 user_dir",
        ),
        (
            "docker-workers",
            "account_data background client_reader events*2 federation_reader*2 federation_sender*2 media_repository \
             presence pusher room sync typing user_dir",
        ),
        (
            "playbook's files",
            "account_data appservice background device_lists events federation_sender generic media_repository presence \
             push_rules pusher quarantined_media_changes receipts to_device typing user_dir",
        ),
        ("mdad-specialised", "events*2 federation_sender*2 preset=specialized-workers sync*3 user_dir*0"),
        ("blog", "preset=one-of-each"),
        ("mdad-old", "preset=specialized-workers"),
        ("pip", ""),
    ] {
        let (_dir, set) = imported(name);
        let table: toml::Table = toml::from_str(&set.imported.toml).unwrap();
        let of = |(key, value): (&String, &toml::Value)| match (value.as_str(), value.as_integer()) {
            (Some(text), _) => format!("{key}={text}"),
            (None, Some(1)) => key.clone(),
            (None, _) => format!("{key}*{value}"),
        };
        let workers = table.get("workers").and_then(toml::Value::as_table);
        let found: Vec<String> = workers.into_iter().flatten().map(of).collect();
        assert_eq!(found.join(" "), counts.split_whitespace().collect::<Vec<_>>().join(" "), "{name}");
    }
}

/// What the report says of one thing.
fn entry<'s>(set: &'s Set, name: &str) -> (Verdict, &'s str) {
    let found = set.imported.report.entries.iter().find(|entry| entry.name == name);
    let found = found.unwrap_or_else(|| panic!("{name} is not told of"));
    (found.verdict, &found.text)
}

#[test]
fn the_variables_of_the_blog_are_told_of_by_their_own_names() {
    // Mutation: names that the playbook never had judged by how they begin: seen red.
    let (_dir, set) = imported("blog");
    for (name, verdict, said) in [
        (
            "matrix_synapse_workers_federation_sender_count",
            Verdict::Left,
            "write federation_sender into [workers]",
        ),
        ("matrix_synapse_workers_generic_worker_count", Verdict::Left, "write generic into [workers]"),
        (
            "matrix_synapse_workers_generic_worker_count",
            Verdict::Left,
            "has never had a variable of this name",
        ),
        ("matrix_synapse_max_upload_size_mb", Verdict::Carried, ""),
        ("matrix_synapse_macaroon_secret_key", Verdict::Carried, ""),
        ("matrix_synapse_turn_shared_secret", Verdict::Carried, ""),
        ("matrix_synapse_configuration_extension_yaml: oidc_providers", Verdict::Carried, ""),
        ("matrix_mailer_relay_host_name", Verdict::Changed, "Synapse sends mails by that server itself"),
        ("devture_postgres_enabled", Verdict::Changed, "is off"),
        ("matrix_coturn_enabled", Verdict::Changed, "is off"),
        ("devture_traefik_container_web_host_bind_port", Verdict::Changed, "synvisor front"),
        ("matrix_playbook_docker_installation_enabled", Verdict::Changed, "no Docker"),
        ("ansible_host", Verdict::Changed, "Ansible"),
    ] {
        let (found, text) = entry(&set, name);
        assert_eq!(found, verdict, "{name}: {text}");
        assert!(text.contains(said), "{name}: {text}");
    }
    let provider = &set.config.synapse["oidc_providers"][0];
    let template = &provider["user_mapping_provider"]["config"]["localpart_template"];
    assert_eq!(template.as_str(), Some("{{ user.preferred_username }}"));
    assert_eq!(
        provider["client_secret"]["secret_file"].as_str().map(|path| path.contains("/secrets/")),
        Some(true)
    );
    assert_eq!(set.config.public_baseurl, "https://matrix.example.com/");
    assert_eq!(set.config.synapse["email"]["smtp_host"].as_str(), Some("mail.example.com"));
    assert!(set.config.secrets.signing_key_required);
}

#[test]
fn what_only_containers_reach_is_told_of() {
    // Mutation: `is_local_name` false for what has no dot: seen red.
    let (_dir, set) = imported("playbook's files");
    for (name, said) in [("email", "matrix-exim-relay"), ("redis", "install redis-server")] {
        let (verdict, text) = entry(&set, name);
        assert_eq!((verdict, text.contains(said)), (Verdict::Left, true), "{name}: {text}");
    }
    let (_dir, set) = imported("docker-volume");
    let (verdict, text) = entry(&set, "database");
    assert_eq!((verdict, text.contains("`args.host` is a name")), (Verdict::Left, true), "{text}");
    assert_eq!(set.config.listen.len(), 1);
    assert_eq!(set.config.listen[0].address.to_string(), "127.0.0.1:8008");
}

#[test]
fn jinja_beyond_a_plain_reference_is_left_and_told_of() {
    let (_dir, set) = imported("mdad-specialised");
    let (verdict, text) = entry(&set, "matrix_synapse_cache_autotuning_max_cache_memory_usage");
    assert_eq!((verdict, text.contains("only Ansible")), (Verdict::Left, true), "{text}");
    assert_eq!(set.config.synapse["admin_contact"].as_str(), Some("mailto:admin@example.com"));
    assert_eq!(entry(&set, "matrix_mautrix_signal_enabled").0, Verdict::Left);
    assert_eq!(entry(&set, "my_own_variable").0, Verdict::Left);
    assert_eq!(entry(&set, "matrix_synapse_container_client_api_port").0, Verdict::Changed);
}

#[test]
fn what_the_playbook_worked_out_is_told_of_once() {
    // Mutations, each seen red: an entry for the path of a secret too; another one for the host of mails; the port for other
    // servers always 8448.
    let report = |more: &str| {
        let text = format!("matrix_domain: a.b\nmatrix_homeserver_generic_secret_key: x\n{more}");
        let source = Source { path: "/p/vars.yml".to_owned(), text, place: Place::Named };
        import::read(&[source], &[]).unwrap().translate(&BTreeMap::new(), None)
    };
    let Imported { report: told, toml, .. } = report("");
    let entries = |part: &str| -> Vec<&str> {
        told.entries.iter().filter(|entry| entry.name.contains(part)).map(|entry| &*entry.text).collect()
    };
    for (part, said) in [
        ("macaroon_secret_key", "put it into secrets/macaroon_secret_key beside"),
        ("registration_shared_secret", "the playbook derived it"),
        ("form_secret", "the playbook derived it"),
        ("email.smtp_host", "install a mail server"),
        ("database.args.password", "its homeserver.yaml has it"),
        ("serve_server_wellknown", "--also matrix.a.b:8448"),
    ] {
        let texts = entries(part);
        assert_eq!(texts.len(), 1, "{part}: {texts:?}");
        assert!(texts[0].contains(said), "{part}: {texts:?}");
    }
    assert!(toml.contains("macaroon_secret_key_file = \"secrets/macaroon_secret_key\""), "{toml}");
    let published = report("postgres_container_postgres_bind_port: '127.0.0.1:5433'\n").toml;
    assert!(
        published.contains("host = \"127.0.0.1\"\n") && published.contains("port = 5433\n"),
        "{published}"
    );
    for port in ["443", "'443'"] {
        let other = report(&format!("matrix_federation_public_port: {port}\n")).report.print("");
        assert!(!other.contains("--also") && other.contains("servers to matrix.a.b:443,"), "{other}");
    }
}

#[test]
fn a_bridge_that_is_a_name_within_docker_is_told_of() {
    // Mutations, each seen red: registrations not read; told of outside of containers too; names with an underscore missed.
    let path = "/matrix/bridge/registration.yaml".to_owned();
    let entries = |setting: &str, registration: Result<String, String>| {
        let text = format!("server_name: a.b\napp_service_config_files: [{path}]\n{setting}\n");
        let source =
            Source { path: "/matrix/synapse/config/homeserver.yaml".to_owned(), text, place: Place::Named };
        let found = import::read(&[source], &[(path.clone(), path.clone())]).unwrap();
        assert!(found.wanted().contains(&path));
        found.translate(&[(path.clone(), registration)].into(), None).report.print("")
    };
    let container = "media_store_path: /matrix-media-store-parent/media-store";
    let url = |url: &str| Ok(format!("id: x\nurl: {url}\n"));
    for name in ["matrix-bridge", "matrix_bridge"] {
        for shown in [format!("http://{name}:29328"), format!("https://u:p@{name}:1/x")] {
            let told = entries(container, url(&shown));
            let said = format!("has {name} for its url, which is a place within Docker");
            assert!(told.contains(&said), "{shown}: {told}");
            assert!(told.contains("--also"), "{told}");
        }
    }
    for (setting, registration) in [
        (container, url("http://bridge.example.com:29328")),
        (container, url("null")),
        (container, url("''")),
        (container, url("http://[2001:db8::7]:29328")),
        ("", url("http://matrix-bridge:29328")),
    ] {
        let told = entries(setting, registration);
        assert!(!told.contains("within Docker"), "{told}");
    }
    let told = entries("", Err("cannot read it".to_owned()));
    assert!(told.contains("cannot read it, and Synapse does not start without it"), "{told}");
}

#[test]
fn what_nobody_could_use_as_it_is_has_to_be_looked_at() {
    // Mutations, each seen red: a path of the container that is nowhere here taken as it is; packages not thought of.
    let text = "server_name: a.b\nsigning_key_path: /data/a.b.signing.key\n\
                app_service_config_files: [/data/one.yaml, /two.yaml]\nmodules: [{module: pushy.Module}]\n";
    let source =
        Source { path: "/srv/homeserver.yaml".to_owned(), text: text.to_owned(), place: Place::Named };
    let two = ("/two.yaml".to_owned(), "/srv/two.yaml".to_owned());
    for (mounts, registration_is_left) in [(vec![], true), (vec![two], false)] {
        let found = import::read(std::slice::from_ref(&source), &mounts).unwrap();
        let entries = found.translate(&BTreeMap::new(), None).report.entries;
        let left = |name: &str| entries.iter().any(|one| one.name == name && one.verdict == Verdict::Left);
        assert_eq!(left("app_service_config_files"), registration_is_left, "{mounts:?}: {entries:?}");
        assert!(left("modules"), "{entries:?}");
    }
}
