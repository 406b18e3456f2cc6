//! From the text of the TOML file to a [`Config`], or to every mistake in it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use ipnet::IpNet;
use toml::Value;
use toml::de::DeTable;

use super::Config;
use super::Installed;
use super::Kind;
use super::Parsed;
use super::Referred;
use super::Secrets;
use super::Supervisor;
use super::Workers;
use super::effective::Effective;
use super::effective::Origin;
use super::keys;
use super::presets::Preset;
use super::problem::Problem;
use super::problem::Severity;
use super::reader::Found;
use super::reader::Reader;
use super::reader::Source;
use super::reader::report_unknown;
use super::roles::Stream;
use super::roles::WorkerKind;
use super::secret::Secret;
use super::secret::SecretSource;
use super::syntax;

/// The shortest file that works, shown where there is none.
const SMALLEST: &str = "write the domain that stands in user and room ids, as in @alice:example.com; the smallest file is\n    \
                        server_name = \"example.com\"";

/// What to do about a file that is named for a secret and is not there.
const FILL_IN: &str = "write the secret into it, with mode 0600, or correct the path";
const OLD_KEY: &str = "put the homeserver's signing key there, with mode 0600, or correct the path: it is the file that \
                       signing_key_path of its old homeserver.yaml names";

/// Bytes of the path of a Unix socket on Linux: `sun_path` less its terminating zero.
const LONGEST_SOCKET_PATH: usize = 107;

mod services;
mod units;

struct Parser<'b> {
    base: &'b Path,
    problems: Vec<Problem>,
    files: Vec<Referred>,
    effective: Vec<Effective>,
    installed: Option<&'b Installed>,
}

/// Parses the text of a configuration; relative paths in it start at `base`.
///
/// # Errors
/// Every problem of the file, errors and warnings.
pub(super) fn parse(text: &str, base: &Path, installed: Option<&Installed>) -> Result<Parsed, Vec<Problem>> {
    let (root, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        // What stands where is uncertain now: checking it would report what nobody wrote.
        return Err(syntax::problems(text, &errors));
    }
    let mut parser =
        Parser { base, problems: Vec::new(), files: Vec::new(), effective: Vec::new(), installed };
    let config = parser.root(Reader::root(Source { text, base }, root.get_ref()));
    let wrong = parser.problems.iter().any(|problem| problem.severity == Severity::Error);
    match config {
        Some(config) if !wrong => {
            Ok(Parsed { config, warnings: parser.problems, files: parser.files, effective: parser.effective })
        }
        Some(_) | None => Err(parser.problems),
    }
}

impl Parser<'_> {
    /// None if something that has no default is missing or wrong.
    fn root(&mut self, mut root: Reader<'_, '_>) -> Option<Config> {
        let problems = &mut self.problems;
        let empty = root.all().next().is_none();
        let name = root.text("server_name", problems);
        let url = root.text("public_baseurl", problems);
        let proxies = root.networks("trusted_proxies", problems);
        let mut workers = root.table("workers", keys::workers(), problems);
        let any = root.table("units", keys::units(), problems);
        let mut database = root.table("database", keys::database(), problems);
        let mut redis = root.table("redis", keys::redis(), problems);
        let mut python = root.table("python", keys::python(), problems);
        let mut secrets = root.table("secrets", keys::secrets(), problems);
        let mut supervisor = root.table("supervisor", keys::supervisor(), problems);
        let mut router = root.table("router", keys::router(), problems);
        let mut listen = root.tables("listen", &keys::listen(), problems).unwrap_or_default();
        let settings = root.table("synapse", keys::settings("synapse"), problems);
        let mut units = any.named_tables(keys::unit, problems);

        let dirs = self.supervisor(&mut supervisor)?;
        let counts = self.workers(&mut workers);
        let (postgres, valkey) = (self.database(&mut database)?, self.redis(&mut redis)?);
        let embedded = (postgres.is_embedded(), valkey.is_embedded());
        let partial = Config {
            server_name: name.as_ref().map(|name| name.value.clone()).unwrap_or_default(),
            public_baseurl: self.public_baseurl(url, name.as_ref(), &mut root),
            trusted_proxies: self.trusted_proxies(proxies),
            database: postgres,
            redis: valkey,
            python: self.python(&mut python, &dirs, embedded),
            listen: self.listen(&mut root, &mut listen),
            secrets: self.secrets(&mut secrets, &dirs),
            units: self.units(&mut units, &counts, &dirs),
            synapse: self.synapse(&settings, &dirs),
            workers: counts,
            unknown_streams: Stream::ALL.into_iter().filter(|stream| self.lacks(*stream)).collect(),
            access_log: self.access_log(&mut router),
            supervisor: dirs,
        };
        self.check_sockets(&supervisor, &partial);
        if partial.trusted_proxies.is_empty() && partial.listen.iter().any(|listen| listen.proxy_protocol) {
            let what =
                "trusted_proxies is empty, and a [[listen]] has proxy_protocol: everybody is refused there";
            let remedy = "name the addresses of the proxies that pass connections on";
            self.problems.push(Problem::warning(root.place("trusted_proxies"), what, remedy));
        }
        let mut tables = vec![root, workers, database, redis, python, router, secrets, supervisor];
        tables.extend(listen);
        let ours = tables.iter().flat_map(|table| table.effective.iter().cloned());
        let of_units = units.iter().flat_map(|(_, table)| table.effective.iter().cloned());
        let of_synapse = std::mem::take(&mut self.effective);
        self.effective = ours.chain(of_units).chain(of_synapse).collect();
        tables.extend(units.into_iter().map(|(_, table)| table));
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

    fn public_baseurl(
        &mut self,
        url: Option<Found<String>>,
        name: Option<&Found<String>>,
        root: &mut Reader<'_, '_>,
    ) -> String {
        let Some(url) = url else {
            let url = name.map(|name| format!("https://{}/", name.value)).unwrap_or_default();
            let shown = Value::String(url.clone()).to_string();
            root.show("public_baseurl", shown, Origin::From("https:// and server_name"));
            return url;
        };
        let local = ["http://localhost", "http://127.", "http://[::1]"];
        if url.value.starts_with("http://") && !local.iter().any(|start| url.value.starts_with(start)) {
            let what = "public_baseurl is without TLS: passwords and messages cross the network readable";
            let remedy = "write https:// and the address of the web server that holds the certificate";
            self.problems.push(Problem::warning(url.place, what, remedy));
        }
        url.value
    }

    fn trusted_proxies(&mut self, found: Option<Found<Vec<IpNet>>>) -> Vec<IpNet> {
        let Some(found) = found else { return Vec::new() };
        if found.value.iter().any(|network| network.prefix_len() == 0) {
            let what = "trusted_proxies believes everybody: a client can claim any address";
            let remedy = "name the addresses of your own web servers";
            self.problems.push(Problem::warning(found.place, what, remedy));
        }
        found.value
    }

    fn workers(&mut self, reader: &mut Reader<'_, '_>) -> Workers {
        let mut counts = BTreeMap::new();
        let preset = reader.text("preset", &mut self.problems);
        let preset =
            preset.and_then(|found| Preset::ALL.into_iter().find(|preset| preset.name() == found.value));
        let kinds = preset.map(Preset::kinds).unwrap_or_default();
        for kind in WorkerKind::all() {
            let Some(found) = reader.number(kind.key(), &mut self.problems) else { continue };
            if let WorkerKind::Writer(stream) = kind
                && self.lacks(stream)
            {
                if found.given && found.value > 0 {
                    let what = format!("the installed Synapse has no stream {}", stream.key());
                    self.error(
                        found.place,
                        what,
                        "remove it, or install a Synapse that has it: synvisor upgrade",
                    );
                }
                continue;
            }
            let of_preset = preset.filter(|_| !found.given && kinds.contains(&kind));
            let count = if let Some(preset) = of_preset {
                reader.show(kind.key(), "1".to_owned(), Origin::Preset(preset.name()));
                1
            } else {
                found.value
            };
            counts.insert(kind, count);
        }
        counts.retain(|_, count| *count > 0);
        Workers(counts)
    }

    /// Whether the installed Synapse is known not to have a stream.
    fn lacks(&self, stream: Stream) -> bool {
        self.installed.is_some_and(|installed| !installed.has(stream))
    }

    fn refer(&mut self, source: SecretSource, place: Range<usize>) {
        self.files.push(Referred { source, place, remedy: FILL_IN, kind: Kind::Secret });
    }

    fn secrets(&mut self, reader: &mut Reader<'_, '_>, dirs: &Supervisor) -> Secrets {
        let mut files = BTreeMap::new();
        for secret in Secret::ALL {
            match reader.secret(secret.key(), &mut self.problems) {
                Some(found) => {
                    let remedy = if secret == Secret::SigningKey { OLD_KEY } else { FILL_IN };
                    let (source, place) = (found.value.clone(), found.place);
                    self.files.push(Referred { source, place, remedy, kind: Kind::Secret });
                    files.insert(secret, found.value);
                }
                None => {
                    let path = shown(&secret.path(&dirs.state_dir));
                    reader.show(secret.key(), path, Origin::From("made once, in state_dir"));
                }
            }
        }
        let required = reader.truth("signing_key_required", &mut self.problems);
        let signing_key_required = required.filter(|required| required.value).map(|found| found.place);
        if let (Some(place), false) = (&signing_key_required, files.contains_key(&Secret::SigningKey)) {
            let source = SecretSource::File(Secret::SigningKey.path(&dirs.state_dir));
            let remedy = "put the homeserver's signing key there, with mode 0600: with a new one other servers would not \
                          believe that it is the same; if there never was one, remove signing_key_required";
            self.files.push(Referred { source, place: place.clone(), remedy, kind: Kind::Secret });
        }
        Secrets { files, signing_key_required: signing_key_required.is_some() }
    }

    fn supervisor(&mut self, reader: &mut Reader<'_, '_>) -> Option<Supervisor> {
        let problems = &mut self.problems;
        let state_dir = reader.path("state_dir", problems)?;
        let run_dir = reader.path("run_dir", problems)?;
        let health = reader.time("health_timeout", problems)?;
        let settings = Supervisor {
            state_dir: state_dir.value,
            run_dir: run_dir.value,
            user: reader.text("user", problems)?.value,
            router_user: reader.text("router_user", problems)?.value,
            drain_timeout: reader.time("drain_timeout", problems)?.value,
            stop_timeout: reader.time("stop_timeout", problems)?.value,
            health_timeout: health.value,
            dependency_timeout: reader.time("dependency_timeout", problems)?.value,
        };
        if settings.state_dir == settings.run_dir {
            let place = reader.place(if run_dir.given { "run_dir" } else { "state_dir" });
            let remedy = "give each a directory of its own: state is kept, what is in run_dir is not";
            self.error(place, "state_dir and run_dir are the same directory", remedy);
        }
        if (1..keys::LEAST_HEALTH_TIMEOUT).contains(&settings.health_timeout) {
            let remedy = "write at least \"1s\": a process that is well may stand still for a moment; \"0s\" asks nobody";
            self.error(health.place, "health_timeout is too short", remedy);
        }
        Some(settings)
    }

    /// The longest socket must fit into the kernel's `sun_path`, 108 bytes with its terminating zero.
    fn check_sockets(&mut self, supervisor: &Reader<'_, '_>, config: &Config) {
        let units = config.workers.units().map(|(_, unit)| unit).chain(["main".to_owned()]);
        let units = units.map(|unit| format!("private/{unit}.sock"));
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

fn shown(path: &Path) -> String {
    Value::String(path.display().to_string()).to_string()
}
