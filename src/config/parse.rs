//! From the text of the TOML file to a [`Config`], or to every mistake in it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;

use toml::de::DeTable;

use super::Config;
use super::Database;
use super::Endpoint;
use super::ExternalDatabase;
use super::ExternalRedis;
use super::Listen;
use super::Parsed;
use super::Python;
use super::Redis;
use super::Referred;
use super::Supervisor;
use super::Workers;
use super::presets;
use super::presets::Preset;
use super::problem::Problem;
use super::problem::Severity;
use super::problem::nearest;
use super::reader::Found;
use super::reader::Reader;
use super::roles::WorkerKind;
use super::synapse;

/// Longest path of a Unix socket (`sun_path` less its terminating zero).
const LONGEST_SOCKET_PATH: usize = 107;
/// Twisted puts `.lock` behind the path of each socket while it binds it, but only the path itself is bound.
const LONGEST_SOCKET_NAME: &str = "private/quarantined-media-changes-200.sock";

/// The shortest file that works, shown where there is none.
const SMALLEST: &str = "the smallest file is one line: server_name = \"example.com\"";

struct Parser<'b> {
    base: &'b Path,
    problems: Vec<Problem>,
    files: Vec<Referred>,
}

/// Parses the text of a configuration; relative paths in it start at `base`.
///
/// # Errors
/// Every problem of the file, errors and warnings.
pub(super) fn parse(text: &str, base: &Path) -> Result<Parsed, Vec<Problem>> {
    let (root, errors) = DeTable::parse_recoverable(text);
    let mut parser = Parser { base, problems: Vec::new(), files: Vec::new() };
    for error in errors {
        let place = error.span().unwrap_or(0..0);
        let what = format!("this is not TOML: {}", error.message());
        parser.problems.push(Problem::error(place, what, syntax_remedy(error.message())));
    }
    if !parser.problems.is_empty() {
        // What is guessed of a text that is not TOML would be reported as mistakes that nobody made.
        return Err(parser.problems);
    }
    let config = parser.root(Reader::new("the file", root.get_ref(), 0..0), text);
    let (errors, warnings): (Vec<_>, Vec<_>) =
        parser.problems.into_iter().partition(|problem| problem.severity == Severity::Error);
    match config {
        Some(config) if errors.is_empty() => Ok(Parsed { config, warnings, files: parser.files }),
        Some(_) | None => Err(errors.into_iter().chain(warnings).collect()),
    }
}

fn syntax_remedy(message: &str) -> &'static str {
    if message.contains("duplicate") {
        "remove one of the two, or put the keys of both into one table"
    } else if message.contains("quoted") {
        "write text in double quotes: key = \"value\""
    } else {
        "write key = value, with text in double quotes, and tables as [name] on a line of their own"
    }
}

impl Parser<'_> {
    fn root(&mut self, mut root: Reader<'_, '_>, text: &str) -> Option<Config> {
        let problems = &mut self.problems;
        let server_name = root.string("server_name", problems);
        let public_baseurl = root.string("public_baseurl", problems);
        let mut workers = root.table("workers", "[workers]", problems);
        let mut database = root.table("database", "[database]", problems);
        let mut redis = root.table("redis", "[redis]", problems);
        let mut python = root.table("python", "[python]", problems);
        let mut supervisor = root.table("supervisor", "[supervisor]", problems);
        let listen = root.tables("listen", "[[listen]]", problems);
        let settings = root.table("synapse", "[synapse]", problems);
        if server_name.is_none() && !root.has("server_name") {
            let what = if text.trim().is_empty() { "the file is empty" } else { "server_name is missing" };
            problems.push(Problem::error(
                0..0,
                what,
                format!("write the domain that stands in user and room ids, @alice:example.com; {SMALLEST}"),
            ));
        }
        root.finish(problems);

        let server_name = server_name.and_then(|found| self.server_name(found));
        let public_baseurl = match public_baseurl {
            Some(found) => self.url(&found),
            None => server_name.as_ref().map(|name| format!("https://{name}/")),
        };
        let supervisor_settings = self.supervisor(&mut supervisor);
        supervisor.finish(&mut self.problems);
        let config = Config {
            workers: self.workers(&mut workers),
            database: self.database(&mut database),
            redis: self.redis(&mut redis),
            python: self.python(&mut python, &supervisor_settings),
            listen: self.listen(listen),
            synapse: synapse::read(
                &settings,
                &supervisor_settings.state_dir.display().to_string(),
                &mut self.problems,
            ),
            supervisor: supervisor_settings,
            server_name: server_name.unwrap_or_default(),
            public_baseurl: public_baseurl.unwrap_or_default(),
        };
        for reader in [workers, database, redis, python] {
            reader.finish(&mut self.problems);
        }
        (!config.server_name.is_empty()).then_some(config)
    }

    fn error(&mut self, place: std::ops::Range<usize>, what: impl Into<String>, remedy: impl Into<String>) {
        self.problems.push(Problem::error(place, what, remedy));
    }

    /// The grammar of the Matrix specification, appendix "Server Name".
    fn server_name(&mut self, found: Found<String>) -> Option<String> {
        let name = &found.value;
        let (host, port) = match name.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (name.as_str(), None),
        };
        let host_is_fine =
            if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
                address.parse::<std::net::Ipv6Addr>().is_ok()
            } else {
                !host.is_empty()
                    && host.len() <= 230
                    && host.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c))
            };
        let port_is_fine =
            port.is_none_or(|port| (1..=5).contains(&port.len()) && port.parse::<u16>().is_ok());
        if host_is_fine && port_is_fine {
            return Some(found.value);
        }
        let remedy = if name.contains("://") {
            "write the name alone, without https:// and without a path"
        } else if name.chars().any(|c| c.is_ascii_uppercase()) {
            "write it in lower case: clients and servers compare it letter by letter"
        } else if host_is_fine {
            "a port is a number from 1 to 65535; leave it out if the name is a domain of its own"
        } else {
            "write a domain like example.com; it can never be changed later"
        };
        self.error(found.place, format!("server_name is not a server name: {name:?}"), remedy);
        None
    }

    fn url(&mut self, found: &Found<String>) -> Option<String> {
        let rest = ["https://", "http://"].iter().find_map(|scheme| found.value.strip_prefix(scheme));
        let host = rest.map(|rest| rest.split('/').next().unwrap_or_default());
        if host.is_none_or(|host| host.is_empty() || host.contains(char::is_whitespace)) {
            let what = format!("public_baseurl is not a URL: {:?}", found.value);
            self.error(
                found.place.clone(),
                what,
                "write how clients reach the homeserver, like https://matrix.example.com/",
            );
            return None;
        }
        Some(format!("{}/", found.value.trim_end_matches('/')))
    }

    fn path(&self, text: &str) -> PathBuf {
        self.base.join(text)
    }

    fn workers(&mut self, reader: &mut Reader<'_, '_>) -> Workers {
        let mut counts = BTreeMap::new();
        if let Some(found) = reader.string("preset", &mut self.problems) {
            match Preset::ALL.into_iter().find(|preset| preset.name() == found.value) {
                Some(preset) => counts.extend(preset.kinds().into_iter().map(|kind| (kind, 1))),
                None => {
                    let names: Vec<&str> = Preset::ALL.iter().map(|preset| preset.name()).collect();
                    let remedy = match nearest(&found.value, names.iter().copied()) {
                        Some(nearest) => format!("did you mean {nearest}?"),
                        None => format!("allowed are {}", names.join(", ")),
                    };
                    self.error(found.place, format!("there is no preset {:?}", found.value), remedy);
                }
            }
        }
        for kind in WorkerKind::all() {
            let why = match kind.max() {
                1 => "Synapse allows one process for it",
                _ => "",
            };
            if let Some(found) = reader.number(kind.key(), 0..=kind.max(), why, &mut self.problems) {
                counts.insert(kind, found.value);
            }
        }
        counts.retain(|_, count| *count > 0);
        Workers(counts)
    }

    /// Whether a table is `mode = "embedded"`; then no other key of it means anything.
    fn embedded(&mut self, reader: &mut Reader<'_, '_>, table: &str, keys: &[&str]) -> bool {
        let Some(mode) = reader.string("mode", &mut self.problems) else { return false };
        match mode.value.as_str() {
            "external" => false,
            "embedded" => {
                for key in keys.iter().filter(|key| reader.has(key)) {
                    let what = format!("{key} means nothing in {table} with mode = \"embedded\"");
                    let remedy = "remove it, or write mode = \"external\"";
                    self.problems.push(Problem::error(reader.place(key), what, remedy));
                }
                true
            }
            other => {
                self.error(
                    mode.place,
                    format!("there is no mode {other:?}"),
                    "allowed are embedded, external",
                );
                false
            }
        }
    }

    fn password_file(&mut self, reader: &mut Reader<'_, '_>) -> Option<PathBuf> {
        let found = reader.string("password_file", &mut self.problems)?;
        let path = self.path(&found.value);
        self.files.push(Referred { path: path.clone(), place: found.place });
        Some(path)
    }

    fn port(&mut self, reader: &mut Reader<'_, '_>, default: u16) -> u16 {
        let found = reader.number(
            "port",
            1..=u16::MAX,
            "write the port that the server listens on",
            &mut self.problems,
        );
        found.map_or(default, |found| found.value)
    }

    fn database(&mut self, reader: &mut Reader<'_, '_>) -> Database {
        let keys = ["host", "port", "user", "name", "password_file", "sslmode"];
        let embedded = self.embedded(reader, "[database]", &keys);
        let host = reader.string("host", &mut self.problems);
        let external = ExternalDatabase {
            host: host.map_or_else(|| presets::DATABASE_HOST.to_owned(), |found| found.value),
            port: self.port(reader, presets::DATABASE_PORT),
            user: text(reader.string("user", &mut self.problems), presets::DATABASE_USER),
            name: text(reader.string("name", &mut self.problems), presets::DATABASE_NAME),
            password_file: self.password_file(reader),
            sslmode: self.sslmode(reader),
        };
        if embedded { Database::Embedded } else { Database::External(external) }
    }

    fn sslmode(&mut self, reader: &mut Reader<'_, '_>) -> Option<String> {
        // The modes of libpq, documentation section "SSL Support".
        const MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];
        let found = reader.string("sslmode", &mut self.problems)?;
        if !MODES.contains(&found.value.as_str()) {
            let what = format!("there is no sslmode {:?}", found.value);
            self.error(found.place, what, format!("allowed are {}", MODES.join(", ")));
            return None;
        }
        Some(found.value)
    }

    fn redis(&mut self, reader: &mut Reader<'_, '_>) -> Redis {
        let embedded = self.embedded(reader, "[redis]", &["host", "port", "path", "password_file"]);
        let path = reader.string("path", &mut self.problems);
        let host = reader.string("host", &mut self.problems);
        let port = self.port(reader, presets::REDIS_PORT);
        if let (Some(path), Some(key)) = (&path, ["host", "port"].into_iter().find(|key| reader.has(key)))
            && !embedded
        {
            let what = format!("path and {key} exclude each other in [redis]");
            self.error(
                path.place.clone(),
                what,
                "keep path for a Unix socket, or host and port for a TCP address",
            );
        }
        let endpoint = match path {
            Some(path) => Endpoint::Unix(self.path(&path.value)),
            None => Endpoint::Tcp { host: text(host, presets::REDIS_HOST), port },
        };
        let external = ExternalRedis { endpoint, password_file: self.password_file(reader) };
        if embedded { Redis::Embedded } else { Redis::External(external) }
    }

    fn python(&mut self, reader: &mut Reader<'_, '_>, supervisor: &Supervisor) -> Python {
        let venv = reader.string("venv", &mut self.problems);
        Python {
            venv: venv.map_or_else(|| supervisor.state_dir.join("venv"), |found| self.path(&found.value)),
        }
    }

    fn listen(&mut self, tables: Option<Vec<Reader<'_, '_>>>) -> Vec<Listen> {
        let Some(tables) = tables else {
            return presets::LISTEN
                .parse()
                .map(|address| vec![Listen { address, admin: false }])
                .unwrap_or_default();
        };
        let mut listen: Vec<Listen> = Vec::new();
        for mut table in tables {
            let address = table.string("address", &mut self.problems);
            let admin = table.boolean("admin", &mut self.problems).is_some_and(|found| found.value);
            let missing = address.is_none() && !table.has("address");
            let place = table.place("address");
            table.finish(&mut self.problems);
            if missing {
                self.error(
                    place,
                    "address is missing in [[listen]]",
                    "write an address and a port, like \"127.0.0.1:8008\"",
                );
            }
            let Some(found) = address else { continue };
            match found.value.parse::<SocketAddr>() {
                Ok(address) if address.port() == 0 => {
                    self.error(
                        found.place,
                        "a listener needs a port other than 0",
                        "write the port that clients or your front proxy connect to",
                    );
                }
                Ok(address) if listen.iter().any(|other| other.address == address) => {
                    self.error(
                        found.place,
                        format!("{address} is listened on twice"),
                        "remove one of the two [[listen]]",
                    );
                }
                Ok(address) => listen.push(Listen { address, admin }),
                Err(_) => {
                    let what = format!("not an address with a port: {:?}", found.value);
                    self.error(
                        found.place,
                        what,
                        "write it like \"127.0.0.1:8008\", \"0.0.0.0:8008\" or \"[::]:8008\"",
                    );
                }
            }
        }
        listen
    }

    fn supervisor(&mut self, reader: &mut Reader<'_, '_>) -> Supervisor {
        let problems = &mut self.problems;
        let state_dir = reader.string("state_dir", problems);
        let run_dir = reader.string("run_dir", problems);
        let settings = Supervisor {
            user: text(reader.string("user", problems), presets::USER),
            router_user: text(reader.string("router_user", problems), presets::ROUTER_USER),
            drain_timeout: reader.duration("drain_timeout", problems).unwrap_or(presets::DRAIN_TIMEOUT),
            stop_timeout: reader.duration("stop_timeout", problems).unwrap_or(presets::STOP_TIMEOUT),
            dependency_timeout: reader
                .duration("dependency_timeout", problems)
                .unwrap_or(presets::DEPENDENCY_TIMEOUT),
            state_dir: self.path(state_dir.as_ref().map_or(presets::STATE_DIR, |found| &found.value)),
            run_dir: self.path(run_dir.as_ref().map_or(presets::RUN_DIR, |found| &found.value)),
        };
        let longest = settings.run_dir.join(LONGEST_SOCKET_NAME).as_os_str().len();
        if longest > LONGEST_SOCKET_PATH {
            let what = format!("run_dir is {} bytes too long", longest - LONGEST_SOCKET_PATH);
            let place = run_dir.map_or(0..0, |found| found.place);
            let remedy = format!(
                "the kernel allows {LONGEST_SOCKET_PATH} bytes for the path of a Unix socket; take a shorter one, like /run/synvisor"
            );
            self.error(place, what, remedy);
        }
        settings
    }
}

fn text(found: Option<Found<String>>, default: &str) -> String {
    found.map_or_else(|| default.to_owned(), |found| found.value)
}
