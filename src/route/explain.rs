//! The table in words: who answers a request and why, and all of the table at a glance.

use std::fmt::Write;

use crate::topology::UnitName;

use super::Clues;
use super::Decision;
use super::RequestHead;
use super::Route;
use super::RouteTable;
use super::balance;
use super::rules::Rule;
use super::rules::Sticky;
use super::rules::Wants;

impl RouteTable {
    /// What `synvisor route` prints: who answers while everything is up, by which rule, why, and who answers when that one
    /// is away. `authorization` is the header that the request would have, `delegated` whether sessions and passwords are
    /// left to the Matrix Authentication Service.
    pub fn explain(
        &self,
        method: &str,
        target: &str,
        authorization: Option<&str>,
        delegated: bool,
    ) -> String {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut text = format!("{method} {target}\n");
        if !path.starts_with('/') {
            return text
                + "unit:  none\nwhy:   the router answers 400: ask with a path alone, which begins with /";
        }
        let head = RequestHead { method, path, query, admin: true };
        let route = match self.decide(&head) {
            Decision::Health => {
                return text
                    + "unit:  router\nwhy:   the router answers /health itself: 200 while main is up, else 503";
            }
            Decision::Denied | Decision::AdminClosed => {
                return text + "unit:  none\nwhy:   this path is not for clients; the router answers 404";
            }
            Decision::To(route) => route,
        };
        let rule = &route.rule;
        let clues = Clues { path, query, authorization, client: None };
        let first = route.tiers.first().map(Vec::as_slice).unwrap_or_default();
        let chosen = match balance::key(rule.sticky, &clues) {
            Some(key) => self.choose(route, key, |_| true).map(|unit| (unit, key)),
            // Whatever the key is, there is one to choose from.
            None if first.len() == 1 => self.choose(route, 0, |_| true).map(|unit| (unit, 0)),
            None => None,
        };
        let unit = chosen.map_or_else(|| self.pool(first), |(unit, _)| unit.to_string());
        let _ = writeln!(text, "unit:  {unit}");
        let (number, methods, shown, class) = (rule.number, rule.methods(), rule.shown(), rule.class);
        let _ = writeln!(text, "rule:  {number} {methods} {shown}{} (class {class})", rule.condition());
        let _ = writeln!(text, "why:   {}", why(rule));
        if first.len() > 1 {
            let _ = writeln!(text, "       {}", together(rule.sticky, chosen.is_some()));
        }
        text.push_str(&self.away(route, chosen));
        if path.starts_with("/_synapse/admin") {
            text.push_str("\nnote:  only on a [[listen]] with admin = true; others answer 403");
        }
        if delegated && rule.is_delegated() {
            text.push_str(
                "\nnote:  Synapse answers 404, since [synapse] leaves this to the Matrix Authentication Service; let the \
                 web server\n       in front send /login, /logout and /refresh there",
            );
        }
        text
    }

    /// Who answers while the chosen one is away.
    fn away(&self, route: &Route, chosen: Option<(&UnitName, u64)>) -> String {
        let mut pools = route.tiers.iter().map(|tier| self.pool(tier));
        let first = pools.next().unwrap_or_default();
        let later = pools.collect::<Vec<_>>().join(", then ");
        let several = route.tiers.first().is_some_and(|tier| tier.len() > 1);
        let next = chosen
            .map(|(unit, key)| (unit, self.choose(route, key, |other| other != unit)))
            .and_then(|(unit, next)| Some(format!("{} while {unit} is down", next?)));
        match (several, later.is_empty()) {
            (false, true) => format!("away:  requests wait for {first}; no other process can answer them"),
            (false, false) => {
                format!("away:  {later} while {first} is down; requests wait while all of them are")
            }
            (true, _) => {
                let next = next.unwrap_or_else(|| "another one of them".to_owned());
                let last = if later.is_empty() { "requests wait".to_owned() } else { later };
                format!("away:  {next}; while all of {first} are, {last}")
            }
        }
    }

    /// The whole table, a line for each rule; `delegated` as for [`Self::explain`].
    pub fn listing(&self, delegated: bool) -> String {
        let head = ["rule", "methods", "kept together", "unit", "path"].map(str::to_owned);
        let rows = self.routes.iter().map(|route| {
            let rule = &route.rule;
            let tiers: Vec<String> = route.tiers.iter().map(|tier| self.pool(tier)).collect();
            let who = match tiers.as_slice() {
                [] if rule.pattern == "^/health$" => "router".to_owned(),
                [] => "nobody: 404".to_owned(),
                [..] if delegated && rule.is_delegated() => "left to MAS: 404".to_owned(),
                [..] => tiers.join(" > "),
            };
            let path = format!("{}{}", rule.shown(), rule.condition());
            [rule.number.to_string(), rule.methods(), rule.sticky.word().to_owned(), who, path]
        });
        let rows: Vec<[String; 5]> = [head].into_iter().chain(rows).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let (number, methods, by, who) = (width(0), width(1), width(2), width(3));
        let mut text =
            "The first rule that fits a request's method and path, as it came, decides. Units behind > answer while those\n\
             before them are down; requests wait while all are. In paths * is one part, and … whatever follows.\n\n"
                .to_owned();
        for [at, method, like, unit, path] in &rows {
            let _ = writeln!(text, "{at:>number$}  {method:methods$}  {like:by$}  {unit:who$}  {path}");
        }
        text
    }

    /// The members of a tier: `main`, `generic-1…4`.
    fn pool(&self, tier: &[usize]) -> String {
        let names: Vec<&str> =
            tier.iter().filter_map(|at| Some(self.members.get(*at)?.name.as_str())).collect();
        match names.as_slice() {
            [] => "nobody".to_owned(),
            [one] => (*one).to_owned(),
            [first, .., last] => {
                let number = last.rsplit_once('-').map_or(*last, |(_, number)| number);
                format!("{first}…{number}")
            }
        }
    }
}

fn why(rule: &Rule) -> String {
    match (rule.wants, rule.strict) {
        (Wants::Writer(stream), true) => format!("only a writer of the {} stream can do it", stream.key()),
        (Wants::Writer(stream), false) => {
            format!("a writer of the {} stream does it without asking another process", stream.key())
        }
        (Wants::Main, true) if rule.class == "sso" => {
            "single sign-on keeps its sessions in one process, which is main".to_owned()
        }
        (Wants::Main, true) => "only the main process can do it".to_owned(),
        (Wants::Main, false) => {
            "no other rule fits: Synapse has nothing there, unless a module of yours does".to_owned()
        }
        (Wants::Media, _) => "only a process with the media repository can do it".to_owned(),
        (Wants::Quarantine, _) => {
            "only a media process that writes quarantined_media_changes can do it".to_owned()
        }
        (Wants::UserDirectory, _) => "the user directory's worker has it at hand".to_owned(),
        (Wants::FederationReader, _) => "any process that serves other servers can do it".to_owned(),
        (Wants::Nothing | Wants::ClientReader | Wants::EventCreator | Wants::Synchrotron, _) => {
            "any process that serves clients can do it".to_owned()
        }
    }
}

/// Which of several it is.
const fn together(sticky: Sticky, known: bool) -> &'static str {
    match (sticky, known) {
        (Sticky::None, _) => "they take turns",
        (Sticky::User, true) => "all of this user's requests go to this one",
        (Sticky::User, false) => "the user decides which; --user or --token-file says so",
        (Sticky::Room, true) => "all requests about this room go to this one",
        (Sticky::Room, false) => "the room in the path decides which",
        (Sticky::Origin, _) => "the server that signed the request decides which",
        (Sticky::Ip, _) => "the client's address decides which",
        (Sticky::Uri, _) => "the same path and query go to the same one",
    }
}
