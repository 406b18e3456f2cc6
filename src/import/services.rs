//! What is around Synapse: PostgreSQL, Redis, logs.

use toml::Table;

use crate::config::host_and_port;

use super::report::Verdict;
use super::translate::Translator;
use super::yaml;
use super::yaml::Map;
use super::yaml::Value;

/// Settings that are read here.
pub(super) const HANDLED: [&str; 12] = [
    "listeners",
    "bind_port",
    "bind_host",
    "unsecure_port",
    "no_tls",
    "manhole",
    "database",
    "databases",
    "database_path",
    "database_config",
    "redis",
    "log_file",
];

/// Parameters of libpq that have no key in `[database]`, and the environment variables that libpq reads for them
/// (PostgreSQL's documentation, "Environment Variables").
const BY_ENVIRONMENT: [(&str, &str); 14] = [
    ("application_name", "PGAPPNAME"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("gssencmode", "PGGSSENCMODE"),
    ("hostaddr", "PGHOSTADDR"),
    ("krbsrvname", "PGKRBSRVNAME"),
    ("options", "PGOPTIONS"),
    ("passfile", "PGPASSFILE"),
    ("requirepeer", "PGREQUIREPEER"),
    ("sslcert", "PGSSLCERT"),
    ("sslcrl", "PGSSLCRL"),
    ("sslkey", "PGSSLKEY"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
];

impl Translator<'_> {
    pub(super) fn services(&mut self) {
        self.listeners();
        self.database();
        for name in ["bind_port", "bind_host", "unsecure_port", "no_tls", "manhole"] {
            if self.from.get(name).is_some() {
                self.note(name, Verdict::Changed, "addresses for clients are in [[listen]]");
            }
        }
        if self.from.get("log_file").is_some() {
            self.note("log_file", Verdict::Changed, "read logs with `synvisor logs UNIT`");
        }
        if let Some(level) = self.from.log_level.clone() {
            self.level("all", &level);
        }
    }

    fn database(&mut self) {
        let from = self.from;
        let several = from.get("databases").and_then(Value::map);
        let (path, database) = match (from.get("database"), several) {
            (Some(database), _) => ("database".to_owned(), Some(database)),
            (None, Some(map)) => match map.first() {
                Some((name, database)) => (format!("databases.{name}"), Some(database)),
                None => ("databases".to_owned(), None),
            },
            (None, None) => ("database".to_owned(), None),
        };
        let sqlite = "is SQLite, and synvisor runs on PostgreSQL: make a database, write it into [database], and copy the data \
                      with Synapse's synapse_port_db";
        let Some(map) = database.and_then(Value::map) else {
            let named = if from.get("database_path").is_some() { "database_path" } else { "database" };
            return self.note(named, Verdict::Left, sqlite);
        };
        match yaml::get(map, "name").and_then(Value::text) {
            Some("psycopg2") => {}
            Some("sqlite3") | None => return self.note(path, Verdict::Left, sqlite),
            Some(_) => {
                return self.note(path, Verdict::Left, "is no PostgreSQL: write one into [database]");
            }
        }
        for (key, value) in
            map.iter().filter(|(key, _)| !["name", "args", "data_stores"].contains(&key.as_str()))
        {
            // What holds without it.
            if key == "txn_limit" && value == &Value::Int(0) {
                continue;
            }
            let text = match key.as_str() {
                "txn_limit" => "connections live as long as they serve",
                "allow_unsafe_locale" => {
                    "Synapse refuses a database with another collation than C: mend that first"
                }
                _ => "there is no key for it in [database]",
            };
            self.note(format!("{path}.{key}"), Verdict::Left, text);
        }
        let empty = Map::new();
        let args = yaml::get(map, "args").and_then(Value::map).unwrap_or(&empty);
        for (key, value) in args {
            self.argument(&format!("{path}.args.{key}"), key, value);
        }
        let has = |key: &str| yaml::get(args, key).is_some();
        if !has("host") {
            self.note(
                format!("{path}.args"),
                Verdict::Changed,
                "names no host: it is the socket in /var/run/postgresql",
            );
        }
        if !has("user") {
            let text = "names no user: write as whom to log in into [database]; it is synapse now";
            self.note(format!("{path}.args"), Verdict::Left, text);
        }
        if !has("cp_min") && !has("cp_max") {
            let text = "says nothing of the pool (3 to 5 connections a process): it is 1 to 5, and up to 10 for main";
            self.note(format!("{path}.args"), Verdict::Changed, text);
        }
    }

    fn argument(&mut self, path: &str, key: &str, value: &Value) {
        let text = match value {
            Value::Text(text) => text.clone(),
            Value::Int(int) => int.to_string(),
            Value::Null => return self.note(path, Verdict::Changed, "is null: libpq's default holds"),
            Value::Truth(_)
            | Value::Float(_)
            | Value::Date(_)
            | Value::List(_)
            | Value::Map(_)
            | Value::Tagged(_) => {
                return self.note(
                    path,
                    Verdict::Left,
                    "is neither a string nor a number: write it into [database]",
                );
            }
        };
        let number = |most: u16| text.trim().parse::<u16>().ok().filter(|number| (1..=most).contains(number));
        let name = match key {
            "database" | "dbname" => "name",
            key => key,
        };
        match name {
            "password" if text.is_empty() => {}
            "password" => {
                let file = self.secret("database_password", &text);
                self.document.database.insert("password_file".to_owned(), file.into());
            }
            "host" => {
                let told = self.notes.iter().any(|note| note.path == path);
                if self.from.container && is_local_name(&text) && !told {
                    let told = "is a name or a path within Docker: write how this machine reaches PostgreSQL into [database]";
                    self.note(path, Verdict::Left, told);
                }
                if text.contains(',') || text.is_empty() {
                    return self.note(
                        path,
                        Verdict::Left,
                        "is not the name of one host: write one into [database]",
                    );
                }
                self.document.database.insert("host".to_owned(), text.into());
            }
            "user" | "name" | "sslmode" => {
                self.document.database.insert(name.to_owned(), text.into());
            }
            "port" => match number(u16::MAX) {
                Some(port) => {
                    self.document.database.insert("port".to_owned(), i64::from(port).into());
                }
                None => self.note(path, Verdict::Left, "is no port: write it into [database]"),
            },
            "cp_min" | "cp_max" => match number(200) {
                Some(size) => {
                    self.document.unit("all").insert(name.to_owned(), i64::from(size).into());
                }
                None => self.note(path, Verdict::Left, "is not between 1 and 200: write it into [units.all]"),
            },
            // Twisted's, and of no use with PostgreSQL's own thread safety.
            "cp_openfun" | "cp_noisy" | "cp_reconnect" => {
                self.note(path, Verdict::Left, "there is no key for it in [units]");
            }
            _ => match BY_ENVIRONMENT.iter().find(|(parameter, _)| *parameter == key) {
                Some((_, variable)) => {
                    let text = self.from.mapped(&text).unwrap_or(text);
                    let unit = self.document.unit("all");
                    let held = unit.entry("environment").or_insert_with(|| toml::Value::Table(Table::new()));
                    if let Some(environment) = held.as_table_mut() {
                        environment.insert((*variable).to_owned(), text.into());
                    }
                    let told =
                        format!("reaches PostgreSQL's library as {variable}, in environment of [units.all]");
                    self.note(path, Verdict::Changed, told);
                }
                None => {
                    let told = "there is no key for it in [database]: what libpq does without it holds";
                    self.note(path, Verdict::Left, told);
                }
            },
        }
    }

    pub(super) fn redis(&mut self) {
        let Some(map) = self.from.get("redis").and_then(Value::map) else { return };
        if yaml::get(map, "enabled").and_then(Value::truth) != Some(true) {
            return self.note(
                "redis",
                Verdict::Changed,
                "is off: synvisor uses it as soon as there are workers",
            );
        }
        for (key, value) in map {
            let path = format!("redis.{key}");
            match (key.as_str(), value) {
                (_, Value::Null)
                | ("enabled", _)
                | ("dbid", Value::Int(0))
                | ("use_tls", Value::Truth(false)) => {}
                ("host", Value::Text(text)) if self.from.container && is_local_name(text) => {
                    let told = "is a name within Docker: it is 127.0.0.1 now; install redis-server, or write how this machine \
                                reaches that one into [redis]";
                    self.note(&path, Verdict::Left, told);
                }
                ("host", Value::Text(text)) => {
                    self.document.redis.insert("host".to_owned(), text.as_str().into());
                }
                ("port", Value::Int(port)) => {
                    self.document.redis.insert("port".to_owned(), (*port).into());
                }
                ("path", Value::Text(text)) if !text.is_empty() => {
                    if self.from.container {
                        self.note(
                            &path,
                            Verdict::Left,
                            "is within Docker: write how this machine reaches Redis into [redis]",
                        );
                    }
                    let text = self.from.mapped(text).unwrap_or_else(|| text.clone());
                    self.document.redis.insert("path".to_owned(), text.into());
                }
                ("password", Value::Text(text)) if text.is_empty() => {}
                ("password", Value::Text(text)) => {
                    let file = self.secret("redis_password", text);
                    self.document.redis.insert("password_file".to_owned(), file.into());
                }
                ("password_path", Value::Text(text)) => {
                    let here = self.from.here(text);
                    self.document.redis.insert("password_file".to_owned(), here.into());
                }
                _ => self.note(path, Verdict::Left, "there is no key for it in [redis]"),
            }
        }
        if yaml::get(map, "host").is_none() && yaml::get(map, "path").is_none() {
            self.note("redis", Verdict::Changed, "names no host: it is 127.0.0.1");
        }
        if self.document.workers.is_empty() {
            self.note("redis", Verdict::Changed, "is used as soon as there are workers");
        }
        if self.document.redis.contains_key("path") {
            self.document.redis.remove("host");
            self.document.redis.remove("port");
        }
    }

    /// The level of the root logger is all that is taken of a log configuration.
    pub(super) fn log_config(&mut self, value: &Value) {
        let Some(path) = value.text() else { return };
        let (level, text) = self.root_level(path);
        match level {
            Some(level) => {
                self.level("all", &level);
                self.note("log_config", Verdict::Changed, text);
            }
            None => self.note("log_config", Verdict::Left, text),
        }
    }

    /// The level that a log configuration gives to everything, and what has to be told.
    pub(super) fn root_level(&self, path: &str) -> (Option<String>, String) {
        let here = self.from.here(path);
        let read = match self.files.get(&here) {
            Some(Ok(text)) => text,
            Some(Err(why)) => return (None, format!("{why}: write the level into [units.all] as log_level")),
            None => {
                return (
                    None,
                    "it was not looked at: write the level into [units.all] as log_level".to_owned(),
                );
            }
        };
        let Ok(config) = yaml::parse(read) else {
            return (None, format!("{here} is not YAML: write the level into [units.all] as log_level"));
        };
        let level = config.at("root.level").and_then(Value::text).unwrap_or("WARNING").to_uppercase();
        let level = match level.as_str() {
            "WARN" => "WARNING".to_owned(),
            "FATAL" => "CRITICAL".to_owned(),
            "NOTSET" => "DEBUG".to_owned(),
            _ => level,
        };
        if !["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"].contains(&level.as_str()) {
            return (None, format!("{here} has the level {level}: write one into [units.all] as log_level"));
        }
        // The SQL logger writes access tokens below INFO, and is never lower in ours.
        let more = config.at("loggers").and_then(Value::map).map(Vec::as_slice).unwrap_or_default();
        let others: Vec<&str> = more
            .iter()
            .map(|(name, _)| name.as_str())
            .filter(|name| !["_placeholder", "synapse.storage.SQL"].contains(name))
            .collect();
        let others = match others.is_empty() {
            true => String::new(),
            false => format!("; single loggers have no level of their own any more ({})", others.join(", ")),
        };
        let text = format!(
            "its level, {level}, is kept; format and files are synvisor's, and `synvisor logs UNIT` prints them{others}"
        );
        (Some(level), text)
    }

    pub(super) fn level(&mut self, scope: &str, level: &str) {
        if scope != "all" || level != "INFO" {
            self.document.unit(scope).insert("log_level".to_owned(), level.into());
        }
    }
}

/// The host in a URL.
pub(super) fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    match host_and_port(host) {
        Some((host, _)) => host,
        // Docker's names may have underscores.
        None => host.split(':').next().unwrap_or_default(),
    }
}

/// A host that only a network of containers knows, or a path that only a container has.
pub(super) fn is_local_name(host: &str) -> bool {
    host.starts_with('/') || !host.contains(['.', ':']) || ["localhost", "127.0.0.1"].contains(&host)
}
