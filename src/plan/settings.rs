//! What differs between two files of settings, and the files that settings name.

use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;
use toml::Table;
use toml::Value;

/// A file that a setting names, so that its content counts like the setting itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Named {
    /// Names with dots between them, as in `email.template_dir`.
    pub setting: String,
    /// Absolute.
    pub path: PathBuf,
}

/// Endings of the names of settings that hold the path of something to read.
const READ: [&str; 6] = ["_path", "_paths", "_file", "_files", "template_dir", "template_directory"];

/// Lists of files by other names (1.163: `synapse/config/tls.py`, `synapse/config/oembed.py`).
const LISTS: [&str; 2] = ["federation_custom_ca_list", "oembed.additional_providers"];

/// Paths that Synapse writes to.
const WRITTEN: [&str; 4] = ["media_store_path", "backup_media_store_path", "pid_file", "log_file"];

/// Every setting that differs, down to the last name of each, as `email.smtp_host`; a list is one value.
pub(super) fn differing(old: &Table, new: &Table) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    compare("", old, new, &mut found);
    found
}

fn compare(above: &str, old: &Table, new: &Table, found: &mut BTreeSet<String>) {
    let nothing = Table::new();
    for name in old.keys().chain(new.keys().filter(|name| !old.contains_key(*name))) {
        let (before, after) = (old.get(name), new.get(name));
        if before == after {
            continue;
        }
        let path = joined(above, name);
        // A table that one side lacks differs in each of its settings.
        let tables =
            [before, after].map(|value| value.and_then(Value::as_table).filter(|table| !table.is_empty()));
        let plain = |value: Option<&Value>, table: Option<&Table>| value.is_some() && table.is_none();
        if plain(before, tables[0]) || plain(after, tables[1]) {
            found.insert(path);
        } else {
            let [before, after] = tables.map(|table| table.unwrap_or(&nothing));
            compare(&path, before, after, found);
        }
    }
}

fn joined(above: &str, name: &str) -> String {
    if above.is_empty() { name.to_owned() } else { format!("{above}.{name}") }
}

/// The files that settings name, for Synapse or for a module, and that are only read.
pub fn files(settings: &Table) -> BTreeSet<Named> {
    let mut found = BTreeSet::new();
    collect("", settings, &mut found);
    found
}

fn collect(above: &str, settings: &Table, found: &mut BTreeSet<Named>) {
    for (name, value) in settings {
        let setting = joined(above, name);
        let read = READ.iter().any(|end| name.ends_with(end)) || LISTS.contains(&setting.as_str());
        let named = read && !WRITTEN.contains(&name.as_str());
        within(&setting, value, named, found);
    }
}

fn within(setting: &str, value: &Value, named: bool, found: &mut BTreeSet<Named>) {
    match value {
        Value::String(text) if named && Path::new(text).is_absolute() => {
            found.insert(Named { setting: setting.to_owned(), path: PathBuf::from(text) });
        }
        Value::Array(entries) => entries.iter().for_each(|entry| within(setting, entry, named, found)),
        Value::Table(table) => collect(setting, table, found),
        Value::String(_) | Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Table {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn settings_differ_by_their_whole_names() {
        // Mutations, each seen red: a table that is new told as one setting; what is only in the new one left out.
        let old = table("a = 1\nb = [1]\nc = { d = 1, e = 2 }\nf = 1\nt = { u = 1 }");
        let new = table("a = 1\nb = [1, 2]\nc = { d = 1, e = 3 }\ng = { h = { i = 1 } }\nt = 1\nx = {}");
        let found: Vec<String> = differing(&old, &new).into_iter().collect();
        assert_eq!(found, ["b", "c.e", "f", "g.h.i", "t", "x"]);
        assert!(differing(&new, &new).is_empty());
    }

    #[test]
    fn files_to_read_are_found_at_any_depth() {
        // Mutations, each seen red: lists not looked into; WRITTEN ignored; relative paths taken.
        let settings = table(
            "signing_key_path = \"/s\"\napp_service_config_files = [\"/a\", \"/b\"]\nmedia_store_path = \"/m\"
            pid_file = \"/p\"\nfederation_custom_ca_list = [\"/ca\"]\nlog_config = \"/l\"\nform_secret_path = \"relative\"
            instance_map = { main = { path = \"/run/main.sock\" } }
            email = { template_dir = \"/t\" }
            templates = { custom_template_directory = \"/c\" }
            oidc_providers = [{ client_secret_path = \"/o\", client_secret_jwt_key = { key_file = \"/k\" } }]
            modules = [{ module = \"m\", config = { data_dir = \"/d\", rules_file = \"/r\" } }]",
        );
        let found = files(&settings);
        let paths: Vec<&str> = found.iter().map(|named| named.path.to_str().unwrap()).collect();
        assert_eq!(paths.len(), found.len());
        let names: BTreeSet<&str> = found.iter().map(|named| named.setting.as_str()).collect();
        assert!(names.contains("oidc_providers.client_secret_jwt_key.key_file"));
        let mut sorted = paths;
        sorted.sort_unstable();
        assert_eq!(sorted, ["/a", "/b", "/c", "/ca", "/k", "/o", "/r", "/s", "/t"]);
    }
}
