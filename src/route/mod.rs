//! Which process answers a request: a function of a table, a request's head, and who is up.

use crate::config::roles::Resource;
use crate::config::roles::WorkerKind;
use crate::topology::Role;
use crate::topology::Topology;
use crate::topology::Unit;
use crate::topology::UnitName;

mod balance;
mod delegated;
mod explain;
mod query;
mod replay;
mod rules;
pub mod verify;

pub use balance::Clues;
pub use balance::token_of;
pub use replay::REPLAYS;
pub use replay::Replay;
pub use replay::with_time_left;
pub use rules::Rule;
pub use rules::Rules;
pub use rules::Sticky;
pub use rules::TABLE;
pub use rules::Wants;

/// What decides about a request.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'a> {
    pub method: &'a str,
    /// As it came, never decoded or normalised: federation signatures cover it, and Synapse matches it so.
    pub path: &'a str,
    /// Without its question mark.
    pub query: &'a str,
    /// Whether the listener that it came in on serves the admin API.
    pub admin: bool,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug)]
pub enum Decision<'t> {
    /// One of these processes answers it.
    To(&'t Route),
    /// The router answers for itself: it is healthy if main is.
    Health,
    /// Nobody outside may have this path.
    Denied,
    /// The admin API is closed on this listener.
    AdminClosed,
}

/// Where requests of one rule go.
#[derive(Clone, Debug)]
pub struct Route {
    pub rule: Rule,
    /// Indices into the table's members: the first tier with a member that is up answers.
    tiers: Vec<Vec<usize>>,
    /// The number of the pool that all of them are: rules with the same processes share it, and wait in one queue.
    pub pool: usize,
}

/// A process that requests can go to.
#[derive(Debug)]
struct Member {
    name: UnitName,
    /// Its name as [`balance::choose`] wants it.
    number: u64,
}

/// The rules, and the processes of a topology behind them.
#[derive(Debug)]
pub struct RouteTable {
    rules: &'static Rules,
    members: Vec<Member>,
    /// One for each rule.
    routes: Vec<Route>,
    /// Sets of members, each sorted.
    pools: Vec<Vec<usize>>,
}

impl RouteTable {
    pub fn of(topology: &Topology) -> Self {
        let rules = Rules::get();
        let serving: Vec<&Unit> = topology.synapse().filter(|unit| unit.client_socket.is_some()).collect();
        let mut pools: Vec<Vec<usize>> = Vec::new();
        let routes = rules.all.iter().map(|rule| {
            let tiers = tiers(rule, &serving);
            let mut members = tiers.concat();
            members.sort_unstable();
            let pool = pools.iter().position(|pool| *pool == members).unwrap_or_else(|| {
                pools.push(members);
                pools.len() - 1
            });
            Route { rule: rule.clone(), tiers, pool }
        });
        let routes = routes.collect();
        let member = |unit: &Unit| Member {
            name: unit.name.clone(),
            number: balance::hash(unit.name.as_str().bytes()),
        };
        Self { rules, members: serving.into_iter().map(member).collect(), routes, pools }
    }

    /// Decides about a request.
    pub fn decide(&self, head: &RequestHead<'_>) -> Decision<'_> {
        if head.path == "/health" {
            return Decision::Health;
        }
        let rule = self.rules.first(head.method, head.path, head.query);
        match rule.and_then(|rule| self.routes.get(rule.number - 1)) {
            Some(route) if route.rule.wants == Wants::Nothing => Decision::Denied,
            Some(_) if !head.admin && head.path.starts_with("/_synapse/admin") => Decision::AdminClosed,
            Some(route) => Decision::To(route),
            None => Decision::Denied,
        }
    }

    /// Who may answer a rule, by its number.
    pub fn route(&self, number: usize) -> Option<&Route> {
        self.routes.get(number.checked_sub(1)?)
    }

    /// What keeps a request with its like, for [`Self::choose`]; `turn` spreads requests that have no like.
    pub fn key(route: &Route, clues: &Clues<'_>, turn: u64) -> u64 {
        balance::key(route.rule.sticky, clues).unwrap_or(turn.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// The process that answers now, if one of those that may is up.
    pub fn choose(&self, route: &Route, key: u64, up: impl Fn(&UnitName) -> bool) -> Option<&UnitName> {
        let name = |at: usize| self.members.get(at).map(|member| &member.name);
        name(self.choose_place(route, key, |at| name(at).is_some_and(&up))?)
    }

    /// The same for whoever keeps what belongs to the processes in the order of [`Self::members`].
    pub fn choose_place(&self, route: &Route, key: u64, up: impl Fn(usize) -> bool) -> Option<usize> {
        route.tiers.iter().find_map(|tier| {
            let up = tier.iter().filter(|at| up(**at));
            let numbered = up.filter_map(|at| Some((self.members.get(*at)?.number, *at)));
            balance::choose(key, numbered)
        })
    }

    /// Every process that requests can go to.
    pub fn members(&self) -> impl Iterator<Item = &UnitName> {
        self.members.iter().map(|member| &member.name)
    }

    /// How many pools there are: [`Route::pool`] is below it.
    pub const fn pools(&self) -> usize {
        self.pools.len()
    }

    /// Whether one of a pool is up, so that every request for it can be answered.
    pub fn is_served(&self, pool: usize, up: impl Fn(&UnitName) -> bool) -> bool {
        let members = self.pools.get(pool).into_iter().flatten();
        members.filter_map(|at| self.members.get(*at)).any(|member| up(&member.name))
    }

    /// Every process that may answer, those that are preferred first.
    pub fn candidates<'t>(&'t self, route: &'t Route) -> impl Iterator<Item = &'t UnitName> {
        route.tiers.iter().flatten().filter_map(|at| Some(&self.members.get(*at)?.name))
    }
}

/// Who may answer requests of a rule, the preferred ones first; a strict rule has one tier.
fn tiers(rule: &Rule, serving: &[&Unit]) -> Vec<Vec<usize>> {
    let of = |wanted: Role| -> Vec<usize> {
        let members = serving.iter().enumerate().filter(|(_, unit)| unit.role == wanted);
        members.map(|(at, _)| at).collect()
    };
    let workers = |kind| of(Role::Worker(kind));
    let main = || of(Role::Main);
    let first =
        |choices: Vec<Vec<usize>>| choices.into_iter().find(|tier| !tier.is_empty()).into_iter().collect();
    let about_a_room = rule.class == "federation_single_room" || rule.sticky == Sticky::Room;
    let mut tiers: Vec<Vec<usize>> = match rule.wants {
        Wants::Nothing => Vec::new(),
        Wants::Main => vec![main()],
        Wants::Media => first(vec![workers(WorkerKind::MediaRepository), main()]),
        Wants::Quarantine => {
            use crate::config::roles::Stream::QuarantinedMediaChanges;
            let mut writers = workers(WorkerKind::Writer(QuarantinedMediaChanges));
            writers
                .retain(|at| serving.get(*at).is_some_and(|unit| unit.resources.contains(&Resource::Media)));
            first(vec![writers, workers(WorkerKind::MediaRepository), main()])
        }
        Wants::Writer(stream) if rule.strict => first(vec![workers(WorkerKind::Writer(stream)), main()]),
        Wants::Writer(stream) => vec![
            workers(WorkerKind::Writer(stream)),
            workers(WorkerKind::ClientReader),
            workers(WorkerKind::Generic),
            main(),
        ],
        Wants::ClientReader => vec![workers(WorkerKind::ClientReader), workers(WorkerKind::Generic), main()],
        Wants::EventCreator => {
            vec![
                workers(WorkerKind::Room),
                workers(WorkerKind::Generic),
                workers(WorkerKind::ClientReader),
                main(),
            ]
        }
        Wants::Synchrotron => {
            vec![
                workers(WorkerKind::Sync),
                workers(WorkerKind::Generic),
                workers(WorkerKind::ClientReader),
                main(),
            ]
        }
        Wants::FederationReader => {
            vec![workers(WorkerKind::FederationReader), workers(WorkerKind::Generic), main()]
        }
        Wants::UserDirectory => {
            vec![
                workers(WorkerKind::UserDir),
                workers(WorkerKind::ClientReader),
                workers(WorkerKind::Generic),
                main(),
            ]
        }
    };
    if about_a_room && matches!(rule.wants, Wants::ClientReader | Wants::FederationReader) {
        tiers.insert(0, workers(WorkerKind::Room));
    }
    tiers.retain(|tier| !tier.is_empty());
    tiers
}
