//! Orders that come in by the control socket, and the account that each gives of itself.

use std::collections::BTreeMap;

use tokio::sync::mpsc;

use crate::control::Command;
use crate::supervise::Input;
use crate::supervise::Outcome;
use crate::supervise::Ticket;
use crate::supervise::Verb;
use crate::sys::clock;
use crate::topology::Role;
use crate::topology::UnitName;
use crate::wire::Answer;
use crate::wire::Counts;
use crate::wire::OrderNews;
use crate::wire::OrderRequest;
use crate::wire::ToRouter;
use crate::wire::UnitSummary;

use super::Driver;
use super::reload::Asked;
use super::report;

/// An order that is being carried out.
#[derive(Debug)]
struct Order {
    news: mpsc::UnboundedSender<OrderNews>,
    /// What to say when it is done.
    done: String,
    /// What the router had counted when it was given.
    before: BTreeMap<UnitName, Counts>,
    /// How many of its units wait for the router's counts.
    uncounted: usize,
    summaries: Vec<UnitSummary>,
    /// Its end, once that has come.
    outcome: Option<Outcome>,
}

/// Why the router was asked for its counts.
#[derive(Debug)]
enum Why {
    Given(Ticket),
    Reached(Ticket, UnitName),
}

/// Every order under way.
#[derive(Debug, Default)]
pub(super) struct Orders {
    open: BTreeMap<Ticket, Order>,
    asked: BTreeMap<u64, Why>,
    questions: u64,
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
                    pids: &self.pids,
                    made: &self.births.made,
                    problems: &self.births.problems,
                    troubles: &self.troubles,
                    notes: self
                        .notes
                        .iter()
                        .cloned()
                        .chain(self.what_is_under_way())
                        .chain(differs)
                        .collect(),
                    started: self.started,
                    stopping: self.stopping,
                    now: clock::now(),
                };
                let _ = reply.send(report::report(self.core.status(), &facts));
            }
            Command::Order(verb, request, news) => self.order(verb, request, news),
            Command::Reload(who, reply) => {
                self.reload(Asked::new(format!("reload by {who}"), Some(reply)));
            }
            Command::Rollback(who, to, reply) => {
                self.roll_back(to, Asked::new(format!("rollback by {who}"), Some(reply)));
            }
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
            before: BTreeMap::new(),
            uncounted: 0,
            summaries: Vec::new(),
            outcome: None,
        };
        self.orders.open.insert(ticket, order);
        self.count(Why::Given(ticket));
        self.input(Input::Order(ticket, verb, units));
    }

    fn is_external(&self, name: &UnitName) -> bool {
        self.running.topology.unit(name).is_some_and(|unit| {
            matches!(unit.role, Role::Postgres { embedded: false } | Role::Redis { embedded: false })
        })
    }

    /// Asks the router what it has counted; it answers in the order of what it is told.
    fn count(&mut self, why: Why) {
        self.orders.questions += 1;
        let question = self.orders.questions;
        let there = self.router.is_some();
        self.orders.asked.insert(question, why);
        self.tell(ToRouter::Count { ticket: question });
        if !there {
            self.counted(question, &BTreeMap::new());
        }
    }

    /// A unit is where an order wants it.
    pub(super) fn reached(&mut self, ticket: Ticket, unit: UnitName) {
        if let Some(order) = self.orders.open.get_mut(&ticket) {
            order.uncounted += 1;
            self.count(Why::Reached(ticket, unit));
        }
    }

    /// The router has answered, or, with nothing in `counts`, never will.
    pub(super) fn counted(&mut self, question: u64, counts: &BTreeMap<UnitName, Counts>) {
        match self.orders.asked.remove(&question) {
            Some(Why::Given(ticket)) => {
                if let Some(order) = self.orders.open.get_mut(&ticket) {
                    order.before.clone_from(counts);
                }
            }
            Some(Why::Reached(ticket, unit)) => {
                let spans = self.timeline.spans(&unit);
                let Some(order) = self.orders.open.get_mut(&ticket) else { return };
                let before = order.before.get(&unit).copied().unwrap_or_default();
                let summary = UnitSummary {
                    counts: counts.get(&unit).copied().unwrap_or_default().since(before),
                    unit,
                    stop_ms: spans.stop,
                    start_ms: spans.start,
                    gap_ms: spans.gap,
                };
                let _ = order.news.send(OrderNews::Reached(summary.clone()));
                order.summaries.push(summary);
                order.uncounted -= 1;
                self.answer(ticket);
            }
            None => {}
        }
    }

    /// A router that has ended answers no more questions.
    pub(super) fn uncounted(&mut self) {
        for question in self.orders.asked.keys().copied().collect::<Vec<_>>() {
            self.counted(question, &BTreeMap::new());
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
