//! The variables of matrix-docker-ansible-deploy: `mdad.tsv` has a line for each, and `mdad-names.txt` has what else the
//! playbook has ever called a variable of Synapse's.

use crate::config::nearest::nearest;

use super::report::Verdict;
use super::yaml::Value;

const TABLE: &str = include_str!("mdad.tsv");
const NAMES: &str = include_str!("mdad-names.txt");

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) form: &'static str,
    /// A path into Synapse's settings, another variable, or a reason.
    pub(super) about: &'static str,
    /// As YAML.
    pub(super) default: Option<&'static str>,
}

pub(super) fn rows() -> impl Iterator<Item = Row> {
    TABLE.lines().map(|line| {
        let mut cells = line.split('\t');
        let mut next = || cells.next().unwrap_or_default();
        let (name, form, about, default) = (next(), next(), next(), next());
        Row { name, form, about, default: Some(default).filter(|default| !default.is_empty()) }
    })
}

pub(super) fn row(name: &str) -> Option<Row> {
    rows().find(|row| row.name == name)
}

/// The line for all variables that begin so.
fn group(name: &str) -> Option<Row> {
    rows().find(|row| row.name.strip_suffix('*').is_some_and(|start| name.starts_with(start)))
}

/// What became of a variable.
pub(super) enum Told {
    /// It is this setting, whatever becomes of that.
    As(String),
    Of(Verdict, String),
    Already,
}

/// Whether a value says that something is not there.
pub(super) fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Truth(false) => true,
        Value::Text(text) => text.is_empty(),
        Value::List(list) => list.is_empty(),
        Value::Map(map) => map.is_empty(),
        Value::Truth(true) | Value::Int(_) | Value::Float(_) | Value::Date(_) | Value::Tagged(_) => false,
    }
}

/// A variable that has no line of its own.
pub(super) fn unlisted(name: &str, value: &Value) -> Told {
    if name.starts_with("matrix_synapse_") && !NAMES.lines().any(|held| held == name) {
        let all = rows().map(|row| row.name).filter(|name| !name.ends_with('*')).chain(NAMES.lines());
        let meant = nearest(name, all.filter(|held| held.starts_with("matrix_synapse_")));
        let meant = match meant {
            Some(meant) => match row(meant).filter(|row| row.form == "count") {
                Some(row) => {
                    format!("{meant} is what was meant, most likely: write {} into [workers]", row.about)
                }
                None => format!("{meant} is what was meant, most likely"),
            },
            None => "remove it".to_owned(),
        };
        let text = format!(
            "the playbook has never had a variable of this name, and Ansible ignores it without a word, so that it never had \
             an effect; {meant}"
        );
        return Told::Of(Verdict::Left, text);
    }
    match group(name) {
        Some(row) if row.form == "left" && !is_off(value) => Told::Of(Verdict::Left, row.about.to_owned()),
        Some(row) if row.form == "left" => {
            Told::Of(Verdict::Changed, "is off: there is nothing to do".to_owned())
        }
        Some(row) => Told::Of(Verdict::Changed, row.about.to_owned()),
        None => Told::Of(Verdict::Left, "no variable of the playbook that synvisor knows".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::roles::WorkerKind;
    use crate::config::settings;
    use crate::import::yaml;

    #[test]
    fn every_line_of_the_table_means_something() {
        // Mutation: a setting in the table that Synapse does not have: seen red.
        let mut seen = std::collections::BTreeSet::new();
        for line in TABLE.lines() {
            assert!((3..=4).contains(&line.split('\t').count()), "{line}");
        }
        for Row { name, form, about, default } in rows() {
            assert!(seen.insert(name), "{name} twice");
            assert!(!NAMES.lines().any(|held| held == name), "{name} is in both files");
            if let Some(default) = default {
                yaml::parse(default).unwrap();
            }
            match form {
                "set" | "mb" | "merge" | "email" | "notices" | "delayed" => {
                    let setting = about.split('.').next().unwrap();
                    assert!(settings::type_of(setting).is_some(), "{name}: {about}");
                }
                "old" => assert!(row(about).is_some_and(|row| row.form != "old"), "{name}: {about}"),
                "count" => assert!(WorkerKind::all().any(|kind| kind.key() == about), "{name}: {about}"),
                "done" | "left" | "off" => assert!(about.len() > 8, "{name}: {about}"),
                "var" | "level" | "period" | "extension" | "is" | "relay" => assert_eq!(about, "", "{name}"),
                other => panic!("{name}: {other}"),
            }
        }
        assert!(NAMES.lines().is_sorted());
    }
}
