//! Reads a TOML table key by key along the table of keys, gathers every mistake, and remembers where each value is
//! from.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;

use ipnet::IpNet;
use toml::Spanned;
use toml::de::DeTable;
use toml::de::DeValue;

use super::check::Wrong;
use super::effective::Effective;
use super::effective::Origin;
use super::forms;
use super::keys;
use super::keys::Key;
use super::nearest::suggestion;
use super::problem::Problem;
use super::secret::SecretSource;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Found<T> {
    pub(super) value: T,
    /// That of the table if the value is a default.
    pub(super) place: Range<usize>,
    /// Whether it stands in the file.
    pub(super) given: bool,
}

/// What a file's values are read with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source<'a> {
    pub(super) text: &'a str,
    /// Where relative paths start.
    pub(super) base: &'a Path,
}

/// One table of the file.
pub(super) struct Reader<'a, 'i> {
    source: Source<'a>,
    spec: keys::Table,
    table: Option<&'a DeTable<'i>>,
    place: Range<usize>,
    /// What holds, key by key.
    pub(super) effective: Vec<Effective>,
}

impl<'a, 'i> Reader<'a, 'i> {
    /// The keys above the first table.
    pub(super) fn root(source: Source<'a>, table: &'a DeTable<'i>) -> Self {
        Self { source, spec: keys::root(), table: Some(table), place: 0..0, effective: Vec::new() }
    }

    fn within(&self, spec: keys::Table, table: Option<&'a DeTable<'i>>, place: Range<usize>) -> Self {
        Self { source: self.source, spec, table, place, effective: Vec::new() }
    }

    /// Where a key is, or else the table.
    pub(super) fn place(&self, key: &str) -> Range<usize> {
        self.entry(key).map_or_else(|| self.place.clone(), |(place, _)| place)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// As it is written in the file, `[workers]`.
    pub(super) fn name(&self) -> &str {
        &self.spec.name
    }

    fn entry(&self, key: &str) -> Option<(Range<usize>, &'a Spanned<DeValue<'i>>)> {
        let found = self.table?.iter().find(|(held, _)| held.get_ref() == key);
        found.map(|(held, value)| (held.span(), value))
    }

    /// The value of a key, or its default, or none where it has none; one that is wrong is a problem.
    fn read<T>(
        &mut self,
        name: &'static str,
        problems: &mut Vec<Problem>,
        convert: impl Fn(&Key, &DeValue<'_>) -> Result<T, Wrong>,
    ) -> Option<Found<T>> {
        let key = self.spec.key(name).clone();
        if let Some((_, value)) = self.entry(name) {
            match convert(&key, value.get_ref()) {
                Ok(found) => {
                    self.show(name, self.source.text[value.span()].to_owned(), Origin::At(value.span()));
                    return Some(Found { value: found, place: value.span(), given: true });
                }
                Err(wrong) => {
                    problems.push(Problem::error(
                        value.span(),
                        format!("{name} {}", wrong.what),
                        wrong.remedy,
                    ));
                }
            }
        }
        let default = key.default?;
        self.show(name, default.to_owned(), Origin::Default(key.why));
        let value = DeValue::parse(default).ok().and_then(|value| convert(&key, value.get_ref()).ok());
        Some(Found { value: value?, place: self.place.clone(), given: false })
    }

    /// Says what holds for a key; replaces what was said before.
    pub(super) fn show(&mut self, key: &str, value: String, origin: Origin) {
        self.effective.retain(|held| held.key != key);
        self.effective.push(Effective {
            table: self.spec.name.to_string(),
            key: key.to_owned(),
            value,
            origin,
        });
    }

    pub(super) fn text(&mut self, name: &'static str, problems: &mut Vec<Problem>) -> Option<Found<String>> {
        self.read(name, problems, forms::text)
    }

    pub(super) fn truth(&mut self, name: &'static str, problems: &mut Vec<Problem>) -> Option<Found<bool>> {
        self.read(name, problems, forms::truth)
    }

    /// An integer; all bounds in the table of keys lie within those of the type.
    pub(super) fn number(&mut self, name: &'static str, problems: &mut Vec<Problem>) -> Option<Found<u16>> {
        self.read(name, problems, forms::number)
    }

    /// Milliseconds.
    pub(super) fn time(&mut self, name: &'static str, problems: &mut Vec<Problem>) -> Option<Found<u64>> {
        self.read(name, problems, forms::time)
    }

    /// Bytes.
    pub(super) fn size(&mut self, name: &'static str, problems: &mut Vec<Problem>) -> Option<Found<u64>> {
        self.read(name, problems, forms::size)
    }

    pub(super) fn path(&mut self, name: &'static str, problems: &mut Vec<Problem>) -> Option<Found<PathBuf>> {
        let base = self.source.base;
        let found = self.read(name, problems, |key, value| Ok(base.join(forms::filled(key, value)?)))?;
        self.show_path(name, &found.value, found.given, found.place.clone());
        Some(found)
    }

    pub(super) fn secret(
        &mut self,
        name: &'static str,
        problems: &mut Vec<Problem>,
    ) -> Option<Found<SecretSource>> {
        let base = self.source.base;
        self.read(name, problems, |key, value| SecretSource::parse(forms::filled(key, value)?, base))
    }

    pub(super) fn packages(
        &mut self,
        name: &'static str,
        problems: &mut Vec<Problem>,
    ) -> Option<Found<Vec<String>>> {
        self.read(name, problems, forms::packages)
    }

    pub(super) fn networks(
        &mut self,
        name: &'static str,
        problems: &mut Vec<Problem>,
    ) -> Option<Found<Vec<IpNet>>> {
        self.read(name, problems, forms::networks)
    }

    pub(super) fn environment(
        &mut self,
        name: &'static str,
        problems: &mut Vec<Problem>,
    ) -> Option<Found<BTreeMap<String, String>>> {
        let found = self.read(name, problems, forms::environment)?;
        // A table of dotted keys is not one piece of the file.
        let table = found.value.iter().map(|(key, value)| (key.clone(), value.clone().into())).collect();
        self.show(name, toml::Value::Table(table).to_string(), Origin::At(found.place.clone()));
        Some(found)
    }

    /// A relative path takes effect as an absolute one.
    fn show_path(&mut self, name: &str, path: &Path, given: bool, place: Range<usize>) {
        if given {
            let shown = toml::Value::String(path.display().to_string()).to_string();
            self.show(name, shown, Origin::At(place));
        }
    }

    /// A table of this file; an absent one reads as empty.
    pub(super) fn table(
        &mut self,
        key: &'static str,
        spec: keys::Table,
        problems: &mut Vec<Problem>,
    ) -> Self {
        let place = self.place(key);
        let Some((_, value)) = self.entry(key) else { return self.within(spec, None, place) };
        let table = value.get_ref().as_table();
        if table.is_none() {
            let wrong = forms::not(key, forms::TABLE, value.get_ref());
            let remedy = format!("write {} on a line of its own and its keys below it", spec.name);
            problems.push(Problem::error(value.span(), format!("{key} {}", wrong.what), remedy));
        }
        self.within(spec, table, place)
    }

    /// A table that is not in the file.
    pub(super) fn absent(&self, spec: keys::Table) -> Self {
        self.within(spec, None, self.place.clone())
    }

    /// The tables within a table, whatever they are called; `spec` says what each may hold.
    pub(super) fn named_tables(
        &self,
        spec: impl Fn(&str) -> keys::Table,
        problems: &mut Vec<Problem>,
    ) -> Vec<(String, Self)> {
        let mut readers = Vec::new();
        for (key, value) in self.all() {
            match value.get_ref().as_table() {
                Some(table) => {
                    let reader = self.within(spec(key.get_ref()), Some(table), key.span());
                    readers.push((key.get_ref().to_string(), reader));
                }
                None => {
                    let wrong = forms::not(key.get_ref(), forms::TABLE, value.get_ref());
                    let remedy = format!(
                        "write {} on a line of its own and its keys below it",
                        spec(key.get_ref()).name
                    );
                    let what = format!("{} {}", key.get_ref(), wrong.what);
                    problems.push(Problem::error(value.span(), what, remedy));
                }
            }
        }
        readers
    }

    /// An array of tables; none where the key is absent.
    pub(super) fn tables(
        &mut self,
        key: &'static str,
        spec: &keys::Table,
        problems: &mut Vec<Problem>,
    ) -> Option<Vec<Self>> {
        let (_, value) = self.entry(key)?;
        let Some(array) = value.get_ref().as_array() else {
            let wrong = forms::not(key, forms::TABLES, value.get_ref());
            let remedy =
                format!("write {}, with two brackets, on a line of its own and its keys below it", spec.name);
            problems.push(Problem::error(value.span(), format!("{key} {}", wrong.what), remedy));
            return None;
        };
        let mut readers = Vec::new();
        for entry in array.iter() {
            match entry.get_ref().as_table() {
                Some(table) => readers.push(self.within(spec.clone(), Some(table), entry.span())),
                None => {
                    let held = forms::kind(entry.get_ref());
                    let what = format!("an entry of {key} must be a table, not {held}");
                    let remedy = format!("write {} and its keys below it", spec.name);
                    problems.push(Problem::error(entry.span(), what, remedy));
                }
            }
        }
        Some(readers)
    }

    /// Every key and value, whatever it is called.
    pub(super) fn all(
        &self,
    ) -> impl Iterator<Item = (&'a Spanned<Cow<'i, str>>, &'a Spanned<DeValue<'i>>)> + use<'a, 'i> {
        self.table.into_iter().flat_map(|table| table.iter())
    }
}

/// Reports the keys that no table has, `root` being the first of them.
pub(super) fn report_unknown(tables: &[Reader<'_, '_>], problems: &mut Vec<Problem>) {
    for table in tables {
        let top = table.spec.name.is_empty();
        for (key, _) in table.all() {
            let name: &str = key.get_ref();
            if table.spec.has(name) || top && keys::TABLES.contains(&name) {
                continue;
            }
            let what = if top {
                format!("unknown key {name}")
            } else {
                format!("unknown key {name} in {}", table.spec.name)
            };
            let home = tables.iter().find(|other| other.spec.has(name));
            let remedy = match home.map(|home| home.spec.name.as_ref()) {
                Some("") => "it belongs at the top of the file, above the first [table]".to_owned(),
                Some(home) => format!("it belongs in {home}"),
                None => unknown_remedy(name, table, top),
            };
            problems.push(Problem::error(key.span(), what, remedy));
        }
    }
}

fn unknown_remedy(name: &str, table: &Reader<'_, '_>, top: bool) -> String {
    let mut known: Vec<&str> = table.spec.keys.iter().map(|key| key.name).collect();
    if top {
        known.extend(keys::TABLES);
    }
    known.sort_unstable();
    let suggestion = suggestion(name, known);
    let none_near = suggestion.starts_with("allowed");
    if top && none_near {
        return format!("{suggestion}\na setting of homeserver.yaml belongs in [synapse]");
    }
    suggestion
}
