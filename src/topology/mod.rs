//! Which processes there are and where they listen, derived from the [`Config`] and nothing else.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::roles::{Resource, Stream, WorkerKind};
use crate::config::{Config, Endpoint, Redis};

/// The name of a unit: what `status` lists and orders take.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnitName(String);

impl UnitName {
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
    pub fn main() -> Self {
        Self::new("main")
    }
    pub fn router() -> Self {
        Self::new("router")
    }
    pub fn fork_server() -> Self {
        Self::new("forkserver")
    }
    pub fn postgres() -> Self {
        Self::new("postgres")
    }
    pub fn redis() -> Self {
        Self::new("redis")
    }
}

impl fmt::Display for UnitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Main is `main` in `instance_map` and this wherever else Synapse names processes (1.163: `synapse/config/workers.py`).
pub const MASTER: &str = "master";

/// What a unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// PostgreSQL: ours when embedded, else only watched.
    Postgres {
        embedded: bool,
    },
    /// A Redis protocol server: ours when embedded, else only watched.
    Redis {
        embedded: bool,
    },
    /// Forks the processes of Synapse.
    ForkServer,
    Main,
    Worker(WorkerKind),
    Router,
}

impl Role {
    pub const fn is_synapse(self) -> bool {
        matches!(self, Self::Main | Self::Worker(_))
    }
}

/// One process that synvisor runs, or one service that it waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    pub name: UnitName,
    pub role: Role,
    /// Unix socket for client and federation requests, in the directory that the router may enter.
    pub client_socket: Option<PathBuf>,
    /// Unix socket for health, metrics and replication, in a directory that only Synapse's user may enter.
    pub private_socket: Option<PathBuf>,
    /// What the client socket serves.
    pub resources: Vec<Resource>,
}

/// All units and how they are wired together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// In start order: services, fork server, main, workers, router.
    pub units: Vec<Unit>,
}

impl Topology {
    /// Derives the units of a configuration; the same configuration always gives the same names and sockets.
    pub fn of(config: &Config) -> Self {
        let run = &config.supervisor.run_dir;
        let postgres = Role::Postgres { embedded: config.database.is_embedded() };
        let mut units = vec![service(UnitName::postgres(), postgres)];
        if uses_redis(config) {
            units.push(service(UnitName::redis(), Role::Redis { embedded: config.redis.is_embedded() }));
        }
        units.push(service(UnitName::fork_server(), Role::ForkServer));
        let mut main = vec![Resource::Client, Resource::Federation];
        if config.workers.count(WorkerKind::MediaRepository) == 0 {
            main.push(Resource::Media);
        }
        units.push(synapse(run, UnitName::main(), Role::Main, main));
        let worker = |(kind, name): (WorkerKind, String)| {
            synapse(run, UnitName::new(name), Role::Worker(kind), kind.resources().to_vec())
        };
        units.extend(config.workers.units().map(worker));
        units.push(service(UnitName::router(), Role::Router));
        Self { units }
    }

    pub fn unit(&self, name: &UnitName) -> Option<&Unit> {
        self.units.iter().find(|unit| unit.name == *name)
    }

    /// Synapse's processes: main first, then the workers.
    pub fn synapse(&self) -> impl Iterator<Item = &Unit> {
        self.units.iter().filter(|unit| unit.role.is_synapse())
    }

    /// The workers of one kind, in order of their index.
    pub fn workers(&self, kind: WorkerKind) -> impl Iterator<Item = &Unit> {
        self.units.iter().filter(move |unit| unit.role == Role::Worker(kind))
    }

    pub fn has_workers(&self) -> bool {
        self.synapse().any(|unit| unit.role != Role::Main)
    }

    /// Names of the workers that write a stream; empty means that main alone writes it.
    ///
    /// Without a writer of its own, the quarantined media stream is written where media is served: quarantining
    /// is a request to a process with the media repository, and no process passes it on.
    pub fn writers(&self, stream: Stream) -> Vec<&UnitName> {
        let names = |kind| self.workers(kind).map(|unit| &unit.name).collect::<Vec<_>>();
        match (names(WorkerKind::Writer(stream)), stream) {
            (none, Stream::QuarantinedMediaChanges) if none.is_empty() => names(WorkerKind::MediaRepository),
            (writers, _) => writers,
        }
    }

    /// Whether other processes call this one: main, and who writes a stream.
    pub fn is_called(&self, unit: &Unit) -> bool {
        unit.role == Role::Main
            || Stream::ALL.iter().any(|stream| self.writers(*stream).contains(&&unit.name))
    }

    /// Synapse's `instance_map`: every process that others call, with the socket to call it on.
    pub fn instance_map(&self) -> BTreeMap<&str, &Path> {
        self.synapse()
            .filter(|unit| self.is_called(unit))
            .filter_map(|unit| Some((unit.name.as_str(), unit.private_socket.as_deref()?)))
            .collect()
    }
}

fn service(name: UnitName, role: Role) -> Unit {
    Unit { name, role, client_socket: None, private_socket: None, resources: Vec::new() }
}

fn synapse(run: &Path, name: UnitName, role: Role, resources: Vec<Resource>) -> Unit {
    let socket = |dir: &str| run.join(dir).join(format!("{name}.sock"));
    Unit {
        client_socket: (!resources.is_empty()).then(|| socket("client")),
        private_socket: Some(socket("private")),
        resources,
        name,
        role,
    }
}

/// Where the embedded PostgreSQL listens: a directory, as libpq's `host` wants it.
pub fn postgres_socket_dir(config: &Config) -> PathBuf {
    config.supervisor.run_dir.join("postgres")
}

/// Where the embedded Redis protocol server listens.
pub fn redis_socket(config: &Config) -> PathBuf {
    config.supervisor.run_dir.join("redis").join("redis.sock")
}

/// Whether Synapse's processes talk over Redis: main alone has nobody to talk to.
pub fn uses_redis(config: &Config) -> bool {
    config.redis.is_embedded() || !config.workers.0.is_empty()
}

/// How Synapse and the readiness checks reach Redis.
pub fn redis_endpoint(config: &Config) -> Endpoint {
    match &config.redis {
        Redis::Embedded => Endpoint::Unix(redis_socket(config)),
        Redis::External(external) => external.endpoint.clone(),
    }
}
