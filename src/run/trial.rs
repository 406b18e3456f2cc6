//! Synapse's own parser on the files of a change, before any process is touched.

use std::fs::File;
use std::io;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::config::effective::Origin;
use crate::config::problem::Problem;
use crate::forkserver::Verdict;
use crate::host::toml::Document;
use crate::plan::Deployment;
use crate::render;
use crate::render::FileSet;
use crate::supervise::Exit;
use crate::supervise::Life;
use crate::supervise::Time;
use crate::sys::clock;
use crate::sys::fs;
use crate::sys::process;
use crate::topology::UnitName;
use crate::wire::Incarnation;

use super::Driver;
use super::reload::Prepared;
use super::reload::UnderWay;
use super::spawn::TRIAL;

/// Synapse reads a file in a tenth of a second, or two where it must be imported first.
const PATIENCE: u64 = 60_000;

/// What shows the place of a setting of Synapse's in the TOML.
const TABLE: &str = "[synapse]";

/// A change whose files Synapse reads at this moment.
pub(super) struct Trial {
    pub(super) prepared: Box<Prepared>,
    life: Life,
    files: usize,
    pub(super) deadline: Time,
    /// Whether the fork server did not do it, and an interpreter of its own does.
    alone: bool,
}

impl Driver {
    /// Has Synapse read every file that would be another one, then goes on with the change.
    pub(super) fn try_out(&mut self, prepared: Box<Prepared>) {
        let files = self.others(&prepared.target);
        if files.is_empty() {
            return self.apply(*prepared);
        }
        self.trials += 1;
        let life = Life { unit: UnitName::new(TRIAL), incarnation: Incarnation(self.trials) };
        let deadline = clock::now().after(PATIENCE);
        let trial = Trial { prepared, life, files: files.len(), deadline, alone: false };
        match self.start_reading(&trial, &files) {
            Ok(()) => self.under_way = Some(UnderWay::Trial(trial)),
            Err(error) => {
                trial
                    .prepared
                    .asked
                    .fail(format!("nothing was changed: Synapse could not be asked: {error}"));
            }
        }
    }

    fn start_reading(&mut self, trial: &Trial, files: &FileSet) -> io::Result<()> {
        let layout = &self.around.layout;
        fs::clear(&layout.check()).map_err(io::Error::other)?;
        layout.write(files, &self.around.users).map_err(io::Error::other)?;
        let output = self.output_of_trial()?;
        let files = files.keys().map(|path| path.to_string_lossy().into_owned()).collect();
        self.start_trial(&trial.life, files, &trial.prepared.target, &output)
    }

    fn output_of_trial(&self) -> io::Result<File> {
        let path = self.around.layout.check().join(OUTPUT);
        fs::append(&path, self.around.users.synapse.as_ref()).map_err(io::Error::other)
    }

    /// The files that processes would read in place of those that they have read.
    fn others(&self, target: &Deployment) -> FileSet {
        let another = target.synapse_version != self.running.synapse_version
            || target.config.python != self.running.config.python;
        let other = |name: &UnitName, image: &crate::plan::Image| {
            another || self.running.images.get(name).is_none_or(|held| held.settings != image.settings)
        };
        let images = target.images.iter().filter(|(name, image)| other(name, image));
        let file = |(name, image): (&UnitName, &crate::plan::Image)| {
            let [(_, file), _] = render::files(&target.config, name, &image.settings, &image.log);
            (self.around.layout.check().join(format!("{name}.yaml")), file)
        };
        images.map(file).collect()
    }

    pub(super) fn is_trial(&self, life: &Life) -> bool {
        life.unit.as_str() == TRIAL
    }

    /// The process that read the files has ended, or, with no exit, never began.
    pub(super) fn tried(&mut self, life: &Life, exit: Option<Exit>) {
        let Some(UnderWay::Trial(mut trial)) =
            self.under_way.take_if(|now| matches!(now, UnderWay::Trial(trial) if trial.life == *life))
        else {
            return;
        };
        let path = self.around.layout.check().join(OUTPUT);
        let said = fs::read(&path).unwrap_or_default();
        let verdicts: Vec<Verdict> =
            said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        if exit.is_none() && !trial.alone {
            // Without the fork server it takes longer.
            trial.alone = true;
            let files = self.others(&trial.prepared.target);
            let files = files.keys().map(|path| path.to_string_lossy().into_owned()).collect();
            let config = trial.prepared.target.config.clone();
            let started = self
                .output_of_trial()
                .and_then(|output| super::spawn::execute_trial(files, &config, &output, &self.around));
            if let Ok(pid) = started {
                self.pids.insert(pid, life.clone());
                self.under_way = Some(UnderWay::Trial(trial));
                return;
            }
        }
        let complete = exit == Some(Exit::Code(0)) && verdicts.len() == trial.files;
        let Trial { prepared, .. } = trial;
        if let Some(refusal) = refusal(&verdicts, &prepared) {
            prepared.asked.fail(refusal);
        } else if complete {
            self.apply(*prepared);
        } else {
            let how = exit.map_or_else(|| "it could not be started".to_owned(), |exit| exit.to_string());
            let last = said.lines().next_back().unwrap_or("it said nothing");
            prepared.asked.fail(format!(
                "nothing was changed: Synapse did not finish reading its new configuration ({how}): {last}\n  \
                 reload again; what it printed stands in {}",
                path.display()
            ));
        }
    }

    /// Synapse takes too long to read its files: its process ends, which is then heard of as any other end.
    pub(super) fn trial_hangs(&mut self, trial: &mut Trial) {
        trial.deadline = clock::now().after(PATIENCE);
        if let Some(pid) = self.pid(&trial.life) {
            // One that is gone already will be reaped.
            let _ = process::signal(pid, Signal::SIGKILL);
        }
    }
}

/// What the process printed.
const OUTPUT: &str = "output";

/// What Synapse has against the files, each objection once.
fn refusal(verdicts: &[Verdict], prepared: &Prepared) -> Option<String> {
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
        let what = format!("Synapse refuses this: {}", what.trim_end());
        let whose = crate::plan::compressed(&units);
        let remedy = format!("it concerns {whose}; mend it, and reload again: nothing was changed");
        Problem::error(place(what.as_str(), path, &prepared.target), what, remedy)
    };
    let problems: Vec<Problem> = objections.into_iter().map(problem).collect();
    Some(Document { name: prepared.name.clone(), text: prepared.text.clone() }.print(&problems))
}

fn unit_of(file: &Path) -> UnitName {
    UnitName::new(file.file_stem().unwrap_or_default().to_string_lossy())
}

/// Where the setting stands that Synapse names, or that its words name if they name one only.
fn place(what: &str, path: &[String], target: &Deployment) -> Option<std::ops::Range<usize>> {
    let stands = target.effective.iter().filter(|held| held.table == TABLE);
    let word = |key: &str| {
        let edge = |c: char| !(c.is_alphanumeric() || c == '_');
        what.split(edge).any(|word| word == key)
    };
    let meant: Vec<_> = match path.first() {
        Some(first) => stands.filter(|held| held.key == *first).collect(),
        None => stands.filter(|held| word(&held.key)).collect(),
    };
    match meant.as_slice() {
        [one] => match &one.origin {
            Origin::At(place) => Some(place.clone()),
            Origin::Default(_) | Origin::Preset(_) | Origin::From(_) => None,
        },
        _ => None,
    }
}
