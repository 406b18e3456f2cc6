//! From a TOML value to what a key wants, or to what is wrong with it and how to write it instead.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::IpAddr;

use ipnet::IpNet;
use toml::de::DeValue;

use super::check;
use super::check::Wrong;
use super::keys::Form;
use super::keys::Key;
use super::nearest::suggestion;

// What a key wants, as a person says it.
const STRING: &str = "a string";
const TIME: &str = "a span of time";
const SIZE: &str = "a size";
const TRUTH: &str = "true or false";
const LIST: &str = "a list of strings";
const NUMBER: &str = "a whole number";
pub(super) const TABLE: &str = "a table";
pub(super) const TABLES: &str = "an array of tables";

/// A string that is not empty: no key of ours means anything when it is.
pub(super) fn filled<'v>(key: &Key, value: &'v DeValue<'_>) -> Result<&'v str, Wrong> {
    match string(key, STRING, value)? {
        "" => Err(Wrong::new("must not be empty", "write a value, or remove the line")),
        text => Ok(text),
    }
}

fn string<'v>(key: &Key, wanted: &str, value: &'v DeValue<'_>) -> Result<&'v str, Wrong> {
    value.as_str().ok_or_else(|| not(key.name, wanted, value))
}

pub(super) fn text(key: &Key, value: &DeValue<'_>) -> Result<String, Wrong> {
    let text = filled(key, value)?;
    match &key.form {
        Form::Text(check) => check(text),
        Form::Word(words) if words.contains(&text) => Ok(text.to_owned()),
        Form::Word(words) => {
            let remedy = suggestion(text, words.iter().copied());
            Err(Wrong::new(format!("\"{text}\" does not exist"), remedy))
        }
        Form::Path
        | Form::Secret
        | Form::Time(_)
        | Form::Size
        | Form::Truth
        | Form::Number(..)
        | Form::Networks
        | Form::Packages
        | Form::Certificates
        | Form::Environment
        | Form::Settings
        | Form::Table => unreachable!("{} is no text", key.name),
    }
}

pub(super) fn truth(key: &Key, value: &DeValue<'_>) -> Result<bool, Wrong> {
    value.as_bool().ok_or_else(|| not(key.name, TRUTH, value))
}

pub(super) fn number(key: &Key, value: &DeValue<'_>) -> Result<u16, Wrong> {
    let Form::Number(bounds, why) = &key.form else { unreachable!("{} is {:?}", key.name, key.form) };
    let integer = value.as_integer().ok_or_else(|| not(key.name, NUMBER, value))?;
    let number = i64::from_str_radix(integer.as_str(), integer.radix()).ok();
    let number =
        number.filter(|number| bounds.contains(number)).and_then(|number| u16::try_from(number).ok());
    number.ok_or_else(|| {
        let (least, most) = (bounds.start(), bounds.end());
        Wrong::new(format!("must be between {least} and {most}, not {integer}"), *why)
    })
}

pub(super) fn time(key: &Key, value: &DeValue<'_>) -> Result<u64, Wrong> {
    let Form::Time(bounds) = &key.form else { unreachable!("{} is {:?}", key.name, key.form) };
    match string(key, TIME, value)? {
        "" => Err(Wrong::new("must not be empty", "write a value, or remove the line")),
        text => check::duration(text, bounds),
    }
}

pub(super) fn size(key: &Key, value: &DeValue<'_>) -> Result<u64, Wrong> {
    if let Some(integer) = value.as_integer() {
        return check::size(integer.as_str());
    }
    check::size(string(key, SIZE, value)?)
}

/// Networks, or addresses, which are networks of one.
pub(super) fn networks(key: &Key, value: &DeValue<'_>) -> Result<Vec<IpNet>, Wrong> {
    let array = value.as_array().ok_or_else(|| not(key.name, LIST, value))?;
    let network = |entry: &DeValue<'_>| {
        let text = string(key, LIST, entry)?;
        let alone = || text.parse::<IpAddr>().ok().map(IpNet::from);
        text.parse::<IpNet>().ok().or_else(alone).ok_or_else(|| {
            let remedy = "write networks or addresses, like \"10.0.0.0/8\" or \"2001:db8::7\"";
            Wrong::new(format!("holds {text:?}, which is no network"), remedy)
        })
    };
    array.iter().map(|entry| network(entry.get_ref())).collect()
}

/// Packages as pip takes them: no option, and nothing that is installed from elsewhere than it says.
pub(super) fn packages(key: &Key, value: &DeValue<'_>) -> Result<Vec<String>, Wrong> {
    let array = value.as_array().ok_or_else(|| not(key.name, LIST, value))?;
    let package = |entry: &DeValue<'_>| {
        let text = string(key, LIST, entry)?.trim();
        let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if begins && !text.contains(char::is_control) {
            return Ok(text.to_owned());
        }
        let remedy =
            "write a package and if need be its version, like \"synapse-s3-storage-provider==1.7.0\"";
        Err(Wrong::new(format!("holds {text:?}, which is no package"), remedy))
    };
    array.iter().map(|entry| package(entry.get_ref())).collect()
}

/// Names and values of environment variables.
pub(super) fn environment(key: &Key, value: &DeValue<'_>) -> Result<BTreeMap<String, String>, Wrong> {
    let table = value.as_table().ok_or_else(|| not(key.name, TABLE, value))?;
    let mut variables = BTreeMap::new();
    for (name, value) in table {
        let name: &str = name.get_ref();
        check::variable(name)?;
        let text = value.get_ref().as_str().filter(|text| !text.contains('\0')).ok_or_else(|| {
            let remedy = format!("write it in quotes: {} = {{ {name} = \"…\" }}", key.name);
            Wrong::new(format!("holds {name}, which must be a string"), remedy)
        })?;
        variables.insert(name.to_owned(), text.to_owned());
    }
    Ok(variables)
}

/// A value's type as a person says it.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => STRING,
        DeValue::Integer(_) => NUMBER,
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => TRUTH,
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => TABLE,
    }
}

/// A value of another type than wanted.
pub(super) fn not(key: &str, wanted: &str, value: &DeValue<'_>) -> Wrong {
    Wrong::new(format!("must be {wanted}, not {}", kind(value)), rewriting(key, wanted, value))
}

/// How to write what is wanted; where quotes or brackets are all that is wrong, with the value that is there.
fn rewriting(key: &str, wanted: &str, value: &DeValue<'_>) -> String {
    let quoted = |value: &dyn Display| format!("write it in quotes: {key} = \"{value}\"");
    let number = |text: &str| text.parse::<i64>().is_ok();
    let truth = |text: &str| ["true", "false"].contains(&text);
    match (wanted, value) {
        (STRING, DeValue::Integer(value)) => quoted(value),
        (STRING, DeValue::Float(value)) => quoted(value),
        (STRING, DeValue::Datetime(value)) => quoted(value),
        (STRING, _) => format!("write it like {key} = \"…\""),
        (NUMBER, DeValue::String(text)) if number(text) => format!("write it without quotes: {key} = {text}"),
        (NUMBER, _) => format!("write it like {key} = 2"),
        (TRUTH, DeValue::String(text)) if truth(text) => format!("write it without quotes: {key} = {text}"),
        (TRUTH, _) => format!("write {key} = true or {key} = false"),
        (TABLE, _) => format!("write it like {key} = {{ NAME = \"…\" }}"),
        (LIST, DeValue::String(text)) => format!("write it in brackets: {key} = [\"{text}\"]"),
        (LIST, _) => format!("write it in brackets: {key} = [\"…\"]"),
        (SIZE, _) => format!("write it like {key} = \"1G\""),
        (_, _) => format!("write it like {key} = \"30s\""),
    }
}
