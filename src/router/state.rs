//! What the router knows: the table, who is up, and who waits.

use std::cell::Cell;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;

use ipnet::IpNet;
use tokio::sync::mpsc;
use tokio::sync::watch;

use crate::route::RouteTable;
use crate::topology::UnitName;
use crate::wire::Counts;
use crate::wire::FromRouter;
use crate::wire::Incarnation;
use crate::wire::ListenerSettings;
use crate::wire::ToRouter;

use super::Parking;
use super::upstream::Upstream;

/// Shared by every task of the router, which all run on one thread.
pub(super) struct State {
    table: RefCell<Rc<Known>>,
    /// Of each unit the process that is there: it takes requests, or is being drained.
    processes: RefCell<BTreeMap<UnitName, Rc<Upstream>>>,
    pub(super) parking: Parking,
    parked: Cell<usize>,
    turn: Cell<u64>,
    /// Changes whenever somebody who waits might find what it waits for.
    changed: watch::Sender<u64>,
    /// Whether a table has ever come.
    known: watch::Sender<bool>,
    supervisor: RefCell<Option<mpsc::UnboundedSender<FromRouter>>>,
    counted: RefCell<BTreeMap<UnitName, Counts>>,
}

/// A table and what belongs to it.
pub(super) struct Known {
    pub(super) routes: RouteTable,
    sockets: BTreeMap<UnitName, PathBuf>,
    listeners: Vec<ListenerSettings>,
    /// Whose word about clients is believed.
    pub(super) trusted_proxies: Vec<IpNet>,
}

impl State {
    pub(super) fn new(parking: Parking) -> Rc<Self> {
        let nothing = crate::topology::Topology { units: Vec::new() };
        let empty = Known {
            routes: RouteTable::of(&nothing),
            sockets: BTreeMap::new(),
            listeners: Vec::new(),
            trusted_proxies: Vec::new(),
        };
        Rc::new(Self {
            table: RefCell::new(Rc::new(empty)),
            processes: RefCell::default(),
            parking,
            parked: Cell::new(0),
            turn: Cell::new(0),
            changed: watch::Sender::new(0),
            known: watch::Sender::new(false),
            supervisor: RefCell::default(),
            counted: RefCell::default(),
        })
    }

    /// The table in force.
    pub(super) fn table(&self) -> Rc<Known> {
        Rc::clone(&self.table.borrow())
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

    pub(super) fn admin(&self, listener: usize) -> bool {
        self.table.borrow().listeners.get(listener).is_some_and(|settings| settings.admin)
    }

    /// Wakes with every change of who is up.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Resolves once the first table is there.
    pub(super) async fn first_table(&self) {
        let _ = self.known.subscribe().wait_for(|known| *known).await;
    }

    /// A place among those who wait, if there is one left.
    pub(super) fn park(self: &Rc<Self>) -> Option<Parked> {
        let parked = self.parked.get();
        (parked < self.parking.most).then(|| {
            self.parked.set(parked + 1);
            Parked(Rc::clone(self))
        })
    }

    /// From now on this connection is the supervisor's.
    pub(super) fn adopt(&self, supervisor: mpsc::UnboundedSender<FromRouter>) {
        *self.supervisor.borrow_mut() = Some(supervisor);
    }

    fn tell(&self, message: FromRouter) {
        if let Some(supervisor) = &*self.supervisor.borrow() {
            // A supervisor that is gone asks again when it is back.
            let _ = supervisor.send(message);
        }
    }

    /// Does what the supervisor says.
    pub(super) fn obey(self: &Rc<Self>, message: ToRouter) {
        match message {
            ToRouter::Table { topology, listeners, trusted_proxies } => {
                let sockets = topology
                    .units
                    .iter()
                    .filter_map(|unit| Some((unit.name.clone(), unit.client_socket.clone()?)));
                let known = Known {
                    routes: RouteTable::of(&topology),
                    sockets: sockets.collect(),
                    listeners,
                    trusted_proxies,
                };
                self.processes.borrow_mut().retain(|unit, _| known.sockets.contains_key(unit));
                *self.table.borrow_mut() = Rc::new(known);
                self.known.send_replace(true);
                self.tell(FromRouter::Accepting);
            }
            ToRouter::Up { unit, incarnation } => self.admit(unit, incarnation),
            ToRouter::Down { unit } => {
                if let Some(upstream) = self.processes.borrow_mut().remove(&unit) {
                    upstream.close_idle();
                }
            }
            ToRouter::Drain { unit, incarnation } => self.drain(unit, incarnation),
            ToRouter::Count { ticket } => self.tell(FromRouter::Counts { ticket, counts: self.counts() }),
        }
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// What was counted for each unit of the table.
    fn counts(&self) -> BTreeMap<UnitName, Counts> {
        let counted = self.counted.borrow();
        let units = self.table.borrow().sockets.keys().cloned().collect::<Vec<_>>();
        units
            .into_iter()
            .map(|unit| {
                let counts = counted.get(&unit).copied().unwrap_or_default();
                (unit, counts)
            })
            .collect()
    }

    fn admit(&self, unit: UnitName, incarnation: Incarnation) {
        if let Some(upstream) = self.process(&unit, incarnation) {
            return upstream.reopen();
        }
        let socket = self.table.borrow().sockets.get(&unit).cloned();
        if let Some(socket) = socket {
            self.processes.borrow_mut().insert(unit, Upstream::new(incarnation, socket));
        }
    }

    fn process(&self, unit: &UnitName, incarnation: Incarnation) -> Option<Rc<Upstream>> {
        self.processes.borrow().get(unit).filter(|upstream| upstream.incarnation == incarnation).cloned()
    }

    fn drain(self: &Rc<Self>, unit: UnitName, incarnation: Incarnation) {
        let upstream = self.process(&unit, incarnation);
        let state = Rc::clone(self);
        let done = move || state.tell(FromRouter::Drained { unit, incarnation });
        match upstream {
            Some(upstream) => upstream.drain(done),
            None => done(),
        }
    }
}

/// A request that waits.
pub(super) struct Parked(Rc<State>);

impl Drop for Parked {
    fn drop(&mut self) {
        self.0.parked.set(self.0.parked.get() - 1);
    }
}
