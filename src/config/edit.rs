//! Sets keys in the text of the TOML file and leaves everything else as its author wrote it.

use toml_edit::DocumentMut;
use toml_edit::Item;
use toml_edit::Table;
use toml_edit::TableLike;

/// The text with a key of a table set, of the one above all tables where `table` is empty; it is made where there is none.
///
/// # Errors
/// The text is not TOML, or what has the table's name is none.
pub fn set(text: &str, table: &str, key: &str, value: &str) -> Result<String, String> {
    let mut document: DocumentMut = text.parse().map_err(|error| format!("{error}"))?;
    let held: &mut dyn TableLike = if table.is_empty() {
        document.as_table_mut()
    } else {
        let held = document.entry(table).or_insert_with(|| Item::Table(Table::new()));
        held.as_table_like_mut().ok_or_else(|| format!("{table} is not a table"))?
    };
    match held.get_mut(key).and_then(Item::as_value_mut) {
        Some(old) => {
            // What stands beside it is about the key.
            let decor = old.decor().clone();
            *old = value.into();
            *old.decor_mut() = decor;
        }
        None => {
            held.insert(key, toml_edit::value(value));
        }
    }
    Ok(document.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_changes_and_nothing_else() {
        // Mutation: the decor not kept: seen red.
        let text = "# ours\nserver_name = \"a.b\" # for ever\n\n[python] # here\nsynapse = \"1\"   # the one\n# end\n";
        assert_eq!(set(text, "python", "synapse", "2").unwrap(), text.replace("\"1\"", "\"2\""));
        assert_eq!(
            set("a = 1\npython = { synapse = \"1\" }\n", "python", "synapse", "2").unwrap().lines().count(),
            2
        );
    }

    #[test]
    fn a_table_that_has_not_the_key_gets_it_and_a_missing_one_is_made() {
        let text = "server_name = \"a.b\"\n\n[python]\n# The virtualenv.\n#venv = \"/v\"\n\n[[listen]]\naddress = \"127.0.0.1:1\"\n";
        let edited = set(text, "python", "synapse", "2").unwrap();
        assert_eq!(edited, text.replace("[python]\n", "[python]\nsynapse = \"2\"\n"));
        assert_eq!(set("a = 1\n", "python", "synapse", "2").unwrap(), "a = 1\n\n[python]\nsynapse = \"2\"\n");
        assert!(set("python = 1", "python", "synapse", "2").is_err());
        assert!(set("python =", "python", "synapse", "2").is_err());
    }
}
