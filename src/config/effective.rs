//! What holds, key by key, and where each value is from: `config show`.

use std::ops::Range;

use serde::Serialize;
use toml::Value;

use super::mask;

/// Where a value is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It stands in the file, at these bytes.
    At(Range<usize>),
    /// Nothing was said; this is why it is so.
    Default(&'static str),
    /// The preset of this name.
    Preset(&'static str),
    /// It follows from another key.
    From(&'static str),
}

/// One key and what holds for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effective {
    /// As it is written in the file, `[workers]`; empty for the keys above the first table.
    pub table: String,
    pub key: String,
    /// As TOML; secrets are masked when it is shown.
    pub value: String,
    pub origin: Origin,
}

#[derive(Serialize)]
struct Row<'a> {
    table: &'a str,
    key: &'a str,
    value: String,
    origin: String,
}

/// Values stand in this many columns before their origin does, if they fit.
const COLUMN: usize = 44;

/// The configuration as TOML, each key with its origin.
pub fn print(effective: &[Effective], text: &str) -> String {
    let mut printed = String::new();
    let mut table = "";
    for held in effective {
        // Each [[listen]] is a table of its own, which begins with its first key.
        let another = held.table.starts_with("[[") && held.key == "address";
        if held.table != table || another {
            printed.push_str(&format!("\n{}\n", held.table));
            table = &held.table;
        }
        let line = format!("{} = {}", key(&held.key), masked(&held.key, &held.value));
        printed.push_str(&format!("{line:COLUMN$}  # {}\n", origin(&held.origin, text)));
    }
    printed
}

/// The configuration as a list of keys, for programs.
pub fn json(effective: &[Effective], text: &str) -> String {
    let row = |held: &'_ Effective| {
        serde_json::to_value(Row {
            table: held.table.trim_matches(['[', ']']),
            key: &held.key,
            value: masked(&held.key, &held.value),
            origin: origin(&held.origin, text),
        })
    };
    let rows: Result<Vec<_>, _> = effective.iter().map(row).collect();
    rows.map_or_else(|error| error.to_string(), |rows| format!("{:#}", serde_json::Value::Array(rows)))
}

fn origin(origin: &Origin, text: &str) -> String {
    match origin {
        Origin::At(place) => {
            let line = text.get(..place.start).map_or(0, |before| before.matches('\n').count()) + 1;
            format!("line {line}")
        }
        Origin::Default(why) => format!("default: {why}"),
        Origin::Preset(name) => format!("preset {name}"),
        Origin::From(what) => format!("default: {what}"),
    }
}

/// A key as TOML writes it.
fn key(name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    if bare { name.to_owned() } else { Value::String(name.to_owned()).to_string() }
}

/// A value on one line, with `…` for each secret in it.
fn masked(name: &str, value: &str) -> String {
    // What does not parse was shown by its key's form and is no table.
    let Ok(mut parsed) = value.parse::<Value>() else { return value.to_owned() };
    mask::value(name, &mut parsed);
    parsed.to_string()
}
