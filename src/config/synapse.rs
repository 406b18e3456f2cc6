//! `[synapse]`: settings that are passed through, and those that are synvisor's business.

use toml::Value;
use toml::de::DeValue;

use super::problem::Problem;
use super::reader::Reader;

/// Settings of homeserver.yaml that synvisor writes itself, and where they are made instead.
const OWNED: &[(&[&str], &str)] = &[
    (&["server_name", "public_baseurl"], "set it at the top of the file"),
    (
        &["listeners", "worker_listeners"],
        "addresses for clients are set in [[listen]]; Synapse itself listens on Unix sockets",
    ),
    (
        &[
            "instance_map",
            "stream_writers",
            "federation_sender_instances",
            "pusher_instances",
            "run_background_tasks_on",
            "update_user_directory_from_worker",
            "notify_appservices_from_worker",
            "media_instance_running_background_jobs",
            "enable_media_repo",
            "send_federation",
            "start_pushers",
            "outbound_federation_restricted_to",
            "worker_app",
            "worker_name",
        ],
        "it follows from the counts in [workers]",
    ),
    (&["database", "databases"], "set it in [database]"),
    (&["redis"], "set it in [redis]"),
    (
        &["macaroon_secret_key", "macaroon_secret_key_path"],
        "put the value into STATE_DIR/secrets/macaroon_secret_key",
    ),
    (
        &["registration_shared_secret", "registration_shared_secret_path"],
        "put the value into STATE_DIR/secrets/registration_shared_secret",
    ),
    (&["form_secret", "form_secret_path"], "put the value into STATE_DIR/secrets/form_secret"),
    (
        &["worker_replication_secret", "worker_replication_secret_path"],
        "put the value into STATE_DIR/secrets/worker_replication_secret",
    ),
    (&["signing_key", "signing_key_path"], "put the key into STATE_DIR/secrets/signing.key"),
    (&["media_store_path"], "the media store is STATE_DIR/media_store; it may be a symbolic link"),
    (&["log_config", "worker_log_config"], "synvisor writes it; read the logs with `synvisor logs UNIT`"),
    (&["enable_metrics"], "synvisor needs it to see that a process is connected to Redis: it is always on"),
    (
        &[
            "pid_file",
            "daemonize",
            "worker_pid_file",
            "worker_daemonize",
            "no_redirect_stdio",
            "print_pidfile",
        ],
        "synvisor supervises the processes itself",
    ),
];

/// Reads the table; what synvisor owns is a problem that names the right place.
pub(super) fn read(reader: &Reader<'_, '_>, state_dir: &str, problems: &mut Vec<Problem>) -> toml::Table {
    let mut settings = toml::Table::new();
    for (key, value) in reader.all() {
        let name: &str = key.get_ref();
        let owned = OWNED.iter().find(|(keys, _)| keys.contains(&name));
        if let Some((_, place)) = owned {
            let what = format!("{name} in [synapse] is synvisor's to write");
            problems.push(Problem::error(key.span(), what, place.replace("STATE_DIR", state_dir)));
            continue;
        }
        match plain(value.get_ref()) {
            Ok(value) => {
                settings.insert(name.to_owned(), value);
            }
            Err(what) => problems.push(Problem::error(
                value.span(),
                what,
                "write a smaller number; Python could hold it, TOML cannot",
            )),
        }
    }
    settings
}

fn plain(value: &DeValue<'_>) -> Result<Value, String> {
    Ok(match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Integer(integer) => {
            let number = i64::from_str_radix(integer.as_str(), integer.radix());
            Value::Integer(number.map_err(|_| format!("{} does not fit 64 bits", integer.as_str()))?)
        }
        DeValue::Float(float) => {
            Value::Float(float.as_str().parse().map_err(|_| format!("{} is no number", float.as_str()))?)
        }
        // homeserver.yaml has no setting that is a date; as a string it is at least what was written.
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
