//! The TOML file, checked: [`Config`] holds nothing undecided.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;

mod access_log;
mod check;
pub mod difference;
pub mod edit;
pub mod effective;
mod forms;
mod keys;
pub mod mask;
pub mod nearest;
mod parse;
mod presets;
pub mod problem;
mod reader;
pub mod recipe;
pub mod roles;
pub mod schema;
pub mod secret;
pub mod settings;
pub mod synapse;
mod syntax;
pub mod units;

pub use access_log::AccessLog;
pub use check::collide;
pub use check::host_and_port;
pub use keys::LOG_LEVEL;
pub use keys::RUN_DIR;

use effective::Effective;
use ipnet::IpNet;
use problem::Problem;
use recipe::Recipe;
use roles::Stream;
use roles::WorkerKind;
use secret::Secret;
use secret::SecretSource;
use secret::SecretValues;
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
    /// Streams that the installed Synapse does not have: it would not start if it were told who writes them.
    pub unknown_streams: BTreeSet<Stream>,
    pub database: Database,
    pub redis: Redis,
    pub python: Python,
    pub listen: Vec<Listen>,
    pub secrets: Secrets,
    pub units: Units,
    /// In which form the router writes a line for each request.
    pub access_log: AccessLog,
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
        Self::parse_for(text, base, None)
    }

    /// The same for the Synapse that is installed; without one Synapse 1.163 counts.
    ///
    /// # Errors
    /// Every problem of the file, errors and warnings, at once.
    pub fn parse_for(text: &str, base: &Path, installed: Option<&Installed>) -> Result<Parsed, Vec<Problem>> {
        parse::parse(text, base, installed)
    }

    /// The virtualenv that a text names, whatever else is wrong with it.
    pub fn venv(text: &str, base: &Path) -> PathBuf {
        let (root, _) = toml::de::DeTable::parse_recoverable(text);
        let value = |table: &str, key: &str| root.get_ref().get(table)?.get_ref().as_table()?.get(key);
        let named = |table: &str, key: &str| value(table, key)?.get_ref().as_str();
        let state = Self::state_dir(text, base);
        if let Some(venv) = named("python", "venv") {
            return base.join(venv);
        }
        let Some(version) = named("python", "synapse") else { return state.join(keys::VENV) };
        let packages = value("python", "packages").and_then(|list| list.get_ref().as_array());
        let packages = packages.into_iter().flatten().filter_map(|package| package.get_ref().as_str());
        let embedded = |table: &str| named(table, "mode") == Some("embedded");
        Recipe::new(version, packages, embedded("database"), embedded("redis")).venv(&state)
    }

    /// The state directory that a text names, whatever else is wrong with it.
    pub fn state_dir(text: &str, base: &Path) -> PathBuf {
        let (root, _) = toml::de::DeTable::parse_recoverable(text);
        let named =
            root.get_ref().get("supervisor").and_then(|table| table.get_ref().as_table()?.get("state_dir"));
        let named = named.and_then(|value| value.get_ref().as_str());
        named.map_or_else(|| PathBuf::from(keys::STATE_DIR), |named| base.join(named))
    }

    /// The run directory that a text names, whatever else is wrong with it.
    pub fn run_dir(text: &str) -> String {
        let (root, _) = toml::de::DeTable::parse_recoverable(text);
        let named =
            root.get_ref().get("supervisor").and_then(|table| table.get_ref().as_table()?.get("run_dir"));
        named.and_then(|value| value.get_ref().as_str()).unwrap_or(RUN_DIR).to_owned()
    }

    /// Bytes of the largest file that users may upload (1.163: `synapse/config/repository.py`).
    pub fn max_upload_size(&self) -> u64 {
        const DEFAULT: u64 = 50 << 20;
        let setting = self.synapse.get("max_upload_size");
        let number = |value: &toml::Value| u64::try_from(value.as_integer()?).ok();
        let text = |value: &toml::Value| check::size(value.as_str()?).ok();
        // What Synapse cannot read keeps it from starting.
        setting.and_then(|value| number(value).or_else(|| text(value))).unwrap_or(DEFAULT)
    }

    /// Whether Synapse leaves sessions and passwords to the Matrix Authentication Service (1.163:
    /// `synapse/config/mas.py`).
    pub fn delegates_authentication(&self) -> bool {
        let service = self.synapse.get("matrix_authentication_service");
        service.and_then(|table| table.get("enabled")?.as_bool()).unwrap_or(false)
    }
}

/// What the installed Synapse knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// Settings of homeserver.yaml.
    pub settings: BTreeSet<String>,
    /// Keys of `stream_writers`.
    pub streams: BTreeSet<String>,
}

impl Installed {
    /// Whether a stream can have a writer. One whose sources do not say so knows what 1.163 does.
    pub fn has(&self, stream: Stream) -> bool {
        self.streams.is_empty() || self.streams.contains(stream.key())
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
}

/// A place of a secret that the TOML names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referred {
    pub source: SecretSource,
    /// Where it is named, in bytes of the text.
    pub place: Range<usize>,
    /// What to do if it is not there.
    pub remedy: &'static str,
    pub kind: Kind,
}

impl Referred {
    /// One of the files that a listener speaks TLS with.
    pub fn of_tls(source: &SecretSource, place: Range<usize>, kind: Kind) -> Self {
        Self { source: source.clone(), place, remedy: "put it there, as PEM, or correct the path", kind }
    }
}

/// What a [`Referred`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Secret,
    /// A listener's certificate, which everybody may read.
    Certificate,
    /// The private key of one.
    Key,
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
    /// What it is made of, where synvisor makes it.
    pub recipe: Option<Recipe>,
}

/// One `[[listen]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    pub address: SocketAddr,
    /// Whether `/_synapse/admin` is reachable here.
    pub admin: bool,
    /// Whether `/_synvisor/metrics` is.
    pub metrics: bool,
    /// What TLS is spoken with; without any it is not spoken.
    pub tls: Vec<CertificateFiles>,
    /// Whether each connection begins with the PROXY protocol.
    pub proxy_protocol: bool,
}

/// Where a certificate and its private key are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, the server's own first.
    pub certificate: SecretSource,
    pub key: SecretSource,
}

impl CertificateFiles {
    /// The text of both, the certificate's first, where they were read and found fit.
    pub fn texts<'v>(&self, secrets: &'v SecretValues) -> Option<(&'v str, &'v str)> {
        let texts = (secrets.get(&self.certificate), secrets.get(&self.key));
        (!texts.0.is_empty() && !texts.1.is_empty()).then_some(texts)
    }
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
    /// How long a process of Synapse may take to answer `/health`, in milliseconds; 0 if nobody asks.
    pub health_timeout: u64,
    /// How long `supervise` waits for PostgreSQL and Redis before it gives up, in milliseconds.
    pub dependency_timeout: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_virtualenv_is_found_whatever_else_is_wrong() {
        // Mutation: state_dir not looked at: seen red; STATE_DIR unlike the default in the table of keys: seen red.
        let venv = |text: &str| Config::venv(text, Path::new("/etc/synvisor"));
        for text in [
            "server_name = \"a.b\"",
            "server_name = \"a.b\"\n[supervisor]\nstate_dir = \"state\"",
            "server_name = \"a.b\"\n[python]\nvenv = \"../venv\"",
            "server_name = \"a.b\"\n[python]\nsynapse = \"1.163.2\"",
            "server_name = \"a.b\"\n[python]\nsynapse = \"1.163.2\"\npackages = [\"a\"]\n[redis]\nmode = \"embedded\"",
        ] {
            let parsed = Config::parse(text, Path::new("/etc/synvisor")).unwrap();
            assert_eq!(venv(text), parsed.config.python.venv);
        }
        assert_eq!(venv("genric = \npython.venv = \"/venv\""), Path::new("/venv"));
    }
}
