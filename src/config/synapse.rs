//! `[synapse]`: settings that are passed through, and those that are synvisor's business.

use std::path::Path;

use toml::Value;
use toml::de::DeValue;

use super::problem::Problem;
use super::reader::Reader;
use super::secret::Secret;

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

/// Reads the table; what synvisor owns is a problem that names the right place.
pub(super) fn read(reader: &Reader<'_, '_>, state_dir: &Path, problems: &mut Vec<Problem>) -> toml::Table {
    let mut settings = toml::Table::new();
    for (key, value) in reader.all() {
        let name: &str = key.get_ref();
        if let Some(remedy) = owned(name, state_dir) {
            let what = format!("{name} does not belong in [synapse]: synvisor writes it");
            problems.push(Problem::error(key.span(), what, remedy));
            continue;
        }
        match plain(value.get_ref()) {
            Ok(value) => {
                settings.insert(name.to_owned(), value);
            }
            Err(what) => problems.push(Problem::error(value.span(), format!("{name}: {what}"), LARGEST)),
        }
    }
    settings
}

/// Where a setting that synvisor owns is made; none if it is the user's.
fn owned(name: &str, state_dir: &Path) -> Option<String> {
    let is = |secret: &Secret| name.strip_suffix("_path").unwrap_or(name) == secret.setting();
    if let Some(secret) = Secret::ALL.into_iter().find(is) {
        let path = secret.path(state_dir);
        return Some(format!("put the secret itself into the file {} (mode 0600)", path.display()));
    }
    let listed = OWNED.iter().find(|(keys, _)| keys.contains(&name)).map(|(_, remedy)| *remedy);
    let remedy =
        listed.or_else(|| name.starts_with(OF_WORKERS).then_some("it follows from the counts in [workers]"));
    remedy.map(|remedy| remedy.replace("STATE_DIR", &state_dir.display().to_string()))
}

fn plain(value: &DeValue<'_>) -> Result<Value, String> {
    Ok(match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Integer(integer) => {
            let number = i64::from_str_radix(integer.as_str(), integer.radix());
            Value::Integer(number.map_err(|_| format!("{integer} does not fit into 64 bits"))?)
        }
        DeValue::Float(float) => {
            Value::Float(float.as_str().parse().map_err(|_| format!("{float} is not a number"))?)
        }
        // homeserver.yaml has no setting that is a date; what looks like one is a version, like
        // `user_consent.version`, and YAML's date would not serve as its string.
        DeValue::Datetime(time) => Value::String(time.to_string()),
        DeValue::Array(array) => {
            Value::Array(array.iter().map(|entry| plain(entry.get_ref())).collect::<Result<_, _>>()?)
        }
        DeValue::Table(table) => {
            let entries =
                table.iter().map(|(key, value)| Ok((key.get_ref().to_string(), plain(value.get_ref())?)));
            Value::Table(entries.collect::<Result<_, String>>()?)
        }
    })
}
