//! The TOML file, checked: [`Config`] holds nothing undecided.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;

mod check;
pub mod nearest;
mod parse;
mod presets;
pub mod problem;
mod reader;
pub mod roles;
pub mod secret;
mod synapse;

use problem::Problem;
use roles::WorkerKind;

/// A checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The domain in user and room ids; it can never change.
    pub server_name: String,
    /// The URL under which clients reach the homeserver.
    pub public_baseurl: String,
    pub workers: Workers,
    pub database: Database,
    pub redis: Redis,
    pub python: Python,
    pub listen: Vec<Listen>,
    pub supervisor: Supervisor,
    /// Settings of homeserver.yaml, passed through.
    pub synapse: toml::Table,
}

impl Config {
    /// Parses and checks the text of the TOML file; relative paths in it start at `base`.
    ///
    /// # Errors
    /// Every problem of the file, errors and warnings, at once.
    pub fn parse(text: &str, base: &Path) -> Result<Parsed, Vec<Problem>> {
        parse::parse(text, base)
    }
}

/// A configuration, and what the shell must know of the file that it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    pub config: Config,
    pub warnings: Vec<Problem>,
    /// Files that must exist.
    pub files: Vec<Referred>,
}

/// A file that the TOML names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referred {
    pub path: PathBuf,
    /// Where it is named, in bytes of the text.
    pub place: Range<usize>,
}

/// How many workers of each kind: the preset with the counts of the file laid over it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workers(pub BTreeMap<WorkerKind, u16>);

impl Workers {
    pub fn count(&self, kind: WorkerKind) -> u16 {
        self.0.get(&kind).copied().unwrap_or(0)
    }
}

/// An address of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

/// `[database]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Database {
    Embedded,
    External(ExternalDatabase),
}

impl Database {
    pub const fn is_embedded(&self) -> bool {
        matches!(self, Self::Embedded)
    }
}

/// `[database]` with `mode = "external"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalDatabase {
    /// Host name, address, or an absolute path: the directory of a Unix socket, as libpq takes it.
    pub host: String,
    pub port: u16,
    pub user: String,
    pub name: String,
    /// A file that holds the password.
    pub password_file: Option<PathBuf>,
    /// libpq's `sslmode`.
    pub sslmode: Option<String>,
}

/// `[redis]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redis {
    Embedded,
    External(ExternalRedis),
}

impl Redis {
    pub const fn is_embedded(&self) -> bool {
        matches!(self, Self::Embedded)
    }
}

/// `[redis]` with `mode = "external"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalRedis {
    pub endpoint: Endpoint,
    /// A file that holds the password.
    pub password_file: Option<PathBuf>,
}

/// `[python]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Python {
    /// The virtualenv that holds Synapse.
    pub venv: PathBuf,
}

/// One `[[listen]]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    pub address: SocketAddr,
    /// Whether `/_synapse/admin` is reachable here.
    pub admin: bool,
}

/// `[supervisor]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supervisor {
    pub state_dir: PathBuf,
    pub run_dir: PathBuf,
    /// User of Synapse and the embedded services, where the supervisor may change users.
    pub user: String,
    /// User of the router, likewise.
    pub router_user: String,
    /// Longest wait for requests in flight before a stop, in milliseconds.
    pub drain_timeout: u64,
    /// From SIGTERM to SIGKILL, in milliseconds.
    pub stop_timeout: u64,
    /// How long `supervise` waits for PostgreSQL and Redis before it gives up, in milliseconds.
    pub dependency_timeout: u64,
}
