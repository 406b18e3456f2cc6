//! What a file is that somebody names as a source: told by what is in it, since names differ.

use crate::config::problem::Problem;
use crate::config::settings;

use super::yaml;
use super::yaml::Map;
use super::yaml::Value;

/// A file that was read.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its absolute path.
    pub path: String,
    pub text: String,
    pub place: Place,
}

/// How a file came among the sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Named,
    /// It is part of a directory that was named.
    Part,
    /// It lies beside a homeserver.yaml, which says itself what else is in use.
    Beside,
}

/// What is in a file.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// A homeserver.yaml, or a part of one.
    Settings(Map),
    Worker(Map),
    /// Variables of matrix-docker-ansible-deploy.
    Playbook(Map),
    Container(Container),
    /// It belongs to the installation, and is read when something names it.
    Other(&'static str),
    Unknown,
}

/// What a container was started with.
#[derive(Clone, Debug, Default)]
pub(super) struct Container {
    pub(super) environment: Vec<(String, String)>,
    /// Directories in it, and what they are outside.
    pub(super) mounts: Vec<(String, String)>,
}

/// Beginnings of the names of a playbook's variables.
const PLAYBOOK: [&str; 8] =
    ["matrix_", "devture_", "postgres_", "traefik_", "exim_relay_", "coturn_", "valkey_", "redis_"];

/// Says what is in a file.
///
/// # Errors
/// It should be YAML by its name or content, and is not.
pub(super) fn content(source: &Source) -> Result<Content, Problem> {
    let text = &source.text;
    if text.starts_with("$ANSIBLE_VAULT") {
        let remedy = "decrypt a copy of it and import that: ansible-vault decrypt --output COPY FILE";
        return Err(Problem::error(0..14, "the file is encrypted by ansible-vault", remedy));
    }
    if text.lines().any(|line| line.trim().starts_with("[matrix_servers")) {
        return Ok(Content::Playbook(inventory(text)));
    }
    if let Some(environment) = assignments(text) {
        return Ok(Content::Container(Container { environment, mounts: Vec::new() }));
    }
    Ok(match yaml::parse(text)? {
        Value::Null => Content::Other("it is empty"),
        Value::Map(map) => of_map(map),
        Value::List(list) => list.iter().find_map(inspected).map_or(Content::Unknown, Content::Container),
        Value::Truth(_)
        | Value::Int(_)
        | Value::Float(_)
        | Value::Text(_)
        | Value::Date(_)
        | Value::Tagged(_) => Content::Unknown,
    })
}

fn of_map(map: Map) -> Content {
    let has = |key: &str| yaml::get(&map, key).is_some();
    if has("as_token") && has("hs_token") {
        return Content::Other(
            "it registers an application service: app_service_config_files names those in use",
        );
    }
    // A playbook writes this into the file of main.
    let of_main = yaml::get(&map, "worker_app").and_then(Value::text) == Some("synapse.app.homeserver");
    if (has("worker_app") || has("worker_name")) && !of_main {
        return Content::Worker(map);
    }
    if has("version") && (has("root") || has("handlers")) {
        return Content::Other("it configures logs: log_config names the one in use");
    }
    let service = yaml::get(&map, "services").and_then(Value::map);
    if let Some(container) =
        service.and_then(|services| services.iter().find_map(|(_, service)| composed(service)))
    {
        return Content::Container(container);
    }
    let settings = map.iter().filter(|(key, _)| settings::type_of(key).is_some()).count();
    let variables = map.iter().filter(|(key, _)| PLAYBOOK.iter().any(|start| key.starts_with(start))).count();
    // `redis` and `matrix_rtc` are settings of Synapse.
    if variables > settings {
        return Content::Playbook(map);
    }
    if settings > 0 {
        return Content::Settings(map);
    }
    Content::Unknown
}

/// `KEY=VALUE` lines, as `docker run --env-file` takes them; none if there is another line.
fn assignments(text: &str) -> Option<Vec<(String, String)>> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let variables: Option<Vec<_>> = lines.map(assignment).collect();
    variables.filter(|variables| !variables.is_empty())
}

fn assignment(line: &str) -> Option<(String, String)> {
    let (name, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
    let name = name.trim();
    let fits = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if name.is_empty() || !fits {
        return None;
    }
    let value = value.trim();
    let quoted = |quote: char| value.strip_prefix(quote)?.strip_suffix(quote);
    Some((name.to_owned(), quoted('"').or(quoted('\'')).unwrap_or(value).to_owned()))
}

fn is_synapses(environment: &[(String, String)]) -> bool {
    environment.iter().any(|(name, _)| name.starts_with("SYNAPSE_"))
}

/// One object of `docker inspect`.
fn inspected(value: &Value) -> Option<Container> {
    let environment = value.at("Config.Env")?.list().iter().filter_map(|entry| assignment(entry.text()?));
    let environment: Vec<_> = environment.collect();
    let mounts = value.at("Mounts").map(Value::list).unwrap_or_default().iter().filter_map(|mount| {
        let text = |key| mount.at(key)?.text().map(str::to_owned);
        Some((text("Destination")?, text("Source")?))
    });
    let mounts: Vec<_> = mounts.collect();
    // Synapse's container may have no variable at all.
    let has_data = mounts.iter().any(|(inside, _)| inside == "/data");
    (is_synapses(&environment) || has_data).then_some(Container { environment, mounts })
}

/// One service of a compose file.
fn composed(service: &Value) -> Option<Container> {
    let text = |value: &Value| match value {
        Value::Text(text) => Some(text.clone()),
        Value::Int(int) => Some(int.to_string()),
        Value::Float(float) => Some(float.to_string()),
        Value::Truth(truth) => Some(truth.to_string()),
        Value::Null | Value::Date(_) | Value::List(_) | Value::Map(_) | Value::Tagged(_) => None,
    };
    let environment: Vec<(String, String)> = match service.at("environment") {
        Some(Value::Map(map)) => {
            map.iter().filter_map(|(name, value)| Some((name.clone(), text(value)?))).collect()
        }
        Some(Value::List(list)) => list.iter().filter_map(|entry| assignment(entry.text()?)).collect(),
        _ => Vec::new(),
    };
    let image = service.at("image").and_then(Value::text).unwrap_or_default();
    if !is_synapses(&environment) && !image.contains("synapse") {
        return None;
    }
    let mount = |volume: &Value| {
        let (outside, inside) = match volume.text() {
            Some(text) => {
                let mut parts = text.split(':');
                (parts.next()?.to_owned(), parts.next()?.to_owned())
            }
            None => (volume.at("source")?.text()?.to_owned(), volume.at("target")?.text()?.to_owned()),
        };
        // A volume's name is no path, and only Docker knows where it lies.
        outside.starts_with('/').then_some((inside, outside))
    };
    let mounts =
        service.at("volumes").map(Value::list).unwrap_or_default().iter().filter_map(mount).collect();
    Some(Container { environment, mounts })
}

/// The variables of an inventory in Ansible's INI format: of its hosts, and of its groups.
fn inventory(text: &str) -> Map {
    let mut map = Map::new();
    let mut of_variables = false;
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';'])) {
        let line = match line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((group, rest)) => {
                of_variables = group.ends_with(":vars");
                rest.trim()
            }
            None => line,
        };
        if of_variables {
            if let Some((name, value)) = assignment(&line.replacen(" =", "=", 1)) {
                yaml::set(&mut map, &name, Value::Text(value));
            }
            continue;
        }
        for (name, value) in line.split_whitespace().filter_map(assignment) {
            yaml::set(&mut map, &name, Value::Text(value));
        }
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> &'static str {
        let source = Source { path: "x".to_owned(), text: text.to_owned(), place: Place::Named };
        match content(&source) {
            Ok(Content::Settings(_)) => "settings",
            Ok(Content::Worker(_)) => "worker",
            Ok(Content::Playbook(_)) => "playbook",
            Ok(Content::Container(_)) => "container",
            Ok(Content::Other(_)) => "other",
            Ok(Content::Unknown) => "unknown",
            Err(_) => "wrong",
        }
    }

    #[test]
    fn files_are_told_by_what_is_in_them() {
        // Mutation: a playbook's worker_app of main taken for a worker's: seen red.
        for (text, expected) in [
            ("server_name: a.b\nredis: {enabled: true}\nmatrix_rtc: {}\n", "settings"),
            ("worker_app: synapse.app.homeserver\nserver_name: a.b\n", "settings"),
            ("worker_name: a\n", "worker"),
            ("matrix_domain: a.b\npostgres_enabled: false\n", "playbook"),
            ("[matrix_servers]\nmatrix.a.b ansible_host=1.2.3.4\n", "playbook"),
            ("# env\nexport SYNAPSE_SERVER_NAME='a.b'\nPOSTGRES_DB=x=y\n", "container"),
            ("[{\"Config\": {\"Env\": [\"SYNAPSE_SERVER_NAME=a.b\"]}}]", "container"),
            ("[{\"Config\": {\"Env\": [\"PGDATA=/x\"]}}]", "unknown"),
            (
                "services: {synapse: {image: 'matrixdotorg/synapse', volumes: ['./data:/data']}}\n",
                "container",
            ),
            ("services: {web: {image: nginx}}\n", "unknown"),
            ("id: x\nas_token: a\nhs_token: b\n", "other"),
            ("version: 1\nroot: {level: INFO}\n", "other"),
            ("# nothing\n", "other"),
            ("la la la\n", "unknown"),
            ("a: 1\n", "unknown"),
            ("$ANSIBLE_VAULT;1.1;AES256\n6162\n", "wrong"),
            ("a: [\n", "wrong"),
        ] {
            assert_eq!(kind(text), expected, "{text}");
        }
    }

    #[test]
    fn an_inventory_has_variables_of_hosts_and_of_groups() {
        let text = "# x\n[matrix_servers]\nmatrix.a.b ansible_host=1.2.3.4 matrix_domain=a.b\n[matrix_servers:vars]\nx = y\n";
        let map = inventory(text);
        let of = |name: &str| yaml::get(&map, name).and_then(Value::text);
        assert_eq!(
            (of("matrix_domain"), of("ansible_host"), of("x")),
            (Some("a.b"), Some("1.2.3.4"), Some("y"))
        );
    }
}
