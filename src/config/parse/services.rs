//! `[database]`, `[redis]`, `[python]`, `[[listen]]`: what is around the processes of Synapse.

use toml::Value;

use super::super::AccessLog;
use super::super::CertificateFiles;
use super::super::Database;
use super::super::Endpoint;
use super::super::ExternalDatabase;
use super::super::ExternalRedis;
use super::super::Kind;
use super::super::Listen;
use super::super::Python;
use super::super::Redis;
use super::super::Referred;
use super::super::Supervisor;
use super::super::check;
use super::super::effective::Origin;
use super::super::keys;
use super::super::problem::Problem;
use super::super::reader::Found;
use super::super::reader::Reader;
use super::super::recipe::Recipe;
use super::super::secret::SecretSource;
use super::Parser;
use super::shown;

impl Parser<'_> {
    /// Whether a table is `mode = "embedded"`; then no other key of it means anything.
    pub(super) fn embedded(&mut self, reader: &Reader<'_, '_>, mode: &str, keys: &[&str]) -> bool {
        if mode != "embedded" {
            return false;
        }
        for key in keys.iter().filter(|key| reader.has(key)) {
            let what = format!("{key} means nothing in {} with mode = \"embedded\"", reader.name());
            self.error(reader.place(key), what, "remove it, or write mode = \"external\"");
        }
        true
    }

    pub(super) fn password(&mut self, reader: &mut Reader<'_, '_>, embedded: bool) -> Option<SecretSource> {
        let found = reader.secret("password_file", &mut self.problems)?;
        if !embedded {
            self.refer(found.value.clone(), found.place);
        }
        Some(found.value)
    }

    pub(super) fn database(&mut self, reader: &mut Reader<'_, '_>) -> Option<Database> {
        let mode = reader.text("mode", &mut self.problems)?;
        let keys = ["host", "port", "user", "name", "password_file", "sslmode"];
        let embedded = self.embedded(reader, &mode.value, &keys);
        let problems = &mut self.problems;
        let external = ExternalDatabase {
            host: reader.text("host", problems)?.value,
            port: reader.number("port", problems)?.value,
            user: reader.text("user", problems)?.value,
            name: reader.text("name", problems)?.value,
            sslmode: reader.text("sslmode", problems).map(|found| found.value),
            password: self.password(reader, embedded),
        };
        if embedded {
            reader.effective.retain(|held| held.key == "mode");
        }
        Some(if embedded { Database::Embedded } else { Database::External(external) })
    }

    pub(super) fn redis(&mut self, reader: &mut Reader<'_, '_>) -> Option<Redis> {
        let mode = reader.text("mode", &mut self.problems)?;
        let embedded = self.embedded(reader, &mode.value, &["host", "port", "path", "password_file"]);
        let path = reader.path("path", &mut self.problems);
        let host = reader.text("host", &mut self.problems)?;
        let port = reader.number("port", &mut self.problems)?;
        if let (Some(path), Some(key)) = (&path, ["host", "port"].into_iter().find(|key| reader.has(key)))
            && !embedded
        {
            let what = format!("path and {key} exclude each other in [redis]");
            let remedy = "keep path for a Unix socket, or host and port for a TCP address";
            self.error(path.place.clone(), what, remedy);
        }
        if path.is_some() {
            reader.effective.retain(|held| !["host", "port"].contains(&held.key.as_str()));
        }
        let endpoint = match path {
            Some(path) => Endpoint::Unix(path.value),
            None => Endpoint::Tcp { host: host.value, port: port.value },
        };
        let external = ExternalRedis { endpoint, password: self.password(reader, embedded) };
        if embedded {
            reader.effective.retain(|held| held.key == "mode");
        }
        Some(if embedded { Redis::Embedded } else { Redis::External(external) })
    }

    /// `database` and `redis` say whether these are embedded.
    pub(super) fn python(
        &mut self,
        reader: &mut Reader<'_, '_>,
        dirs: &Supervisor,
        (database, redis): (bool, bool),
    ) -> Python {
        let venv = reader.path("venv", &mut self.problems).map(|found| found.value);
        let synapse = reader.text("synapse", &mut self.problems);
        let packages = reader.packages("packages", &mut self.problems);
        let remedy = "keep venv for a virtualenv of your own, or synapse for one that synvisor makes";
        if venv.is_some() {
            for key in ["synapse", "packages"].into_iter().filter(|key| reader.has(key)) {
                let what = format!("venv and {key} exclude each other in [python]");
                self.error(reader.place(key), what, remedy);
            }
        } else if packages.is_some() && synapse.is_none() && !reader.has("synapse") {
            let what =
                "packages are for a virtualenv that synvisor makes, and there is no synapse in [python]";
            self.error(reader.place("packages"), what, "write the version: synapse = \"1.163.2\"");
        }
        let recipe = synapse.map(|version| {
            let packages = packages.iter().flat_map(|found| &found.value);
            Recipe::new(&version.value, packages.map(String::as_str), database, redis)
        });
        let venv = venv.unwrap_or_else(|| {
            let (path, origin) = match &recipe {
                Some(recipe) => {
                    (recipe.venv(&dirs.state_dir), "below venvs in state_dir, by synapse and packages")
                }
                None => (dirs.state_dir.join(keys::VENV), "venv in state_dir"),
            };
            reader.show("venv", shown(&path), Origin::From(origin));
            path
        });
        Python { venv, recipe }
    }

    pub(super) fn listen<'a, 'i>(
        &mut self,
        root: &mut Reader<'a, 'i>,
        tables: &mut Vec<Reader<'a, 'i>>,
    ) -> Vec<Listen> {
        if !root.has("listen") {
            tables.push(root.absent(keys::listen()));
        }
        let mut listen: Vec<Listen> = Vec::new();
        let mut certificates = Vec::new();
        for table in tables.iter_mut() {
            let address = table.text("address", &mut self.problems);
            let admin = table.truth("admin", &mut self.problems);
            let metrics = table.truth("metrics", &mut self.problems);
            let tls = self.certificates(table, &mut certificates);
            let proxy_protocol = table.truth("proxy_protocol", &mut self.problems);
            if root.has("listen") && !table.has("address") {
                let remedy = "write an address and a port, like address = \"127.0.0.1:8008\"";
                self.error(table.place("address"), "address is missing in [[listen]]", remedy);
                continue;
            }
            let Some((address, place)) =
                address.and_then(|found| Some((check::listen_address(&found.value).ok()?, found.place)))
            else {
                continue;
            };
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
            if let Some(metrics) =
                metrics.as_ref().filter(|metrics| metrics.value && !address.ip().is_loopback())
            {
                let what = format!("the router's metrics can be read by whoever reaches {address}");
                let remedy = "listen on 127.0.0.1, or see to it that only Prometheus reaches this address";
                self.problems.push(Problem::warning(metrics.place.clone(), what, remedy));
            }
            let is_set = |found: Option<Found<bool>>| found.is_some_and(|found| found.value);
            let (admin, metrics, proxy_protocol) = (is_set(admin), is_set(metrics), is_set(proxy_protocol));
            listen.push(Listen { address, admin, metrics, tls, proxy_protocol });
        }
        tables.extend(certificates);
        listen
    }

    pub(super) fn access_log(&mut self, reader: &mut Reader<'_, '_>) -> AccessLog {
        let found = reader.text("access_log", &mut self.problems);
        let named = |name: &str| AccessLog::ALL.into_iter().find(|format| format.name() == name);
        found.and_then(|found| named(&found.value)).unwrap_or_default()
    }

    /// `tls` of a `[[listen]]`; the tables in it are added to `read`.
    fn certificates<'a, 'i>(
        &mut self,
        table: &mut Reader<'a, 'i>,
        read: &mut Vec<Reader<'a, 'i>>,
    ) -> Vec<CertificateFiles> {
        let known = self.problems.len();
        let Some(tables) = table.tables("tls", &keys::certificate(), &mut self.problems) else {
            return Vec::new();
        };
        if tables.is_empty() && self.problems.len() == known {
            let remedy =
                "write tls = [{ certificate_file = \"…\", private_key_file = \"…\" }], or remove the line";
            self.error(table.place("tls"), "tls holds no certificate", remedy);
        }
        let mut files = Vec::new();
        for mut pair in tables {
            let certificate = self.part_of_tls(&mut pair, "certificate_file", Kind::Certificate);
            let key = self.part_of_tls(&mut pair, "private_key_file", Kind::Key);
            if let (Some(certificate), Some(key)) = (certificate, key) {
                files.push(CertificateFiles { certificate, key });
            }
            // Shown with the listener, in one piece.
            pair.effective.clear();
            read.push(pair);
        }
        let shown = |files: &CertificateFiles| {
            let pairs = [("certificate_file", &files.certificate), ("private_key_file", &files.key)];
            Value::Table(
                pairs.map(|(key, source)| (key.to_owned(), source.to_string().into())).into_iter().collect(),
            )
        };
        let shown = Value::Array(files.iter().map(shown).collect());
        table.show("tls", shown.to_string(), Origin::At(table.place("tls")));
        files
    }

    fn part_of_tls(
        &mut self,
        pair: &mut Reader<'_, '_>,
        key: &'static str,
        kind: Kind,
    ) -> Option<SecretSource> {
        if !pair.has(key) {
            let remedy = "write both: { certificate_file = \"…\", private_key_file = \"…\" }";
            self.error(pair.place(key), format!("{key} is missing in tls of [[listen]]"), remedy);
        }
        let found = pair.secret(key, &mut self.problems)?;
        self.files.push(Referred::of_tls(&found.value, found.place, kind));
        Some(found.value)
    }
}
