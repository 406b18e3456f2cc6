//! The table in words: who answers a request and why, and all of the table at a glance.

use std::fmt::Write;

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
    /// is away. `authorization` is the header that the request would have.
    pub fn explain(&self, method: &str, target: &str, authorization: Option<&str>) -> String {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut text = format!("{method} {target}\n");
        if !path.starts_with('/') {
            return text
                + "unit:  none\nwhy:   the router answers 400: a target is a path, which begins with /";
        }
        let head = RequestHead { method, path, query, admin: true };
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
        let _ = writeln!(text, "rule:  {} {} (class {})", rule.number, rule.pattern, rule.class);
        let _ = writeln!(text, "why:   {}", why(rule, first.len()));
        if chosen.is_none() && rule.sticky == Sticky::User {
            text.push_str("       (--user or --token-file says to which one)\n");
        }
        text.push_str(&self.away(route, chosen));
        if path.starts_with("/_synapse/admin") {
            text.push_str("\nnote:  only on a listener with admin = true; others answer 403");
        }
        text
    }

    /// Who answers while the chosen one is away.
    fn away(&self, route: &Route, chosen: Option<(&crate::topology::UnitName, u64)>) -> String {
        let next = chosen.map(|(unit, key)| (unit, self.choose(route, key, |other| other != unit)));
        let later: Vec<String> = route.tiers.iter().skip(1).map(|tier| self.pool(tier)).collect();
        match next {
            Some((unit, None)) => {
                format!("away:  requests wait for {unit}; no other process can answer them")
            }
            Some((unit, Some(next))) => format!("away:  {next} while {unit} is down"),
            None if later.is_empty() => "away:  another one of them, or requests wait".to_owned(),
            None => format!("away:  another one of them; without any, {}", later.join(", then ")),
        }
    }

    /// The whole table, a line for each rule.
    pub fn listing(&self) -> String {
        let rows: Vec<[String; 4]> = self
            .routes
            .iter()
            .map(|route| {
                let rule = &route.rule;
                let tiers: Vec<String> = route.tiers.iter().map(|tier| self.pool(tier)).collect();
                let who = match tiers.as_slice() {
                    [] => "nobody (404)".to_owned(),
                    [one] => one.clone(),
                    [..] => tiers.join(" > "),
                };
                let pattern = format!("{}{}", rule.pattern, rule.condition());
                [rule.number.to_string(), rule.methods(), who, pattern]
            })
            .collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let (number, methods, who) = (width(0), width(1), width(2));
        let mut text = "The first rule that fits a request's method and raw path decides. Who stands behind > answers while\n\
                        those before it are down; where nobody does, requests wait.\n\n"
            .to_owned();
        for [at, method, units, pattern] in &rows {
            let _ = writeln!(text, "{at:>number$}  {method:methods$}  {units:who$}  {pattern}");
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
        Sticky::Uri => "path's",
    };
    if members > 1 { format!("{owner}, and one {together} requests go to one of them") } else { owner }
}
