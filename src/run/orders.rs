//! Orders that come in by the control socket, and the account that each gives of itself.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use tokio::sync::mpsc;

use crate::control::Command;
use crate::supervise::Input;
use crate::supervise::Life;
use crate::supervise::Outcome;
use crate::supervise::Ticket;
use crate::supervise::Verb;
use crate::sys::clock;
use crate::sys::descriptors;
use crate::topology::UnitName;
use crate::wire::Answer;
use crate::wire::Counts;
use crate::wire::OrderNews;
use crate::wire::OrderRequest;
use crate::wire::ReloadRequest;
use crate::wire::ToRouter;
use crate::wire::UnitSummary;

use super::Driver;
use super::reload::Asked;
use super::reload::and_warnings;
use super::report;
use super::routers::Awaited;

/// An order that is being carried out.
#[derive(Debug)]
struct Order {
    news: mpsc::UnboundedSender<OrderNews>,
    /// What to say when it is done.
    done: String,
    /// What each router had counted when it was given.
    before: Counted,
    /// How many of its units wait for the routers' counts.
    uncounted: usize,
    summaries: Vec<UnitSummary>,
    /// Its end, once that has come.
    outcome: Option<Outcome>,
}

/// What routers have counted of each unit.
type Counted = BTreeMap<Life, BTreeMap<UnitName, Counts>>;

/// A change that was made, and has not said yet what it cost.
pub(super) struct Made {
    pub(super) asked: Asked,
    pub(super) message: String,
    pub(super) warnings: String,
}

/// Why the routers were asked for their counts.
pub(super) enum Why {
    Given(Ticket),
    Reached(Ticket, UnitName),
    /// A change begins.
    Begun,
    Made(Made),
}

/// Every order under way.
#[derive(Default)]
pub(super) struct Orders {
    open: BTreeMap<Ticket, Order>,
    asked: BTreeMap<u64, (Why, Counted)>,
    awaited: Awaited<u64>,
    /// What each router had counted when the last change began; there is never more than one.
    before_change: Counted,
    questions: u64,
}

impl Orders {
    pub(super) fn are_open(&self) -> bool {
        !self.open.is_empty()
    }
}

impl Driver {
    pub(super) fn command(&mut self, command: Command) {
        match command {
            Command::Plan(reply) => {
                let _ = reply.send(self.plan());
            }
            Command::Status(reply) => {
                let differs = self.differs();
                let facts = report::Facts {
                    config: &self.running.config,
                    topology: &self.running.topology,
                    certificates: self.certificates(),
                    pids: &self.pids,
                    made: &self.births.made,
                    problems: &self.births.problems,
                    troubles: &self.troubles,
                    notes: self
                        .notes
                        .iter()
                        .cloned()
                        .chain(self.what_is_under_way())
                        .chain(self.what_is_unfinished())
                        .chain(self.finishing())
                        .chain(self.unkept.clone())
                        .chain(self.mending.notes())
                        .chain(self.certificate_notes())
                        .chain(no_descriptors())
                        .chain(differs)
                        .collect(),
                    takeovers: self.takeovers,
                    started: self.started,
                    stopping: self.stopping,
                    now: clock::now(),
                };
                let _ = reply.send(report::report(self.core.status(), &facts));
            }
            Command::Order(verb, request, news) => self.order(verb, request, news),
            Command::Reload(who, ReloadRequest { migration }, reply) => {
                self.reload(Asked::new(format!("reload by {who}"), Some(reply)).knowing(migration));
            }
            Command::Rollback(who, to, reply) => {
                self.roll_back(to, Asked::new(format!("rollback by {who}"), Some(reply)));
            }
            Command::SelfUpgrade(who, reply) => self.self_upgrade(who, reply),
            Command::Generations(reply) => {
                let _ = reply.send(self.generations.list());
            }
            Command::Dump(unit, reply) => self.dump(unit, reply),
        }
    }

    fn order(&mut self, verb: Verb, request: OrderRequest, news: mpsc::UnboundedSender<OrderNews>) {
        let mut units = request.units;
        if request.all {
            units.extend(self.running.topology.synapse().map(|unit| unit.name.clone()));
        }
        units.sort_by_key(|name| self.running.topology.units.iter().position(|unit| unit.name == *name));
        units.dedup();
        let refuse = |message: String| {
            let _ = news.send(OrderNews::Answer(Answer::failed(message)));
        };
        if let Some(external) = units.iter().find(|name| self.is_external(name)) {
            return refuse(format!("{external} is not run by synvisor: it only waits for it"));
        }
        if units.is_empty() {
            return refuse("name at least one unit, or say --all for main and every worker".to_owned());
        }
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let names: Vec<&str> = units.iter().map(UnitName::as_str).collect();
        let done = match verb {
            Verb::Start => "running",
            Verb::Stop => "stopped",
            Verb::Restart { .. } => "restarted",
        };
        let order = Order {
            news,
            done: format!("{done}: {}", names.join(", ")),
            before: Counted::new(),
            uncounted: 0,
            summaries: Vec::new(),
            outcome: None,
        };
        self.orders.open.insert(ticket, order);
        self.count(Why::Given(ticket));
        self.input(Input::Order(ticket, verb, units));
    }

    /// Asks the routers what they have counted; each answers in the order of what it is told.
    pub(super) fn count(&mut self, why: Why) {
        self.orders.questions += 1;
        let question = self.orders.questions;
        self.orders.asked.insert(question, (why, Counted::new()));
        let routers = self.ask(&ToRouter::Count { ticket: question });
        if self.orders.awaited.ask(question, routers) {
            self.all_counted(question);
        }
    }

    /// A unit is where an order wants it.
    pub(super) fn reached(&mut self, ticket: Ticket, unit: UnitName) {
        if let Some(order) = self.orders.open.get_mut(&ticket) {
            order.uncounted += 1;
            self.count(Why::Reached(ticket, unit));
        }
    }

    /// A router has answered.
    pub(super) fn counted(&mut self, question: u64, router: &Life, counts: BTreeMap<UnitName, Counts>) {
        if let Some((_, counted)) = self.orders.asked.get_mut(&question) {
            counted.insert(router.clone(), counts);
        }
        if self.orders.awaited.answered(&question, router) {
            self.all_counted(question);
        }
    }

    /// A router that has ended answers no more questions.
    pub(super) fn uncounted(&mut self, router: &Life) {
        for question in self.orders.awaited.gone(router) {
            self.all_counted(question);
        }
    }

    /// Every router that lives has answered.
    fn all_counted(&mut self, question: u64) {
        match self.orders.asked.remove(&question) {
            Some((Why::Given(ticket), counted)) => {
                if let Some(order) = self.orders.open.get_mut(&ticket) {
                    order.before = counted;
                }
            }
            Some((Why::Reached(ticket, unit), counted)) => {
                let (spans, retired) = (self.timeline.spans(&unit), self.retired(&unit));
                let Some(order) = self.orders.open.get_mut(&ticket) else { return };
                let summary = UnitSummary {
                    counts: since(&order.before, &counted, &unit),
                    unit,
                    stop_ms: spans.stop,
                    start_ms: spans.start,
                    gap_ms: spans.gap,
                    retired,
                };
                let _ = order.news.send(OrderNews::Reached(summary.clone()));
                order.summaries.push(summary);
                order.uncounted -= 1;
                self.answer(ticket);
            }
            Some((Why::Begun, counted)) => self.orders.before_change = counted,
            Some((Why::Made(Made { asked, message, warnings }), counted)) => {
                let waited = waited(&self.orders.before_change, &counted);
                asked.answer(Answer::done(and_warnings(message + &waited, &warnings)));
            }
            None => {}
        }
    }

    pub(super) fn reply(&mut self, ticket: Ticket, outcome: Outcome) {
        if let Some(order) = self.orders.open.get_mut(&ticket) {
            order.outcome = Some(outcome);
            self.answer(ticket);
        }
    }

    /// Answers an order that has ended and whose units are all accounted for.
    fn answer(&mut self, ticket: Ticket) {
        let finished = |order: &Order| order.uncounted == 0 && order.outcome.is_some();
        if !self.orders.open.get(&ticket).is_some_and(finished) {
            return;
        }
        let Some(Order { news, done, summaries, outcome, .. }) = self.orders.open.remove(&ticket) else {
            return;
        };
        let answer = match outcome {
            Some(Outcome::Failed(message)) => Answer::failed(message),
            Some(Outcome::Done) | None => Answer::done(done),
        };
        // Who asked may have left.
        let _ = news.send(OrderNews::Answer(Answer { units: summaries, ..answer }));
    }
}

/// What keeps processes from being started, where it is this.
fn no_descriptors() -> Option<String> {
    let limit = descriptors::limit();
    (!descriptors::left()).then(|| {
        format!(
            "synvisor has all the {limit} descriptors that it may have, and can start nobody: raise LimitNOFILE= of the \
             service (at once: prlimit --nofile=65536 --pid {})",
            std::process::id()
        )
    })
}

/// What all routers together have counted of a unit since; one that came meanwhile began with nothing.
fn since(before: &Counted, now: &Counted, unit: &UnitName) -> Counts {
    let of = |counted: &Counted, router: &Life| {
        counted.get(router).and_then(|counts| counts.get(unit)).copied().unwrap_or_default()
    };
    let one = |router: &Life| of(now, router).since(of(before, router));
    now.keys().map(one).fold(Counts::default(), Counts::and)
}

/// How many requests had to wait for somebody meanwhile, and how long at most.
fn waited(before: &Counted, now: &Counted) -> String {
    let units: BTreeSet<&UnitName> = now.values().flat_map(BTreeMap::keys).collect();
    let all = units.into_iter().map(|unit| since(before, now, unit)).fold(Counts::default(), Counts::and);
    if all.parked == 0 {
        return String::new();
    }
    let noun = if all.parked == 1 { "request" } else { "requests" };
    format!("; {} {noun} waited, {} s at most", all.parked, seconds(all.longest_ms))
}

/// Milliseconds as seconds, to a tenth.
pub(super) fn seconds(milliseconds: u64) -> String {
    format!("{}.{}", milliseconds / 1_000, milliseconds % 1_000 / 100)
}

#[cfg(test)]
mod tests {
    use crate::wire::Incarnation;

    use super::*;

    #[test]
    fn the_counts_of_all_routers_are_summed_each_since_its_own() {
        // Mutations, each seen red: sums subtracted as a whole (a router that ended takes its past along), and one
        // router's counts taken for all.
        let router = |number| Life { unit: UnitName::router(), incarnation: Incarnation(number) };
        let counted = |all: &[(u64, u64, u64)]| -> Counted {
            let one = |(number, parked, longest_ms): &(u64, u64, u64)| {
                let counts = Counts { parked: *parked, longest_ms: *longest_ms, ..Counts::default() };
                (router(*number), BTreeMap::from([(UnitName::main(), counts)]))
            };
            all.iter().map(one).collect()
        };
        let before = counted(&[(1, 100, 0), (2, 10, 0)]);
        let now = counted(&[(2, 12, 30), (3, 5, 20)]);
        let all = since(&before, &now, &UnitName::main());
        assert_eq!((all.parked, all.longest_ms), (7, 30));
        assert_eq!(since(&before, &now, &UnitName::router()), Counts::default());
        assert_eq!(waited(&before, &now), "; 7 requests waited, 0.0 s at most");
        assert_eq!(waited(&now, &now), "");
    }
}
