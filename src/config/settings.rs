//! The settings that Synapse knows, as Synapse 1.163 reads them (`synapse/config/*.py`).

use std::collections::BTreeSet;

use super::nearest::nearest;

/// Name and type of each, a line each; types as in Synapse's `schema/synapse-config.schema.yaml`.
const TABLE: &str = include_str!("settings.tsv");

/// Types for which Synapse takes a value of another one without a word, and does something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    /// A string is true, "false" among them.
    Truth,
    /// A string is a list of its letters.
    List,
    Table,
    Other,
}

fn rows() -> impl Iterator<Item = (&'static str, Type)> {
    TABLE.lines().filter_map(|line| {
        let (name, of) = line.split_once('\t')?;
        let of = match of {
            "truth" => Type::Truth,
            "list" => Type::List,
            "table" => Type::Table,
            _ => Type::Other,
        };
        Some((name, of))
    })
}

/// Every setting.
pub fn names() -> impl Iterator<Item = &'static str> {
    rows().map(|(name, _)| name)
}

/// The type of a setting; none if Synapse has no such setting.
pub(crate) fn type_of(name: &str) -> Option<Type> {
    rows().find(|(held, _)| *held == name).map(|(_, of)| of)
}

/// Settings of which many are written into a wrong place: below which one they belong.
const NESTED: [(&str, &str); 16] = [
    ("smtp_host", "email"),
    ("smtp_port", "email"),
    ("smtp_user", "email"),
    ("smtp_pass", "email"),
    ("notif_from", "email"),
    ("require_transport_security", "email"),
    ("client_base_url", "email"),
    ("global_factor", "caches"),
    ("per_cache_factors", "caches"),
    ("sync_response_cache_duration", "caches"),
    ("expire_caches", "caches"),
    ("password_policy", "password_config.policy"),
    ("search_all_users", "user_directory"),
    ("prefer_local_users", "user_directory"),
    ("default_policy", "retention"),
    ("endpoint", "matrix_authentication_service"),
];

/// What to do about a setting that the installed Synapse does not know, or that 1.163 does not where none is; none if it
/// does.
pub(super) fn unknown(name: &str, installed: Option<&BTreeSet<String>>) -> Option<String> {
    let known: Vec<&str> = installed
        .map_or_else(|| names().collect(), |installed| installed.iter().map(String::as_str).collect());
    if known.contains(&name) {
        return None;
    }
    if let Some((_, home)) = NESTED.iter().find(|(nested, _)| *nested == name) {
        return Some(format!("it belongs in [synapse.{home}]"));
    }
    if type_of(name).is_some() {
        return Some(
            "the installed Synapse is of another version: remove it, or install one that has it".to_owned(),
        );
    }
    Some(match nearest(name, known) {
        Some(nearest) => format!("did you mean \"{nearest}\"?"),
        None => {
            "Synapse ignores what it does not know: remove it, or look its name up in Synapse's documentation"
                .to_owned()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_each_line_is_read() {
        let names: Vec<&str> = names().collect();
        assert_eq!(names.len(), TABLE.lines().count());
        assert!(names.is_sorted());
        assert_eq!(type_of("enable_registration"), Some(Type::Truth));
        assert_eq!(type_of("auto_join_rooms"), Some(Type::List));
        assert_eq!(type_of("email"), Some(Type::Table));
        assert_eq!(type_of("max_upload_size"), Some(Type::Other));
        assert_eq!(type_of("max_uplaod_size"), None);
    }

    #[test]
    fn the_installed_synapse_decides_what_is_known() {
        // Mutations, each seen red: `names` asked though there is an installed one; both asked.
        let installed = ["brand_new", "modules"].map(str::to_owned).into();
        assert_eq!(unknown("brand_new", Some(&installed)), None);
        assert!(unknown("brand_new", None).is_some());
        assert_eq!(unknown("brand_mew", Some(&installed)).as_deref(), Some("did you mean \"brand_new\"?"));
        assert!(unknown("turn_uris", Some(&installed)).unwrap().contains("another version"));
        assert!(!unknown("max_uplaod_size", Some(&installed)).unwrap().contains("max_upload_size"));
        assert_eq!(unknown("max_uplaod_size", None).as_deref(), Some("did you mean \"max_upload_size\"?"));
    }
}
