//! Variables of matrix-docker-ansible-deploy: what its playbook would make of them.
//!
//! `mdad.tsv` has a line for each variable: its name (with `*` for all that begin so), what it is, the setting that it
//! makes or why none, and what the playbook takes without it where Synapse would take something else. `mdad-names.txt`
//! has what else the playbook has ever called a variable of Synapse's.

use std::collections::BTreeMap;

use crate::config::host_and_port;
use crate::config::roles::WorkerKind;

use super::docker::put;
use super::installation::Installation;
use super::installation::Note;
use super::installation::Said;
use super::jinja;
use super::report::Entry;
use super::report::Verdict;
use super::services;
use super::source::Source;
use super::variables::Row;
use super::variables::Told;
use super::variables::is_off;
use super::variables::row;
use super::variables::rows;
use super::variables::unlisted;
use super::yaml;
use super::yaml::Map;
use super::yaml::Value;

/// A variable as a source has it.
struct Variable<'s> {
    source: &'s Source,
    /// The name in the source, which may be one of former times.
    name: String,
    value: Value,
}

const ENCRYPTED: &str = "it is encrypted by ansible-vault: `ansible-vault decrypt` a copy of the file and import that, or write \
                         its value into a file of mode 0600 that the TOML names";

/// What a server in front of the playbook's Synapse told of in its place.
pub(super) const WELL_KNOWN: &str = "serve_server_wellknown";
/// The playbook's `matrix_federation_public_port`, unless somebody says another.
pub(super) const FEDERATION_PORT: i64 = 8448;

/// How others have found a homeserver of the playbook's, and will look for it at first (Matrix specification, server-server API,
/// "Resolving server names": an answer may be kept for 48 hours).
pub(super) fn found_at(found: &Installation, port: i64) -> String {
    let host = services::host_of(found.text("public_baseurl").unwrap_or_default());
    let also = if port == 443 { String::new() } else { format!(" --also {host}:{port}") };
    format!(
        "a web server of the playbook sent other servers to {host}:{port}, which they remember for up to two days: `synvisor front \
         SERVER{also}` prints what yours has to answer. Add what else of {host} you keep"
    )
}

struct Book<'a, 's> {
    found: &'a mut Installation,
    /// By the present names.
    variables: BTreeMap<String, Variable<'s>>,
}

/// Takes the variables of a playbook; of two with the same name the later one holds.
pub(super) fn read(found: &mut Installation, playbook: &[(&Source, Map)]) {
    found.container = true;
    let mut variables = BTreeMap::new();
    for (source, map) in playbook {
        for (name, value) in map {
            let present = row(name).filter(|row| row.form == "old").map_or(name.as_str(), |row| row.about);
            let (name, value) = (name.clone(), value.clone());
            variables.insert(present.to_owned(), Variable { source, name, value });
        }
    }
    let mut book = Book { found, variables };
    book.places();
    book.settings();
    book.extension();
    book.database();
    book.mails();
    book.workers();
    book.derived();
    book.tell();
}

impl Book<'_, '_> {
    fn lookup(&self, name: &str) -> Option<Value> {
        match self.variables.get(name) {
            Some(variable) => Some(variable.value.clone()),
            None => row(name)?.default.and_then(|default| yaml::parse(default).ok()),
        }
    }

    /// What a variable stands for, set or not; none if nobody but Ansible can say, or if it is nothing.
    fn value(&self, name: &str) -> Option<Value> {
        let value = jinja::resolve(&self.lookup(name)?, &|name| self.lookup(name)).ok()?;
        (!matches!(value, Value::Null | Value::Tagged(_))).then_some(value)
    }

    fn text(&self, name: &str) -> Option<String> {
        self.value(name)?.text().filter(|text| !text.is_empty()).map(str::to_owned)
    }

    fn truth(&self, name: &str) -> Option<bool> {
        self.value(name)?.truth()
    }

    fn has(&self, name: &str) -> bool {
        self.variables.contains_key(name)
    }

    fn put(&mut self, path: &str, value: Value) {
        put(&mut self.found.settings, path, value);
    }

    fn note(&mut self, path: &str, verdict: Verdict, text: &str) {
        self.found.notes.push(Note { path: path.to_owned(), verdict, text: text.to_owned() });
    }

    /// Where the playbook has Synapse's files, and which are there whatever the variables say.
    fn places(&mut self) {
        let config = self.text("matrix_synapse_config_dir_path").unwrap_or_default();
        let storage = self.text("matrix_synapse_storage_path").unwrap_or_default();
        self.found.directory.clone_from(&config);
        self.found.mounts.push(("/data".to_owned(), config));
        self.found.mounts.push(("/matrix-media-store-parent".to_owned(), storage));
        if let Some(media) = self.text("matrix_synapse_media_store_path") {
            self.put("media_store_path", Value::Text(media));
        }
        if let Some(name) = self.text("matrix_server_fqn_matrix") {
            self.put("signing_key_path", Value::Text(format!("/data/{name}.signing.key")));
        }
        self.found.log_level = self.text("matrix_synapse_root_log_level").map(|level| level.to_uppercase());
    }

    /// Whether what a row is for is on.
    fn is_on(&self, row: &Row) -> bool {
        match row.form {
            "set" | "mb" | "merge" => match row.about.split('.').next() {
                Some("oidc_providers") => self.truth("matrix_synapse_oidc_enabled") == Some(true),
                Some("matrix_authentication_service") => {
                    self.truth("matrix_synapse_matrix_authentication_service_enabled") == Some(true)
                }
                Some("url_preview_ip_range_blacklist") => {
                    self.truth("matrix_synapse_url_preview_enabled") == Some(true)
                }
                Some("retention") => self.truth("matrix_synapse_retention_enabled") == Some(true),
                _ => true,
            },
            "email" => self.mails_are_on(),
            "notices" => self.truth("matrix_synapse_server_notices_enabled") == Some(true),
            "delayed" => self.truth("matrix_synapse_delayed_events_enabled") == Some(true),
            _ => false,
        }
    }

    fn settings(&mut self) {
        for row in rows().filter(|row| self.is_on(row)).collect::<Vec<_>>() {
            let Some(value) = self.value(row.name) else { continue };
            // What the playbook has no value for is empty, and its template leaves most of that out.
            if value == Value::Text(String::new()) {
                continue;
            }
            match row.form {
                "mb" => {
                    if let Some(megabytes) = value.int() {
                        self.put(row.about, Value::Text(format!("{megabytes}M")));
                    }
                }
                "merge" => {
                    if let Value::Map(map) = value {
                        map.into_iter()
                            .for_each(|(key, value)| self.put(&format!("{}.{key}", row.about), value));
                    }
                }
                _ => self.put(row.about, value),
            }
        }
        if self.truth("matrix_playbook_ssl_enabled") == Some(false)
            && !self.has("matrix_synapse_public_baseurl")
        {
            let url = self.found.text("public_baseurl").unwrap_or_default().replacen("https:", "http:", 1);
            self.put("public_baseurl", Value::Text(url));
        }
        if let (true, Some(period)) = (
            self.truth("matrix_synapse_retention_enabled") == Some(true),
            self.text("matrix_synapse_retention_period"),
        ) {
            for key in [
                "default_policy.min_lifetime",
                "default_policy.max_lifetime",
                "allowed_lifetime_min",
                "allowed_lifetime_max",
            ] {
                self.put(&format!("retention.{key}"), Value::Text(period.clone()));
            }
        }
    }

    /// What the playbook works out itself, or has another program do.
    fn derived(&mut self) {
        if self.found.get("caches.cache_autotuning.max_cache_memory_usage").is_none() {
            let text = "the playbook lets the caches of each process have an eighth of the machine's memory, 2 GB at most, and \
                        nothing limits them now: write caches.cache_autotuning into [synapse], or max_memory into [units.all]";
            self.note("caches.cache_autotuning", Verdict::Left, text);
        }
        let port = self
            .value("matrix_federation_public_port")
            .and_then(|port| port.int().or_else(|| port.text()?.parse().ok()))
            .unwrap_or(FEDERATION_PORT);
        let text = found_at(self.found, port);
        self.note(WELL_KNOWN, Verdict::Left, &text);
        if self.found.get("turn_uris").is_none() {
            let text = "the playbook has a TURN server where calls or Jitsi want one, and works out its addresses and secret: if \
                        its homeserver.yaml has turn_uris, write that and turn_shared_secret into [synapse]";
            self.note("turn_uris", Verdict::Left, text);
        }
        let macaroon = self.found.text("macaroon_secret_key").map(str::to_owned);
        for secret in ["macaroon_secret_key", "registration_shared_secret", "form_secret"] {
            if self.found.text(secret).is_some() {
                continue;
            }
            match &macaroon {
                Some(macaroon) => self.put(secret, Value::Text(macaroon.clone())),
                None => {
                    let why = if self.has(&format!("matrix_synapse_{secret}")) {
                        "what the variable holds cannot be read here"
                    } else {
                        "the playbook derived it from matrix_homeserver_generic_secret_key, and its homeserver.yaml has it"
                    };
                    self.found.elsewhere.insert(secret, why.to_owned());
                }
            }
        }
    }

    fn database(&mut self) {
        self.put("database.name", Value::Text("psycopg2".to_owned()));
        if self.found.text("database.args.host").is_none() {
            let published = self.text("postgres_container_postgres_bind_port").unwrap_or_default();
            if let Some((host, Some(port))) =
                host_and_port(&published).filter(|(host, _)| !host.contains('['))
            {
                self.put("database.args.host", Value::Text(host.to_owned()));
                self.put("database.args.port", Value::Int(port.into()));
                let text = "where the playbook publishes its PostgreSQL";
                self.note("database.args.host", Verdict::Changed, text);
            } else {
                self.put("database.args.host", Value::Text("/var/run/postgresql".to_owned()));
                let text = "no source says where PostgreSQL is, and that of the playbook is within Docker: the one on this machine \
                            is taken; write another into [database]";
                self.note("database.args.host", Verdict::Left, text);
            }
        }
        if self.found.text("database.args.password").is_none() {
            let text = "the playbook derived the password, and its homeserver.yaml has it: write it into a file of mode 0600, \
                        and name that as password_file in [database]";
            self.note("database.args.password", Verdict::Left, text);
        }
    }

    fn mails_are_on(&self) -> bool {
        self.truth("matrix_synapse_email_enabled").or(self.truth("exim_relay_enabled")).unwrap_or(true)
    }

    /// Synapse of the playbook gives mails to a relay of the playbook's, which passes them on.
    fn mails(&mut self) {
        if !self.mails_are_on() || self.found.text("email.smtp_host").is_some() {
            return;
        }
        let relay = |key: &str| format!("exim_relay_relay_{key}");
        let host = self.text(&relay("host_name")).filter(|_| self.truth(&relay("use")) == Some(true));
        let Some(host) = host else {
            self.put("email.smtp_host", Value::Text("localhost".to_owned()));
            self.put("email.smtp_port", Value::Int(25));
            self.put("email.enable_tls", Value::Truth(false));
            let text = "the relay of the playbook sent mails: install a mail server on this machine, or write the address of \
                        one into [synapse.email]";
            return self.note("email.smtp_host", Verdict::Left, text);
        };
        self.put("email.smtp_host", Value::Text(host));
        let port = self.value(&relay("host_port")).unwrap_or(Value::Int(587));
        self.put("email.smtp_port", port);
        if self.truth(&relay("auth")) == Some(true) {
            for (key, variable) in [("smtp_user", "auth_username"), ("smtp_pass", "auth_password")] {
                if let Some(value) = self.value(&relay(variable)) {
                    self.put(&format!("email.{key}"), value);
                }
            }
            self.put("email.require_transport_security", Value::Truth(true));
        }
        let text = "Synapse sends mails by that server itself, where a relay of the playbook was in between, and only with TLS if \
                    there is a password";
        self.note("email.smtp_host", Verdict::Changed, text);
    }

    fn workers(&mut self) {
        if self.truth("matrix_synapse_workers_enabled") != Some(true) {
            return;
        }
        let preset = self.text("matrix_synapse_workers_preset").unwrap_or_default();
        // What it was called at first.
        let preset = if preset == "room-workers" { "specialized-workers" } else { &preset };
        self.found.preset = Some(preset.to_owned());
        for row in rows().filter(|row| row.form == "count") {
            let kind = WorkerKind::all().find(|kind| kind.key() == row.about);
            let count = self.value(row.name).and_then(|value| u16::try_from(value.int()?).ok());
            if let (Some(kind), Some(count)) = (kind, count) {
                self.found.counts.insert(kind, count.min(kind.max()));
            }
        }
    }

    /// What is laid over everything that the playbook makes.
    fn extension(&mut self) {
        for name in ["matrix_synapse_configuration_extension_yaml", "matrix_synapse_configuration_extension"]
        {
            let Some(variable) = self.variables.get(name) else { continue };
            let (source, said) = (variable.source.path.clone(), variable.name.clone());
            let value = match self.extension_of(name) {
                Ok(value) => value,
                Err(why) => {
                    let text = format!("{why}: write its settings into [synapse]");
                    self.found.entries.push(Entry { source, name: said, verdict: Verdict::Left, text });
                    continue;
                }
            };
            for (key, over) in value {
                let (source, name) = (source.clone(), format!("{said}: {key}"));
                self.found.said.push(Said { source, name, path: key.clone() });
                match self.found.settings.iter_mut().find(|(held, _)| *held == key) {
                    Some((_, under)) => lay_over(under, over),
                    None => self.found.settings.push((key, over)),
                }
            }
        }
    }

    fn extension_of(&self, name: &str) -> Result<Map, String> {
        let value = self.lookup(name).unwrap_or(Value::Null);
        let mut value = jinja::resolve(&value, &|name| self.lookup(name))?;
        if let Value::Text(text) = &value {
            value = yaml::parse(text).map_err(|problem| problem.what)?;
        }
        if value == Value::Null {
            return Ok(Map::new());
        }
        let map = if let Value::Map(map) = value { Some(map) } else { None };
        map.ok_or_else(|| "it is no mapping, and the playbook ignores it".to_owned())
    }

    /// Says of each variable what became of it.
    fn tell(&mut self) {
        let verdicts: Vec<(String, Told)> = self
            .variables
            .iter()
            .map(|(present, variable)| (present.clone(), self.verdict(present, variable)))
            .collect();
        for (present, told) in verdicts {
            let Some(variable) = self.variables.remove(&present) else { continue };
            let (source, name) = (variable.source.path.clone(), variable.name);
            match told {
                Told::As(path) => self.found.said.push(Said { source, name, path }),
                Told::Of(verdict, text) => {
                    let renamed = name != present;
                    let text = if renamed { format!("{present} by now; {text}") } else { text };
                    self.found.entries.push(Entry { source, name, verdict, text });
                }
                Told::Already => {}
            }
        }
    }

    fn verdict(&self, present: &str, variable: &Variable<'_>) -> Told {
        let Some(row) = row(present) else { return unlisted(present, &variable.value) };
        if matches!(variable.value, Value::Tagged(_)) {
            return Told::Of(Verdict::Left, ENCRYPTED.to_owned());
        }
        let resolved = jinja::resolve(&variable.value, &|name| self.lookup(name));
        let empty = is_off(&variable.value);
        match (row.form, resolved) {
            ("extension", _) => Told::Already,
            ("done", _) => Told::Of(Verdict::Changed, row.about.to_owned()),
            ("left", _) if empty => Told::Of(Verdict::Changed, "is off: there is nothing to do".to_owned()),
            ("left", _) => Told::Of(Verdict::Left, row.about.to_owned()),
            ("off", _) if variable.value == Value::Truth(false) => {
                Told::Of(Verdict::Left, row.about.to_owned())
            }
            ("off", _) => Told::Of(Verdict::Carried, String::new()),
            (_, Err(why)) => {
                let place =
                    if row.about.contains(' ') || row.about.is_empty() { "the TOML" } else { row.about };
                Told::Of(Verdict::Left, format!("{why}: write its value into the TOML ({place})"))
            }
            ("count", Ok(_)) => Told::Of(Verdict::Carried, format!("{} in [workers]", row.about)),
            ("relay", Ok(_)) => Told::As("email.smtp_host".to_owned()),
            ("set" | "mb" | "merge" | "email" | "notices" | "delayed", Ok(value)) => {
                if self.is_on(&row) && value != Value::Null && value != Value::Text(String::new()) {
                    Told::As(row.about.to_owned())
                } else {
                    let text = "is empty, or what it is for is off: Synapse's default holds";
                    Told::Of(Verdict::Changed, text.to_owned())
                }
            }
            ("var", Ok(_)) if present == "matrix_synapse_media_store_path" => {
                Told::As("media_store_path".to_owned())
            }
            (_, Ok(_)) => Told::Of(Verdict::Carried, String::new()),
        }
    }
}

/// As Ansible combines: mappings are laid over each other, and lists replaced.
fn lay_over(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Map(under), Value::Map(over)) => {
            for (key, over) in over {
                match under.iter_mut().find(|(held, _)| *held == key) {
                    Some((_, under)) => lay_over(under, over),
                    None => under.push((key, over)),
                }
            }
        }
        (under, over) => *under = over,
    }
}
