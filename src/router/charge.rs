//! Whom a request is for, whenever that is asked, and who is charged with what it costs.

use std::rc::Rc;

use crate::route::Route;
use crate::route::RouteTable;
use crate::wire::Counts;

use super::state::State;
use super::upstream::Upstream;

/// What decides which process a request goes to.
#[derive(Clone, Copy)]
pub(super) struct Choice {
    /// The number of its rule.
    pub(super) rule: usize,
    /// What keeps it with its like.
    pub(super) key: u64,
}

impl Choice {
    fn route(self, routes: &RouteTable) -> Option<&Route> {
        routes.route(self.rule)
    }

    /// Its pool by this table: while a request waits, its owner may become another one.
    pub(super) fn pool(self, routes: &RouteTable) -> Option<usize> {
        Some(self.route(routes)?.pool)
    }

    /// The process to ask now, by the table in force.
    pub(super) fn now(self, state: &State, without: &[Rc<Upstream>]) -> Option<Rc<Upstream>> {
        let table = state.table();
        let route = self.route(&table.routes)?;
        let present = state.present();
        let usable = |at: usize| {
            let upstream = present.get(at)?.as_ref().filter(|upstream| upstream.is_open())?;
            (!without.iter().any(|refused| Rc::ptr_eq(refused, upstream))).then_some(upstream)
        };
        let at = table.routes.choose_place(route, self.key, |at| usable(at).is_some())?;
        usable(at).cloned()
    }
}

/// Where a request is charged: to the unit that would have it if everybody were up.
#[derive(Clone)]
pub(super) struct Charge {
    pub(super) state: Rc<State>,
    pub(super) choice: Choice,
}

impl Charge {
    pub(super) fn add(&self, change: impl FnOnce(&mut Counts)) {
        if let Some(unit) = self.state.owner(self.choice) {
            self.state.count(unit, change);
        }
    }
}
