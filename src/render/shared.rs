//! What is the same text in every process: differing role lists would make two of them believe that they own the
//! same work, or nobody.

use toml::Table;
use toml::Value;

use crate::config::Config;
use crate::config::Database;
use crate::config::Endpoint;
use crate::config::Redis;
use crate::config::roles::Stream;
use crate::config::roles::WorkerKind;
use crate::config::secret::Secret;
use crate::config::secret::SecretValues;
use crate::config::units::UnitSettings;
use crate::topology;
use crate::topology::MASTER;
use crate::topology::Role;
use crate::topology::Topology;
use crate::topology::UnitName;

use super::EMBEDDED_DATABASE;
use super::list;
use super::path;
use super::serves_media;
use super::table;

/// The settings of homeserver.yaml that every process has, whatever it is.
pub(super) fn settings(config: &Config, topology: &Topology, secrets: &SecretValues) -> Table {
    let state = &config.supervisor.state_dir;
    let mut settings = config.synapse.clone();
    settings.extend(table([
        ("server_name", config.server_name.clone().into()),
        ("public_baseurl", config.public_baseurl.clone().into()),
        ("enable_metrics", true.into()),
        // Otherwise stderr becomes a logger, and a log configuration that is read again writes into itself.
        ("no_redirect_stdio", true.into()),
        ("media_store_path", path(&state.join("media_store"))),
    ]));
    for secret in Secret::ALL {
        match config.secrets.files.get(&secret) {
            Some(source) => settings.insert(secret.setting().to_owned(), secrets.get(source).into()),
            None => settings.insert(format!("{}_path", secret.setting()), path(&secret.path(state))),
        };
    }
    if topology.unit(&UnitName::redis()).is_some() {
        settings.insert("redis".to_owned(), redis(config, secrets).into());
    }
    if topology.has_workers() {
        settings.extend(roles(config, topology));
    }
    settings
}

/// `database` of one process; only the pool's size depends on which.
pub(super) fn database(config: &Config, unit: &UnitSettings, secrets: &SecretValues) -> Table {
    let (least, most) = unit.pool();
    let mut args = table([("cp_min", i64::from(least).into()), ("cp_max", i64::from(most).into())]);
    args.extend(connection(config, secrets));
    table([("name", "psycopg2".into()), ("args", args.into())])
}

/// What psycopg2 connects with.
pub fn connection(config: &Config, secrets: &SecretValues) -> Table {
    match &config.database {
        Database::Embedded => table([
            ("host", path(&topology::postgres_socket_dir(config))),
            ("user", EMBEDDED_DATABASE.into()),
            ("dbname", EMBEDDED_DATABASE.into()),
        ]),
        Database::External(external) => {
            let mut settings = table([
                ("host", external.host.clone().into()),
                ("port", i64::from(external.port).into()),
                ("user", external.user.clone().into()),
                ("dbname", external.name.clone().into()),
            ]);
            let password = external.password.as_ref().map(|source| secrets.get(source));
            let optional = [("password", password), ("sslmode", external.sslmode.as_deref())];
            settings.extend(
                optional.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.into()))),
            );
            settings
        }
    }
}

fn redis(config: &Config, secrets: &SecretValues) -> Table {
    let mut settings = table([("enabled", true.into())]);
    match topology::redis_endpoint(config) {
        Endpoint::Unix(socket) => settings.extend(table([("path", path(&socket))])),
        Endpoint::Tcp { host, port } => {
            settings.extend(table([("host", host.into()), ("port", i64::from(port).into())]));
        }
    }
    if let Redis::External(external) = &config.redis
        && let Some(source) = &external.password
    {
        settings.insert("password".to_owned(), secrets.get(source).into());
    }
    settings
}

/// Who does what. A key is left out where main does it, as is Synapse's default.
fn roles(config: &Config, topology: &Topology) -> Table {
    let names = |kind| topology.workers(kind).map(|unit| unit.name.as_str()).collect::<Vec<_>>();
    let instances = topology
        .instance_map()
        .into_iter()
        .map(|(name, socket)| (name.to_owned(), Value::Table(table([("path", path(socket))]))));
    let mut settings = table([("instance_map", Value::Table(instances.collect()))]);
    let writers: Table = Stream::ALL
        .into_iter()
        .filter(|stream| !config.unknown_streams.contains(stream))
        .filter_map(|stream| Some((stream.key().to_owned(), list(writers(topology, stream)?))))
        .collect();
    if !writers.is_empty() {
        settings.insert("stream_writers".to_owned(), writers.into());
    }
    let lists = [
        ("federation_sender_instances", WorkerKind::FederationSender),
        ("pusher_instances", WorkerKind::Pusher),
    ];
    for (key, kind) in lists {
        if !names(kind).is_empty() {
            settings.insert(key.to_owned(), list(names(kind)));
        }
    }
    let singles = [
        ("run_background_tasks_on", WorkerKind::Background),
        ("update_user_directory_from_worker", WorkerKind::UserDir),
        ("notify_appservices_from_worker", WorkerKind::Appservice),
    ];
    for (key, kind) in singles {
        if let Some(first) = names(kind).first() {
            settings.insert(key.to_owned(), (*first).into());
        }
    }
    if let Some(unit) = topology.synapse().find(|unit| serves_media(unit)) {
        let name = if unit.role == Role::Main { MASTER } else { unit.name.as_str() };
        settings.insert("media_instance_running_background_jobs".to_owned(), name.into());
    }
    settings
}

/// The writers of a stream; none where main alone is.
fn writers(topology: &Topology, stream: Stream) -> Option<Vec<&str>> {
    let workers = topology.writers(stream).into_iter().map(UnitName::as_str);
    // A background update of main's writes this stream, and would fail for good and take all others with it if main
    // might not (`synapse/storage/databases/main/room.py`, `flag_existing_quarantined_media`).
    let main = (stream == Stream::QuarantinedMediaChanges).then_some(MASTER);
    let some = !topology.writers(stream).is_empty();
    some.then(|| main.into_iter().chain(workers).collect())
}
