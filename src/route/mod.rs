//! Which process answers a request: a function of a table, a request's head, and who is up.

use std::fmt::Write;

use crate::config::roles::Resource;
use crate::config::roles::WorkerKind;
use crate::topology::Role;
use crate::topology::Topology;
use crate::topology::Unit;
use crate::topology::UnitName;

mod balance;
mod rules;

pub use balance::Clues;
pub use rules::Rule;
pub use rules::Rules;
pub use rules::Sticky;
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
}

/// The rules, and the processes of a topology behind them.
#[derive(Debug)]
pub struct RouteTable {
    rules: Rules,
    members: Vec<UnitName>,
    /// One for each rule.
    routes: Vec<Route>,
}

impl RouteTable {
    pub fn of(topology: &Topology) -> Self {
        let rules = Rules::new();
        let serving: Vec<&Unit> = topology.synapse().filter(|unit| unit.client_socket.is_some()).collect();
        let routes =
            rules.all.iter().map(|rule| Route { rule: rule.clone(), tiers: tiers(rule, &serving) }).collect();
        Self { rules, members: serving.into_iter().map(|unit| unit.name.clone()).collect(), routes }
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

    /// The process that answers now, if one of those that may is up; `turn` spreads requests that have no key.
    pub fn choose(
        &self,
        route: &Route,
        clues: &Clues<'_>,
        turn: u64,
        up: impl Fn(&UnitName) -> bool,
    ) -> Option<&UnitName> {
        let key = balance::key(route.rule.sticky, clues).unwrap_or(turn.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        route.tiers.iter().find_map(|tier| {
            let members = tier.iter().filter_map(|at| self.members.get(*at)).filter(|name| up(name));
            balance::choose(key, members.map(|name| (name.as_str(), name)))
        })
    }

    /// Every process that may answer, those that are preferred first.
    pub fn candidates<'t>(&'t self, route: &'t Route) -> impl Iterator<Item = &'t UnitName> {
        route.tiers.iter().flatten().filter_map(|at| self.members.get(*at))
    }

    /// What `synvisor route` prints: who answers while everything is up, by which rule, and why.
    pub fn explain(&self, method: &str, target: &str) -> String {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let head = RequestHead { method, path, query, admin: true };
        let mut text = format!("{method} {target}\n");
        let route = match self.decide(&head) {
            Decision::Health => {
                return text
                    + "unit:  router\nwhy:   the router answers /health itself: 200 while main is up";
            }
            Decision::Denied | Decision::AdminClosed => {
                return text + "unit:  none\nwhy:   this path is not for clients; the router answers 404";
            }
            Decision::To(route) => route,
        };
        let names: Vec<&str> = route
            .tiers
            .first()
            .into_iter()
            .flatten()
            .filter_map(|at| Some(self.members.get(*at)?.as_str()))
            .collect();
        let others: Vec<&str> = self.candidates(route).skip(names.len()).map(UnitName::as_str).collect();
        let rule = &route.rule;
        let _ = writeln!(text, "unit:  {}", names.join(" or "));
        let _ = writeln!(text, "rule:  {} {} (class {})", rule.number, rule.pattern, rule.class);
        let _ = write!(text, "why:   {}", why(rule, names.len()));
        if others.is_empty() {
            text.push_str("; while it is away, requests wait for it");
        } else {
            let _ = write!(text, "; while it is away, {} in its place", others.join(" or "));
        }
        if path.starts_with("/_synapse/admin") {
            text.push_str("\nnote:  only on a listener with admin = true; others answer 403");
        }
        text
    }
}

fn why(rule: &Rule, members: usize) -> String {
    let owner = match (rule.wants, rule.strict) {
        (Wants::Writer(stream), true) => format!("only a writer of the {} stream can do it", stream.key()),
        (Wants::Writer(stream), false) => {
            format!("a writer of the {} stream does it without asking another process", stream.key())
        }
        (Wants::Main, true) => "only the main process can do it".to_owned(),
        (Wants::Main, false) => "no worker knows this path".to_owned(),
        (Wants::Media, _) => "only a process with the media repository can do it".to_owned(),
        (Wants::Quarantine, _) => {
            "only a media process that writes quarantined_media_changes can do it".to_owned()
        }
        (Wants::UserDirectory, _) => "the user directory's worker has it at hand".to_owned(),
        (
            Wants::Nothing
            | Wants::ClientReader
            | Wants::EventCreator
            | Wants::Synchrotron
            | Wants::FederationReader,
            _,
        ) => "any of these can do it".to_owned(),
    };
    let together = match rule.sticky {
        Sticky::None => return owner,
        Sticky::User => "user's",
        Sticky::Room => "room's",
        Sticky::Origin => "server's",
        Sticky::Ip => "client address's",
    };
    if members > 1 { format!("{owner}, and one {together} requests go to one of them") } else { owner }
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
