//! Every router process that lives: the present one, and those before it that finish what they have.
//!
//! Each is told who is up, so that also a retired one lets its clients wait for a process that restarts.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::supervise::Input;
use crate::supervise::Life;
use crate::supervise::Retired;
use crate::sys::clock;
use crate::sys::fs;
use crate::sys::socket;
use crate::topology::UnitName;
use crate::wire::FromRouter;
use crate::wire::ToRouter;

use super::Driver;
use super::link::Link;
use super::specs::RETIRE_TIMEOUT;

/// The connections to all of them, and what they have not answered.
#[derive(Debug, Default)]
pub(super) struct Routers {
    known: BTreeMap<Life, Router>,
    /// Processes that each of them drains.
    pub(super) draining: Awaited<Life>,
}

#[derive(Debug)]
struct Router {
    link: Link,
    /// Where it may be accepting.
    addresses: BTreeSet<SocketAddr>,
    /// Told whenever it says anything.
    heard: Arc<Notify>,
}

/// A question whose answer tells nothing but that it came; those that matter begin at one.
const SIGN_OF_LIFE: u64 = 0;

impl Routers {
    fn tell(&self, message: &ToRouter) {
        self.known.values().for_each(|router| router.link.tell(message.clone()));
    }

    /// Has one say something.
    pub(super) fn ask(&self, life: &Life) {
        if let Some(router) = self.known.get(life) {
            router.link.tell(ToRouter::Count { ticket: SIGN_OF_LIFE });
        }
    }

    /// Told whenever one says anything, over whatever connection.
    pub(super) fn heard(&self, life: &Life) -> Option<Arc<Notify>> {
        self.known.get(life).map(|router| Arc::clone(&router.heard))
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.known.values().flat_map(|router| router.addresses.iter().copied()).collect()
    }

    fn lives(&self) -> BTreeSet<Life> {
        self.known.keys().cloned().collect()
    }
}

/// Who of several routers has yet to answer what.
#[derive(Debug)]
pub(super) struct Awaited<T>(BTreeMap<T, BTreeSet<Life>>);

impl<T> Default for Awaited<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Clone + Ord> Awaited<T> {
    /// Waits for these; says whether there is nobody to wait for.
    pub(super) fn ask(&mut self, what: T, routers: BTreeSet<Life>) -> bool {
        let nobody = routers.is_empty();
        if !nobody {
            self.0.insert(what, routers);
        }
        nobody
    }

    /// One has answered; says whether it was the last.
    pub(super) fn answered(&mut self, what: &T, router: &Life) -> bool {
        let Some(routers) = self.0.get_mut(what) else { return false };
        routers.remove(router);
        let last = routers.is_empty();
        if last {
            self.0.remove(what);
        }
        last
    }

    /// One will answer nothing any more; what waited only for it.
    pub(super) fn gone(&mut self, router: &Life) -> Vec<T> {
        let all: Vec<T> = self.0.keys().cloned().collect();
        all.into_iter().filter(|what| self.waits_for(what, router) && self.answered(what, router)).collect()
    }

    fn waits_for(&self, what: &T, router: &Life) -> bool {
        self.0.get(what).is_some_and(|routers| routers.contains(router))
    }

    /// Nobody wants to know any more.
    pub(super) fn forget(&mut self, what: &T) {
        self.0.remove(what);
    }
}

impl Driver {
    /// The socket at which a router that is about to start will be reached.
    pub(super) fn bind_router(&self, life: &Life) -> io::Result<UnixListener> {
        let path = self.around.layout.router_socket(life.incarnation);
        socket::listen_unix(&path, 0o600, None)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot bind {}: {error}", path.display())))
    }

    /// Connects to a router that was just started, or that has lost its connection.
    pub(super) fn connect_router(&mut self, life: Life) {
        let link =
            Link::new(life.clone(), self.around.layout.router_socket(life.incarnation), self.news.clone());
        let before = self.routers.known.remove(&life);
        let (addresses, heard) = before.map(|router| (router.addresses, router.heard)).unwrap_or_default();
        if self.core.is_retired(&life) {
            link.tell(ToRouter::Retire { limit_ms: RETIRE_TIMEOUT });
        }
        self.routers.known.insert(life.clone(), Router { link, addresses, heard });
        self.tell_table_to(&life);
        let Some(Router { link, .. }) = self.routers.known.get(&life) else { return };
        // A router that outlived its last connection may believe in processes that have ended since.
        for unit in self.running.topology.synapse() {
            let drained = |process: &&Life| process.unit == unit.name;
            let draining = self.routers.draining.0.keys().find(drained);
            link.tell(match (self.core.ready(&unit.name), draining) {
                (Some(Life { unit, incarnation }), _) => ToRouter::Up { unit, incarnation },
                (None, Some(Life { unit, incarnation })) => {
                    ToRouter::Drain { unit: unit.clone(), incarnation: *incarnation }
                }
                (None, None) => ToRouter::Down { unit: unit.name.clone() },
            });
        }
    }

    pub(super) fn tell_table(&mut self) {
        for life in self.routers.lives() {
            self.tell_table_to(&life);
        }
    }

    fn tell_table_to(&mut self, life: &Life) {
        let retired = self.core.is_retired(life);
        let Some(router) = self.routers.known.get_mut(life) else { return };
        // A retired one takes nobody any more, wherever that would be.
        let (listeners, attached) = if retired { Default::default() } else { self.around.listeners.all() };
        router.addresses.extend(listeners.iter().map(|listener| listener.address));
        let table = ToRouter::Table {
            topology: self.running.topology.clone(),
            listeners,
            trusted_proxies: self.running.config.trusted_proxies.clone(),
            largest_upload: self.running.config.max_upload_size(),
            access_log: self.running.config.access_log,
        };
        router.link.tell_table(table, attached);
    }

    pub(super) fn tell(&self, message: &ToRouter) {
        self.routers.tell(message);
    }

    /// Tells every router something that each of them answers; says who they are.
    pub(super) fn ask(&self, message: &ToRouter) -> BTreeSet<Life> {
        self.routers.tell(message);
        self.routers.lives()
    }

    pub(super) fn drain(&mut self, life: Life) {
        self.timeline.leaves(&life.unit, clock::now());
        let Life { unit, incarnation } = life.clone();
        let routers = self.ask(&ToRouter::Drain { unit, incarnation });
        if self.routers.draining.ask(life.clone(), routers) {
            self.input(Input::Drained(life));
        }
    }

    /// Lets a router finish what it has, while its successor takes whoever comes.
    pub(super) fn retire(&mut self, life: &Life) {
        tracing::info!("{life} takes nobody any more and finishes what it has");
        self.timeline.leaves(&life.unit, clock::now());
        // A supervisor that takes over must not take it for the present one.
        self.keep();
        if let Some(router) = self.routers.known.get(life) {
            router.link.tell(ToRouter::Retire { limit_ms: RETIRE_TIMEOUT });
        }
    }

    pub(super) fn hear_router(&mut self, router: Life, message: FromRouter) {
        if let Some(heard) = self.routers.heard(&router) {
            heard.notify_waiters();
        }
        match message {
            FromRouter::Accepting { addresses } => {
                if let Some(known) = self.routers.known.get_mut(&router) {
                    known.addresses = addresses.into_iter().collect();
                }
                self.around.listeners.let_go(&self.routers.addresses());
                if self.core.is_retired(&router) {
                    return;
                }
                if self.core.ready(&router.unit).as_ref() != Some(&router) {
                    tracing::info!("{} is ready", router.unit);
                    self.timeline.ready(&router.unit, clock::now());
                }
                self.troubles.remove(&router.unit);
                self.input(Input::Ready(router.clone()));
                self.keep_asking(&router);
            }
            FromRouter::Drained { unit, incarnation } => {
                let life = Life { unit, incarnation };
                if self.routers.draining.answered(&life, &router) {
                    self.input(Input::Drained(life));
                }
            }
            FromRouter::Counts { ticket, counts } => self.counted(ticket, &router, counts),
        }
    }

    /// The connection to a router broke.
    pub(super) fn lost_router(&mut self, router: Life) {
        // What it was asked over that connection is not answered any more.
        self.uncounted(&router);
        if self.pids.of(&router).is_some() && !self.stopping {
            // It keeps its table meanwhile.
            self.connect_router(router);
        } else {
            self.forget_router(&router);
        }
    }

    /// A router has ended, or could not be started: nothing waits for it any more.
    pub(super) fn without_router(&mut self, router: &Life) {
        if let Err(error) = fs::remove(&self.around.layout.router_socket(router.incarnation)) {
            tracing::warn!("{error}");
        }
        self.uncounted(router);
        self.forget_router(router);
    }

    fn forget_router(&mut self, router: &Life) {
        self.routers.known.remove(router);
        self.around.listeners.let_go(&self.routers.addresses());
        for life in self.routers.draining.gone(router) {
            self.input(Input::Drained(life));
        }
    }

    /// What `status` says of routers that finish.
    pub(super) fn finishing(&self) -> Option<String> {
        let routers = self.core.status().into_iter().find(|unit| unit.name == UnitName::router())?;
        let one = |retired: &Retired| {
            let life = Life { unit: UnitName::router(), incarnation: retired.incarnation };
            let pid = self.pids.of(&life)?.pid();
            let left = retired.deadline().map_or(0, |until| until.since(clock::now()).div_ceil(1_000));
            Some(format!("pid {pid} (at most {left} s more)"))
        };
        let all: Vec<String> = routers.retired.iter().filter_map(one).collect();
        let who = match all.as_slice() {
            [] => return None,
            [_] => "a router that was replaced is kept".to_owned(),
            several => format!("{} routers that were replaced are kept", several.len()),
        };
        Some(format!("{who} for the clients that it has: {}", all.join(", ")))
    }

    /// How many processes of a unit finish beside the present one.
    pub(super) fn retired(&self, unit: &UnitName) -> usize {
        let mut status = self.core.status().into_iter();
        status.find(|status| status.name == *unit).map_or(0, |status| status.retired.len())
    }
}

#[cfg(test)]
mod tests {
    use crate::wire::Incarnation;

    use super::*;

    fn router(incarnation: u64) -> Life {
        Life { unit: UnitName::router(), incarnation: Incarnation(incarnation) }
    }

    #[test]
    fn what_several_routers_are_asked_is_answered_by_the_last_of_them() {
        // Mutations, each seen red: the first answer taken for all; one that has ended waited for; an answer of one
        // that was not asked taken for the last.
        let mut awaited = Awaited::default();
        assert!(awaited.ask("nobody", BTreeSet::new()));
        assert!(!awaited.ask("both", BTreeSet::from([router(1), router(2)])));
        assert!(!awaited.ask("old", BTreeSet::from([router(1)])));
        assert!(!awaited.answered(&"both", &router(2)));
        assert!(!awaited.answered(&"both", &router(3)));
        assert_eq!(awaited.gone(&router(3)), Vec::<&str>::new());
        assert_eq!(awaited.gone(&router(1)), ["both", "old"]);
        assert!(!awaited.answered(&"old", &router(1)), "it is over");
        assert!(!awaited.ask("again", BTreeSet::from([router(1), router(2)])));
        assert!(!awaited.answered(&"again", &router(1)));
        assert!(awaited.answered(&"again", &router(2)));
    }
}
