//! The machine around the core: processes, the router's view, news on its way; and what must hold of it at every moment.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt::Write as _;

use synvisor::supervise::Change;
use synvisor::supervise::{Effect, Ending, Exit, Input, Life, Outcome, Spec, Supervisor, Ticket, Time, When};
use synvisor::topology::UnitName;

use super::POLICY;
use super::random::Random;

impl Random {
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

pub(crate) fn spec(name: &str, needs: &[(&str, When)], stage: u8, routed: bool) -> Spec {
    let needs = needs.iter().map(|(name, when)| (UnitName::new(*name), *when)).collect();
    let overlaps = matches!(name, "router" | "edge");
    Spec { name: UnitName::new(name), needs, stage, routed, inherits: (1..3).contains(&stage), overlaps }
}

pub(crate) fn specs(workers: u64) -> Vec<Spec> {
    let services = [("postgres", When::ReadyNow), ("redis", When::ReadyNow)];
    let mut all = vec![spec("postgres", &[], 0, false), spec("redis", &[], 0, false)];
    all.push(spec("forkserver", &[], 0, false));
    all.push(spec("main", &[services[0], services[1], ("forkserver", When::Settled)], 1, true));
    for index in 1..=workers {
        let needs = [services[0], services[1], ("main", When::ReadyOnce)];
        all.push(spec(&format!("generic-{index}"), &needs, 2, index != 1));
    }
    if workers > 2 {
        // One more that overlaps, and that needs others, comes and goes.
        all.push(spec("edge", &services, 3, false));
    }
    all.push(spec("router", &[], 3, false));
    all
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Process {
    Alive,
    /// Dead, but the core has not heard of it.
    Unreaped,
}

/// What became of a process that does not answer any more.
#[derive(Clone, Copy)]
pub(crate) struct Stuck {
    since: Time,
    told: bool,
    killed: bool,
}

/// A unit that never comes to rest.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Curse {
    /// Each of its processes ends at once, before READY.
    Before,
    /// Each ends right after READY.
    After,
    /// Each answers nothing any more right after READY.
    Stuck,
}

/// A change that is not answered.
pub(crate) struct UnderWay {
    pub(crate) ticket: Ticket,
    /// What its members' processes were when it was made.
    pub(crate) before: BTreeSet<Life>,
    pub(crate) stages: Vec<Vec<UnitName>>,
    /// Units that have been ready, or stopped by order, since.
    pub(crate) risen: BTreeSet<UnitName>,
    /// Whether it was said that everybody is down.
    pub(crate) all_down: bool,
}

/// The machine around the core: processes, the router's view, and the news on its way.
pub(crate) struct World {
    pub(crate) core: Supervisor,
    pub(crate) random: Random,
    pub(crate) now: Time,
    pub(crate) faults: bool,
    pub(crate) processes: BTreeMap<Life, Process>,
    /// Who lives beside its successor, or waits for one, and when it is to be told to end.
    pub(crate) retired: BTreeMap<Life, Time>,
    /// Orders to stop.
    pub(crate) stops: BTreeSet<Ticket>,
    /// Whoever was started, ever.
    pub(crate) lived: BTreeSet<Life>,
    pub(crate) said_ready: BTreeSet<Life>,
    pub(crate) ever_ready: BTreeSet<UnitName>,
    pub(crate) core_thinks_ready: BTreeSet<UnitName>,
    pub(crate) routed: BTreeMap<UnitName, Life>,
    /// Whom the router was asked to drain, until when.
    pub(crate) draining: BTreeMap<Life, Time>,
    /// Whom the drain was too short for, and who was told to end.
    pub(crate) overdue: BTreeSet<Life>,
    pub(crate) change: Option<UnderWay>,
    /// What follows a change that failed.
    pub(crate) mend: Option<Change>,
    /// The last order that concerns each unit, where all of it happens at once.
    pub(crate) together: BTreeMap<UnitName, Ticket>,
    /// Units whose last order takes one after the other.
    pub(crate) rolling: BTreeSet<UnitName>,
    /// What rolling orders still have to do, in order.
    pub(crate) ahead: BTreeMap<Ticket, Vec<UnitName>>,
    /// Units whose sockets are held, and since when they have no process.
    pub(crate) bound: BTreeMap<UnitName, Option<Time>>,
    /// When each piece of news arrives, and a number that keeps equal times apart.
    pub(crate) news: BTreeMap<(Time, u64), Input>,
    pub(crate) sent: u64,
    pub(crate) specs: Vec<Spec>,
    pub(crate) stopped: BTreeSet<UnitName>,
    pub(crate) ordered: bool,
    pub(crate) starts: BTreeMap<UnitName, Vec<Time>>,
    pub(crate) open: BTreeSet<Ticket>,
    pub(crate) tickets: u64,
    pub(crate) finished: u32,
    /// Processes that answered nothing any more while the core had them READY.
    pub(crate) stuck: BTreeMap<Life, Stuck>,
    pub(crate) cursed: Option<(UnitName, Curse)>,
    pub(crate) shutting_down: bool,
    /// Whether a new supervisor takes over at this moment.
    pub(crate) adopting: bool,
    pub(crate) transcript: String,
}

impl World {
    pub(crate) fn new(seed: u64, orders: bool) -> Self {
        let mut random = Random(seed);
        random.next();
        Self {
            core: Supervisor::new(POLICY, seed),
            random,
            now: Time(0),
            faults: true,
            processes: BTreeMap::new(),
            retired: BTreeMap::new(),
            stops: BTreeSet::new(),
            lived: BTreeSet::new(),
            said_ready: BTreeSet::new(),
            ever_ready: BTreeSet::new(),
            core_thinks_ready: BTreeSet::new(),
            routed: BTreeMap::new(),
            draining: BTreeMap::new(),
            overdue: BTreeSet::new(),
            change: None,
            mend: None,
            together: BTreeMap::new(),
            rolling: BTreeSet::new(),
            ahead: BTreeMap::new(),
            bound: BTreeMap::new(),
            news: BTreeMap::new(),
            sent: 0,
            specs: specs(3),
            stopped: BTreeSet::new(),
            ordered: orders,
            starts: BTreeMap::new(),
            open: BTreeSet::new(),
            tickets: 0,
            finished: 0,
            stuck: BTreeMap::new(),
            cursed: None,
            shutting_down: false,
            adopting: false,
            transcript: String::new(),
        }
    }

    pub(crate) fn send(&mut self, delay: u64, input: Input) {
        self.sent += 1;
        self.news.insert((self.now.after(delay), self.sent), input);
    }

    pub(crate) fn tell(&mut self, input: Input) {
        let _ = writeln!(self.transcript, "{} {input:?}", self.now.0);
        let counted = self.will_have_counted(&input);
        match &input {
            Input::Exited { life, .. } | Input::StartFailed(life, _) => {
                if self.processes.remove(life).is_some()
                    && let Some(away) = self.bound.get_mut(&life.unit)
                {
                    *away = Some(self.now);
                }
                self.draining.remove(life);
                self.overdue.remove(life);
                self.stuck.remove(life);
                // Only news of the process that the core has in mind may change what it thinks.
                if self.retired.remove(life).is_none() {
                    self.core_thinks_ready.remove(&life.unit);
                }
            }
            Input::Ready(life) if self.processes.contains_key(life) && !self.retired.contains_key(life) => {
                self.ever_ready.insert(life.unit.clone());
                self.core_thinks_ready.insert(life.unit.clone());
                if let Some(change) = self.change.as_mut().filter(|change| !change.before.contains(life)) {
                    change.risen.insert(life.unit.clone());
                }
            }
            Input::Drained(life) => {
                self.draining.remove(life);
            }
            Input::Stuck(life, _) if self.core.ready(&life.unit).as_ref() == Some(life) => {
                self.core_thinks_ready.remove(&life.unit);
                self.stuck.insert(life.clone(), Stuck { since: self.now, told: false, killed: false });
            }
            Input::Ready(_)
            | Input::Stuck(..)
            | Input::Adopt(_)
            | Input::Desire(_)
            | Input::Change(..)
            | Input::Order(..)
            | Input::Shutdown => {}
        }
        self.core.handle(input, self.now);
        self.obey();
        if let Some((unit, restarts)) = counted {
            let unit = self.core.status().into_iter().find(|status| status.name == unit);
            assert!(unit.is_none_or(|unit| unit.restarts == restarts), "what was stuck is not counted once");
        }
    }

    /// How many unasked ends a unit must have after this news of a stuck process of it: its end is none of its own.
    fn will_have_counted(&self, input: &Input) -> Option<(UnitName, u32)> {
        let restarts = |unit: &UnitName| {
            let status = self.core.status().into_iter().find(|status| status.name == *unit);
            (unit.clone(), status.unwrap().restarts)
        };
        match input {
            Input::Stuck(life, _) if self.core.ready(&life.unit).as_ref() == Some(life) => {
                let (unit, restarts) = restarts(&life.unit);
                Some((unit, restarts + 1))
            }
            Input::Exited { life, .. } if self.stuck.contains_key(life) => Some(restarts(&life.unit)),
            Input::Exited { .. }
            | Input::Stuck(..)
            | Input::StartFailed(..)
            | Input::Drained(_)
            | Input::Ready(_)
            | Input::Adopt(_)
            | Input::Desire(_)
            | Input::Change(..)
            | Input::Order(..)
            | Input::Shutdown => None,
        }
    }

    /// Who does not answer gets no request from that moment, is told to end, and is not left alone if it does not.
    fn watch_stuck(&self) {
        for (life, Stuck { since, told, killed }) in &self.stuck {
            assert_ne!(self.routed.get(&life.unit), Some(life), "{life} routed though stuck");
            assert!(*told, "{life} is stuck and not told to end");
            let waited = self.now.since(*since);
            assert!(*killed || waited <= 5_000, "{life} is stuck and left alone for {waited} ms");
        }
    }

    pub(crate) fn die(&mut self, life: &Life, exit: Exit) {
        if self.processes.get(life) != Some(&Process::Alive) {
            return;
        }
        self.processes.insert(life.clone(), Process::Unreaped);
        let delay = self.random.below(50);
        self.send(delay, Input::Exited { life: life.clone(), exit, detail: None });
    }

    pub(crate) fn obey(&mut self) {
        while let Some(effect) = self.core.poll_effect() {
            let _ = writeln!(self.transcript, "{} -> {effect:?}", self.now.0);
            match effect {
                Effect::Start(life) => self.start(life),
                Effect::Signal(life, ending) => self.signal(&life, ending),
                Effect::Retire(life) => self.retire(life),
                Effect::Admit(life) => {
                    assert!(self.said_ready.contains(&life), "{life} routed before it said READY");
                    self.routed.insert(life.unit.clone(), life);
                }
                Effect::Withdraw(unit) => {
                    self.routed.remove(&unit);
                }
                Effect::Drain(life) => {
                    assert_eq!(self.routed.get(&life.unit), Some(&life), "drained though not routed");
                    self.watch_turn(&life.unit);
                    self.draining.insert(life.clone(), self.now.after(POLICY.drain_timeout));
                    if !(self.faults && self.random.chance(20)) {
                        let delay = self.random.below(15_000);
                        self.send(delay, Input::Drained(life));
                    }
                }
                Effect::Unlisten(unit) => {
                    assert!(self.bound.remove(&unit).is_some(), "{unit} has no sockets to close");
                    let lives = self.present(&unit);
                    assert!(lives.is_none(), "the sockets of {} closed", lives.unwrap());
                }
                Effect::Reached(ticket, unit) => {
                    assert!(self.open.contains(&ticket), "{ticket:?} goes on after its answer");
                    let lives = self.processes.keys().find(|life| life.unit == unit);
                    let stopped = lives.is_none() || !self.stops.contains(&ticket);
                    assert!(stopped, "{} lives though it was stopped", lives.unwrap());
                    if let Some(ahead) = self.ahead.get_mut(&ticket) {
                        ahead.retain(|other| *other != unit);
                    }
                }
                Effect::Reply(ticket, outcome) => {
                    self.ahead.remove(&ticket);
                    assert!(self.open.remove(&ticket), "{ticket:?} answered twice");
                    if self.change.as_ref().is_some_and(|change| change.ticket == ticket) {
                        self.after_change(&outcome);
                        continue;
                    }
                    assert!(self.ordered || outcome == Outcome::Done);
                }
                Effect::AllDown(ticket) => {
                    let change = self.change.as_mut().filter(|change| change.ticket == ticket).unwrap();
                    assert!(!std::mem::replace(&mut change.all_down, true), "{ticket:?} is down twice");
                    let lives =
                        |life: &&Life| self.processes.contains_key(life) && !self.retired.contains_key(life);
                    let left = change.before.iter().find(lives);
                    assert!(left.is_none(), "{} lives while its files are replaced", left.unwrap());
                }
                Effect::Forget(unit) => {
                    assert!(!self.processes.keys().any(|life| life.unit == unit), "{unit} forgotten alive");
                    // An order passes over who is not there any more, unless it is back by then.
                    self.rolling.remove(&unit);
                    self.ahead.values_mut().for_each(|ahead| ahead.retain(|other| *other != unit));
                    self.ever_ready.remove(&unit);
                    self.stopped.remove(&unit);
                    self.bound.remove(&unit);
                }
                Effect::Finished => {
                    assert!(self.processes.is_empty(), "finished before {:?}", self.processes.keys());
                    self.finished += 1;
                }
            }
        }
        for (life, until) in &self.retired {
            // A moment passes between SIGKILL and the news of the end.
            let late = self.now.since(until.after(POLICY.stop_timeout));
            assert!(late <= 50, "{life} outlives its limits by {late} ms");
        }
        for life in self.routed.values() {
            assert!(self.processes.contains_key(life), "{life} routed though dead");
        }
        for (unit, away) in &self.bound {
            let away = away.map_or(0, |since| self.now.since(since));
            assert!(away <= 30_000, "the sockets of {unit} are held for {away} ms");
        }
        self.watch_stuck();
    }

    /// The process of a unit that is not retired.
    pub(crate) fn present(&self, unit: &UnitName) -> Option<&Life> {
        self.processes.keys().find(|life| life.unit == *unit && !self.retired.contains_key(life))
    }

    pub(crate) fn retire(&mut self, life: Life) {
        assert!(self.processes.contains_key(&life), "{life} retired though its end is known");
        let overlaps = matches!(life.unit.as_str(), "router" | "edge");
        assert!(overlaps, "{life} retired though two of its unit do harm");
        let stopped = self.stopped.contains(&life.unit) || self.shutting_down;
        assert!(!stopped || self.adopting, "{life} is not let go though its unit is stopped");
        self.watch_turn(&life.unit);
        self.core_thinks_ready.remove(&life.unit);
        let until = self.now.after(POLICY.retire_timeout);
        assert!(self.retired.insert(life.clone(), until).is_none(), "{life} retired twice");
    }

    /// A rolling order takes a unit down only when all before it are done.
    pub(crate) fn watch_turn(&self, unit: &UnitName) {
        let turn = self.ahead.values().any(|ahead| ahead.first() == Some(unit));
        let change = self.change.as_ref().map(|change| &change.before);
        let leaves = !self.specs.iter().any(|spec| spec.name == *unit);
        let changes = leaves || change.is_some_and(|before| before.iter().any(|life| life.unit == *unit));
        let ordered =
            changes || !self.rolling.contains(unit) || self.stopped.contains(unit) || self.shutting_down;
        assert!(turn || ordered, "{unit} goes down before it was its turn");
    }

    /// Who stops together lets each other finish first, and who has nothing to finish goes last.
    pub(crate) fn watch_batch(&mut self, life: &Life) {
        let overdue = self.draining.get(life).is_some_and(|until| self.now >= *until);
        if let Some(ticket) = self.together.get(&life.unit) {
            let mates = |other: &&Life| self.together.get(&other.unit) == Some(ticket) && *other != life;
            let busy = self.draining.keys().filter(mates).find(|other| self.now < self.draining[*other]);
            assert!(busy.is_none(), "{life} signalled while its batch is busy: {}", busy.unwrap());
            let late = self.draining.keys().chain(&self.overdue).find(mates);
            assert!(overdue || late.is_none(), "{life} does not wait for the overdue {}", late.unwrap());
        }
        if overdue {
            self.overdue.insert(life.clone());
        }
    }

    pub(crate) fn start(&mut self, life: Life) {
        let lives = self.present(&life.unit);
        assert!(lives.is_none(), "{life} started while {} lives", lives.unwrap());
        assert!(!self.routed.contains_key(&life.unit), "{life} started while its unit is routed");
        assert!(!self.shutting_down, "{life} started after shutdown");
        for (need, when) in &self.specs.iter().find(|spec| spec.name == life.unit).unwrap().needs {
            let met = match when {
                When::ReadyNow => self.core_thinks_ready.contains(need),
                When::ReadyOnce => self.ever_ready.contains(need),
                When::Settled => {
                    // It may be on its way out a moment later.
                    self.core_thinks_ready.contains(need)
                        || self.stopped.contains(need)
                        || self.core.status().iter().any(|unit| {
                            unit.name == *need && matches!(unit.state, "ready" | "backoff" | "failed")
                        })
                }
            };
            assert!(met, "{life} started before {need} was ready");
        }
        self.watch_change(&life);
        self.watch_rate(&life.unit);
        if self.rolling.contains(&life.unit) {
            self.stopped.remove(&life.unit);
        }
        if self.specs.iter().any(|spec| spec.name == life.unit && spec.inherits) {
            self.bound.insert(life.unit.clone(), None);
        }
        assert!(self.lived.insert(life.clone()), "{life} lives once more");
        self.processes.insert(life.clone(), Process::Alive);
        if let Some((_, curse)) = self.cursed.clone().filter(|(unit, _)| *unit == life.unit) {
            if curse != Curse::Before {
                self.said_ready.insert(life.clone());
                self.send(5, Input::Ready(life.clone()));
            }
            if curse == Curse::Stuck {
                self.send(10, Input::Stuck(life, "no answer".to_owned()));
                return;
            }
            self.processes.insert(life.clone(), Process::Unreaped);
            self.send(10, Input::Exited { life, exit: Exit::Code(1), detail: None });
        } else if self.faults && self.random.chance(5) {
            let delay = self.random.below(20);
            self.send(delay, Input::StartFailed(life, "no such file".to_owned()));
        } else if self.faults && self.random.chance(10) {
            let delay = self.random.below(2_000);
            self.processes.insert(life.clone(), Process::Unreaped);
            self.send(delay, Input::Exited { life, exit: Exit::Code(1), detail: None });
        } else {
            self.said_ready.insert(life.clone());
            // The shell asks again and again, so that a lost answer is late, and sometimes there are two.
            let delay = self.random.below(if self.faults { 8_000 } else { 1_000 });
            self.send(delay, Input::Ready(life.clone()));
            if self.random.chance(10) {
                let delay = self.random.below(20_000);
                self.send(delay, Input::Ready(life));
            }
        }
    }

    pub(crate) fn watch_rate(&mut self, unit: &UnitName) {
        let now = self.now;
        let starts = self.starts.entry(unit.clone()).or_default();
        starts.retain(|start| now.since(*start) < 60_000);
        starts.push(now);
        // Ten prompt ones, at most six delayed ones (1 + 2 + 4 + 8 + 16 + 32 s), the first.
        assert!(
            self.ordered || starts.len() <= 17,
            "{unit} started {} times in a minute: {starts:?}",
            starts.len()
        );
    }

    pub(crate) fn signal(&mut self, life: &Life, ending: Ending) {
        let process = self.processes.get(life);
        assert!(process.is_some(), "{life} signalled though its end is known");
        assert_ne!(self.routed.get(&life.unit), Some(life), "{life} signalled while routed");
        if let Some(until) = self.retired.get(life) {
            let due = self.now >= *until || self.shutting_down || self.stopped.contains(&life.unit);
            let leaves = !self.specs.iter().any(|spec| spec.name == life.unit);
            assert!(due || leaves || ending == Ending::Kill, "{life} is not let finish");
        }
        // One that was not ready yet has nobody whom it could still help.
        if !self.retired.contains_key(life)
            && self.core_thinks_ready.remove(&life.unit)
            && ending == Ending::Terminate
        {
            self.watch_batch(life);
        }
        self.draining.remove(life);
        let service = |life: &Life| matches!(life.unit.as_str(), "postgres" | "redis" | "forkserver");
        if self.shutting_down && service(life) {
            let others = self.processes.keys().find(|other| !service(other));
            assert!(others.is_none(), "{} outlived by {}", life.unit, others.unwrap());
        }
        if let Some(stuck) = self.stuck.get_mut(life) {
            assert!(ending == Ending::Terminate || stuck.told, "{life} is killed before it was told to end");
            stuck.told = true;
            stuck.killed |= ending == Ending::Kill;
        }
        match ending {
            Ending::Kill => {
                self.overdue.remove(life);
                self.die(life, Exit::Signal(9));
            }
            Ending::Terminate if self.stuck.contains_key(life) && self.random.chance(50) => {}
            Ending::Terminate if self.faults && self.random.chance(10) => {}
            Ending::Terminate => self.die(life, Exit::Code(0)),
        }
    }

    /// Nobody of a change comes up while somebody of before lives, or before the stages below are ready.
    pub(crate) fn watch_change(&self, life: &Life) {
        let Some(UnderWay { before, stages, risen, all_down, .. }) = &self.change else { return };
        let Some(stage) = stages.iter().position(|stage| stage.contains(&life.unit)) else { return };
        assert!(*all_down, "{life} comes up before its files may be replaced");
        let lives = |life: &&Life| self.processes.contains_key(life) && !self.retired.contains_key(life);
        let old = before.iter().find(lives);
        assert!(old.is_none(), "{life} comes up while {} lives", old.unwrap());
        for below in stages[..stage].iter().flatten() {
            assert!(risen.contains(below), "{life} comes up before {below}");
        }
    }
}
