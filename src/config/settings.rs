//! The settings that Synapse knows, as Synapse 1.163 reads them (`synapse/config/*.py`).

use super::nearest::nearest;

/// Name and type of each, a line each; types as in Synapse's `schema/synapse-config.schema.yaml`.
const TABLE: &str = include_str!("settings.tsv");

/// Types for which Synapse takes a value of another one without a word, and does something else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
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
pub(super) fn type_of(name: &str) -> Option<Type> {
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

/// What to do about a setting that Synapse does not know.
pub(super) fn remedy<'a>(name: &str, installed: impl Iterator<Item = &'a str>) -> String {
    if let Some((_, home)) = NESTED.iter().find(|(nested, _)| *nested == name) {
        return format!("it belongs in [synapse.{home}]");
    }
    let mut known: Vec<&str> = names().collect();
    known.extend(installed);
    match nearest(name, known.iter().copied()) {
        Some(nearest) => format!("did you mean \"{nearest}\"?"),
        None => {
            "Synapse ignores what it does not know: remove it, or look its name up in Synapse's documentation"
                .to_owned()
        }
    }
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
}
