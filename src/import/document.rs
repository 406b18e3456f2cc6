//! The TOML file that an import writes.

use std::collections::BTreeMap;

use toml::Table;
use toml::Value;
use toml_edit::DocumentMut;

use crate::config::synapse::SECRET_FILE;

/// The tables of the file, as they will stand in it.
#[derive(Clone, Debug, Default)]
pub(super) struct Document {
    pub(super) root: Table,
    pub(super) workers: Table,
    /// By scope: `all`, `main`, a unit.
    pub(super) units: BTreeMap<String, Table>,
    pub(super) database: Table,
    pub(super) redis: Table,
    pub(super) listen: Vec<Table>,
    pub(super) secrets: Table,
    pub(super) synapse: Table,
}

impl Document {
    /// The table of a scope in `[units]`.
    pub(super) fn unit(&mut self, scope: &str) -> &mut Table {
        self.units.entry(scope.to_owned()).or_default()
    }

    /// The text, in the order in which people read it.
    pub(super) fn print(&self, head: &str) -> String {
        let mut text = String::new();
        text.extend(head.lines().map(|line| format!("# {line}\n")));
        text.push_str(&written(&self.root));
        let named = |name: &str, value: Value| Table::from_iter([(name.to_owned(), value)]);
        let units = self.units.iter().filter(|(_, unit)| !unit.is_empty());
        let units: Table = units.map(|(name, unit)| (name.clone(), Value::Table(unit.clone()))).collect();
        let listen: Vec<Value> = self.listen.iter().cloned().map(Value::Table).collect();
        let tables = [
            ("workers", &self.workers),
            ("units", &units),
            ("database", &self.database),
            ("redis", &self.redis),
            ("secrets", &self.secrets),
            ("synapse", &self.synapse),
        ];
        for (name, table) in tables {
            if !table.is_empty() {
                text.push('\n');
                text.push_str(&written(&named(name, Value::Table(table.clone()))));
            }
            if name == "redis" && !listen.is_empty() {
                text.push('\n');
                text.push_str(&written(&named("listen", Value::Array(listen.clone()))));
            }
        }
        text
    }
}

/// References to secrets on the line of their key.
fn inline(table: &mut toml_edit::Table) {
    for (mut key, item) in table.iter_mut() {
        let refers = item.as_table().is_some_and(|table| table.len() == 1 && table.contains_key(SECRET_FILE));
        if refers {
            item.make_value();
            // Else it is written as it stood in its header.
            key.fmt();
            continue;
        }
        if let Some(table) = item.as_table_mut() {
            inline(table);
        }
        if let Some(tables) = item.as_array_of_tables_mut() {
            tables.iter_mut().for_each(inline);
        }
    }
}

fn written(table: &Table) -> String {
    let text = toml::to_string_pretty(table).map_err(|error| error.to_string());
    let document = text.and_then(|text| text.parse::<DocumentMut>().map_err(|error| error.to_string()));
    let mut document =
        document.unwrap_or_else(|error| unreachable!("a table of TOML values has a form in TOML: {error}"));
    inline(document.as_table_mut());
    document.to_string()
}
