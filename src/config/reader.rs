//! Reads a TOML table key by key, gathers every mistake, and knows at the end which keys nobody asked for.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::Range;
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::DeTable;
use toml::de::DeValue;

use super::check;
use super::check::Wrong;
use super::nearest::suggestion;
use super::problem::Problem;

// What a key wants, as a person says it.
const STRING: &str = "a string";
const TIME: &str = "a span of time";
const TRUTH: &str = "true or false";
const NUMBER: &str = "a whole number";
const TABLE: &str = "a table";
const TABLES: &str = "an array of tables";

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Found<T> {
    pub(super) value: T,
    pub(super) place: Range<usize>,
}

/// One table of the file.
pub(super) struct Reader<'a, 'i> {
    /// As it is written in the file, `[workers]`; empty for the keys above the first table.
    name: &'static str,
    table: Option<&'a DeTable<'i>>,
    place: Range<usize>,
    asked: BTreeSet<&'static str>,
}

impl<'a, 'i> Reader<'a, 'i> {
    /// The keys above the first table, and the tables themselves.
    pub(super) fn root(table: &'a DeTable<'i>) -> Self {
        Self { name: "", table: Some(table), place: 0..0, asked: BTreeSet::new() }
    }

    /// Where a key is, or else the table.
    pub(super) fn place(&self, key: &str) -> Range<usize> {
        self.entry(key).map_or_else(|| self.place.clone(), |(place, _)| place)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    fn entry(&self, key: &str) -> Option<(Range<usize>, &'a Spanned<DeValue<'i>>)> {
        let found = self.table?.iter().find(|(held, _)| held.get_ref() == key);
        found.map(|(held, value)| (held.span(), value))
    }

    fn get<T>(
        &mut self,
        key: &'static str,
        wanted: &str,
        problems: &mut Vec<Problem>,
        read: impl FnOnce(&'a DeValue<'i>) -> Option<T>,
    ) -> Option<Found<T>> {
        self.asked.insert(key);
        let (_, value) = self.entry(key)?;
        let found = read(value.get_ref());
        if found.is_none() {
            let what = format!("{key} must be {wanted}, not {}", kind(value.get_ref()));
            problems.push(Problem::error(value.span(), what, rewriting(key, wanted, value.get_ref())));
        }
        found.map(|found| Found { value: found, place: value.span() })
    }

    /// A string that is not empty: no key of ours means anything when it is.
    pub(super) fn string(&mut self, key: &'static str, problems: &mut Vec<Problem>) -> Option<Found<String>> {
        self.checked(key, problems, |text| Ok(text.to_owned()))
    }

    /// A string that passes a check; one that does not is a problem at its place.
    pub(super) fn checked<T>(
        &mut self,
        key: &'static str,
        problems: &mut Vec<Problem>,
        check: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<Found<T>> {
        self.described(key, STRING, problems, check)
    }

    /// Milliseconds.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        bounds: &RangeInclusive<u64>,
        problems: &mut Vec<Problem>,
    ) -> Option<Found<u64>> {
        self.described(key, TIME, problems, |text| check::duration(text, bounds))
    }

    fn described<T>(
        &mut self,
        key: &'static str,
        wanted: &str,
        problems: &mut Vec<Problem>,
        check: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<Found<T>> {
        let Found { value, place } = self.get(key, wanted, problems, DeValue::as_str)?;
        let checked = match value {
            "" => Err(Wrong::new("must not be empty", "write a value, or remove the line")),
            text => check(text),
        };
        match checked {
            Ok(value) => Some(Found { value, place }),
            Err(wrong) => {
                problems.push(Problem::error(place, format!("{key} {}", wrong.what), wrong.remedy));
                None
            }
        }
    }

    pub(super) fn boolean(&mut self, key: &'static str, problems: &mut Vec<Problem>) -> Option<Found<bool>> {
        self.get(key, TRUTH, problems, DeValue::as_bool)
    }

    /// An integer within bounds; `why` says why there are bounds.
    pub(super) fn number(
        &mut self,
        key: &'static str,
        bounds: &RangeInclusive<u16>,
        why: &str,
        problems: &mut Vec<Problem>,
    ) -> Option<Found<u16>> {
        let found = self.get(key, NUMBER, problems, DeValue::as_integer)?;
        let integer = found.value;
        let value = u16::from_str_radix(integer.as_str(), integer.radix()).ok();
        if let Some(value) = value.filter(|value| bounds.contains(value)) {
            return Some(Found { value, place: found.place });
        }
        let (least, most) = (bounds.start(), bounds.end());
        let what = format!("{key} must be between {least} and {most}, not {integer}");
        problems.push(Problem::error(found.place, what, why));
        None
    }

    /// A table within this one; an absent one reads as empty.
    pub(super) fn table(
        &mut self,
        key: &'static str,
        name: &'static str,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let found = self.get(key, TABLE, problems, DeValue::as_table);
        let place = self.place(key);
        Reader { name, table: found.map(|found| found.value), place, asked: BTreeSet::new() }
    }

    /// An array of tables; none where the key is absent.
    pub(super) fn tables(
        &mut self,
        key: &'static str,
        name: &'static str,
        problems: &mut Vec<Problem>,
    ) -> Option<Vec<Self>> {
        let found = self.get(key, TABLES, problems, DeValue::as_array)?;
        let mut readers = Vec::new();
        for entry in found.value.iter() {
            match entry.get_ref().as_table() {
                Some(table) => readers.push(Reader {
                    name,
                    table: Some(table),
                    place: entry.span(),
                    asked: BTreeSet::new(),
                }),
                None => {
                    let what = format!("an entry of {key} must be a table, not {}", kind(entry.get_ref()));
                    let remedy = format!("write {name} and its keys below it");
                    problems.push(Problem::error(entry.span(), what, remedy));
                }
            }
        }
        Some(readers)
    }

    /// Every key and value, whatever it is called.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'a Spanned<Cow<'i, str>>, &'a Spanned<DeValue<'i>>)> {
        self.table.into_iter().flat_map(|table| table.iter())
    }

    fn unknown(&self) -> impl Iterator<Item = &'a Spanned<Cow<'i, str>>> {
        self.all().map(|(key, _)| key).filter(|key| !self.asked.contains(key.get_ref().as_ref()))
    }
}

/// Reports the keys that nobody asked for in any of the tables.
pub(super) fn report_unknown(tables: &[Reader<'_, '_>], problems: &mut Vec<Problem>) {
    for table in tables {
        for key in table.unknown() {
            let name: &str = key.get_ref();
            let what = match table.name {
                "" => format!("unknown key {name}"),
                within => format!("unknown key {name} in {within}"),
            };
            let home = tables.iter().find(|other| other.asked.contains(name));
            let remedy = match home.map(|home| home.name) {
                Some("") => "it belongs at the top of the file, above the first [table]".to_owned(),
                Some(home) => format!("it belongs in {home}"),
                None => {
                    let suggestion = suggestion(name, table.asked.iter().copied());
                    let of_synapse = "a setting of homeserver.yaml belongs in [synapse]";
                    let top = table.name.is_empty() && suggestion.starts_with("allowed");
                    if top { format!("{suggestion}\n{of_synapse}") } else { suggestion }
                }
            };
            problems.push(Problem::error(key.span(), what, remedy));
        }
    }
}

/// A value's type as a person says it.
fn kind(value: &DeValue<'_>) -> &'static str {
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
        (TABLE, _) => format!("write [{key}] on a line of its own and its keys below it"),
        (TABLES, _) => {
            format!("write [[{key}]], with two brackets, on a line of its own and its keys below it")
        }
        (_, _) => format!("write it like {key} = \"30s\""),
    }
}
