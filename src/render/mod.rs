//! From a configuration to the files that Synapse reads: one complete YAML a process, and a log configuration; and
//! below `front/` to what a web server in front reads.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;

use toml::Table;
use toml::Value;

use crate::config::Config;
use crate::config::LOG_LEVEL;
use crate::config::roles::Resource;
use crate::config::secret::SecretValues;
use crate::config::synapse::secret_in;
use crate::config::units;
use crate::config::units::UnitSettings;
use crate::topology::Role;
use crate::topology::Topology;
use crate::topology::Unit;
use crate::topology::UnitName;

pub mod front;
mod shared;
mod yaml;

pub use shared::connection;

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

/// Who may enter their directory may connect: Synapse, and the router by its group. An integer, as Synapse passes it to
/// chmod: PyYAML reads `0o666` as a string, and serde-saphyr writes integers in decimal.
pub const CLIENT_SOCKET_MODE: u32 = 0o666;
pub const PRIVATE_SOCKET_MODE: u32 = 0o600;

/// What one process of Synapse reads.
#[derive(Clone, PartialEq)]
pub struct Documents {
    /// Its homeserver.yaml, with every secret that stands in it.
    pub settings: Table,
    /// Its log configuration.
    pub log: Table,
}

/// Renders every file of every Synapse process.
///
/// All of them are for Synapse's user alone: a homeserver.yaml may hold the password of the database.
pub fn render(config: &Config, topology: &Topology, secrets: &SecretValues) -> FileSet {
    let documents = documents(config, topology, secrets);
    documents
        .iter()
        .flat_map(|(name, Documents { settings, log })| files(config, name, settings, log))
        .collect()
}

/// The files of one Synapse process, by the tables that they hold.
pub fn files(config: &Config, unit: &UnitName, settings: &Table, log: &Table) -> [(PathBuf, File); 2] {
    [(homeserver_path(config, unit), file(settings)), (log_config_path(config, unit), file(log))]
}

/// What every Synapse process reads, before it is written as YAML.
pub fn documents(
    config: &Config,
    topology: &Topology,
    secrets: &SecretValues,
) -> BTreeMap<UnitName, Documents> {
    let shared = shared::settings(config, topology, secrets);
    let of = |unit: &Unit| {
        let over = unit_settings(config, unit);
        let mut settings = shared.clone();
        settings.insert("database".to_owned(), shared::database(config, &over, secrets).into());
        if !over.caches.is_empty() {
            let caches = Table::from_iter([("caches".to_owned(), Value::Table(over.caches))]);
            units::merge(&mut settings, caches);
        }
        settings.extend(over.settings);
        settings.extend(own(unit, topology, &log_config_path(config, &unit.name)));
        settings.iter_mut().for_each(|(_, value)| fill_in(value, secrets));
        let log = log_config(over.log_level.as_deref().unwrap_or(LOG_LEVEL));
        (unit.name.clone(), Documents { settings, log })
    };
    topology.synapse().map(of).collect()
}

/// What `[units]` says of a unit; nothing where it is no process of Synapse.
pub fn unit_settings(config: &Config, unit: &Unit) -> UnitSettings {
    match unit.role {
        Role::Worker(kind) => config.units.of(unit.name.as_str(), Some(kind)),
        Role::Main => config.units.of(unit.name.as_str(), None),
        Role::Postgres { .. } | Role::Redis { .. } | Role::ForkServer | Role::Router => {
            UnitSettings::default()
        }
    }
}

/// Puts secrets where the TOML refers to them.
fn fill_in(value: &mut Value, secrets: &SecretValues) {
    if let Some(source) = secret_in(value) {
        *value = secrets.get(&source).into();
        return;
    }
    match value {
        Value::Array(entries) => entries.iter_mut().for_each(|entry| fill_in(entry, secrets)),
        Value::Table(table) => table.iter_mut().for_each(|(_, entry)| fill_in(entry, secrets)),
        Value::String(_) | Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => {}
    }
}

/// What `--config-path` of a Synapse process names.
pub fn homeserver_path(config: &Config, unit: &UnitName) -> PathBuf {
    config.supervisor.state_dir.join("config").join(format!("{unit}.yaml"))
}

/// The log configuration of a Synapse process.
pub fn log_config_path(config: &Config, unit: &UnitName) -> PathBuf {
    config.supervisor.state_dir.join("config").join(format!("{unit}.log.yaml"))
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

/// What only this process has.
fn own(unit: &Unit, topology: &Topology, log_path: &Path) -> Table {
    let listeners = listeners(unit, topology).into();
    let mut settings = match unit.role {
        Role::Worker(_) => table([
            // The only app of the eleven that is not a legacy name of this one (`synapse/app/generic_worker.py`).
            ("worker_app", "synapse.app.generic_worker".into()),
            ("worker_name", unit.name.as_str().into()),
            ("worker_listeners", listeners),
            ("worker_log_config", path(log_path)),
        ]),
        Role::Main | Role::Postgres { .. } | Role::Redis { .. } | Role::ForkServer | Role::Router => {
            table([("listeners", listeners), ("log_config", path(log_path))])
        }
    };
    // By default every process with a client listener would load the media repository, and run its retention jobs.
    settings.insert("enable_media_repo".to_owned(), serves_media(unit).into());
    settings
}

fn serves_media(unit: &Unit) -> bool {
    unit.resources.contains(&Resource::Media)
}

/// A listener for clients, and one for what only our own processes may reach; both answer `/health`.
fn listeners(unit: &Unit, topology: &Topology) -> Vec<Value> {
    let replicates = topology.has_workers() && topology.is_called(unit);
    let private = if replicates { vec!["metrics", "replication"] } else { vec!["metrics"] };
    let client: Vec<&str> = unit
        .resources
        .iter()
        // Main's client resource brings the media paths along. Its resource `media` would put a tree with nothing
        // but media into the place of the client API (`synapse/app/homeserver.py`, `_configure_named_resource`).
        .filter(|resource| unit.role != Role::Main || **resource != Resource::Media)
        .map(|resource| resource.name())
        .collect();
    let sockets = [
        (&unit.client_socket, CLIENT_SOCKET_MODE, client),
        (&unit.private_socket, PRIVATE_SOCKET_MODE, private),
    ];
    let listener = |(socket, mode, names): (&Option<PathBuf>, u32, Vec<&str>)| {
        let resources = Value::Table(table([("names", list(names))]));
        Some(Value::Table(table([
            ("type", "http".into()),
            ("path", path(socket.as_deref()?)),
            ("mode", i64::from(mode).into()),
            ("resources", list([resources])),
        ])))
    };
    sockets.into_iter().filter_map(listener).collect()
}

/// Logs to stderr, which is the unit's log file.
fn log_config(level: &str) -> Table {
    let sql = if level == "DEBUG" { LOG_LEVEL } else { level };
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
        ("loggers", table([("synapse.storage.SQL", table([("level", sql.into())]).into())]).into()),
        ("root", table([("level", level.into()), ("handlers", list(["console"]))]).into()),
        ("disable_existing_loggers", false.into()),
    ])
}
