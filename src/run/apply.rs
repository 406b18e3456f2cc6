//! A plan, carried out step by step, and undone step by step where one fails.
//!
//! Each process gets its new files in the moment when nobody runs who must not see them: so whoever is started again for
//! another reason meanwhile finds what it had.

use std::collections::BTreeSet;

use nix::sys::signal::Signal;

use crate::plan::Deployment;
use crate::plan::Kind;
use crate::plan::Plan;
use crate::plan::Step;
use crate::plan::compressed;
use crate::plan::plan;
use crate::render;
use crate::render::FileSet;
use crate::supervise::Change;
use crate::supervise::Exit;
use crate::supervise::Input;
use crate::supervise::Life;
use crate::supervise::Outcome;
use crate::supervise::Ticket;
use crate::supervise::Time;
use crate::supervise::UnitStatus;
use crate::sys::clock;
use crate::sys::process;
use crate::topology::UnitName;
use crate::wire::Generation;
use crate::wire::GenerationResult;
use crate::wire::Migration;

use super::Driver;
use super::listeners::Bound;
use super::orders::Made;
use super::orders::Why;
use super::orders::seconds;
use super::policy;
use super::reload::Asked;
use super::reload::Prepared;
use super::reload::UnderWay;
use super::specs;

/// From the moment when everybody is down until the next one is READY, in milliseconds: ten times what a large worker
/// takes on a slow machine.
const START_LIMIT: u64 = 180_000;

/// For Synapse to say READY once more after SIGHUP, in milliseconds: it takes a few.
const HUP_LIMIT: u64 = 10_000;

/// A change under way.
pub(super) struct Applying {
    pub(super) asked: Asked,
    /// The generation that it makes.
    number: u64,
    /// The one that everything is to go by in the end: another one on the way back.
    pub(super) towards: u64,
    /// The generation that it goes back from, if somebody wants to go back.
    left: Option<Generation>,
    /// What is to run in the end.
    target: Deployment,
    text: String,
    warnings: String,
    /// What ran before; none where nothing did, and on the way back to it.
    old: Option<Deployment>,
    /// Why it goes back.
    why: Option<String>,
    plan: Plan,
    /// The sockets of addresses that are new, until they are listened at.
    bound: Bound,
    /// The step that is being carried out.
    at: usize,
    /// Whether the router, and whatever is not one process's own, go by the target.
    switched: bool,
    /// The part of the step that the core sees to, while it does.
    ticket: Option<Ticket>,
    /// Processes that have been told to read their files anew and have not said that they have.
    reading: BTreeSet<Life>,
    pub(super) deadline: Option<Time>,
}

impl Applying {
    pub(super) fn describe(&self) -> String {
        let of = self.plan.steps.len();
        let step = format!("step {} of {of}", (self.at + 1).min(of));
        match &self.why {
            None => format!("{} is under way: {step}", self.asked.who),
            Some(why) => {
                let first = why.lines().next().unwrap_or_default();
                format!("{} is being undone: {step} on the way back, since {first}", self.asked.who)
            }
        }
    }

    /// Why it takes too long.
    pub(super) fn missing(&self, units: &[UnitStatus]) -> String {
        if !self.reading.is_empty() {
            let names: Vec<UnitName> = self.reading.iter().map(|life| life.unit.clone()).collect();
            return format!("{} did not say in time that the files were read anew", compressed(&names));
        }
        let concerned = self.plan.steps.get(self.at).map(|step| &step.moves);
        let waits = |unit: &&UnitStatus| {
            unit.state != "ready" && concerned.is_some_and(|moves| moves.contains_key(&unit.name))
        };
        let names: Vec<UnitName> = units.iter().filter(waits).map(|unit| unit.name.clone()).collect();
        format!("{} did not get ready within {} s", compressed(&names), START_LIMIT / 1_000)
    }

    /// Whether units of a step that is still to come go down together.
    fn together_ahead(&self) -> bool {
        self.plan.steps.iter().skip(self.at).any(|step| step.kind == Kind::Together)
    }
}

impl Driver {
    /// Begins a change that was looked at from all sides.
    pub(super) fn apply(&mut self, prepared: Prepared) {
        let Prepared { asked, name: _, text, warnings, target, plan, bound, back_to } = prepared;
        let changes = plan.changes.iter().map(ToString::to_string).collect();
        let number =
            match self.generations.begin(&text, clock::wall(), &asked.who, changes, back_to.is_some()) {
                Ok(number) => number,
                Err(error) => return asked.fail(format!("nothing was changed: {error}")),
            };
        if let Some(unfinished) = self.unfinished {
            let why = format!("synvisor ended while it was applied, and went on with generation {number}");
            self.settle(unfinished, GenerationResult::Failed, Some(why));
        }
        let left = back_to.and_then(|_| self.leave_behind(&asked.who));
        tracing::info!("{}: generation {number} is applied", asked.who);
        // Who has never served has nothing that one could go back to.
        let old = self.served.then(|| self.running.clone());
        if !self.served && left.is_none() {
            let why = Some(format!("generation {number} took its place before it served"));
            self.settle(self.generation, GenerationResult::Failed, why);
        }
        self.under_way = Some(UnderWay::Applying(Box::new(Applying {
            asked,
            number,
            towards: number,
            left,
            target,
            text,
            warnings,
            old,
            why: None,
            plan,
            bound,
            at: 0,
            switched: false,
            ticket: None,
            reading: BTreeSet::new(),
            deadline: None,
        })));
        self.count(Why::Begun);
        self.keep();
        self.milestone();
        // Nobody has served with the files that are there: who comes up meanwhile need not try them once more.
        let all: Vec<UnitName> = self.running.images.keys().cloned().collect();
        if !self.served
            && let Err(why) = self.equip(&all)
        {
            return self.go_back(why);
        }
        self.advance();
    }

    fn applying(&mut self) -> Option<&mut Applying> {
        match &mut self.under_way {
            Some(UnderWay::Applying(applying)) => Some(applying),
            Some(UnderWay::Trial(_)) | None => None,
        }
    }

    /// Carries out the step whose turn it is.
    fn advance(&mut self) {
        let Some(applying) = self.applying() else { return };
        if !applying.switched && !applying.together_ahead() {
            self.switch();
        }
        let Some(applying) = self.applying() else { return };
        match applying.plan.steps.get(applying.at).cloned() {
            None => self.arrive(),
            Some(step) if step.kind == Kind::Hup => self.read_anew(&step),
            Some(step) => self.change(step.leave, step.stages),
        }
    }

    /// Has those who are READY read their files anew. Who is just starting may have read the old ones and starts again;
    /// anybody else will read them when it starts.
    fn read_anew(&mut self, step: &Step) {
        let names: Vec<UnitName> = step.moves.keys().cloned().collect();
        if let Err(why) = self.equip(&names) {
            return self.go_back(why);
        }
        let mut again = Vec::new();
        let mut reading = BTreeSet::new();
        for unit in self.core.status().into_iter().filter(|unit| names.contains(&unit.name)) {
            let ready = self.core.ready(&unit.name).filter(|life| self.pids.of(life).is_some());
            match ready {
                Some(life) => {
                    let _ = self.pids.signal(&life, Signal::SIGHUP);
                    reading.insert(life);
                }
                None if unit.state == "starting" => again.push(unit.name),
                None => {}
            }
        }
        let deadline = clock::now().after(HUP_LIMIT);
        if let Some(applying) = self.applying() {
            applying.reading = reading;
            applying.deadline = Some(deadline);
        }
        if again.is_empty() {
            self.step_done();
        } else {
            self.change(Vec::new(), vec![again]);
        }
    }

    /// Has the core take down and bring up whom a step concerns.
    fn change(&mut self, leave: Vec<UnitName>, stages: Vec<Vec<UnitName>>) {
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let Some(UnderWay::Applying(applying)) = &mut self.under_way else { return };
        applying.ticket = Some(ticket);
        let mut enter = specs(&applying.target.topology, &self.around);
        enter.retain(|spec| stages.iter().flatten().any(|unit| *unit == spec.name));
        self.input(Input::Change(ticket, Change { leave, enter, stages }));
    }

    /// Nobody runs whom the step takes down: now they get their new files, and the router its new table.
    pub(super) fn all_down(&mut self, ticket: Ticket) {
        self.wait_longer(ticket);
        let Some(applying) = self.applying().filter(|applying| applying.ticket == Some(ticket)) else {
            return;
        };
        let step = applying.plan.steps.get(applying.at);
        let names: Vec<UnitName> = step.into_iter().flat_map(|step| step.moves.keys()).cloned().collect();
        if !applying.switched && step.is_some_and(|step| step.kind == Kind::Together) {
            self.switch();
        }
        if let Err(why) = self.equip(&names) {
            return self.go_back(why);
        }
        self.milestone();
    }

    /// Counts the time for the next one to get READY from now; a migration takes what it takes.
    pub(super) fn wait_longer(&mut self, ticket: Ticket) {
        let migrated = self.core.ready(&UnitName::main()).is_some();
        if let Some(applying) = self.applying().filter(|applying| applying.ticket == Some(ticket)) {
            let same = |old: &Deployment| old.synapse_version == applying.target.synapse_version;
            let limited = migrated
                || applying.asked.migration == Migration::None
                || applying.old.as_ref().is_none_or(same);
            applying.deadline = limited.then(|| clock::now().after(START_LIMIT));
        }
    }

    /// Writes the files of units, which from now on run with what the target says.
    fn equip(&mut self, names: &[UnitName]) -> Result<(), String> {
        let Some(UnderWay::Applying(applying)) = &self.under_way else { return Ok(()) };
        let target = &applying.target;
        let mut files = FileSet::new();
        // Noted before anything is written: whose files may be other ones is among those who go back.
        for name in names {
            match target.images.get(name) {
                Some(image) => {
                    files.extend(render::files(&target.config, name, &image.settings, &image.log));
                    self.running.images.insert(name.clone(), image.clone());
                }
                None => {
                    self.running.images.remove(name);
                }
            }
        }
        self.keep_images()?;
        let written = self.around.layout.write(&files, &self.around.users);
        written.map(drop).map_err(|error| error.to_string())
    }

    /// Lets everything that is not one process's own go by the target.
    fn switch(&mut self) {
        let Some(UnderWay::Applying(applying)) = &mut self.under_way else { return };
        applying.switched = true;
        self.in_force = applying.towards;
        let bound = std::mem::take(&mut applying.bound);
        let images = std::mem::take(&mut self.running.images);
        let old = std::mem::replace(&mut self.running, Deployment { images, ..applying.target.clone() });
        let gone =
            old.topology.units.into_iter().filter(|unit| self.running.topology.unit(&unit.name).is_none());
        self.leaving.retain(|name, _| self.running.topology.unit(name).is_none());
        self.leaving.extend(gone.map(|unit| (unit.name.clone(), unit)));
        self.core.set_policy(policy(&self.running.config));
        self.around.listeners.take(bound, &self.running.config.listen, &self.running.secrets);
        self.tell_table();
        if old.config.database != self.running.config.database
            || old.config.redis != self.running.config.redis
        {
            self.look_after_services();
        }
        if old.config.supervisor.health_timeout != self.running.config.supervisor.health_timeout {
            self.keep_asking_all();
        }
    }

    /// The core has done its part of a step, or could not.
    pub(super) fn changed(&mut self, ticket: Ticket, outcome: Outcome) {
        let Some(applying) = self.applying().filter(|applying| applying.ticket == Some(ticket)) else {
            return;
        };
        applying.ticket = None;
        match outcome {
            Outcome::Done => self.step_done(),
            Outcome::Failed(why) => self.go_back(why),
        }
    }

    /// Whether a READY is the answer to SIGHUP.
    pub(super) fn has_read(&mut self, life: &Life) -> bool {
        let read = self.applying().is_some_and(|applying| applying.reading.remove(life));
        if read {
            self.step_done();
        }
        read
    }

    /// A process has ended that perhaps was told to read its files anew; who ends by order reads them at its next start.
    pub(super) fn ended_reading(&mut self, life: &Life, exit: Exit, unasked: bool) {
        if self.applying().is_some_and(|applying| applying.reading.remove(life)) {
            if unasked {
                self.go_back(format!("{} ended when it read its files anew: {exit}", life.unit));
            } else {
                self.step_done();
            }
        }
    }

    /// Goes on to the next step once nothing of this one is left.
    fn step_done(&mut self) {
        let Some(applying) = self.applying() else { return };
        if applying.ticket.is_some() || !applying.reading.is_empty() {
            return;
        }
        applying.at += 1;
        applying.deadline = None;
        self.milestone();
        self.advance();
    }

    /// Undoes what was done: who has moved moves back, who has not never notices.
    pub(super) fn go_back(&mut self, why: String) {
        let Some(UnderWay::Applying(mut applying)) = self.under_way.take() else { return };
        let main = UnitName::main();
        let crossed = applying.asked.migration == Migration::OneWay
            && self.running.images.get(&main) == applying.target.images.get(&main);
        // Whom the old Synapse would find there is a database that it cannot use.
        let Some(old) = applying.old.take().filter(|_| !crossed) else {
            return self.stranded(*applying, &why);
        };
        tracing::warn!("{}: generation {} is rolled back: {why}", applying.asked.who, applying.number);
        // At once: who starts in the middle of the way back must not try it again.
        self.settle(applying.number, GenerationResult::RolledBack, Some(why.clone()));
        match plan(&self.running, &old) {
            Ok(back) => {
                (applying.plan, applying.at, applying.switched) = (back, 0, false);
                (applying.ticket, applying.deadline) = (None, None);
                applying.towards = self.generation;
                applying.reading.clear();
                applying.bound = Bound::default();
                (applying.target, applying.why) = (old, Some(why));
                self.under_way = Some(UnderWay::Applying(applying));
                self.advance();
            }
            Err(refusal) => self.stranded(*applying, &format!("{why}\n{refusal}")),
        }
    }

    /// There is no way back, or it failed too.
    fn stranded(&mut self, applying: Applying, then: &str) {
        let Applying { asked, number, left, why, .. } = applying;
        if let Some(left) = left {
            self.settle(left.number, left.result, left.why);
        }
        self.looked_at = None;
        // Nobody else will let up who is still down for the sake of the others.
        self.tickets += 1;
        self.input(Input::Change(Ticket(self.tickets), Change::default()));
        let whole = match why {
            Some(first) => format!("{first}\n  and going back failed too: {then}"),
            None => then.to_owned(),
        };
        self.settle(number, GenerationResult::Failed, Some(whole.clone()));
        asked.fail(format!(
            "generation {number} is not in force as a whole: {whole}\n  `synvisor status` shows what does not run; mend the cause, and reload again"
        ));
    }

    /// Every step is done.
    fn arrive(&mut self) {
        let Some(UnderWay::Applying(applying)) = &self.under_way else { return };
        // Who is not concerned finds the rest when it starts.
        let files = applying.target.render();
        if let Err(error) = self.around.layout.write(&files, &self.around.users) {
            return self.go_back(error.to_string());
        }
        let Some(UnderWay::Applying(applying)) = self.under_way.take() else { return };
        let Applying { asked, number, left, target, text, warnings, why, plan, .. } = *applying;
        self.running = target;
        self.unfinished = None;
        if self.around.listeners.close_others(&self.running.config.listen) {
            self.tell_table();
        }
        self.looked_at = None;
        self.milestone();
        let Some(why) = why else {
            (self.text, self.generation) = (text, number);
            self.settle(number, GenerationResult::Applied, None);
            self.milestone();
            let (gap, down) = (self.longest_gap(&plan), self.stays_down(&plan));
            let message = format!("generation {number}: {}{gap}{down}", plan.summary());
            return self.count(Why::Made(Made { asked, message, warnings }));
        };
        if let Some(left) = left {
            self.settle(left.number, left.result, left.why);
        }
        let (what, remedy) = why.split_once('\n').unwrap_or((&why, ""));
        let back = if plan.steps.is_empty() { "nobody had to go back".to_owned() } else { plan.summary() };
        asked.fail(format!(
            "generation {number} was rolled back: {what}\n{remedy}{}  \
             what ran before runs again ({back}); mend the cause, and reload again",
            if remedy.is_empty() { "" } else { "\n" }
        ));
    }

    /// How long requests had to wait for a unit of a plan at most.
    fn longest_gap(&self, plan: &Plan) -> String {
        let units = plan.steps.iter().flat_map(|step| step.stages.iter().flatten());
        let gaps = units.filter_map(|unit| Some((self.timeline.spans(unit).gap?, unit)));
        gaps.max().map_or_else(String::new, |(gap, unit)| {
            format!("; nobody was away longer than {unit}, {} s", seconds(gap))
        })
    }

    /// Who is concerned and was stopped by order: a change starts nobody whom an administrator has stopped.
    fn stays_down(&self, plan: &Plan) -> String {
        let concerned = |name: &UnitName| plan.steps.iter().any(|step| step.moves.contains_key(name));
        let stopped = self.core.status().into_iter().filter(|unit| !unit.wanted && concerned(&unit.name));
        let names: Vec<UnitName> = stopped.map(|unit| unit.name).collect();
        if names.is_empty() {
            return String::new();
        }
        format!("; still stopped, as ordered: {}", compressed(&names))
    }

    /// Notes that somebody goes back from the generation that runs, so that the next start does not return to it.
    fn leave_behind(&self, who: &str) -> Option<Generation> {
        let all = self.generations.list();
        let left = all.into_iter().find(|generation| generation.number == self.generation)?;
        self.settle(left.number, GenerationResult::RolledBack, Some(who.to_owned()));
        Some(left)
    }

    pub(super) fn settle(&self, number: u64, result: GenerationResult, why: Option<String>) {
        if let Err(error) = self.generations.settle(number, result, why) {
            tracing::warn!("what became of generation {number} is not noted: {error}");
        }
    }

    /// For tests: a supervisor that dies here.
    fn milestone(&mut self) {
        self.around.milestones = self.around.milestones.map(|left| left.saturating_sub(1));
        if self.around.milestones == Some(0) {
            let _ = process::signal(std::process::id().cast_signed(), Signal::SIGKILL);
            std::thread::park();
        }
    }
}
