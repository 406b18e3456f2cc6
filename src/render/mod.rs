//! From a configuration to the files that Synapse reads: one complete YAML a process, and a log configuration.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use toml::Table;
use toml::Value;

use crate::config::Config;
use crate::config::Database;
use crate::config::Endpoint;
use crate::config::Redis;
use crate::config::roles::Resource;
use crate::config::roles::Stream;
use crate::config::roles::WorkerKind;
use crate::topology;
use crate::topology::Role;
use crate::topology::Topology;
use crate::topology::Unit;

mod yaml;

/// A file to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub bytes: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
}

/// Files by their absolute path.
pub type FileSet = BTreeMap<PathBuf, File>;

/// Role and database of the embedded PostgreSQL.
pub const EMBEDDED_DATABASE: &str = "synapse";

/// The router's group may connect; decimal, since PyYAML reads `0o660` as a string and Synapse passes it to chmod.
const CLIENT_SOCKET_MODE: i64 = 0o660;
const PRIVATE_SOCKET_MODE: i64 = 0o600;
/// Connections that a process opens at start; more come when they are needed.
const POOL_MIN: i64 = 1;
/// Synapse's documentation and Element's own deployments use ten.
const POOL_MAX: i64 = 10;

/// Renders every file of every Synapse process.
pub fn render(config: &Config, topology: &Topology, database_password: Option<&str>) -> FileSet {
    let shared = shared(config, topology, database_password);
    let directory = config.supervisor.state_dir.join("config");
    let mut files = FileSet::new();
    for unit in topology.synapse() {
        let log_path = directory.join(format!("{}.log.yaml", unit.name));
        let mut settings = shared.clone();
        settings.extend(own(unit, topology, &log_path));
        let path = directory.join(format!("{}.yaml", unit.name));
        files.insert(path, file(&settings));
        files.insert(log_path, file(&log_config()));
    }
    files
}

fn file(settings: &Table) -> File {
    File { bytes: yaml::document(settings).into_bytes(), mode: 0o600 }
}

fn path(path: &Path) -> Value {
    Value::String(path.to_string_lossy().into_owned())
}

fn list<T: Into<Value>>(items: impl IntoIterator<Item = T>) -> Value {
    Value::Array(items.into_iter().map(Into::into).collect())
}

fn table<const N: usize>(entries: [(&str, Value); N]) -> Table {
    entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// What is the same text in every process: differing role lists would make two of them believe that they own the
/// same work.
fn shared(config: &Config, topology: &Topology, database_password: Option<&str>) -> Table {
    let state = &config.supervisor.state_dir;
    let secret = |name: &str| path(&state.join("secrets").join(name));
    let mut settings = table([
        ("report_stats", false.into()),
        // Other servers find this one behind its public address without a record in DNS.
        ("serve_server_wellknown", true.into()),
        ("suppress_key_server_warning", true.into()),
    ]);
    settings.extend(config.synapse.clone());
    settings.extend(table([
        ("server_name", config.server_name.clone().into()),
        ("public_baseurl", config.public_baseurl.clone().into()),
        ("database", database(config, database_password).into()),
        ("enable_metrics", true.into()),
        ("media_store_path", path(&state.join("media_store"))),
        ("signing_key_path", secret("signing.key")),
        ("macaroon_secret_key_path", secret("macaroon_secret_key")),
        ("registration_shared_secret_path", secret("registration_shared_secret")),
        ("form_secret_path", secret("form_secret")),
    ]));
    if topology.synapse().count() > 1 {
        settings.insert("worker_replication_secret_path".to_owned(), secret("worker_replication_secret"));
        settings.extend(roles(topology));
    }
    if topology.unit(&topology::UnitName::redis()).is_some() {
        settings.insert("redis".to_owned(), redis(config).into());
    }
    settings
}

fn database(config: &Config, password: Option<&str>) -> Table {
    let mut args = table([("cp_min", POOL_MIN.into()), ("cp_max", POOL_MAX.into())]);
    match &config.database {
        Database::Embedded => args.extend(table([
            ("host", path(&topology::postgres_socket_dir(config))),
            ("user", EMBEDDED_DATABASE.into()),
            ("dbname", EMBEDDED_DATABASE.into()),
        ])),
        Database::External(external) => {
            args.extend(table([
                ("host", external.host.clone().into()),
                ("port", i64::from(external.port).into()),
                ("user", external.user.clone().into()),
                ("dbname", external.name.clone().into()),
            ]));
            let optional = [("password", password), ("sslmode", external.sslmode.as_deref())];
            args.extend(
                optional.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.into()))),
            );
        }
    }
    table([("name", "psycopg2".into()), ("args", args.into())])
}

fn redis(config: &Config) -> Table {
    let mut settings = table([("enabled", true.into())]);
    match topology::redis_endpoint(config) {
        Endpoint::Unix(socket) => settings.extend(table([("path", path(&socket))])),
        Endpoint::Tcp { host, port } => {
            settings.extend(table([("host", host.into()), ("port", i64::from(port).into())]));
        }
    }
    if let Redis::External(external) = &config.redis
        && let Some(file) = &external.password_file
    {
        settings.insert("password_path".to_owned(), path(file));
    }
    settings
}

/// Who does what. Synapse calls the main process `main` in `instance_map` and `master` everywhere else.
fn roles(topology: &Topology) -> Table {
    let names = |kind| topology.workers(kind).map(|unit| unit.name.as_str()).collect::<Vec<_>>();
    let instances = topology
        .instance_map()
        .into_iter()
        .map(|(name, socket)| (name.to_owned(), Value::Table(table([("path", path(socket))]))));
    let mut settings = table([("instance_map", Value::Table(instances.collect()))]);
    let writers: Table = Stream::ALL
        .into_iter()
        .filter_map(|stream| Some((stream.key().to_owned(), list(writers(topology, stream)?))))
        .collect();
    if !writers.is_empty() {
        settings.insert("stream_writers".to_owned(), writers.into());
    }
    let lists = [
        ("federation_sender_instances", WorkerKind::FederationSender),
        ("pusher_instances", WorkerKind::Pusher),
    ];
    let singles = [
        ("run_background_tasks_on", WorkerKind::Background),
        ("update_user_directory_from_worker", WorkerKind::UserDir),
        ("notify_appservices_from_worker", WorkerKind::Appservice),
        ("media_instance_running_background_jobs", WorkerKind::MediaRepository),
    ];
    for (key, kind) in lists {
        if !names(kind).is_empty() {
            settings.insert(key.to_owned(), list(names(kind)));
        }
    }
    for (key, kind) in singles {
        if let Some(first) = names(kind).first() {
            settings.insert(key.to_owned(), (*first).into());
        }
    }
    if !names(WorkerKind::MediaRepository).is_empty() {
        settings.insert("enable_media_repo".to_owned(), false.into());
    }
    settings
}

/// The writers of a stream; none where Synapse's default, the main process, is right.
fn writers(topology: &Topology, stream: Stream) -> Option<Vec<&str>> {
    let workers: Vec<&str> = topology.writers(stream).into_iter().map(topology::UnitName::as_str).collect();
    if stream == Stream::QuarantinedMediaChanges {
        // Quarantining is served where media is; and main stays a writer, since a background update of its own
        // writes this stream and would fail for good (`synapse/storage/databases/main/room.py`).
        let media: Vec<&str> =
            topology.workers(WorkerKind::MediaRepository).map(|unit| unit.name.as_str()).collect();
        let serving = if workers.is_empty() { media } else { workers };
        return (!serving.is_empty()).then(|| ["master"].into_iter().chain(serving).collect());
    }
    (!workers.is_empty()).then_some(workers)
}

/// What only this process has.
fn own(unit: &Unit, topology: &Topology, log_path: &Path) -> Table {
    let replication = match unit.role {
        Role::Main => topology.synapse().count() > 1,
        Role::Worker(kind) => kind.replication_listener(),
        Role::Postgres { .. } | Role::Redis { .. } | Role::Router => false,
    };
    let mut private = vec!["metrics"];
    if replication {
        private.push("replication");
    }
    let client: Vec<&str> = unit
        .resources
        .iter()
        // Main mounts media with its client resource, and has no resource of that name to mount.
        .filter(|resource| unit.role != Role::Main || **resource != Resource::Media)
        .map(|resource| resource.name())
        .collect();
    let listeners: Vec<Value> = [
        (&unit.client_socket, CLIENT_SOCKET_MODE, client),
        (&unit.private_socket, PRIVATE_SOCKET_MODE, private),
    ]
    .into_iter()
    .filter_map(|(socket, mode, names)| {
        let resources = Value::Table(table([("names", list(names))]));
        Some(Value::Table(table([
            ("type", "http".into()),
            ("path", path(socket.as_deref()?)),
            ("mode", mode.into()),
            ("resources", list([resources])),
        ])))
    })
    .collect();
    match unit.role {
        Role::Worker(_) => {
            let mut settings = table([
                ("worker_app", "synapse.app.generic_worker".into()),
                ("worker_name", unit.name.as_str().into()),
                ("worker_listeners", listeners.into()),
                ("worker_log_config", path(log_path)),
            ]);
            if unit.resources.contains(&Resource::Media) {
                settings.insert("enable_media_repo".to_owned(), true.into());
            }
            settings
        }
        Role::Main | Role::Postgres { .. } | Role::Redis { .. } | Role::Router => {
            table([("listeners", listeners.into()), ("log_config", path(log_path))])
        }
    }
}

/// Logs to stderr, which is the unit's log file.
fn log_config() -> Table {
    let format = "%(asctime)s %(levelname)s %(name)s: [%(request)s] %(message)s";
    let console = table([
        ("class", "logging.StreamHandler".into()),
        ("formatter", "line".into()),
        ("stream", "ext://sys.stderr".into()),
    ]);
    table([
        ("version", 1.into()),
        ("formatters", table([("line", table([("format", format.into())]).into())]).into()),
        ("handlers", table([("console", console.into())]).into()),
        // Below INFO this logger writes access tokens.
        ("loggers", table([("synapse.storage.SQL", table([("level", "INFO".into())]).into())]).into()),
        ("root", table([("level", "INFO".into()), ("handlers", list(["console"]))]).into()),
        ("disable_existing_loggers", false.into()),
    ])
}
