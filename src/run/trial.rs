//! Synapse's own parser on the files of a change, before any process is touched.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::config::effective::Effective;
use crate::config::effective::Origin;
use crate::config::problem::Problem;
use crate::forkserver::Verdict;
use crate::host::toml::Document;
use crate::plan::Deployment;
use crate::plan::Image;
use crate::plan::compressed;
use crate::render;
use crate::render::FileSet;
use crate::supervise::Exit;
use crate::supervise::Life;
use crate::supervise::Time;
use crate::sys::clock;
use crate::sys::fs;
use crate::topology::UnitName;
use crate::wire::Incarnation;

use super::Driver;
use super::reload::Prepared;
use super::reload::UnderWay;
use super::spawn;
use super::spawn::TRIAL;

/// Synapse reads a file in a tenth of a second, or two where it must be imported first.
const PATIENCE: u64 = 60_000;

/// Bytes of what a process prints that are looked at.
const MOST_OUTPUT: u64 = 1 << 20;

/// What shows the place of a setting of Synapse's in the TOML.
const TABLE: &str = "[synapse]";

/// A change whose files Synapse reads at this moment.
pub(super) struct Trial {
    pub(super) prepared: Box<Prepared>,
    /// The processes that read.
    readers: BTreeMap<Life, Reader>,
    verdicts: Vec<Verdict>,
    pub(super) deadline: Time,
}

impl Trial {
    /// The same with the time counted from now.
    pub(super) fn waited(self) -> Self {
        Self { deadline: clock::now().after(PATIENCE), ..self }
    }
}

/// A process that reads files: modules that they name may be found only with its environment.
struct Reader {
    files: FileSet,
    environment: BTreeMap<String, String>,
    /// What it prints.
    output: File,
    /// Whether the fork server could not make it, and it is an interpreter of its own.
    alone: bool,
}

impl Reader {
    fn arguments(&self) -> Vec<String> {
        self.files.keys().map(|path| path.to_string_lossy().into_owned()).collect()
    }
}

impl Driver {
    /// Has Synapse read every file that would be another one, then goes on with the change.
    pub(super) fn try_out(&mut self, prepared: Box<Prepared>) {
        let others = self.others(&prepared.target);
        if others.is_empty() {
            return self.apply(*prepared);
        }
        let mut trial = Trial {
            prepared,
            readers: BTreeMap::new(),
            verdicts: Vec::new(),
            deadline: clock::now().after(PATIENCE),
        };
        match self.start_reading(&mut trial, others) {
            Ok(()) => self.under_way = Some(UnderWay::Trial(trial)),
            Err(error) => {
                // They hold secrets.
                let _ = fs::clear(&self.around.layout.check());
                trial
                    .prepared
                    .asked
                    .fail(format!("nothing was changed: Synapse could not be asked: {error}"));
            }
        }
    }

    fn start_reading(
        &mut self,
        trial: &mut Trial,
        others: BTreeMap<BTreeMap<String, String>, FileSet>,
    ) -> io::Result<()> {
        fs::clear(&self.around.layout.check()).map_err(io::Error::other)?;
        for (environment, files) in others {
            self.trials += 1;
            let life = Life { unit: UnitName::new(TRIAL), incarnation: Incarnation(self.trials) };
            let output = fs::nameless(TRIAL)?;
            self.around.layout.write(&files, &self.around.users).map_err(io::Error::other)?;
            let reader = Reader { files, environment, output, alone: false };
            let printed = reader.output.try_clone()?;
            let target = &trial.prepared.target;
            self.start_trial(&life, reader.arguments(), &reader.environment, target, printed)?;
            trial.readers.insert(life, reader);
        }
        Ok(())
    }

    /// The files that processes would read in place of those that they have read, by the environment that they have.
    fn others(&self, target: &Deployment) -> BTreeMap<BTreeMap<String, String>, FileSet> {
        let another = target.synapse_version != self.running.synapse_version
            || target.config.python != self.running.config.python;
        let other = |name: &UnitName, image: &Image| {
            let same = |held: &Image| {
                held.settings == image.settings
                    && held.files == image.files
                    && held.environment == image.environment
            };
            another || !self.running.images.get(name).is_some_and(same)
        };
        let mut others: BTreeMap<_, FileSet> = BTreeMap::new();
        for (name, image) in target.images.iter().filter(|(name, image)| other(name, image)) {
            let [(_, file), _] = render::files(&target.config, name, &image.settings, &image.log);
            let path = self.around.layout.check().join(format!("{name}.yaml"));
            others.entry(image.environment.clone()).or_default().insert(path, file);
        }
        others
    }

    /// A process that reads files has ended, or, with no exit, never began.
    pub(super) fn tried(&mut self, life: &Life, exit: Option<Exit>) {
        let Some(UnderWay::Trial(trial)) = &mut self.under_way else { return };
        let Some(reader) = trial.readers.remove(life) else { return };
        let config = trial.prepared.target.config.clone();
        if exit.is_none() && !reader.alone {
            // Without the fork server it takes longer.
            let arguments = reader.arguments();
            let started =
                spawn::execute_trial(arguments, &reader.environment, &config, &reader.output, &self.around);
            let begun = started.and_then(|waiting| self.let_begin(life, waiting));
            if let (Ok(()), Some(UnderWay::Trial(trial))) = (begun, &mut self.under_way) {
                trial.readers.insert(life.clone(), Reader { alone: true, ..reader });
                return;
            }
        }
        let Some(UnderWay::Trial(mut trial)) = self.under_way.take() else { return };
        let said = fs::contents(&reader.output, MOST_OUTPUT).unwrap_or_default();
        if trial.readers.is_empty() {
            // They hold secrets, and nobody needs them any more.
            let _ = fs::clear(&self.around.layout.check());
        }
        let verdicts: Vec<Verdict> =
            said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        if exit != Some(Exit::Code(0)) || verdicts.len() != reader.files.len() {
            let how = exit.map_or_else(|| "it could not be started".to_owned(), |exit| exit.to_string());
            let last = said.lines().next_back().unwrap_or("it said nothing");
            let last = trial.prepared.target.without_secrets(last);
            // What the other readers find does not matter any more.
            return trial.prepared.asked.fail(format!(
                "nothing was changed: Synapse did not finish reading its new configuration ({how}): {last}\n  \
                 reload again"
            ));
        }
        trial.verdicts.extend(verdicts);
        if !trial.readers.is_empty() {
            self.under_way = Some(UnderWay::Trial(trial));
        } else if let Some(refusal) = refusal(&trial.verdicts, &trial.prepared, &self.running) {
            let note = format!("{} is refused by Synapse: `synvisor reload` shows why", trial.prepared.name);
            self.looked_at = Some((trial.prepared.text.clone(), Some(note)));
            trial.prepared.asked.refuse(refusal);
        } else {
            self.apply(*trial.prepared);
        }
    }

    /// Synapse takes too long to read its files: the processes end, which is then heard of as any other end.
    pub(super) fn trial_hangs(&self, trial: &Trial) {
        for life in trial.readers.keys() {
            // One that is gone already will be reaped.
            let _ = self.pids.signal(life, Signal::SIGKILL);
        }
    }
}

pub(super) fn is_trial(life: &Life) -> bool {
    life.unit.as_str() == TRIAL
}

/// What Synapse has against the files, each objection once.
fn refusal(verdicts: &[Verdict], prepared: &Prepared, running: &Deployment) -> Option<String> {
    let mut objections: Vec<(&str, &[String], Vec<UnitName>)> = Vec::new();
    for verdict in verdicts {
        let Some(problem) = &verdict.problem else { continue };
        let unit = unit_of(&verdict.file);
        match objections.iter_mut().find(|(known, ..)| known == problem) {
            Some((_, _, units)) => units.push(unit),
            None => objections.push((problem, &verdict.path, vec![unit])),
        }
    }
    if objections.is_empty() {
        return None;
    }
    let problem = |(what, path, units): (&str, &[String], Vec<UnitName>)| {
        let what = prepared.target.without_secrets(&format!("Synapse refuses this: {}", what.trim_end()));
        let whose = compressed(&units);
        let remedy = format!("it concerns {whose}");
        Problem::error(place(what.as_str(), path, &prepared.target, running), what, remedy)
    };
    let problems: Vec<Problem> = objections.into_iter().map(problem).collect();
    Some(Document { name: prepared.name.clone(), text: prepared.text.clone() }.print(&problems))
}

fn unit_of(file: &Path) -> UnitName {
    UnitName::new(file.file_stem().unwrap_or_default().to_string_lossy())
}

/// Whether somebody's words name a file that a setting names.
fn names(held: &Effective, what: &str) -> bool {
    held.value.split(['"', '\'']).any(|text| text.starts_with('/') && what.contains(text))
}

/// Where the setting stands that Synapse names, or that its words name if they name one only, or a file of it; or that is
/// the only one which is another than before.
fn place(what: &str, path: &[String], target: &Deployment, running: &Deployment) -> Option<Range<usize>> {
    let said = |key: &str| {
        let edge = |c: char| !(c.is_alphanumeric() || c == '_');
        what.split(edge).any(|word| word == key)
    };
    let same = |one: &Effective, other: &Effective| one.key == other.key && one.value == other.value;
    let before = |held: &Effective| running.effective.iter().any(|was| was.table == TABLE && same(was, held));
    let only = |meant: &dyn Fn(&Effective) -> bool| {
        let mut all = target.effective.iter().filter(|held| held.table == TABLE && meant(held));
        let one = all.next().filter(|_| all.next().is_none())?;
        match &one.origin {
            Origin::At(place) => Some(place.clone()),
            Origin::Default(_) | Origin::Preset(_) | Origin::From(_) => None,
        }
    };
    path.first()
        .and_then(|first| only(&|held| held.key == *first))
        .or_else(|| only(&|held| said(&held.key)))
        .or_else(|| only(&|held| names(held, what)))
        .or_else(|| only(&|held| !before(held)))
}
