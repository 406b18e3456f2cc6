//! The TOML file, checked: [`Config`] holds nothing undecided.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;

mod check;
pub mod effective;
mod forms;
mod keys;
mod mask;
pub mod nearest;
mod parse;
mod presets;
pub mod problem;
mod reader;
pub mod roles;
pub mod schema;
pub mod secret;
pub mod settings;
pub mod synapse;
mod syntax;
pub mod units;

pub use keys::LOG_LEVEL;
pub use keys::RUN_DIR;

use effective::Effective;
use ipnet::IpNet;
use problem::Problem;
use roles::WorkerKind;
use secret::Secret;
use secret::SecretSource;
use units::Units;

/// A checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The domain in user and room ids; it can never change.
    pub server_name: String,
    /// The URL under which clients reach the homeserver.
    pub public_baseurl: String,
    /// Whose word about clients is believed.
    pub trusted_proxies: Vec<IpNet>,
    pub workers: Workers,
    pub database: Database,
    pub redis: Redis,
    pub python: Python,
    pub listen: Vec<Listen>,
    pub secrets: Secrets,
    pub units: Units,
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

    /// The run directory that a text names, whatever else is wrong with it.
    pub fn run_dir(text: &str) -> String {
        let (root, _) = toml::de::DeTable::parse_recoverable(text);
        let named =
            root.get_ref().get("supervisor").and_then(|table| table.get_ref().as_table()?.get("run_dir"));
        named.and_then(|value| value.get_ref().as_str()).unwrap_or(RUN_DIR).to_owned()
    }

    /// Whether Synapse leaves sessions and passwords to the Matrix Authentication Service (1.163:
    /// `synapse/config/mas.py`).
    pub fn delegates_authentication(&self) -> bool {
        let service = self.synapse.get("matrix_authentication_service");
        service.and_then(|table| table.get("enabled")?.as_bool()).unwrap_or(false)
    }
}

/// A configuration, and what the shell must know of the file that it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Parsed {
    pub config: Config,
    pub warnings: Vec<Problem>,
    /// Secrets that must be there.
    pub files: Vec<Referred>,
    /// What holds, key by key.
    pub effective: Vec<Effective>,
    /// Settings that Synapse 1.163 does not know.
    pub unknown: Vec<Named>,
}

impl Parsed {
    /// Warns of the settings that the installed Synapse does not know either; it may be newer than 1.163.
    pub fn unknown_settings(&self, installed: &BTreeSet<String>) -> Vec<Problem> {
        let unknown = self.unknown.iter().filter(|setting| !installed.contains(&setting.name));
        let warning = |setting: &Named| {
            let what = format!("Synapse has no setting {}", setting.name);
            let remedy = settings::remedy(&setting.name, installed.iter().map(String::as_str));
            Problem::warning(setting.place.clone(), what, remedy)
        };
        unknown.map(warning).collect()
    }
}

/// A place of a secret that the TOML names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referred {
    pub source: SecretSource,
    /// Where it is named, in bytes of the text.
    pub place: Range<usize>,
    /// What to do if it is not there.
    pub remedy: &'static str,
}

/// A key and where it stands, in bytes of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub name: String,
    pub place: Range<usize>,
}

/// How many workers of each kind: the preset with the counts of the file laid over it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workers(pub BTreeMap<WorkerKind, u16>);

impl Workers {
    pub fn count(&self, kind: WorkerKind) -> u16 {
        self.0.get(&kind).copied().unwrap_or(0)
    }

    /// Every worker's kind and unit, kind by kind.
    pub fn units(&self) -> impl Iterator<Item = (WorkerKind, String)> {
        let of = |kind: WorkerKind| (1..=self.count(kind)).map(move |index| (kind, kind.unit_name(index)));
        WorkerKind::all().flat_map(of)
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

    pub const fn password(&self) -> Option<&SecretSource> {
        match self {
            Self::Embedded => None,
            Self::External(external) => external.password.as_ref(),
        }
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
    pub password: Option<SecretSource>,
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

    pub const fn password(&self) -> Option<&SecretSource> {
        match self {
            Self::Embedded => None,
            Self::External(external) => external.password.as_ref(),
        }
    }
}

/// `[redis]` with `mode = "external"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalRedis {
    pub endpoint: Endpoint,
    pub password: Option<SecretSource>,
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

/// `[secrets]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secrets {
    /// Those that are not made by synvisor.
    pub files: BTreeMap<Secret, SecretSource>,
    /// Whether a missing signing key must not be replaced by a new one: this homeserver had one before.
    pub signing_key_required: bool,
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
