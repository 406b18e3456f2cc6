//! Every key of the TOML file: what it may hold, what it means, its default and the reason for it.
//!
//! The parser, the JSON schema and `config show` all read this table, so that none of them can know another key.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use super::access_log::AccessLog;
use super::check;
use super::check::Wrong;
use super::presets::Preset;
use super::roles::WorkerKind;

/// What a key may hold.
#[derive(Clone, Debug)]
pub(super) enum Form {
    /// A string that passes a check.
    Text(fn(&str) -> Result<String, Wrong>),
    /// One of these strings.
    Word(Vec<&'static str>),
    /// A path; a relative one starts at the file's directory.
    Path,
    /// A path of a file with a secret, or a systemd credential.
    Secret,
    /// A string like "30s" within these milliseconds.
    Time(RangeInclusive<u64>),
    /// Bytes: a number, or a string like "50M".
    Size,
    Truth,
    /// An integer within bounds, and why there are bounds.
    Number(RangeInclusive<i64>, &'static str),
    /// A list of networks or addresses.
    Networks,
    /// A list of packages as pip takes them.
    Packages,
    /// An array of tables, each with the files of one certificate.
    Certificates,
    /// A table of strings: environment variables.
    Environment,
    /// A table of settings as in homeserver.yaml.
    Settings,
    /// A table within one of these.
    Table,
}

/// One key of a table.
#[derive(Clone, Debug)]
pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) form: Form,
    /// What it means, for editors and for whoever reads the schema.
    pub(super) about: &'static str,
    /// What holds without it, as it would be written in the file; none where nothing does, or where it follows from
    /// other keys.
    pub(super) default: Option<&'static str>,
    /// Why this default.
    pub(super) why: &'static str,
}

fn key(name: &'static str, form: Form, about: &'static str) -> Key {
    Key { name, form, about, default: None, why: "" }
}

impl Key {
    fn or(self, default: &'static str, why: &'static str) -> Self {
        Self { default: Some(default), why, ..self }
    }
}

/// One table of the file.
#[derive(Clone, Debug)]
pub(super) struct Table {
    /// As it is written in the file, `[workers]`; empty for the keys above the first table.
    pub(super) name: Cow<'static, str>,
    pub(super) keys: Vec<Key>,
}

impl Table {
    fn new(name: &'static str, keys: Vec<Key>) -> Self {
        Self { name: Cow::Borrowed(name), keys }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.keys.iter().any(|key| key.name == name)
    }

    pub(super) fn key(&self, name: &str) -> &Key {
        let found = self.keys.iter().find(|key| key.name == name);
        found.unwrap_or_else(|| unreachable!("{name} is not in the table of keys of {}", self.name))
    }
}

/// The tables of the file; what stands in `[synapse]` is not ours to list.
pub(super) const TABLES: [&str; 10] = [
    "workers",
    "units",
    "database",
    "redis",
    "python",
    "listen",
    "router",
    "secrets",
    "supervisor",
    "synapse",
];

/// Bounds of the time-outs, in milliseconds: none at all would cut what is in flight, and beyond an hour a stop
/// looks like a hang.
const TIMEOUTS: RangeInclusive<u64> = 1..=3_600_000;

/// Bounds of one that may be off, with 0.
const TIMEOUTS_OR_NONE: RangeInclusive<u64> = 0..=3_600_000;

/// A process that does its work may be away from its sockets for this many milliseconds.
pub(super) const LEAST_HEALTH_TIMEOUT: u64 = 1_000;

/// Where the Filesystem Hierarchy Standard wants run-time files; the command line looks here too.
pub const RUN_DIR: &str = "/run/synvisor";

/// Where the Filesystem Hierarchy Standard wants state; the virtualenv lies in it by default.
pub(super) const STATE_DIR: &str = "/var/lib/synvisor";
pub(super) const VENV: &str = "venv";

/// What holds for a unit that nothing was said of; the reasons stand with the keys.
pub const LOG_LEVEL: &str = "INFO";
pub(super) const CP_MIN: u16 = 1;
pub(super) const CP_MAX: u16 = 5;

/// `cp_max` of main, which does most of the work: what Synapse's documentation and most deployments have.
pub(super) const MAIN_CP_MAX: u16 = 10;

/// Settings of homeserver.yaml that hold where `[synapse]` does not set them: name, value as TOML, reason.
pub(super) const SYNAPSE: [(&str, &str, &str); 4] = [
    (
        "report_stats",
        "false",
        "Synapse asks for a decision; without one from the administrator nothing is sent",
    ),
    (
        "serve_server_wellknown",
        "true",
        "other servers find this one behind its public address without a record in DNS",
    ),
    (
        "trusted_key_servers",
        "[{ server_name = \"matrix.org\" }]",
        "Synapse's own default, written down so that it does not warn of a default that may go",
    ),
    ("suppress_key_server_warning", "true", "the choice of matrix.org above is a deliberate one"),
];

/// The keys above the first table.
pub(super) fn root() -> Table {
    Table::new(
        "",
        vec![
            key(
                "server_name",
                Form::Text(check::server_name),
                "The domain in user and room ids. It can never change.",
            ),
            key(
                "public_baseurl",
                Form::Text(check::base_url),
                "Where clients reach the homeserver; https:// and server_name if nothing is said.",
            ),
            key(
                "trusted_proxies",
                Form::Networks,
                "Who is believed when it says, by X-Forwarded-For and X-Forwarded-Proto, for whom it asks.",
            )
            .or(
                "[\"127.0.0.0/8\", \"::1/128\"]",
                "a web server on this machine; of all others the address itself is the client's",
            ),
        ],
    )
}

/// `[workers]`: counts.
pub(super) fn workers() -> Table {
    let preset = key(
        "preset",
        Form::Word(Preset::ALL.map(Preset::name).to_vec()),
        "A set of workers to start from; the counts are laid over it.",
    );
    let mut keys = vec![
        preset.or("\"none\"", "main alone serves a small homeserver well, and each process takes memory"),
    ];
    keys.extend(WorkerKind::all().map(|kind| {
        let why = match kind.max() {
            1 => "Synapse allows one process for it",
            _ => "write a number within these bounds",
        };
        let form = Form::Number(0..=i64::from(kind.max()), why);
        key(kind.key(), form, kind.about())
            .or("0", "work that no worker takes is main's, or the preset's to share")
    }));
    Table::new("[workers]", keys)
}

/// `[units.NAME]`: one unit, one kind of worker, all workers or all processes.
pub(super) fn unit(scope: &str) -> Table {
    let levels = vec!["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"];
    let connections = "a process needs at least one connection, and PostgreSQL has to hold all of them";
    let keys = vec![
        key("log_level", Form::Word(levels), "How much it logs.")
            .or("\"INFO\"", "Synapse's own default, and what its developers ask for in reports"),
        key("cp_min", Form::Number(1..=200, connections), "Connections to PostgreSQL that it starts with.")
            .or("1", "one that has little to do needs no more"),
        key("cp_max", Form::Number(1..=200, connections), "Most connections to PostgreSQL; 10 for main.").or(
            "5",
            "Twisted's own default: the preset one-of-each then stays below the 97 connections that an unchanged \
             PostgreSQL gives to users who are not its administrators",
        ),
        key("caches", Form::Table, "Laid over `caches` of [synapse]."),
        key(
            "nice",
            Form::Number(0..=19, "to go below 0 takes a privilege that synvisor does not have"),
            "How much it lets other processes go first.",
        )
        .or("0", "what every process has"),
        key("max_memory", Form::Size, "It is restarted gracefully when its resident memory grows beyond this."),
        key("environment", Form::Environment, "Environment variables."),
        key("settings", Form::Settings, "Settings of homeserver.yaml that only it has."),
    ];
    Table { name: Cow::Owned(format!("[units.{scope}]")), keys }
}

/// `[database]`.
pub(super) fn database() -> Table {
    // libpq's documentation, section "SSL Support".
    let modes = vec!["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];
    Table::new(
        "[database]",
        vec![
            key(
                "mode",
                Form::Word(vec!["external", "embedded"]),
                "A server that is there, or one that synvisor runs.",
            )
            .or("\"external\"", "what outlives this program should not depend on it"),
            key(
                "host",
                Form::Text(check::database_host),
                "A name, an address, or the directory of a Unix socket.",
            )
            .or(
                "\"/var/run/postgresql\"",
                "Debian's PostgreSQL listens here, and lets in a system user as the role of the same name",
            ),
            key("port", port(), "PostgreSQL's port.").or("5432", "PostgreSQL's own"),
            key("user", Form::Text(check::any), "The role to log in as.")
                .or("\"synapse\"", "the name that Synapse's installation guide uses"),
            key("name", Form::Text(check::any), "The database.")
                .or("\"synapse\"", "the name that Synapse's installation guide uses"),
            key("password_file", Form::Secret, "A file that holds the password and nothing else."),
            key("sslmode", Form::Word(modes), "libpq's sslmode."),
        ],
    )
}

/// `[redis]`.
pub(super) fn redis() -> Table {
    Table::new(
        "[redis]",
        vec![
            key(
                "mode",
                Form::Word(vec!["external", "embedded"]),
                "A server that is there, or one that synvisor runs.",
            )
            .or("\"external\"", "Debian's package brings one that is kept up to date"),
            key("host", Form::Text(check::tcp_host), "A name or an address.")
                .or("\"127.0.0.1\"", "Debian's Redis and Valkey listen here"),
            key("port", port(), "The server's port.").or("6379", "the protocol's own"),
            key("path", Form::Path, "A Unix socket, in place of host and port."),
            key("password_file", Form::Secret, "A file that holds the password and nothing else."),
        ],
    )
}

fn port() -> Form {
    Form::Number(1..=65_535, "write the port that the server listens on")
}

/// `[python]`.
pub(super) fn python() -> Table {
    let venv = "A virtualenv of your own that holds Synapse; venv in state_dir if nothing is said.";
    let synapse = "The version of Synapse, in a virtualenv that `synvisor init` and `synvisor upgrade` make, in place of venv.";
    let packages =
        "What is installed there beside Synapse, as pip takes it: \"synapse-s3-storage-provider==1.7.0\".";
    Table::new(
        "[python]",
        vec![
            key("venv", Form::Path, venv),
            key("synapse", Form::Text(check::version), synapse),
            key("packages", Form::Packages, packages),
        ],
    )
}

/// `[[listen]]`.
pub(super) fn listen() -> Table {
    Table::new(
        "[[listen]]",
        vec![
            key("address", Form::Text(check::listen_address_text), "An IP address with a port.").or(
                "\"127.0.0.1:8008\"",
                "only root may listen below 1024, and this is the port that Synapse's own documentation uses",
            ),
            key("admin", Form::Truth, "Whether the admin API, /_synapse/admin, is reachable here.")
                .or("false", "behind a web server on the same machine every client comes from 127.0.0.1"),
            key(
                "metrics",
                Form::Truth,
                "Whether the router's metrics, /_synvisor/metrics, are reachable here, for Prometheus.",
            )
            .or("false", "they say who is busy with what, and are not for everybody"),
            key(
                "tls",
                Form::Certificates,
                "Certificates to speak TLS with, each with its key. Which one a client gets is decided by the name that it \
                 asks for (SNI); the first one is for everybody else. Without any, clients come without TLS.",
            ),
            key(
                "proxy_protocol",
                Form::Truth,
                "Whether each connection begins with the PROXY protocol, version 1 or 2, from one of trusted_proxies; whoever \
                 comes without it, or from elsewhere, is refused.",
            )
            .or("false", "web servers in front say for whom they ask by X-Forwarded-For"),
        ],
    )
}

/// `[router]`.
pub(super) fn router() -> Table {
    Table::new(
        "[router]",
        vec![
            key(
                "access_log",
                Form::Word(AccessLog::ALL.map(AccessLog::name).to_vec()),
                "A line for each request in the router's log (`synvisor logs router`): off, common (the Common Log Format of \
                 web servers, with class, unit, attempts and times behind it) or json. Of secrets in a query it has only the names.",
            )
            .or("\"off\"", "a busy homeserver writes gigabytes, and addresses of users are personal data"),
        ],
    )
}

/// One of `tls` of a `[[listen]]`.
pub(super) fn certificate() -> Table {
    Table::new(
        "[[listen.tls]]",
        vec![
            key(
                "certificate_file",
                Form::Secret,
                "A PEM file with the certificate and, below it, those that lead to its authority.",
            ),
            key("private_key_file", Form::Secret, "A PEM file with its private key."),
        ],
    )
}

/// `[secrets]`.
pub(super) fn secrets() -> Table {
    let own = "A file that holds it; if nothing is said, one of this name in state_dir/secrets, made once.";
    Table::new(
        "[secrets]",
        vec![
            key("macaroon_secret_key_file", Form::Secret, own),
            key("registration_shared_secret_file", Form::Secret, own),
            key("form_secret_file", Form::Secret, own),
            key("worker_replication_secret_file", Form::Secret, own),
            key("signing_key_file", Form::Secret, own),
            key("signing_key_required", Form::Truth, "Never make a signing key: this server had one before.")
                .or("false", "a new homeserver needs a key, and nobody has one for it"),
        ],
    )
}

/// A table of Synapse's settings: none of its keys is ours.
pub(super) fn settings(name: &str) -> Table {
    Table { name: Cow::Owned(format!("[{name}]")), keys: Vec::new() }
}

/// `[units]`: its keys are names.
pub(super) fn units() -> Table {
    Table::new("[units]", Vec::new())
}

/// `[supervisor]`.
pub(super) fn supervisor() -> Table {
    Table::new(
        "[supervisor]",
        vec![
            key("state_dir", Form::Path, "Rendered files, secrets, logs, media, data of embedded services.")
                .or("\"/var/lib/synvisor\"", "where the Filesystem Hierarchy Standard wants state"),
            key("run_dir", Form::Path, "Sockets.")
                .or("\"/run/synvisor\"", "where the Filesystem Hierarchy Standard wants run-time files"),
            key("user", Form::Text(check::user_name), "Who runs Synapse and the embedded services.")
                .or("\"synvisor\"", "the packages create it"),
            key("router_user", Form::Text(check::user_name), "Who runs the router.")
                .or("\"synvisor-router\"", "the packages create it"),
            key("drain_timeout", Form::Time(TIMEOUTS), "How long a planned stop waits for requests in flight.")
                .or("\"10s\"", "longer than nearly every request but a long-poll, which moves to another process"),
            key("stop_timeout", Form::Time(TIMEOUTS), "How long a process may take to end before it is killed.").or(
                "\"30s\"",
                "a stop lasts as long as the longest database transaction; SIGKILL leaves locks for two minutes",
            ),
            key(
                "health_timeout",
                Form::Time(TIMEOUTS_OR_NONE),
                "How long a process may take to say that it is well. One that gives no answer twice in a row writes its stacks \
                 to its log (Synapse's) and is restarted; 0s asks nobody.",
            )
            .or("\"15s\"", "the state of a large room may keep a process that is well from answering for seconds"),
            key("dependency_timeout", Form::Time(TIMEOUTS), "How long a start waits for the database and Redis.")
                .or("\"60s\"", "a database on another machine may boot at the same time as this one"),
        ],
    )
}
