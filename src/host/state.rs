//! What a supervisor leaves for the next one: which processes there are, and what they run with.
//!
//! Two files in the run directory. `state.json` says which process belongs to which unit, and is written before a process
//! begins; `images.toml` says what each process was started with, and is written before its files are. Nothing in them
//! outlives the machine's run.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;
use serde_json::Map;
use serde_json::Value;

use crate::plan::Image;
use crate::sys::fs;
use crate::sys::fs::FsError;
use crate::topology::Unit;
use crate::topology::UnitName;
use crate::wire::Incarnation;
use crate::wire::Made;

use super::layout::Layout;

/// What a supervisor knows beyond the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The run of the machine in which the processes were started.
    pub boot: String,
    /// The version of synvisor that wrote it.
    pub synvisor: String,
    /// How often a supervisor took over from another one.
    pub takeovers: u64,
    /// The generation that everything goes by which is not one process's own.
    pub generation: u64,
    /// The generation that a change was on its way to.
    pub towards: Option<u64>,
    #[cfg_attr(feature = "next-state", serde(rename = "members"))]
    pub units: BTreeMap<UnitName, Known>,
    /// What only a later version knows.
    #[cfg(feature = "next-state")]
    #[serde(default)]
    pub written_by: String,
}

/// What is known of a unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Known {
    /// Its place in the topology: the configuration does not name it any more if it leaves.
    pub unit: Unit,
    pub incarnation: Incarnation,
    pub wanted: bool,
    pub leaving: bool,
    pub process: Option<Process>,
    /// Processes that were replaced and finish what they have.
    #[serde(default)]
    pub retired: Vec<(Incarnation, Process)>,
}

/// A process, so that it can be told from every other one of this run of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub pid: i32,
    /// Clock ticks since the machine was booted (proc_pid_stat(5)).
    pub started: u64,
    pub ready: bool,
    /// Whether it was told to end.
    pub ending: bool,
    pub made: Option<Made>,
}

/// How a version of `state.json` differs from the one before; each change has a way back, so that one can return to the
/// synvisor before.
struct Step {
    /// The version that it leads to.
    to: u32,
    up: fn(&mut Map<String, Value>),
    down: fn(&mut Map<String, Value>),
}

/// The version without any step.
const FIRST: u32 = 1;

#[cfg(not(feature = "next-state"))]
const STEPS: [Step; 0] = [];

/// A version that does not exist yet, so that tests can upgrade to it and return from it.
#[cfg(feature = "next-state")]
const STEPS: [Step; 1] = [Step {
    to: 2,
    up: |state| {
        if let Some(units) = state.remove("units") {
            state.insert("members".to_owned(), units);
        }
    },
    down: |state| {
        state.remove("written_by");
        if let Some(units) = state.remove("members") {
            state.insert("units".to_owned(), units);
        }
    },
}];

/// The version that this synvisor writes for itself.
pub fn newest() -> u32 {
    STEPS.last().map_or(FIRST, |step| step.to)
}

/// Every version that this synvisor can read and write, the oldest first.
pub fn versions() -> Vec<u32> {
    std::iter::once(FIRST).chain(STEPS.iter().map(|step| step.to)).collect()
}

impl State {
    /// The state as text of a version, one of [`versions`].
    pub fn print(&self, version: u32) -> String {
        // A record of names, numbers and strings always has a JSON form.
        let Ok(Value::Object(mut map)) = serde_json::to_value(self) else { return String::new() };
        for step in STEPS.iter().rev().filter(|step| step.to > version) {
            (step.down)(&mut map);
        }
        map.insert("version".to_owned(), version.into());
        Value::Object(map).to_string()
    }

    /// Reads what any of [`versions`] wrote.
    ///
    /// # Errors
    /// It is none of these, or not a state at all.
    pub fn parse(text: &str) -> Result<Self, String> {
        let Ok(Value::Object(mut map)) = serde_json::from_str(text) else {
            return Err("it is not a state of synvisor's".to_owned());
        };
        let known = versions();
        let version = map.remove("version").as_ref().and_then(Value::as_u64);
        let Some(version) = known.iter().copied().find(|known| Some(u64::from(*known)) == version) else {
            let is = version.map_or_else(|| "unknown".to_owned(), |version| version.to_string());
            let known = known.iter().map(u32::to_string).collect::<Vec<_>>().join(" and ");
            return Err(format!("it is of version {is}, and this synvisor knows {known}"));
        };
        for step in STEPS.iter().filter(|step| step.to > version) {
            (step.up)(&mut map);
        }
        serde_json::from_value(Value::Object(map)).map_err(|error| error.to_string())
    }

    /// What the supervisor before left; none if there is nothing of this run of the machine.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(layout: &Layout, boot: &str) -> Result<Option<Self>, String> {
        let path = layout.state_file();
        if !path.exists() {
            return Ok(None);
        }
        let at = |error: String| format!("{}: {error}", path.display());
        let text = fs::read_own(&path).map_err(|error| error.to_string())?;
        let state = Self::parse(&text).map_err(at)?;
        Ok(Some(state).filter(|state| state.boot == boot))
    }
}

/// What each process of Synapse runs with.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Images {
    images: BTreeMap<UnitName, Image>,
}

/// Notes what processes run with; it holds secrets, as their files do.
///
/// # Errors
/// Of the file system.
pub fn write_images(layout: &Layout, images: &BTreeMap<UnitName, Image>) -> Result<(), FsError> {
    // Tables of TOML in a table of TOML.
    let text = toml::to_string(&Images { images: images.clone() }).unwrap_or_default();
    let path = layout.images_file();
    // The way back from what could not be noted needs no room.
    if fs::holds(&path, text.as_bytes(), 0o600) {
        Ok(())
    } else {
        fs::replace_fleeting(&path, text.as_bytes())
    }
}

/// What processes run with, as far as that can be read.
pub fn read_images(layout: &Layout) -> BTreeMap<UnitName, Image> {
    let text = fs::read_own(&layout.images_file()).unwrap_or_default();
    toml::from_str::<Images>(&text).map_or_else(|_| BTreeMap::new(), |images| images.images)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Role;

    fn state() -> State {
        let unit = Unit {
            name: UnitName::main(),
            role: Role::Main,
            client_socket: Some("/run/main.sock".into()),
            private_socket: None,
            resources: Vec::new(),
        };
        let process = Process { pid: 7, started: 9, ready: true, ending: false, made: Some(Made::Forked) };
        let incarnation = Incarnation(3);
        let known = Known {
            unit,
            incarnation,
            wanted: true,
            leaving: false,
            process: Some(process),
            retired: Vec::new(),
        };
        State {
            boot: "a".to_owned(),
            synvisor: "0".to_owned(),
            takeovers: 4,
            generation: 2,
            towards: Some(3),
            units: [(UnitName::main(), known)].into(),
            #[cfg(feature = "next-state")]
            written_by: "a test".to_owned(),
        }
    }

    #[test]
    fn a_state_of_every_known_version_can_be_read_and_no_other() {
        // Mutation: every version taken for the newest: seen red.
        for version in versions() {
            let text = state().print(version);
            assert!(text.contains(&format!("\"version\":{version}")), "{text}");
            let read = State::parse(&text).unwrap();
            assert_eq!(read.units, state().units);
            assert_eq!(read.print(version), State::parse(&read.print(version)).unwrap().print(version));
        }
        let later = newest() + 1;
        let text = state()
            .print(newest())
            .replace(&format!("\"version\":{}", newest()), &format!("\"version\":{later}"));
        let why = State::parse(&text).unwrap_err();
        assert!(why.starts_with(&format!("it is of version {later}, and this synvisor knows 1")), "{why}");
        assert_eq!(State::parse("[]").unwrap_err(), "it is not a state of synvisor's");
        assert_eq!(State::parse("{}").unwrap_err().split(',').next().unwrap(), "it is of version unknown");
    }

    #[test]
    fn images_come_back_as_they_were() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout { state: dir.path().to_owned(), run: dir.path().to_owned() };
        let settings = toml::from_str(
            "a = 1\nb = [{c = 1.5}, {}]\nd = {e = inf}\nf = 1979-05-27T07:32:00Z\ng = \"\"\n[h]\n\"i.j\" = false\n",
        )
        .unwrap();
        let named = crate::plan::Named { setting: "a_path".to_owned(), path: "/a".into() };
        let image = Image {
            role: Role::Worker(crate::config::roles::WorkerKind::Sync),
            settings,
            log: toml::from_str("version = 1").unwrap(),
            nice: Some(3),
            environment: [("A".to_owned(), "b".to_owned())].into(),
            max_memory: None,
            files: [(named, crate::plan::Digest("aa".to_owned()))].into(),
        };
        let images: BTreeMap<UnitName, Image> = [(UnitName::new("sync-1"), image)].into();
        assert!(read_images(&layout).is_empty());
        write_images(&layout, &images).unwrap();
        assert_eq!(read_images(&layout), images);
        let mode = fs::owner_and_mode(&layout.images_file()).unwrap().1;
        assert_eq!(mode & 0o777, 0o600);
    }
}
