//! What the router knows: the table, who is up, and who waits.

use std::cell::Cell;
use std::cell::Ref;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::route::Route;
use crate::route::RouteTable;
use crate::topology::UnitName;
use crate::wire::Counts;
use crate::wire::FromRouter;
use crate::wire::Incarnation;
use crate::wire::ToRouter;

use super::Parking;
use super::Share;
use super::access_log::AccessLog;
use super::charge::Choice;
use super::listen::Listeners;
use super::metrics::Metrics;
use super::park;
use super::park::Waiter;
use super::queue::Queues;
use super::team::Answer;
use super::upstream::Upstream;

/// Shared by every task of the router, which all run on one thread.
pub(super) struct State {
    table: RefCell<Rc<Known>>,
    /// Of each unit the process that is there: it takes requests, or is being drained.
    processes: RefCell<BTreeMap<UnitName, Rc<Upstream>>>,
    /// The same in the order of the table's members, in which a request finds them sooner.
    present: RefCell<Vec<Option<Rc<Upstream>>>>,
    pub(super) parking: Parking,
    /// Nobody waits, nothing is sent again: the router that there would be without all that, for comparison.
    pub(super) without_parking: bool,
    pub(super) queues: RefCell<Queues<Waiter>>,
    turn: Cell<u64>,
    pub(super) listeners: Listeners,
    /// How many share the work, and what only one of them may use up.
    pub(super) threads: usize,
    answers: mpsc::UnboundedSender<Answer>,
    /// When a router that was retired ends at the latest.
    retired: watch::Sender<Option<Instant>>,
    counted: RefCell<BTreeMap<UnitName, Counts>>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) access_log: AccessLog,
}

/// A table and what belongs to it.
pub(super) struct Known {
    pub(super) routes: RouteTable,
    sockets: BTreeMap<UnitName, PathBuf>,
    /// Whose word about clients is believed.
    pub(super) trusted_proxies: Vec<IpNet>,
    largest_upload: u64,
}

/// What Synapse takes where it takes no uploads, in bytes (`MAX_REQUEST_SIZE` in `synapse/api/constants.py`).
const LARGEST_REQUEST: u64 = 200 * 65_536;

impl Known {
    /// How many bytes the body of a request may have: as many as Synapse takes there.
    pub(super) fn largest_body(&self, route: &Route) -> u64 {
        if route.rule.class == "media" { self.largest_upload.max(LARGEST_REQUEST) } else { LARGEST_REQUEST }
    }
}

impl State {
    pub(super) fn new(share: Share, answers: mpsc::UnboundedSender<Answer>) -> Rc<Self> {
        let nothing = crate::topology::Topology { units: Vec::new() };
        let empty = Known {
            routes: RouteTable::of(&nothing),
            sockets: BTreeMap::new(),
            trusted_proxies: Vec::new(),
            largest_upload: 0,
        };
        Rc::new(Self {
            table: RefCell::new(Rc::new(empty)),
            processes: RefCell::default(),
            present: RefCell::default(),
            parking: share.parking,
            without_parking: share.without_parking,
            queues: RefCell::new(Queues::new(share.parking.most)),
            turn: Cell::new(0),
            listeners: Listeners::new(share.keep_alive, share.everybody),
            threads: share.threads,
            answers,
            retired: watch::Sender::new(None),
            counted: RefCell::default(),
            metrics: share.metrics,
            access_log: AccessLog::default(),
        })
    }

    /// The table in force.
    pub(super) fn table(&self) -> Rc<Known> {
        Rc::clone(&self.table.borrow())
    }

    /// The processes that are there, in the order of the table's members.
    pub(super) fn present(&self) -> Ref<'_, Vec<Option<Rc<Upstream>>>> {
        self.present.borrow()
    }

    /// The process of a unit, if it takes requests.
    pub(super) fn upstream(&self, unit: &UnitName) -> Option<Rc<Upstream>> {
        self.processes.borrow().get(unit).filter(|upstream| upstream.is_open()).cloned()
    }

    pub(super) fn is_up(&self, unit: &UnitName) -> bool {
        self.upstream(unit).is_some()
    }

    /// A number that is different for each request.
    pub(super) fn turn(&self) -> u64 {
        self.turn.set(self.turn.get().wrapping_add(1));
        self.turn.get()
    }

    /// Whether one of a pool takes requests.
    pub(super) fn is_served(&self, pool: usize) -> bool {
        self.table.borrow().routes.is_served(pool, |unit| self.is_up(unit))
    }

    /// The unit that would have a request if everybody were up.
    pub(super) fn owner(&self, choice: Choice) -> Option<UnitName> {
        let routes = &self.table.borrow().routes;
        routes.choose(routes.route(choice.rule)?, choice.key, |_| true).cloned()
    }

    pub(super) fn count(&self, unit: UnitName, change: impl FnOnce(&mut Counts)) {
        let mut counted = self.counted.borrow_mut();
        let counts = counted.entry(unit.clone()).or_default();
        let before = *counts;
        change(counts);
        self.metrics.count(&unit, counts.since(before));
    }

    /// Resolves when it is retired, with the time when it ends at the latest.
    pub(super) async fn retired(&self) -> Instant {
        let mut retired = self.retired.subscribe();
        let until = retired.wait_for(Option::is_some).await.ok().and_then(|until| *until);
        match until {
            Some(until) => until,
            // The sender is ours, so this is never reached; and nobody is retired by accident.
            None => std::future::pending().await,
        }
    }

    /// Answers what was said under this number.
    pub(super) fn answer(&self, number: u64, said: io::Result<FromRouter>) {
        // Without a connection to the supervisor nobody is left to hear it.
        let _ = self.answers.send((number, said));
    }

    fn tell(&self, number: u64, message: FromRouter) {
        self.answer(number, Ok(message));
    }

    /// Does what the supervisor says; `sockets` came with it.
    ///
    /// # Errors
    /// When a socket cannot be used; then nothing was done.
    pub(super) async fn obey(
        self: &Rc<Self>,
        number: u64,
        message: ToRouter,
        sockets: Vec<OwnedFd>,
    ) -> io::Result<()> {
        match message {
            ToRouter::Table { topology, listeners, trusted_proxies, largest_upload, access_log } => {
                self.listeners.replace(&listeners, sockets, self).await?;
                let sockets = topology
                    .units
                    .iter()
                    .filter_map(|unit| Some((unit.name.clone(), unit.client_socket.clone()?)));
                let known = Known {
                    routes: RouteTable::of(&topology),
                    sockets: sockets.collect(),
                    trusted_proxies,
                    largest_upload,
                };
                // One that is configured no more has no new requests, and finishes those that it has: a drain comes next.
                self.processes.borrow_mut().retain(|unit, upstream| {
                    let stays = known.sockets.contains_key(unit) || upstream.is_busy();
                    if !stays {
                        upstream.end();
                    }
                    stays
                });
                let routes = &known.routes;
                let mut queues = self.queues.borrow_mut();
                queues.rehome(routes.pools(), |waiter| waiter.choice.pool(routes));
                drop(queues);
                *self.table.borrow_mut() = Rc::new(known);
                self.access_log.set(access_log);
                self.tell(number, FromRouter::Accepting { addresses: self.listeners.addresses() });
            }
            ToRouter::Up { unit, incarnation } => self.admit(unit, incarnation),
            ToRouter::Down { unit } => {
                if let Some(upstream) = self.processes.borrow_mut().remove(&unit) {
                    upstream.end();
                }
            }
            ToRouter::Drain { unit, incarnation } => self.drain(number, unit, incarnation),
            ToRouter::Retire { limit_ms } => {
                self.listeners.retire().await;
                // Told again by another supervisor, it keeps its limit.
                let limit = Instant::now() + Duration::from_millis(limit_ms);
                self.retired.send_modify(|until| *until = until.or(Some(limit)));
                self.tell(number, FromRouter::Accepting { addresses: Vec::new() });
            }
            ToRouter::Count { ticket } => {
                self.tell(number, FromRouter::Counts { ticket, counts: self.counts() })
            }
        }
        let table = self.table();
        let members = table.routes.members();
        *self.present.borrow_mut() = members.map(|unit| self.processes.borrow().get(unit).cloned()).collect();
        for pool in 0..table.routes.pools() {
            self.release(pool);
        }
        Ok(())
    }

    /// What was counted for each unit of the table; whoever still waits counts as well.
    fn counts(&self) -> BTreeMap<UnitName, Counts> {
        for waiter in self.queues.borrow().waiting() {
            if let Some(unit) = self.owner(waiter.choice) {
                let waited = park::milliseconds(waiter.since);
                self.count(unit, |counts| counts.longest_ms = counts.longest_ms.max(waited));
            }
        }
        let mut counted = self.counted.borrow_mut();
        let units = self.table.borrow().sockets.keys().cloned().collect::<Vec<_>>();
        let answer = units.into_iter().map(|unit| {
            let counts = counted.get(&unit).copied().unwrap_or_default();
            (unit, counts)
        });
        let answer = answer.collect();
        for counts in counted.values_mut() {
            counts.longest_ms = 0;
        }
        answer
    }

    fn admit(&self, unit: UnitName, incarnation: Incarnation) {
        if let Some(upstream) = self.process(&unit, incarnation) {
            return upstream.reopen();
        }
        let socket = self.table.borrow().sockets.get(&unit).cloned();
        if let Some(socket) = socket {
            let metrics = self.metrics.of_unit(&unit);
            let upstream = Upstream::new(unit.clone(), incarnation, socket, metrics);
            let before = self.processes.borrow_mut().insert(unit, upstream);
            if let Some(before) = before {
                before.end();
            }
        }
    }

    fn process(&self, unit: &UnitName, incarnation: Incarnation) -> Option<Rc<Upstream>> {
        self.processes.borrow().get(unit).filter(|upstream| upstream.incarnation == incarnation).cloned()
    }

    fn drain(self: &Rc<Self>, number: u64, unit: UnitName, incarnation: Incarnation) {
        let upstream = self.process(&unit, incarnation);
        let state = Rc::clone(self);
        let done = move || state.tell(number, FromRouter::Drained { unit, incarnation });
        match upstream {
            Some(upstream) if self.without_parking => {
                upstream.drain(|| ());
                done();
            }
            Some(upstream) => upstream.drain(done),
            None => done(),
        }
    }
}
