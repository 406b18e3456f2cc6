//! From an installation to the TOML file, the files of its secrets, and what has to be told of each setting.

use std::collections::BTreeMap;

use toml::Table;

use crate::config::mask;
use crate::config::secret::Secret;
use crate::config::settings;
use crate::config::settings::Type;
use crate::config::synapse::SECRET_FILE;

use super::document::Document;
use super::installation::Installation;
use super::installation::Note;
use super::report::Entry;
use super::report::Report;
use super::report::Verdict;
use super::services;
use super::yaml::Value;

/// Files that an installation names, by their path on this machine, or why they cannot be read.
pub type Files = BTreeMap<String, Result<String, String>>;

/// The directory of the files of secrets, beside the TOML file.
pub const SECRETS: &str = "secrets";

/// What an import makes.
#[derive(Clone, Debug)]
pub(super) struct Translation {
    pub(super) document: Document,
    /// Name in [`SECRETS`] and content of each.
    pub(super) secrets: BTreeMap<String, String>,
    pub(super) report: Report,
}

pub(super) struct Translator<'a> {
    pub(super) from: &'a Installation,
    pub(super) files: &'a Files,
    pub(super) document: Document,
    pub(super) secrets: BTreeMap<String, String>,
    pub(super) notes: Vec<Note>,
    pub(super) entries: Vec<Entry>,
}

/// Says what an installation is in synvisor's TOML.
pub(super) fn translate(from: &Installation, files: &Files, signing_key: Option<&str>) -> Translation {
    let mut translator = Translator {
        from,
        files,
        document: Document::default(),
        secrets: BTreeMap::new(),
        notes: from.notes.clone(),
        entries: Vec::new(),
    };
    translator.services();
    translator.own_secrets(signing_key);
    translator.workers();
    translator.redis();
    translator.registrations();
    for (name, value) in &from.settings {
        translator.setting(name, value);
    }
    translator.absent();
    let Translator { document, secrets, notes, entries, .. } = translator;
    Translation { document, secrets, report: report(from, &notes, entries) }
}

/// One entry for everything that was said; what was noted of it, of what is in it and of what it is in, decides.
fn report(from: &Installation, notes: &[Note], more: Vec<Entry>) -> Report {
    let concerns = |said: &str, noted: &str| {
        let within = |inner: &str, outer: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        within(noted, said) || within(said, noted)
    };
    let mut entries = Vec::new();
    let mut told = vec![false; notes.len()];
    for said in &from.said {
        let mut verdict = Verdict::Carried;
        let mut texts: Vec<String> = Vec::new();
        for (note, told) in notes.iter().zip(&mut told) {
            if concerns(&said.path, &note.path) {
                *told = true;
                verdict = verdict.max(note.verdict);
                let inner = note.path.strip_prefix(&said.path).unwrap_or_default().trim_start_matches('.');
                let text =
                    if inner.is_empty() { note.text.clone() } else { format!("`{inner}` {}", note.text) };
                if !texts.contains(&text) {
                    texts.push(text);
                }
            }
        }
        let (source, name) = (said.source.clone(), said.name.clone());
        entries.push(Entry { source, name, verdict, text: texts.join("; ") });
    }
    entries.extend(from.entries.iter().cloned());
    entries.extend(more);
    for (note, _) in notes.iter().zip(told).filter(|(_, told)| !told) {
        let (name, text) = (note.path.clone(), note.text.clone());
        let source = "what no source says".to_owned();
        entries.push(Entry { source, name, verdict: note.verdict, text });
    }
    Report { entries }
}

/// What is synvisor's own business and needs nothing of the old setting.
const SUPERVISED: [&str; 4] = ["pid_file", "daemonize", "print_pidfile", "no_redirect_stdio"];

/// Settings whose null is not what holds without them: Synapse keeps things for ever then, and TOML has no null.
const NULL_IS_FOR_EVER: [&str; 2] = ["redaction_retention_period", "user_ips_max_age"];

/// Others whose null is not what holds without them (tried with the parser of 1.163).
const NULL_IS_NO_DEFAULT: [&str; 10] = [
    "bcrypt_rounds",
    "dummy_events_threshold",
    "federation_ip_range_blacklist",
    "federation_rr_transactions_per_room_per_second",
    "filter_timeline_limit",
    "ip_range_blacklist",
    "max_pending_media_uploads",
    "recaptcha_siteverify_api",
    "refreshable_access_token_lifetime",
    "use_presence",
];

/// Settings that name Python modules.
const FROM_PACKAGES: [&str; 3] = ["media_storage_providers", "modules", "password_providers"];

/// Keys that hold paths of files or directories, or lists of them.
const PATHS: [&str; 18] = [
    "app_service_config_files",
    "backup_media_store_path",
    "ca_file",
    "ca_path",
    "certificate_file",
    "client_secret_path",
    "config_path",
    "custom_template_directory",
    "directory",
    "federation_custom_ca_list",
    "key_file",
    "key_server_signing_keys_path",
    "password_path",
    "private_key_file",
    "recaptcha_private_key_path",
    "secret_path",
    "template_dir",
    "turn_shared_secret_path",
];

impl Translator<'_> {
    pub(super) fn note(&mut self, path: impl Into<String>, verdict: Verdict, text: impl Into<String>) {
        self.notes.push(Note { path: path.into(), verdict, text: text.into() });
    }

    /// Takes a secret into a file of its own; the value by which the TOML file names it.
    pub(super) fn secret(&mut self, name: &str, secret: &str) -> String {
        let words =
            name.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| !word.is_empty());
        let plain = words.collect::<Vec<_>>().join("-");
        let mut file = plain.clone();
        // Two settings may come to the same name, and neither secret may be lost.
        let mut count = 1;
        while self.secrets.get(&file).is_some_and(|held| held != secret) {
            count += 1;
            file = format!("{plain}-{count}");
        }
        self.secrets.insert(file.clone(), secret.to_owned());
        format!("{SECRETS}/{file}")
    }

    fn setting(&mut self, name: &str, value: &Value) {
        match name {
            "server_name" | "public_baseurl" => {
                if let Some(text) = value.text() {
                    self.document.root.insert(name.to_owned(), text.into());
                }
            }
            "media_store_path" => self.media(value),
            "log_config" => self.log_config(value),
            "enable_metrics" => {
                if value != &Value::Truth(true) {
                    self.note(
                        name,
                        Verdict::Changed,
                        "always on, on a socket of each process that is closed to others",
                    );
                }
            }
            "tls_certificate_path" | "tls_private_key_path" => {
                let text = "the web server in front holds certificates: `synvisor front SERVER` prints its configuration";
                self.note(name, Verdict::Changed, text);
            }
            _ if SUPERVISED.contains(&name) => {
                self.note(name, Verdict::Changed, "not needed: synvisor supervises the processes itself");
            }
            _ if is_handled(name) => {}
            _ if name.starts_with("worker_") => {
                self.note(name, Verdict::Changed, "follows from the counts in [workers]");
            }
            _ => self.pass_on(name, value),
        }
    }

    fn media(&mut self, value: &Value) {
        let Some(path) = value.text() else { return };
        let text = format!(
            "the media store is media_store in the state directory (/var/lib/synvisor): `synvisor migrate`, or \
             `synvisor import media {}` by itself, brings there what is in the old one while the old server still runs",
            self.from.here(path)
        );
        self.note("media_store_path", Verdict::Left, text);
    }

    /// A setting that is Synapse's business alone.
    fn pass_on(&mut self, name: &str, value: &Value) {
        let Some(of) = settings::type_of(name) else {
            let text = "Synapse 1.163 has no setting of this name and ignores it; remove it, or if you run a version that \
                        has it, write it into [synapse]";
            return self.note(name, Verdict::Left, text);
        };
        if value == &Value::Null && NULL_IS_FOR_EVER.contains(&name) {
            self.document.synapse.insert(name.to_owned(), "100y".into());
            return self.note(
                name,
                Verdict::Changed,
                "null is for ever, which TOML cannot say: it is \"100y\" now",
            );
        }
        if value == &Value::Null && of == Type::Truth {
            self.document.synapse.insert(name.to_owned(), false.into());
            return self.note(name, Verdict::Changed, "null counts as false: it is false now");
        }
        if value == &Value::Null && NULL_IS_NO_DEFAULT.contains(&name) {
            let text = "is null, which TOML cannot say and which is not what holds without it: write what is meant into [synapse]";
            return self.note(name, Verdict::Left, text);
        }
        let wrong = match (of, value) {
            (_, Value::Null) => None,
            (Type::Truth, Value::Truth(_)) | (Type::List, Value::List(_)) | (Type::Table, Value::Map(_)) => {
                None
            }
            (Type::Other, _) => None,
            (Type::Truth, _) => {
                Some("is no true or false, and Synapse guesses: write what is meant into [synapse]")
            }
            (Type::List, _) => {
                Some("is no list, and Synapse takes it for something else: write it as one into [synapse]")
            }
            (Type::Table, _) => Some("is no mapping: write it as a table into [synapse]"),
        };
        if let Some(wrong) = wrong {
            return self.note(name, Verdict::Left, wrong);
        }
        if FROM_PACKAGES.contains(&name) && value != &Value::List(Vec::new()) {
            let text = "what of it is no part of Synapse has to be installed with it: name its packages in packages of [python]";
            self.note(name, Verdict::Left, text);
        }
        if let Some(value) = self.value(name, name, value) {
            self.document.synapse.insert(name.to_owned(), value);
        }
    }

    /// A value as TOML has it, without secrets and with paths of this machine; what cannot be said is noted.
    ///
    /// `key` is the last name in `path`.
    pub(super) fn value(&mut self, path: &str, key: &str, value: &Value) -> Option<toml::Value> {
        Some(match value {
            Value::Null => {
                self.note(path, Verdict::Changed, "is null: it is left out, and Synapse's default holds");
                return None;
            }
            Value::Truth(truth) => (*truth).into(),
            Value::Int(int) => (*int).into(),
            Value::Float(float) if float.is_finite() => (*float).into(),
            Value::Float(_) => {
                self.note(path, Verdict::Left, "is no finite number: write a large one into [synapse]");
                return None;
            }
            Value::Date(text) => {
                self.note(path, Verdict::Changed, "is a date for YAML, and the same as a string now");
                text.as_str().into()
            }
            Value::Text(text) => self.text(path, key, text),
            Value::List(list) => {
                let mut entries = Vec::new();
                for (at, entry) in list.iter().enumerate() {
                    entries.extend(self.value(&format!("{path}[{at}]"), key, entry));
                }
                toml::Value::Array(entries)
            }
            Value::Map(map) => {
                let mut table = Table::new();
                for (key, entry) in map {
                    if let Some(entry) = self.value(&format!("{path}.{key}"), key, entry) {
                        table.insert(key.clone(), entry);
                    }
                }
                toml::Value::Table(table)
            }
            Value::Tagged(tag) => {
                let text = format!(
                    "has the tag {tag}, which only its own program can read: write its value yourself"
                );
                self.note(path, Verdict::Left, text);
                return None;
            }
        })
    }

    fn text(&mut self, path: &str, key: &str, text: &str) -> toml::Value {
        if let Some(mapped) = self.from.mapped(text) {
            let noted = format!(
                "the path of the container, {text}, is {mapped} here: the user synvisor has to reach it"
            );
            self.note(path, Verdict::Changed, noted);
            return mapped.into();
        }
        // What a source has made of it is known to be of this machine.
        let told = self.from.notes.iter().any(|note| note.path == path);
        if let Some(host) = self.from.container.then(|| host(key, text)).flatten().filter(|_| !told) {
            let noted =
                format!("{host} means something else within a container: write how this machine reaches it");
            self.note(path, Verdict::Left, noted);
        }
        if PATHS.contains(&key) && !text.is_empty() && !text.starts_with('/') {
            let here = self.from.here(text);
            self.note(
                path,
                Verdict::Changed,
                format!("a relative path: it is {here} now, which is looked for there"),
            );
            return here.into();
        }
        if self.from.container && PATHS.contains(&key) && text.starts_with('/') {
            let noted = "a path of the container, and no source says where that is here: write where the file is, or import \
                         once more with what `docker inspect` prints";
            self.note(path, Verdict::Left, noted);
        }
        if !mask::sounds_secret(key) || text.is_empty() {
            return text.into();
        }
        let kept = text.trim_end_matches(['\r', '\n']);
        if kept != text {
            self.note(
                path,
                Verdict::Changed,
                "without the ends of line at its end, which a file of a secret has anyhow",
            );
        }
        let file = self.secret(path, kept);
        toml::Value::Table(Table::from_iter([(SECRET_FILE.to_owned(), file.into())]))
    }

    /// Synapse's own default where synvisor has another one.
    fn absent(&mut self) {
        if self.from.get("serve_server_wellknown").is_none() {
            self.document.synapse.insert("serve_server_wellknown".to_owned(), false.into());
        }
        if self.from.get("public_baseurl").is_none() {
            let text = "nobody has said where clients reach the homeserver: it is https:// and server_name, and \
                        /.well-known/matrix/client says so";
            self.note("public_baseurl", Verdict::Changed, text);
        }
        if self.from.get("report_stats").is_none() {
            self.note("report_stats", Verdict::Changed, "nobody has decided, so that nothing is sent");
        }
    }
}

/// The host that a value names, if it is one that only containers reach by this name.
fn host<'t>(key: &str, text: &'t str) -> Option<&'t str> {
    let host = match text.contains("://") {
        true => services::host_of(text),
        false if key == "smtp_host" => text,
        false => return None,
    };
    (!host.is_empty() && services::is_local_name(host)).then_some(host)
}

/// Whether something else than [`Translator::setting`] reads a setting.
fn is_handled(name: &str) -> bool {
    let secret = |secret: &Secret| name.strip_suffix("_path").unwrap_or(name) == secret.setting();
    services::HANDLED.contains(&name)
        || super::workers::HANDLED.contains(&name)
        || Secret::ALL.iter().any(secret)
}
