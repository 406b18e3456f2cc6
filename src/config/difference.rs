//! What differs between two configurations, setting by setting, as it is shown to a person.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;
use toml::Table;
use toml::Value;

use super::effective::Effective;
use super::mask;

/// One setting that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// As a person would look for it: `[workers] generic`.
    pub what: String,
    /// What held before; none where nothing did, or where it must not be shown.
    pub old: Option<String>,
    /// What holds now, likewise.
    pub new: Option<String>,
}

impl Difference {
    /// Something that differs and has no value to show.
    pub fn of(what: String) -> Self {
        Self { what, old: None, new: None }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "not set".to_owned());
        match (&self.old, &self.new) {
            (None, None) => write!(f, "{} changed", self.what),
            (old, new) => write!(f, "{} {} → {}", self.what, shown(old), shown(new)),
        }
    }
}

/// What holds for a key: where it stands, and its value.
struct Held {
    table: String,
    key: String,
    value: Value,
}

/// Every setting that holds another value, in the order of the new file; secrets are not shown.
pub fn differences(old: &[Effective], new: &[Effective]) -> Vec<Difference> {
    let (old, new) = (held(old), held(new));
    let same = |one: &Held, other: &Held| one.table == other.table && one.key == other.key;
    let mut found = Vec::new();
    for after in &new {
        let before = old.iter().find(|before| same(before, after)).map(|before| &before.value);
        descend(&after.table, &after.key, &after.key, (before, Some(&after.value)), &mut found);
    }
    for before in old.iter().filter(|before| !new.iter().any(|after| same(before, after))) {
        descend(&before.table, &before.key, &before.key, (Some(&before.value), None), &mut found);
    }
    found
}

/// The keys with their values; one `[[listen]]` is one value under its address, so that another one does not shift it.
fn held(effective: &[Effective]) -> Vec<Held> {
    let mut all: Vec<Held> = Vec::new();
    for Effective { table, key, value, .. } in effective {
        // What does not parse is shown as it is written.
        let value = value.parse::<Value>().unwrap_or_else(|_| Value::String(value.clone()));
        if !table.starts_with("[[") {
            all.push(Held { table: table.clone(), key: key.clone(), value });
        } else if key == "address" {
            let key = value.as_str().unwrap_or_default().to_owned();
            all.push(Held { table: table.clone(), key, value: Value::Table(Table::new()) });
        } else if let Some(Value::Table(entries)) = all.last_mut().map(|held| &mut held.value) {
            entries.insert(key.clone(), value);
        }
    }
    all
}

/// Goes down to the values that differ; `key` is the last name on the way, which says whether it is a secret.
fn descend(
    table: &str,
    path: &str,
    key: &str,
    (old, new): (Option<&Value>, Option<&Value>),
    found: &mut Vec<Difference>,
) {
    if old == new {
        return;
    }
    let tables = [old, new].map(|value| value.and_then(Value::as_table).filter(|table| !table.is_empty()));
    if fits(old, tables[0].is_some()) && fits(new, tables[1].is_some()) {
        let names: BTreeSet<&String> = tables.iter().flatten().flat_map(|table| table.keys()).collect();
        for name in names {
            let [old, new] = tables.map(|table| table.and_then(|table| table.get(name)));
            descend(table, &format!("{path}.{name}"), name, (old, new), found);
        }
        return;
    }
    let arrays = [old, new].map(|value| value.and_then(Value::as_array).filter(|array| of_tables(array)));
    if fits(old, arrays[0].is_some()) && fits(new, arrays[1].is_some()) {
        let length = arrays.iter().flatten().map(|array| array.len()).max().unwrap_or(0);
        for at in 0..length {
            let [old, new] = arrays.map(|array| array.and_then(|array| array.get(at)));
            descend(table, &format!("{path}[{at}]"), key, (old, new), found);
        }
        return;
    }
    let shown = |value: Option<&Value>| {
        value.map(|value| {
            let mut value = value.clone();
            mask::value(key, &mut value);
            value.to_string()
        })
    };
    let what = if table.is_empty() { path.to_owned() } else { format!("{table} {path}") };
    found.push(match (shown(old), shown(new)) {
        // Two secrets look alike.
        (old, new) if old == new => Difference::of(what),
        (old, new) => Difference { what, old, new },
    });
}

/// Whether one side lets us go deeper: it has the form, or is not there.
fn fits(value: Option<&Value>, has_form: bool) -> bool {
    value.is_none() || has_form
}

fn of_tables(array: &[Value]) -> bool {
    !array.is_empty() && array.iter().all(Value::is_table)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    fn between(old: &str, new: &str) -> Vec<String> {
        let of = |text: &str| {
            let text = format!("server_name = \"a.b\"\n{text}");
            Config::parse(&text, Path::new("/etc/synvisor")).unwrap().effective
        };
        let shown = |side: Option<String>| side.unwrap_or_else(|| "none".to_owned());
        let row = |found: Difference| format!("{}: {}, {}", found.what, shown(found.old), shown(found.new));
        differences(&of(old), &of(new)).into_iter().map(row).collect()
    }

    #[test]
    fn only_what_differs_is_told_and_no_secret() {
        // Mutations, each seen red: `descend` without `mask::value`; texts compared in place of values; the second loop
        // of `differences` left out.
        assert_eq!(between("", "# nothing"), [""; 0]);
        let (old, new) = ("[workers]\ngeneric = 2", "[workers]\ngeneric = 0x3 # more");
        assert_eq!(between(old, new), ["[workers] generic: 2, 0x3".replace("0x3", "3")]);
        assert_eq!(
            between(
                "[synapse]\nauto_join_rooms = [\"#a:b\"]",
                "[synapse]\nauto_join_rooms = [ # one\n\"#a:b\"]"
            ),
            [""; 0]
        );
        let mail = |pass| format!("[synapse.email]\nsmtp_pass = \"{pass}\"\nsmtp_host = \"h\"");
        assert_eq!(between(&mail("one"), &mail("two")), ["[synapse] email.smtp_pass: none, none"]);
        assert_eq!(
            between("", &mail("one")),
            ["[synapse] email.smtp_host: none, \"h\"", "[synapse] email.smtp_pass: none, \"…\""]
        );
        assert_eq!(
            between(&mail("one"), ""),
            ["[synapse] email.smtp_host: \"h\", none", "[synapse] email.smtp_pass: \"…\", none"]
        );
        let token =
            |value| format!("[units.all]\nenvironment = {{ SENTRY_TOKEN = \"{value}\", LANG = \"C\" }}");
        assert_eq!(
            between(&token("one"), &token("two")),
            ["[units.all] environment.SENTRY_TOKEN: none, none"]
        );
    }

    #[test]
    fn one_of_several_tables_is_told_by_its_place_and_a_listener_by_its_address() {
        // Mutation: every [[listen]] under the same key: seen red.
        let provider = |id| format!("[[synapse.oidc_providers]]\nidp_id = \"{id}\"\nscopes = [\"openid\"]\n");
        let one = provider("a");
        assert_eq!(
            between(&one, &(one.clone() + &provider("b"))),
            [
                "[synapse] oidc_providers[1].idp_id: none, \"b\"",
                "[synapse] oidc_providers[1].scopes: none, [\"openid\"]"
            ]
        );
        let listen = |address, admin| format!("[[listen]]\naddress = \"{address}\"\nadmin = {admin}\n");
        let (old, new) = (listen("127.0.0.1:8008", false), listen("127.0.0.1:9000", true));
        assert_eq!(
            between(&old, &(new + &listen("127.0.0.1:8008", true))),
            [
                "[[listen]] 127.0.0.1:9000.admin: none, true",
                "[[listen]] 127.0.0.1:9000.metrics: none, false",
                "[[listen]] 127.0.0.1:9000.proxy_protocol: none, false",
                "[[listen]] 127.0.0.1:8008.admin: false, true",
            ]
        );
    }
}
