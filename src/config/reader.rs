//! Reads a TOML table key by key, gathers every mistake, and knows at the end which keys nobody asked for.

use std::collections::BTreeSet;
use std::ops::Range;
use std::ops::RangeInclusive;

use toml::Spanned;
use toml::de::DeTable;
use toml::de::DeValue;

use super::problem::Problem;
use super::problem::nearest;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Found<T> {
    pub(super) value: T,
    pub(super) place: Range<usize>,
}

/// One table of the file.
pub(super) struct Reader<'a, 'i> {
    /// As it is written in the file: `[workers]`.
    name: &'static str,
    table: Option<&'a DeTable<'i>>,
    place: Range<usize>,
    asked: BTreeSet<&'static str>,
}

impl<'a, 'i> Reader<'a, 'i> {
    pub(super) fn new(name: &'static str, table: &'a DeTable<'i>, place: Range<usize>) -> Self {
        Self { name, table: Some(table), place, asked: BTreeSet::new() }
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
        remedy: &str,
        problems: &mut Vec<Problem>,
        read: impl FnOnce(&'a DeValue<'i>) -> Option<T>,
    ) -> Option<Found<T>> {
        self.asked.insert(key);
        let (_, value) = self.entry(key)?;
        let found = read(value.get_ref());
        if found.is_none() {
            let what = format!("{key} must be {wanted}, not {}", kind(value.get_ref()));
            problems.push(Problem::error(value.span(), what, remedy));
        }
        found.map(|found| Found { value: found, place: value.span() })
    }

    pub(super) fn string(&mut self, key: &'static str, problems: &mut Vec<Problem>) -> Option<Found<String>> {
        let remedy = format!("write it in double quotes: {key} = \"…\"");
        self.get(key, "a string", &remedy, problems, |value| value.as_str().map(str::to_owned))
    }

    pub(super) fn boolean(&mut self, key: &'static str, problems: &mut Vec<Problem>) -> Option<Found<bool>> {
        self.get(key, "true or false", "write it without quotes", problems, DeValue::as_bool)
    }

    /// An integer within a range; `why` says where the range comes from.
    pub(super) fn number(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u16>,
        why: &str,
        problems: &mut Vec<Problem>,
    ) -> Option<Found<u16>> {
        let remedy = format!("write it without quotes: {key} = {}", range.end().min(&2));
        let found = self.get(key, "a whole number", &remedy, problems, DeValue::as_integer)?;
        let (text, radix) = (found.value.as_str(), found.value.radix());
        let value = u16::from_str_radix(text, radix).ok().filter(|value| range.contains(value));
        if value.is_none() {
            let what = format!("{key} must be between {} and {}, not {text}", range.start(), range.end());
            let remedy = if why.is_empty() { "write a number within that range" } else { why };
            problems.push(Problem::error(found.place.clone(), what, remedy));
        }
        value.map(|value| Found { value, place: found.place })
    }

    /// Milliseconds of `"500ms"`, `"30s"`, `"5m"` or `"1h"`.
    pub(super) fn duration(&mut self, key: &'static str, problems: &mut Vec<Problem>) -> Option<u64> {
        let found = self.string(key, problems)?;
        let text = found.value.trim();
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic() || c == ' ');
        let factor = match text[digits.len()..].trim() {
            "ms" => Some(1),
            "s" => Some(1_000),
            "m" => Some(60_000),
            "h" => Some(3_600_000),
            _ => None,
        };
        let millis =
            digits.parse::<u64>().ok().zip(factor).and_then(|(count, factor)| count.checked_mul(factor));
        if millis.is_none() {
            let what = format!("{key} is not a span of time: {:?}", found.value);
            problems.push(Problem::error(
                found.place,
                what,
                "write a number and its unit, like \"500ms\", \"30s\", \"5m\" or \"1h\"",
            ));
        }
        millis
    }

    /// A table within this one; an absent one reads as empty.
    pub(super) fn table(
        &mut self,
        key: &'static str,
        name: &'static str,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let remedy = format!("write {name} on a line of its own and the keys below it");
        let found = self.get(key, "a table", &remedy, problems, DeValue::as_table);
        let place = self.place(key);
        Self { name, table: found.map(|found| found.value), place, asked: BTreeSet::new() }
    }

    /// An array of tables; none where the key is absent.
    pub(super) fn tables(
        &mut self,
        key: &'static str,
        name: &'static str,
        problems: &mut Vec<Problem>,
    ) -> Option<Vec<Self>> {
        let remedy = format!("write {name}, with two brackets, on a line of its own and the keys below it");
        let found = self.get(key, "an array of tables", &remedy, problems, DeValue::as_array)?;
        let mut readers = Vec::new();
        for entry in found.value.iter() {
            match entry.get_ref().as_table() {
                Some(table) => readers.push(Self::new(name, table, entry.span())),
                None => {
                    let what = format!("an entry of {key} must be a table, not {}", kind(entry.get_ref()));
                    problems.push(Problem::error(
                        entry.span(),
                        what,
                        format!("write {name} and its keys below it"),
                    ));
                }
            }
        }
        Some(readers)
    }

    /// Every key and value, whatever it is called.
    pub(super) fn all(
        &self,
    ) -> impl Iterator<Item = (&'a Spanned<std::borrow::Cow<'i, str>>, &'a Spanned<DeValue<'i>>)> {
        self.table.into_iter().flat_map(|table| table.iter())
    }

    /// Reports the keys that nobody asked for.
    pub(super) fn finish(self, problems: &mut Vec<Problem>) {
        for (key, _) in self.all() {
            let name: &str = key.get_ref();
            if self.asked.contains(name) {
                continue;
            }
            let known: Vec<&str> = self.asked.iter().copied().collect();
            // `password` where there is only `password_file`.
            let longer = known.iter().copied().find(|key| key.starts_with(&format!("{name}_")));
            let remedy = match longer.or_else(|| nearest(name, known.iter().copied())) {
                Some(nearest) => format!("did you mean {nearest}?"),
                None => format!("allowed are {}", known.join(", ")),
            };
            problems.push(Problem::error(key.span(), format!("unknown key {name} in {}", self.name), remedy));
        }
    }
}

/// A value's type as a person says it.
fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
