//! The official image of Synapse: what it makes of its environment.
//!
//! Where there is a homeserver.yaml the image goes by that, and by the variables only for workers. Where there is none,
//! the image for workers (and `migrate_config`) makes one: `docker.yaml` is what stands in it beside the variables
//! (`docker/conf/homeserver.yaml` of Synapse).

use std::collections::BTreeMap;

use crate::config::roles::Stream;
use crate::config::roles::WorkerKind;

use super::installation::Installation;
use super::installation::Said;
use super::report::Entry;
use super::report::Verdict;
use super::source::Container;
use super::source::Source;
use super::yaml;
use super::yaml::Map;
use super::yaml::Value;

/// Variables: the name, what it is, and the setting that it makes or why none.
const TABLE: &str = include_str!("docker.tsv");

/// What the image writes whatever its variables say.
const ALWAYS: &str = include_str!("docker.yaml");

/// The port that the web server in the image for workers listens on.
const PORT: i64 = 8008;

fn row(name: &str) -> Option<(&'static str, &'static str)> {
    TABLE.lines().find_map(|line| {
        let (held, rest) = line.split_once('\t')?;
        rest.split_once('\t').filter(|_| held == name)
    })
}

/// Takes a container beside the files that were read already.
///
/// # Errors
/// The types of workers are none that the image knows.
pub(super) fn read(found: &mut Installation, source: &Source, container: Container) -> Result<(), String> {
    found.container = true;
    found.mounts.extend(container.mounts);
    let variables = &container.environment;
    let value = |name: &str| {
        variables
            .iter()
            .rfind(|(held, value)| held == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    };
    let makes = found.settings.is_empty();
    if let (true, Some(name)) = (makes, value("SYNAPSE_SERVER_NAME")) {
        found.settings = image(name, value("POSTGRES_PASSWORD").is_some());
        let captcha = value("SYNAPSE_RECAPTCHA_PUBLIC_KEY").is_some();
        put(&mut found.settings, "enable_registration_captcha", Value::Truth(captcha));
        if found.directory.is_empty() {
            found.directory = "/data".to_owned();
        }
    }
    for (name, text) in variables {
        let mut entry = |verdict, text: String| {
            let (source, name) = (source.path.clone(), name.clone());
            found.entries.push(Entry { source, name, verdict, text });
        };
        match row(name) {
            _ if text.is_empty() => {
                entry(Verdict::Changed, "is empty, which is as if it were not there".to_owned())
            }
            None => {
                let text = "no variable of Synapse's image: if Synapse or a module of it reads it, write it into environment of \
                            [units.all]";
                entry(Verdict::Left, text.to_owned());
            }
            Some(("workers", _)) => {
                let counts =
                    counts(text).map_err(|why| format!("{}: SYNAPSE_WORKER_TYPES: {why}\n", source.path))?;
                let told: Vec<String> =
                    counts.iter().map(|(kind, count)| format!("{} = {count}", kind.key())).collect();
                entry(Verdict::Changed, format!("is {} in [workers]", told.join(", ")));
                found.counts = counts;
                behind_nginx(found);
            }
            Some(("level", _)) => {
                entry(Verdict::Carried, String::new());
                found.log_level = Some(text.to_uppercase());
            }
            Some(("done", why)) => entry(Verdict::Changed, why.to_owned()),
            Some(("left", why)) => entry(Verdict::Left, why.to_owned()),
            Some((_, path)) if !makes => {
                let text = format!(
                    "homeserver.yaml decides over {path}, and the image goes by this only where there is none"
                );
                entry(Verdict::Changed, text);
            }
            Some((form, path)) => {
                put(&mut found.settings, path, formed(form, text));
                let (source, name, path) = (source.path.clone(), name.clone(), path.to_owned());
                found.said.push(Said { source, name, path });
            }
        }
    }
    Ok(())
}

/// What the image writes for a server of this name.
fn image(name: &str, postgres: bool) -> Map {
    let text = ALWAYS.replace("SERVER_NAME", name);
    let Ok(Value::Map(mut map)) = yaml::parse(&text) else { unreachable!("docker.yaml is a mapping") };
    if !postgres {
        // Without a password the image takes SQLite, whatever else is said.
        put(&mut map, "database", Value::Map(vec![("name".to_owned(), Value::Text("sqlite3".to_owned()))]));
    }
    map
}

/// The web server of the image for workers answers clients in the place of main's listener.
fn behind_nginx(found: &mut Installation) {
    let names = Value::List(["client", "federation"].map(|name| Value::Text(name.to_owned())).to_vec());
    let resource = Value::Map(vec![("names".to_owned(), names)]);
    let listener = [
        ("type", Value::Text("http".to_owned())),
        ("port", Value::Int(PORT)),
        ("x_forwarded", Value::Truth(true)),
        ("resources", Value::List(vec![resource])),
    ];
    let listener = listener.map(|(key, value)| (key.to_owned(), value)).to_vec();
    yaml::set(&mut found.settings, "listeners", Value::List(vec![Value::Map(listener)]));
}

fn formed(form: &str, text: &str) -> Value {
    match form {
        "yes" => Value::Truth(text.eq_ignore_ascii_case("yes")),
        // Any text but an empty one counts.
        "truth" => Value::Truth(true),
        "list" => Value::List(text.split(',').map(|part| Value::Text(part.to_owned())).collect()),
        "number" => text.parse().map_or_else(|_| Value::Text(text.to_owned()), Value::Int),
        _ => Value::Text(text.to_owned()),
    }
}

/// Sets a value at the end of a path of keys.
pub(super) fn put(map: &mut Map, path: &str, value: Value) {
    let Some((first, rest)) = path.split_once('.') else { return yaml::set(map, path, value) };
    if yaml::get(map, first).and_then(Value::map).is_none() {
        yaml::set(map, first, Value::Map(Map::new()));
    }
    let held = map.iter_mut().find(|(key, _)| key == first);
    if let Some((_, Value::Map(inner))) = held {
        put(inner, rest, value);
    }
}

/// Which of synvisor's kinds a type of the image is.
fn kind(name: &str) -> Option<WorkerKind> {
    Some(match name {
        "synchrotron" => WorkerKind::Sync,
        // It also takes what clients ask of a room.
        "event_creator" => WorkerKind::Room,
        "event_persister" => WorkerKind::Writer(Stream::Events),
        "background_worker" => WorkerKind::Background,
        "federation_inbound" => WorkerKind::FederationReader,
        name => WorkerKind::all().find(|kind| kind.key() == name)?,
    })
}

/// The workers of `event_persister:2, name=typing+presence, synchrotron`.
fn counts(text: &str) -> Result<BTreeMap<WorkerKind, u16>, String> {
    let mut counts = BTreeMap::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let types = item.split_once('=').map_or(item, |(_, types)| types);
        let (types, times) = types.rsplit_once(':').unwrap_or((types, "1"));
        let times: u16 = times
            .trim()
            .parse()
            .map_err(|_| format!("{item} has no number behind the colon\n  write it like synchrotron:2"))?;
        for name in types.split('+').map(str::trim) {
            let kind = kind(name).ok_or_else(|| {
                format!("there is no type of worker {name}\n  the image would not start with it either: correct it, or leave it out")
            })?;
            let count = counts.entry(kind).or_insert(0_u16);
            *count = count.saturating_add(times).min(kind.max());
        }
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_workers_are_counted_as_the_image_counts_them() {
        // Mutation: the number behind the colon ignored: seen red.
        let of = |text: &str| {
            let counts = counts(text)?;
            Ok::<_, String>(counts.into_iter().map(|(kind, count)| (kind.key(), count)).collect::<Vec<_>>())
        };
        let expected = vec![("room", 1), ("sync", 3), ("events", 2), ("typing", 1), ("presence", 1)];
        let text = "event_persister:2, synchrotron, name=typing+presence,event_creator,synchrotron:2 ,";
        assert_eq!(of(text), Ok(expected));
        assert_eq!(of(""), Ok(Vec::new()));
        for wrong in ["pushr", "pusher:x", "pusher+", "pusher:-1"] {
            assert!(of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_line_of_the_table_has_a_form() {
        let forms = ["set", "yes", "list", "truth", "number", "level", "workers", "done", "left"];
        for line in TABLE.lines() {
            let cells: Vec<&str> = line.split('\t').collect();
            assert!(cells.len() == 3 && forms.contains(&cells[1]), "{line}");
        }
        assert!(
            image("a.b", true).iter().any(|(key, value)| key == "server_name" && value.text() == Some("a.b"))
        );
    }
}
