//! `[units]` and `[synapse]`: what the processes of Synapse are given.

use std::collections::BTreeMap;

use toml::Table;
use toml::Value;

use super::super::Supervisor;
use super::super::Workers;
use super::super::effective::Effective;
use super::super::effective::Origin;
use super::super::keys;
use super::super::problem::Problem;
use super::super::reader::Found;
use super::super::reader::Reader;
use super::super::synapse;
use super::super::synapse::Settings;
use super::super::units;
use super::super::units::Scope;
use super::super::units::UnitSettings;
use super::super::units::Units;
use super::Parser;

impl Parser<'_> {
    pub(super) fn units(
        &mut self,
        tables: &mut [(String, Reader<'_, '_>)],
        workers: &Workers,
        dirs: &Supervisor,
    ) -> Units {
        let mut units = BTreeMap::new();
        for (name, table) in tables {
            match Scope::of(name, workers) {
                Scope::Known => {}
                Scope::Idle { remedy } => {
                    let what = format!("{} concerns no process", table.name());
                    self.problems.push(Problem::warning(table.place(""), what, remedy));
                }
                Scope::Unknown { remedy } => {
                    self.error(table.place(""), format!("there is no unit {name}"), remedy);
                }
            }
            units.insert(name.clone(), self.unit(table, dirs));
        }
        Units(units)
    }

    pub(super) fn unit(&mut self, reader: &mut Reader<'_, '_>, dirs: &Supervisor) -> UnitSettings {
        let problems = &mut self.problems;
        let (least, most) = (reader.number("cp_min", problems), reader.number("cp_max", problems));
        if let (Some(least), Some(most)) = (&least, &most)
            && least.given
            && most.given
            && least.value > most.value
        {
            let remedy = "a pool starts with cp_min connections and grows to cp_max: exchange them";
            problems.push(Problem::error(least.place.clone(), "cp_min is greater than cp_max", remedy));
        }
        let settings = UnitSettings {
            log_level: given(reader.text("log_level", problems)),
            cp_min: given(least),
            cp_max: given(most),
            nice: given(reader.number("nice", problems)),
            max_memory: given(reader.size("max_memory", problems)),
            environment: given(reader.environment("environment", problems)).unwrap_or_default(),
            caches: self.passed_on(reader, "caches", dirs),
            settings: self.passed_on(reader, "settings", dirs),
        };
        let shared = settings.settings.keys().find(|key| synapse::knows(key) && !units::may_differ(key));
        if let Some(shared) = shared {
            let what = format!("{shared} is expected to be the same in every process");
            let remedy = "move it to [synapse], unless you know that Synapse reads it in this process alone";
            self.problems.push(Problem::warning(reader.place("settings"), what, remedy));
        }
        // What merely holds everywhere is no news of this table.
        reader.effective.retain(|held| matches!(held.origin, Origin::At(_)));
        settings
    }

    /// A table of Synapse's settings within one of ours.
    pub(super) fn passed_on(
        &mut self,
        reader: &mut Reader<'_, '_>,
        key: &'static str,
        dirs: &Supervisor,
    ) -> Table {
        let place = reader.place(key);
        let name = format!("{}.{key}", reader.name().trim_matches(['[', ']']));
        let within = reader.table(key, keys::settings(&name), &mut self.problems);
        let found = if key == "settings" {
            synapse::read(&within, self.installed, &dirs.state_dir, self.base, &mut self.problems)
        } else {
            synapse::read_any(&within, self.base, &mut self.problems)
        };
        let table = found.table.clone();
        self.take(found);
        if !table.is_empty() {
            reader.show(key, Value::Table(table.clone()).to_string(), Origin::At(place));
        }
        table
    }

    pub(super) fn synapse(&mut self, reader: &Reader<'_, '_>, dirs: &Supervisor) -> Table {
        let found = synapse::read(reader, self.installed, &dirs.state_dir, self.base, &mut self.problems);
        let mut table = found.table.clone();
        let mut show = |key: &str, value: &Value, origin| {
            let (table, key) = ("[synapse]".to_owned(), key.to_owned());
            self.effective.push(Effective { table, key, value: value.to_string(), origin });
        };
        for (key, value) in &table {
            show(key, value, Origin::At(reader.place(key)));
        }
        for (key, default, why) in keys::SYNAPSE {
            if let (false, Ok(value)) = (table.contains_key(key), default.parse::<Value>()) {
                show(key, &value, Origin::Default(why));
                table.insert(key.to_owned(), value);
            }
        }
        self.take(found);
        table
    }

    pub(super) fn take(&mut self, found: Settings) {
        for (source, place) in found.secrets {
            self.refer(source, place);
        }
    }
}

/// What stands in the file, not what holds without it.
fn given<T>(found: Option<Found<T>>) -> Option<T> {
    found.filter(|found| found.given).map(|found| found.value)
}
