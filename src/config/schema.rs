//! The JSON schema of the TOML file, for editors that complete and check it.

use std::path::Path;

use schemars::Schema;
use schemars::json_schema;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::keys;
use super::keys::Form;
use super::keys::Key;
use super::keys::Table;
use super::roles::WorkerKind;
use super::settings;
use super::settings::Type;
use super::synapse;

/// The schema as JSON text, JSON Schema draft 2020-12.
pub fn schema() -> String {
    let mut root = properties(&keys::root());
    for table in [
        keys::workers(),
        keys::database(),
        keys::redis(),
        keys::python(),
        keys::router(),
        keys::secrets(),
        keys::supervisor(),
    ] {
        let name = table.name.trim_matches(['[', ']']).to_owned();
        root.insert(name, object(&table).to_value());
    }
    let listen = json!({ "type": "array", "items": object(&keys::listen()) });
    root.insert("listen".to_owned(), listen);
    let units = json!({
        "type": "object",
        "description": "By name: all, workers, main, a kind of [workers], or a unit of `synvisor status`.",
        "propertyNames": { "pattern": unit_names() },
        "additionalProperties": object(&keys::unit("NAME")),
    });
    root.insert("units".to_owned(), units);
    root.insert("synapse".to_owned(), json!({ "$ref": "#/$defs/settings" }));
    let schema = json_schema!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "synvisor.toml",
        "type": "object",
        "properties": root,
        "required": ["server_name"],
        "additionalProperties": false,
        "$defs": { "settings": of_synapse() },
    });
    format!("{:#}\n", schema.to_value())
}

/// What a `[units.NAME]` may be called.
fn unit_names() -> String {
    let units = WorkerKind::all().map(|kind| kind.unit_name(1));
    let units: Vec<String> = units.map(|unit| unit.trim_end_matches('1').to_owned()).collect();
    let kinds: Vec<&str> = WorkerKind::all().map(|kind| -> &str { kind.key() }).collect();
    format!("^(all|workers|main|{}|({})[1-9][0-9]*)$", kinds.join("|"), units.join("|"))
}

fn object(table: &Table) -> Schema {
    json_schema!({ "type": "object", "properties": properties(table), "additionalProperties": false })
}

fn properties(table: &Table) -> Map<String, Value> {
    table.keys.iter().map(|key| (key.name.to_owned(), property(key))).collect()
}

fn property(key: &Key) -> Value {
    let mut schema = form(&key.form);
    let about = if key.why.is_empty() {
        key.about.to_owned()
    } else {
        format!("{}\nDefault: {}.", key.about, key.why)
    };
    schema.insert("description".to_owned(), about.into());
    let default = key.default.and_then(|text| text.parse::<toml::Value>().ok());
    if let Some(default) = default.and_then(|value| serde_json::to_value(value).ok()) {
        schema.insert("default".to_owned(), default);
    }
    schema.to_value()
}

fn form(form: &Form) -> Schema {
    match form {
        Form::Text(_) | Form::Path | Form::Secret => json_schema!({ "type": "string", "minLength": 1 }),
        Form::Word(words) => json_schema!({ "enum": words }),
        Form::Time(_) => json_schema!({ "type": "string", "pattern": "^[0-9]+ ?(ms|s|m|h)$" }),
        Form::Size => json_schema!({ "anyOf": [
            { "type": "integer", "minimum": 1 },
            { "type": "string", "pattern": "^[0-9]+[KMG]?$" },
        ] }),
        Form::Truth => json_schema!({ "type": "boolean" }),
        Form::Number(bounds, _) => {
            json_schema!({ "type": "integer", "minimum": bounds.start(), "maximum": bounds.end() })
        }
        Form::Networks | Form::Packages => {
            json_schema!({ "type": "array", "items": { "type": "string", "minLength": 1 } })
        }
        Form::Certificates => {
            json_schema!({ "type": "array", "minItems": 1, "items": object(&keys::certificate()) })
        }
        Form::Environment => json_schema!({
            "type": "object",
            "propertyNames": { "pattern": "^[A-Za-z_][A-Za-z0-9_]*$" },
            "additionalProperties": { "type": "string" },
        }),
        Form::Settings => json_schema!({ "$ref": "#/$defs/settings" }),
        Form::Table => json_schema!({ "type": "object" }),
    }
}

/// Synapse's settings by name and type; those that synvisor owns are refused.
fn of_synapse() -> Schema {
    let typed = settings::names().map(|name| {
        let of = match settings::type_of(name) {
            Some(Type::Truth) => json!({ "type": "boolean" }),
            Some(Type::List) => json!({ "type": "array" }),
            Some(Type::Table) => json!({ "type": "object" }),
            Some(Type::Other) | None => json!({}),
        };
        (name.to_owned(), of)
    });
    let mut properties: Map<String, Value> = typed.collect();
    for (name, place) in synapse::all_owned(Path::new("state_dir")) {
        properties.insert(name, json!({ "not": {}, "description": place }));
    }
    json_schema!({
        "type": "object",
        "description": "Any setting of Synapse's homeserver.yaml.",
        "properties": properties,
        "patternProperties": { "^worker_": { "not": {}, "description": "It follows from the counts in [workers]." } },
    })
}
