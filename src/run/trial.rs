//! Synapse's own parser on the files of a change, before any process is touched.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;

use nix::sys::signal::Signal;

use crate::host::toml::Document;
use crate::plan::Deployment;
use crate::plan::Image;
use crate::plan::Verdict;
use crate::plan::objections;
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
        target.to_read(&self.around.layout.check(), other)
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
            return;
        }
        let prepared = &trial.prepared;
        let problems = objections(&trial.verdicts, &prepared.target, &self.running.effective);
        if problems.is_empty() {
            self.apply(*trial.prepared);
        } else {
            let document = Document { name: prepared.name.clone(), text: prepared.text.clone() };
            let refusal = document.print(&problems);
            let note = format!("{} is refused by Synapse: `synvisor reload` shows why", trial.prepared.name);
            self.looked_at = Some((trial.prepared.text.clone(), Some(note)));
            trial.prepared.asked.refuse(refusal);
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
