//! A change of what runs: asked for, looked at from all sides, and only then begun.

use nix::time::ClockId;
use nix::time::clock_gettime;
use sd_notify::NotifyState;
use tokio::sync::oneshot;

use crate::host::toml;
use crate::host::toml::Document;
use crate::host::toml::Usable;
use crate::host::venv;
use crate::plan::Deployment;
use crate::plan::Kind;
use crate::plan::Plan;
use crate::plan::plan;
use crate::supervise::Time;
use crate::topology::UnitName;
use crate::wire::Answer;
use crate::wire::GenerationResult;
use crate::wire::Migration;
use crate::wire::Obstacle;

use super::Driver;
use super::apply::Applying;
use super::listeners::Bound;
use super::planning;
use super::trial::Trial;

/// So often main may end before a start is given up for an earlier configuration.
const TRIES: u32 = 3;

/// Who wants a change, and where the answer goes.
pub(super) struct Asked {
    /// As `generations` shows it.
    pub(super) who: String,
    /// Whom the answer is for; a signal has nobody.
    pub(super) reply: Option<oneshot::Sender<Answer>>,
    /// What is known of the database, where another Synapse is to take it up.
    pub(super) migration: Migration,
    /// Whether systemd was told that a reload has begun.
    announced: bool,
}

/// A change that may be made.
pub(super) struct Prepared {
    pub(super) asked: Asked,
    /// What the text is called in messages.
    pub(super) name: String,
    pub(super) text: String,
    pub(super) warnings: String,
    pub(super) target: Deployment,
    pub(super) plan: Plan,
    /// The sockets of addresses that are new.
    pub(super) bound: Bound,
    /// The generation that a rollback returns to.
    pub(super) back_to: Option<u64>,
}

/// What happens to the configuration at this moment.
pub(super) enum UnderWay {
    Trial(Trial),
    Applying(Box<Applying>),
}

impl Asked {
    pub(super) const fn new(who: String, reply: Option<oneshot::Sender<Answer>>) -> Self {
        Self { who, reply, migration: Migration::Unknown, announced: false }
    }

    pub(super) const fn knowing(mut self, migration: Migration) -> Self {
        self.migration = migration;
        self
    }

    /// Tells systemd that a reload begins; the answer will tell it of the end.
    fn announce(&mut self) {
        self.announced = true;
        let microseconds = clock_gettime(ClockId::CLOCK_MONOTONIC)
            .map(|now| i128::from(now.tv_sec()) * 1_000_000 + i128::from(now.tv_nsec()) / 1_000);
        if let Ok(microseconds) = microseconds {
            let _ = sd_notify::notify(&[NotifyState::Reloading, NotifyState::MonotonicUsec(microseconds)]);
        }
    }

    pub(super) fn fail(self, why: impl Into<String>) {
        self.answer(Answer::failed(why));
    }

    /// The configuration has mistakes, which were printed.
    pub(super) fn refuse(self, problems: String) {
        let message = format!("{}\nnothing was changed", problems.trim_end());
        self.answer(Answer::hindered(Obstacle::Config, message));
    }

    pub(super) fn answer(self, answer: Answer) {
        let gist = gist(&answer.message);
        if answer.ok {
            tracing::info!("{}: {gist}", self.who);
        } else {
            tracing::warn!("{} failed: {}", self.who, answer.message);
        }
        if self.announced {
            let status = if answer.ok {
                format!("last change: {gist}")
            } else {
                format!("last change failed: {gist}")
            };
            let _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
        }
        if let Some(reply) = self.reply {
            // Who asked may have left.
            let _ = reply.send(answer);
        }
    }
}

impl Driver {
    /// Reads the TOML again and changes what runs to what it says.
    pub(super) fn reload(&mut self, asked: Asked) {
        let Some(asked) = self.admit(asked) else { return };
        let usable = toml::usable(&self.config_path, self.credentials.as_ref());
        let name = self.config_path.display().to_string();
        match usable {
            // Who says that the files are to be read wants to know what is wrong with them.
            Ok(Usable { without_certificate, .. }) if !without_certificate.is_empty() => {
                asked.refuse(without_certificate);
            }
            Ok(usable) => self.consider(asked, name, usable, None),
            Err(problems) => asked.refuse(problems.to_string()),
        }
    }

    /// Changes what runs to what an earlier generation says; without a number, to the one before.
    pub(super) fn roll_back(&mut self, number: Option<u64>, asked: Asked) {
        let Some(mut asked) = self.admit(asked) else { return };
        let number = match number.map_or_else(|| self.before(), Ok) {
            Ok(number) => number,
            Err(why) => return asked.fail(why),
        };
        asked.who = format!("{} to {number}", asked.who);
        self.return_to(number, asked);
    }

    fn return_to(&mut self, number: u64, asked: Asked) {
        let Ok(text) = self.generations.text(number) else {
            return asked.fail(format!(
                "there is no generation {number}\n  `synvisor generations` lists those that are kept"
            ));
        };
        let name = format!("generation {number}");
        let document = Document { name: name.clone(), text };
        match toml::usable_as(document, &self.config_path, self.credentials.as_ref()) {
            Ok(usable) => self.consider(asked, name, usable, Some(number)),
            Err(problems) => asked.refuse(problems.to_string()),
        }
    }

    /// Goes on with a change that an earlier supervisor had begun.
    pub(super) fn resume(&mut self, number: u64) {
        let all = self.generations.list();
        let Some(begun) = all.into_iter().find(|generation| generation.number == number) else { return };
        let asked = Asked::new(format!("{}, taken up again", begun.who), None);
        let Some(asked) = self.admit(asked) else { return };
        let text = self.generations.text(number).unwrap_or_default();
        let name = format!("generation {number}");
        let document = Document { name: name.clone(), text };
        let usable = match toml::usable_as(document, &self.config_path, self.credentials.as_ref()) {
            Ok(usable) => usable,
            Err(problems) => return asked.refuse(problems.to_string()),
        };
        if self.plan_for(&planning::deployment(&usable)).is_ok_and(|plan| plan.is_empty()) {
            (self.generation, self.in_force, self.unfinished) = (number, number, None);
            self.settle(number, GenerationResult::Applied, None);
        }
        self.consider(asked, name, usable, begun.rollback.then_some(number));
    }

    /// The newest generation that was applied and says something else than what runs.
    fn before(&self) -> Result<u64, String> {
        let all = self.generations.list();
        let mut applied =
            all.iter().rev().filter(|generation| generation.result == GenerationResult::Applied);
        let other = |number: u64| self.generations.text(number).is_ok_and(|text| text != self.text);
        applied.find(|generation| other(generation.number)).map(|generation| generation.number).ok_or_else(
            || {
                "there is no generation before this one\n  `synvisor generations` lists those that are kept"
                    .to_owned()
            },
        )
    }

    /// A start with a configuration that has never served goes back to the last one that did when main does not come up.
    /// One that has nowhere to go back to ends, so that `systemctl start` says why; systemd begins it anew, and then it is
    /// tried on and on, as whatever fails later.
    pub(super) fn give_up_start(&mut self) {
        if self.served || self.stopping || self.under_way.is_some() {
            return;
        }
        let needed = [UnitName::main(), UnitName::router()];
        let units = self.core.status().into_iter().filter(|unit| needed.contains(&unit.name));
        for unit in units {
            let why = unit.reason.unwrap_or_default();
            if unit.name == UnitName::main() && unit.restarts == TRIES {
                self.return_to_proven(&why);
            } else if unit.state == "failed" && !self.unattended {
                let log = self.around.layout.log(&unit.name);
                self.give_up(format!(
                    "{name} does not come up: it ended again and again before it was ready, at last with\n  {why}\n  \
                     mend that, and `systemctl start synvisor`; {log} has the whole of what {name} wrote, and \
                     `synvisor doctor` looks for what goes wrong in practice",
                    name = unit.name,
                    log = log.display(),
                ));
            }
        }
    }

    fn return_to_proven(&mut self, why: &str) {
        let all = self.generations.list();
        let unproven = all.iter().find(|generation| generation.number == self.generation);
        let good = all.iter().rfind(|generation| generation.result == GenerationResult::Applied);
        let (Some(GenerationResult::Applying), Some(good)) = (unproven.map(|unproven| unproven.result), good)
        else {
            return;
        };
        let asked = Asked::new(format!("start, since main did not come up: {}", gist(why)), None);
        self.looked_at = None;
        self.return_to(good.number, asked);
    }

    /// Answers at once where no change can begin now.
    fn admit(&mut self, mut asked: Asked) -> Option<Asked> {
        if self.stopping {
            asked.fail("nothing was changed: synvisor is stopping");
            return None;
        }
        if let Some(what) = self.what_is_under_way() {
            let message = format!("nothing was changed: {what}\n  try again when it is done");
            asked.answer(Answer::hindered(Obstacle::Busy, message));
            return None;
        }
        if self.started {
            asked.announce();
        }
        Some(asked)
    }

    /// A sentence for `status` and for who comes in between.
    pub(super) fn what_is_under_way(&self) -> Option<String> {
        match &self.under_way {
            None => None,
            Some(UnderWay::Trial(trial)) => Some(format!(
                "{} is under way: Synapse reads its new configuration",
                trial.prepared.asked.who
            )),
            Some(UnderWay::Applying(applying)) => Some(applying.describe()),
        }
    }

    /// A sentence for `status` on a change that was begun and is neither under way nor done.
    pub(super) fn what_is_unfinished(&self) -> Option<String> {
        self.unfinished.filter(|_| self.under_way.is_none()).map(|number| {
            format!("generation {number} is not in force as a whole: `synvisor reload` makes everything as the file says")
        })
    }

    fn consider(&mut self, asked: Asked, name: String, usable: Usable, back_to: Option<u64>) {
        let mut target = planning::deployment(&usable);
        // On the way back, and after a crash, what cannot be read is gone on with as it is.
        let tls = target.config.listen.iter().flat_map(|listen| &listen.tls);
        let tls = tls.flat_map(|files| [&files.certificate, &files.key]);
        target.secrets.inherit(&self.running.secrets, tls);
        let plan = match self.plan_for(&target) {
            Ok(plan) => plan,
            Err(why) => return asked.fail(format!("nothing was changed: {why}")),
        };
        let bound = match self.around.listeners.bind(&target.config.listen) {
            Ok(bound) => bound,
            Err(why) => return asked.fail(format!("nothing was changed: {why}")),
        };
        let Usable { text, warnings, .. } = usable;
        if plan.is_empty() {
            (self.text, self.looked_at) = (text, None);
            return asked.answer(Answer::done(and_warnings(plan.summary(), &warnings)));
        }
        let restarts = plan.steps.iter().any(|step| step.kind != Kind::Hup && !step.stages.is_empty());
        if let Some(why) = self.cannot_come_up(&target).filter(|_| restarts) {
            return asked.fail(format!("nothing was changed: {why}"));
        }
        self.try_out(Box::new(Prepared { asked, name, text, warnings, target, plan, bound, back_to }));
    }

    /// The plan for a deployment that can be had while everything runs.
    pub(super) fn plan_for(&self, target: &Deployment) -> Result<Plan, String> {
        self.is_there(target)?;
        plan(&self.running, target).map_err(|refusal| refusal.to_string())
    }

    /// Whether Synapse and the embedded services of a deployment are there to be started.
    fn is_there(&self, target: &Deployment) -> Result<(), String> {
        let new = &target.config;
        if target.synapse_version.is_empty() {
            let venv = new.python.venv.display();
            return Err(format!("there is no Synapse in {venv} ([python])\n  {}", venv::remedy(new)));
        }
        let around = &self.around;
        let database = around.layout.postgres_data().join("data").join("PG_VERSION");
        let what = if new.database.is_embedded() && !(around.venv.postgres.is_some() && database.exists()) {
            "[database] cannot become embedded while it runs: its directory is made when the service starts"
        } else if new.redis.is_embedded() && around.venv.redis.is_none() {
            "[redis] cannot become embedded while it runs: its program is looked for when the service starts"
        } else {
            return Ok(());
        };
        Err(format!("{what}\n  apply it by a full restart: systemctl restart synvisor"))
    }

    /// When what is under way has taken too long.
    pub(super) fn change_overdue(&self) -> Option<Time> {
        match &self.under_way {
            None => None,
            Some(UnderWay::Trial(trial)) => Some(trial.deadline),
            Some(UnderWay::Applying(applying)) => applying.deadline,
        }
    }

    pub(super) fn change_hangs(&mut self) {
        match self.under_way.take() {
            None => {}
            Some(UnderWay::Trial(trial)) => {
                self.trial_hangs(&trial);
                self.under_way = Some(UnderWay::Trial(trial.waited()));
            }
            Some(UnderWay::Applying(applying)) => {
                let why = applying.missing(&self.core.status());
                self.under_way = Some(UnderWay::Applying(applying));
                self.go_back(why);
            }
        }
    }

    /// The supervisor stops: what was begun is taken up at the next start, which reads the same TOML.
    pub(super) fn abandon(&mut self) {
        match self.under_way.take() {
            None => {}
            Some(UnderWay::Trial(trial)) => {
                trial.prepared.asked.fail("nothing was changed: synvisor is stopping");
            }
            Some(UnderWay::Applying(applying)) => {
                applying
                    .asked
                    .fail("synvisor is stopping: what is left of the change is done at its next start");
            }
        }
    }
}

/// A message on the one line that systemd shows: its first one, with what it announces by a colon.
fn gist(message: &str) -> String {
    let mut lines = message.lines();
    let mut gist = lines.next().unwrap_or_default().to_owned();
    for line in lines {
        if !gist.ends_with(':') {
            break;
        }
        gist.push(' ');
        gist.push_str(line.trim());
    }
    gist
}

/// A message, and below it what should be looked at.
pub(super) fn and_warnings(message: String, warnings: &str) -> String {
    if warnings.is_empty() { message } else { format!("{message}\n{}", warnings.trim_end()) }
}
