//! From the text of the TOML file to a [`Config`], or to every mistake in it.

use std::collections::BTreeMap;
use std::ops::Range;
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
use super::check;
use super::nearest::suggestion;
use super::presets;
use super::presets::Preset;
use super::problem::Problem;
use super::problem::Severity;
use super::reader::Found;
use super::reader::Reader;
use super::reader::report_unknown;
use super::roles::WorkerKind;
use super::synapse;

/// The shortest file that works, shown where there is none.
const SMALLEST: &str = "write the domain that stands in user and room ids, as in @alice:example.com; the smallest file is\n    \
                        server_name = \"example.com\"";

/// Bytes of the path of a Unix socket on Linux: `sun_path` less its terminating zero.
const LONGEST_SOCKET_PATH: usize = 107;

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
    if !errors.is_empty() {
        // What stands where is uncertain now: checking it would report what nobody wrote.
        return Err(syntax_problems(text, &errors));
    }
    let mut parser = Parser { base, problems: Vec::new(), files: Vec::new() };
    let config = parser.root(Reader::root(root.get_ref()));
    let wrong = parser.problems.iter().any(|problem| problem.severity == Severity::Error);
    match config {
        Some(config) if !wrong => Ok(Parsed { config, warnings: parser.problems, files: parser.files }),
        Some(_) | None => Err(parser.problems),
    }
}

/// One problem a line: what the parser says after the first is mostly an echo of it.
fn syntax_problems(text: &str, errors: &[toml::de::Error]) -> Vec<Problem> {
    let line = |at: usize| text.get(..at).map_or(0, |before| before.matches('\n').count());
    let mut by_line: BTreeMap<usize, Problem> = BTreeMap::new();
    for error in errors {
        let place = error.span().unwrap_or(text.len()..text.len());
        by_line.entry(line(place.start)).or_insert_with(|| {
            let message = error.message();
            Problem::error(place, format!("this is not TOML: {message}"), syntax_remedy(message))
        });
    }
    by_line.into_values().collect()
}

/// The slips that people make, and for the others how TOML is written.
fn syntax_remedy(message: &str) -> &'static str {
    const FORM: &str =
        "write key = value, text in double quotes, and tables as [name] on a line of their own";
    let remedies = [
        ("must be quoted", "text stands in quotes: key = \"value\"; numbers, true and false do not"),
        ("key with no value", "write key = value; a table is written [name]"),
        ("duplicate key", "it stands further up already: keep one of the two"),
        ("basic string", "close the quotes at the end of the line"),
    ];
    remedies.into_iter().find(|(words, _)| message.contains(words)).map_or(FORM, |(_, remedy)| remedy)
}

impl Parser<'_> {
    /// None if something that has no default is missing or wrong.
    fn root(&mut self, mut root: Reader<'_, '_>) -> Option<Config> {
        let problems = &mut self.problems;
        let empty = root.all().next().is_none();
        let name = root.checked("server_name", problems, check::server_name);
        let url = root.checked("public_baseurl", problems, check::base_url);
        let mut workers = root.table("workers", "[workers]", problems);
        let mut database = root.table("database", "[database]", problems);
        let mut redis = root.table("redis", "[redis]", problems);
        let mut python = root.table("python", "[python]", problems);
        let mut supervisor = root.table("supervisor", "[supervisor]", problems);
        let mut listen = root.tables("listen", "[[listen]]", problems);
        let settings = root.table("synapse", "[synapse]", problems);

        let dirs = self.supervisor(&mut supervisor);
        let synapse = synapse::read(&settings, &dirs.state_dir, &mut self.problems);
        let partial = Config {
            server_name: name.as_ref().map(|name| name.value.clone()).unwrap_or_default(),
            public_baseurl: self.public_baseurl(url, name.as_ref()),
            workers: self.workers(&mut workers),
            database: self.database(&mut database),
            redis: self.redis(&mut redis),
            python: self.python(&mut python, &dirs),
            listen: self.listen(listen.as_deref_mut()),
            supervisor: dirs,
            synapse,
        };
        self.check_sockets(&supervisor, &partial);
        let mut tables = vec![root, workers, database, redis, python, supervisor];
        tables.extend(listen.into_iter().flatten());
        report_unknown(&tables, &mut self.problems);
        // One that stands in the wrong table has been reported there.
        if !tables.iter().chain([&settings]).any(|table| table.has("server_name")) {
            let what =
                if empty { "the file is empty: server_name is required" } else { "server_name is missing" };
            self.problems.push(Problem::error(None, what, SMALLEST));
        }
        name.map(|_| partial)
    }

    fn error(&mut self, place: Range<usize>, what: impl Into<String>, remedy: impl Into<String>) {
        self.problems.push(Problem::error(place, what, remedy));
    }

    fn path(&self, text: &str) -> PathBuf {
        self.base.join(text)
    }

    fn public_baseurl(&mut self, url: Option<Found<String>>, name: Option<&Found<String>>) -> String {
        let Some(url) = url else {
            return name.map(|name| format!("https://{}/", name.value)).unwrap_or_default();
        };
        let local = ["http://localhost", "http://127.", "http://[::1]"];
        if url.value.starts_with("http://") && !local.iter().any(|start| url.value.starts_with(start)) {
            let what = "public_baseurl is without TLS: passwords and messages cross the network readable";
            let remedy = "write https:// and the address of the web server that holds the certificate";
            self.problems.push(Problem::warning(url.place, what, remedy));
        }
        url.value
    }

    fn workers(&mut self, reader: &mut Reader<'_, '_>) -> Workers {
        let mut counts = BTreeMap::new();
        if let Some(found) = reader.string("preset", &mut self.problems) {
            match Preset::ALL.into_iter().find(|preset| preset.name() == found.value) {
                Some(preset) => counts.extend(preset.kinds().into_iter().map(|kind| (kind, 1))),
                None => {
                    let names = suggestion(&found.value, Preset::ALL.map(Preset::name));
                    self.error(found.place, format!("there is no preset \"{}\"", found.value), names);
                }
            }
        }
        for kind in WorkerKind::all() {
            let why = match kind.max() {
                1 => "Synapse allows one process for it",
                _ => "write a number within these bounds",
            };
            if let Some(found) = reader.number(kind.key(), &(0..=kind.max()), why, &mut self.problems) {
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
                    self.error(reader.place(key), what, remedy);
                }
                true
            }
            other => {
                let remedy = suggestion(other, ["embedded", "external"]);
                self.error(mode.place, format!("there is no mode \"{other}\""), remedy);
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
        reader
            .number("port", &(1..=u16::MAX), "write the port that the server listens on", &mut self.problems)
            .map_or(default, |found| found.value)
    }

    fn database(&mut self, reader: &mut Reader<'_, '_>) -> Database {
        let keys = ["host", "port", "user", "name", "password_file", "sslmode"];
        let embedded = self.embedded(reader, "[database]", &keys);
        let host = reader.checked("host", &mut self.problems, check::database_host);
        let external = ExternalDatabase {
            host: or(host, presets::DATABASE_HOST),
            port: self.port(reader, presets::DATABASE_PORT),
            user: or(reader.string("user", &mut self.problems), presets::DATABASE_USER),
            name: or(reader.string("name", &mut self.problems), presets::DATABASE_NAME),
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
            let what = format!("there is no sslmode \"{}\"", found.value);
            self.error(found.place, what, suggestion(&found.value, MODES));
            return None;
        }
        Some(found.value)
    }

    fn redis(&mut self, reader: &mut Reader<'_, '_>) -> Redis {
        let embedded = self.embedded(reader, "[redis]", &["host", "port", "path", "password_file"]);
        let path = reader.string("path", &mut self.problems);
        let host = reader.checked("host", &mut self.problems, check::tcp_host);
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
            None => Endpoint::Tcp { host: or(host, presets::REDIS_HOST), port },
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

    fn listen(&mut self, tables: Option<&mut [Reader<'_, '_>]>) -> Vec<Listen> {
        let Some(tables) = tables else {
            let default = check::listen_address(presets::LISTEN).ok();
            return default.into_iter().map(|address| Listen { address, admin: false }).collect();
        };
        let mut listen: Vec<Listen> = Vec::new();
        for table in tables {
            let address = table.checked("address", &mut self.problems, check::listen_address);
            let admin = table.boolean("admin", &mut self.problems);
            if !table.has("address") {
                let remedy = "write an address and a port, like address = \"127.0.0.1:8008\"";
                self.error(table.place("address"), "address is missing in [[listen]]", remedy);
            }
            let Some(Found { value: address, place }) = address else { continue };
            if let Some(other) = listen.iter().find(|other| check::collide(other.address, address)) {
                let what = format!("address collides with the listener on {}", other.address);
                self.error(place, what, "remove one of the two [[listen]], or give it another port");
                continue;
            }
            if let Some(admin) = admin.as_ref().filter(|admin| admin.value && !address.ip().is_loopback()) {
                let what = format!("the admin API is reachable by whoever reaches {address}");
                let remedy = "listen on 127.0.0.1, or see to it that only administrators reach this address";
                self.problems.push(Problem::warning(admin.place.clone(), what, remedy));
            }
            listen.push(Listen { address, admin: admin.is_some_and(|admin| admin.value) });
        }
        listen
    }

    fn supervisor(&mut self, reader: &mut Reader<'_, '_>) -> Supervisor {
        let problems = &mut self.problems;
        let state_dir = reader.string("state_dir", problems);
        let run_dir = reader.string("run_dir", problems);
        let user = or(reader.checked("user", problems, check::user_name), presets::USER);
        let router_user = or(reader.checked("router_user", problems, check::user_name), presets::ROUTER_USER);
        let mut timeout = |key, default| {
            reader.duration(key, &presets::TIMEOUTS, problems).map_or(default, |found| found.value)
        };
        let settings = Supervisor {
            drain_timeout: timeout("drain_timeout", presets::DRAIN_TIMEOUT),
            stop_timeout: timeout("stop_timeout", presets::STOP_TIMEOUT),
            dependency_timeout: timeout("dependency_timeout", presets::DEPENDENCY_TIMEOUT),
            router_user,
            user,
            state_dir: self.path(state_dir.as_ref().map_or(presets::STATE_DIR, |found| &found.value)),
            run_dir: self.path(run_dir.as_ref().map_or(presets::RUN_DIR, |found| &found.value)),
        };
        if settings.state_dir == settings.run_dir {
            let place = reader.place(if run_dir.is_some() { "run_dir" } else { "state_dir" });
            let remedy = "give each a directory of its own: state is kept, what is in run_dir is not";
            self.error(place, "state_dir and run_dir are the same directory", remedy);
        }
        settings
    }

    /// The longest socket must fit into the kernel's `sun_path`, 108 bytes with its terminating zero.
    fn check_sockets(&mut self, supervisor: &Reader<'_, '_>, config: &Config) {
        let workers = config.workers.0.iter().map(|(kind, count)| kind.unit_name(*count));
        let units = workers.chain(["main".to_owned()]).map(|unit| format!("private/{unit}.sock"));
        // The name is libpq's.
        let postgres = config.database.is_embedded().then(|| "postgres/.s.PGSQL.5432".to_owned());
        let Some(longest) = units.chain(postgres).max_by_key(String::len) else { return };
        let path = config.supervisor.run_dir.join(longest);
        let excess = path.as_os_str().len().saturating_sub(LONGEST_SOCKET_PATH);
        if excess > 0 {
            let unit = if excess == 1 { "byte" } else { "bytes" };
            let remedy = format!(
                "take a shorter directory: a Unix socket's path has at most {LONGEST_SOCKET_PATH} bytes,\n\
                 and this one lies below run_dir:\n{}",
                path.display()
            );
            self.error(supervisor.place("run_dir"), format!("run_dir is {excess} {unit} too long"), remedy);
        }
    }
}

fn or(found: Option<Found<String>>, default: &str) -> String {
    found.map_or_else(|| default.to_owned(), |found| found.value)
}
