//! Settings of homeserver.yaml: those that are passed through, those that are synvisor's business, and those that
//! Synapse would take and then do something else.

use std::ops::Range;
use std::path::Path;

use toml::Table;
use toml::Value;
use toml::de::DeValue;

use super::Installed;
use super::check::Wrong;
use super::forms;
use super::problem::Problem;
use super::reader::Reader;
use super::secret::Secret;
use super::secret::SecretSource;
use super::settings;
use super::settings::Type;

/// Settings of homeserver.yaml that synvisor writes itself, and where they are made instead.
const OWNED: &[(&[&str], &str)] = &[
    (&["server_name", "public_baseurl"], "set it at the top of the file, above the first [table]"),
    (
        &["listeners", "bind_port", "unsecure_port"],
        "addresses for clients are set in [[listen]]; Synapse itself listens on Unix sockets",
    ),
    (
        &["federation_sender_instances", "send_federation"],
        "set federation_sender in [workers]; with 0 main sends",
    ),
    (&["pusher_instances", "start_pushers"], "set pusher in [workers]; with 0 main does it"),
    (&["run_background_tasks_on"], "set background in [workers]; with 0 main does it"),
    (
        &["update_user_directory_from_worker", "update_user_directory"],
        "set user_dir in [workers]; with 0 main does it",
    ),
    (
        &["notify_appservices_from_worker", "notify_appservices"],
        "set appservice in [workers]; with 0 main does it",
    ),
    (
        &["enable_media_repo", "media_instance_running_background_jobs"],
        "set media_repository in [workers]; with 0 main does it",
    ),
    (
        &["instance_map", "stream_writers"],
        "it follows from the counts in [workers]: events, typing, receipts, …",
    ),
    (
        &["outbound_federation_restricted_to"],
        "synvisor does not restrict which process sends: every one may reach other servers",
    ),
    (&["database", "databases", "database_path"], "set it in [database]"),
    (&["redis"], "set it in [redis]"),
    (&["media_store_path"], "the media store is STATE_DIR/media_store; it may be a symbolic link"),
    (&["log_config", "log_file"], "logs go to STATE_DIR/logs; read them with `synvisor logs UNIT`"),
    (&["enable_metrics"], "it is always on: synvisor sees by it whether a process is connected to Redis"),
    (
        &["pid_file", "daemonize", "print_pidfile", "no_redirect_stdio"],
        "synvisor supervises the processes itself",
    ),
];

const LARGEST: &str =
    "allowed: -9223372036854775808 to 9223372036854775807; a size may be written like \"50M\"";

/// Whatever begins like this is about one worker, and synvisor writes those files.
const OF_WORKERS: &str = "worker_";

/// A string of a setting may be a table with this key alone: the string is then read from the file that it names.
pub const SECRET_FILE: &str = "secret_file";

/// Settings that were read from one table.
#[derive(Debug, Default)]
pub(super) struct Settings {
    pub(super) table: Table,
    /// Places of secrets that are named in it.
    pub(super) secrets: Vec<(SecretSource, Range<usize>)>,
}

/// Reads a table of settings; what synvisor owns is a problem that names the right place.
pub(super) fn read(
    reader: &Reader<'_, '_>,
    installed: Option<&Installed>,
    state_dir: &Path,
    base: &Path,
    problems: &mut Vec<Problem>,
) -> Settings {
    let mut settings = Settings::default();
    for (key, value) in reader.all() {
        let name: &str = key.get_ref();
        if let Some(remedy) = owned(name, state_dir) {
            let what = format!("{name} does not belong in {}: synvisor writes it", reader.name());
            problems.push(Problem::error(key.span(), what, remedy));
            continue;
        }
        if let Some(remedy) = settings::unknown(name, installed.map(|installed| &installed.settings)) {
            problems.push(Problem::warning(key.span(), format!("Synapse has no setting {name}"), remedy));
        }
        let mut plainer = Plainer { base, problems: &mut *problems, secrets: &mut settings.secrets };
        let Some(plain) = plainer.plain(name, value.get_ref(), value.span()) else { continue };
        let of = settings::type_of(name);
        if let Some(wrong) = of.and_then(|of| mistyped(name, of, &plain, value.get_ref())) {
            problems.push(Problem::error(value.span(), format!("{name} {}", wrong.what), wrong.remedy));
        }
        settings.table.insert(name.to_owned(), plain);
    }
    settings
}

/// Whether Synapse 1.163 has a setting.
pub(super) fn knows(name: &str) -> bool {
    settings::type_of(name).is_some()
}

/// Reads a table within a setting: whatever stands in it is Synapse's business.
pub(super) fn read_any(reader: &Reader<'_, '_>, base: &Path, problems: &mut Vec<Problem>) -> Settings {
    let mut settings = Settings::default();
    for (key, value) in reader.all() {
        let name: &str = key.get_ref();
        let mut plainer = Plainer { base, problems: &mut *problems, secrets: &mut settings.secrets };
        if let Some(plain) = plainer.plain(name, value.get_ref(), value.span()) {
            settings.table.insert(name.to_owned(), plain);
        }
    }
    settings
}

/// A value that Synapse would take for another: the string "false" is true, and a string is a list of its letters.
fn mistyped(name: &str, of: Type, plain: &Value, held: &DeValue<'_>) -> Option<Wrong> {
    let wrong = |wanted: &str, remedy: String| {
        Some(Wrong::new(format!("must be {wanted}, not {}", forms::kind(held)), remedy))
    };
    match (of, plain) {
        (Type::Truth, Value::Boolean(_))
        | (Type::List, Value::Array(_))
        | (Type::Table, Value::Table(_))
        | (Type::Other, _) => None,
        (Type::Truth, Value::String(text)) if ["true", "false"].contains(&text.as_str()) => {
            wrong("true or false", format!("write it without quotes: {name} = {text}"))
        }
        (Type::Truth, _) => wrong("true or false", format!("write {name} = true or {name} = false")),
        (Type::List, Value::String(_) | Value::Integer(_)) => {
            wrong("a list", format!("write it in brackets: {name} = [{plain}]"))
        }
        (Type::List, Value::Table(_)) => wrong(
            "a list",
            format!("write [[synapse.{name}]], with two brackets, before each of its entries"),
        ),
        (Type::List, _) => wrong("a list", format!("write it in brackets: {name} = […]")),
        (Type::Table, _) => {
            wrong("a table", format!("write [synapse.{name}] on a line of its own and its keys below it"))
        }
    }
}

/// Where a setting that synvisor owns is made; none if it is the user's.
fn owned(name: &str, state_dir: &Path) -> Option<String> {
    let is = |secret: &Secret| name.strip_suffix("_path").unwrap_or(name) == secret.setting();
    if let Some(secret) = Secret::ALL.into_iter().find(is) {
        let key = secret.key();
        return Some(format!(
            "put it into a file of its own, with mode 0600, and name that in [secrets]:\n{key} = \"FILE\""
        ));
    }
    let listed = OWNED.iter().find(|(keys, _)| keys.contains(&name)).map(|(_, remedy)| *remedy);
    let remedy =
        listed.or_else(|| name.starts_with(OF_WORKERS).then_some("it follows from the counts in [workers]"));
    remedy.map(|remedy| remedy.replace("STATE_DIR", &state_dir.display().to_string()))
}

/// Every setting that synvisor owns, with the right place for it.
pub(super) fn all_owned(state_dir: &Path) -> impl Iterator<Item = (String, String)> {
    let listed = OWNED.iter().flat_map(|(keys, _)| keys.iter().map(|key| (*key).to_owned()));
    let secrets = Secret::ALL
        .into_iter()
        .flat_map(|secret| [secret.setting().to_owned(), format!("{}_path", secret.setting())]);
    let place = |key: String| owned(&key, state_dir).map(|remedy| (key, remedy));
    listed.chain(secrets).filter_map(place)
}

/// From what the parser holds to a value, with the places of secrets made whole.
struct Plainer<'p> {
    base: &'p Path,
    problems: &'p mut Vec<Problem>,
    secrets: &'p mut Vec<(SecretSource, Range<usize>)>,
}

impl Plainer<'_> {
    /// None if there is something wrong with it, which has then been reported.
    fn plain(&mut self, name: &str, value: &DeValue<'_>, place: Range<usize>) -> Option<Value> {
        Some(match value {
            DeValue::String(text) => Value::String(text.to_string()),
            DeValue::Boolean(value) => Value::Boolean(*value),
            DeValue::Integer(integer) => {
                let Ok(number) = i64::from_str_radix(integer.as_str(), integer.radix()) else {
                    let what = format!("{name}: {integer} does not fit into 64 bits");
                    self.problems.push(Problem::error(place, what, LARGEST));
                    return None;
                };
                Value::Integer(number)
            }
            DeValue::Float(float) => {
                let Some(number) = float.as_str().parse::<f64>().ok().filter(|number| number.is_finite())
                else {
                    let what = format!("{name}: {float} is not a number that Synapse could use");
                    self.problems.push(Problem::error(place, what, "write a number like 0.5"));
                    return None;
                };
                Value::Float(number)
            }
            // homeserver.yaml has no setting that is a date; what looks like one is a version, like
            // `user_consent.version`, and YAML's date would not serve as its string.
            DeValue::Datetime(time) => Value::String(time.to_string()),
            DeValue::Array(array) => {
                let entries = array.iter().map(|entry| self.plain(name, entry.get_ref(), entry.span()));
                Value::Array(entries.collect::<Option<_>>()?)
            }
            DeValue::Table(table) => {
                if let Some((_, secret)) = table.iter().find(|(key, _)| key.get_ref() == SECRET_FILE) {
                    return self.secret(name, secret.get_ref(), secret.span(), table.len() == 1);
                }
                let entries = table.iter().map(|(key, value)| {
                    let name: &str = key.get_ref();
                    Some((name.to_owned(), self.plain(name, value.get_ref(), value.span())?))
                });
                Value::Table(entries.collect::<Option<_>>()?)
            }
        })
    }

    fn secret(&mut self, name: &str, value: &DeValue<'_>, place: Range<usize>, alone: bool) -> Option<Value> {
        let source = match value.as_str().filter(|text| alone && !text.is_empty()) {
            Some(text) => SecretSource::parse(text, self.base),
            None => {
                let remedy = format!("write {name} = {{ {SECRET_FILE} = \"FILE\" }} and nothing else in it");
                Err(Wrong::new("must be the path of a file, and alone", remedy))
            }
        };
        match source {
            Ok(source) => {
                let held = Value::String(source.to_string());
                self.secrets.push((source, place));
                Some(Value::Table(Table::from_iter([(SECRET_FILE.to_owned(), held)])))
            }
            Err(wrong) => {
                let what = format!("{SECRET_FILE} {}", wrong.what);
                self.problems.push(Problem::error(place, what, wrong.remedy));
                None
            }
        }
    }
}

/// The place of a secret if a value is the reference to one.
pub fn secret_in(value: &Value) -> Option<SecretSource> {
    let held = value.as_table()?.get(SECRET_FILE)?.as_str()?;
    SecretSource::parse(held, Path::new("/")).ok()
}
