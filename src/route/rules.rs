//! The routing rules as data, and the one that fits a request.

use std::sync::LazyLock;

use regex::bytes::RegexSet;
use regex::bytes::RegexSetBuilder;

use crate::config::roles::Stream;

/// Verified against the servlets that Synapse 1.163 registers; the order is that of precedence.
const TABLE: &str = include_str!("rules.tsv");

/// What requests of one key have in common, so that they should meet in one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sticky {
    None,
    User,
    Room,
    Origin,
    Ip,
}

/// What kind of process a rule wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// Nobody: the path is not for clients.
    Nothing,
    Main,
    ClientReader,
    EventCreator,
    Synchrotron,
    FederationReader,
    UserDirectory,
    Media,
    /// Writes the quarantined media stream and has the media repository loaded.
    Quarantine,
    Writer(Stream),
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its place in the table, from 1.
    pub number: usize,
    /// Empty means any.
    methods: Vec<&'static str>,
    /// Regular expression on the raw path.
    pub pattern: &'static str,
    pub class: &'static str,
    pub sticky: Sticky,
    pub wants: Wants,
    /// Any process but the owner would fail.
    pub strict: bool,
    /// Alternatives of which one must hold of the query; empty means no condition.
    query: Vec<Query>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Query {
    Absent(&'static str),
    Equals(&'static str, &'static str),
}

impl Rule {
    fn parse(number: usize, line: &'static str) -> Option<Self> {
        let fields: Vec<&'static str> = line.split('\t').collect();
        let [methods, pattern, class, sticky, eligible, preferred, strict, query] = fields[..] else {
            return None;
        };
        Some(Self {
            number,
            methods: if methods == "*" { Vec::new() } else { methods.split(',').collect() },
            pattern,
            class,
            sticky: match sticky {
                "none" => Sticky::None,
                "user" => Sticky::User,
                "room" => Sticky::Room,
                "origin" => Sticky::Origin,
                "ip" => Sticky::Ip,
                _ => return None,
            },
            wants: wants(eligible, preferred)?,
            strict: strict == "strict",
            query: if query == "-" {
                Vec::new()
            } else {
                query.split('|').map(Query::parse).collect::<Option<_>>()?
            },
        })
    }

    fn fits(&self, method: &str, query: &str) -> bool {
        // A browser asks with OPTIONS whether it may send the real request: whoever answers that answers this.
        (self.methods.is_empty() || method == "OPTIONS" || self.methods.contains(&method))
            && (self.query.is_empty() || self.query.iter().any(|condition| condition.holds(query)))
    }
}

impl Query {
    fn parse(text: &'static str) -> Option<Self> {
        match text.strip_prefix('!') {
            Some(name) => Some(Self::Absent(name)),
            None => text.split_once('=').map(|(name, value)| Self::Equals(name, value)),
        }
    }

    fn holds(self, query: &str) -> bool {
        let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        match self {
            Self::Absent(name) => !pairs.any(|(held, _)| held == name),
            Self::Equals(name, value) => pairs.any(|pair| pair == (name, value)),
        }
    }
}

fn wants(eligible: &str, preferred: &str) -> Option<Wants> {
    Some(match (eligible, preferred) {
        ("-", _) => Wants::Nothing,
        ("media&writer:quarantined_media_changes", _) => Wants::Quarantine,
        (_, "media_repository") => Wants::Media,
        // SSO keeps sessions in the memory of one process, and with SAML only main is sure to have them.
        (_, "main" | "sso") => Wants::Main,
        (_, "client_reader" | "mas_helper") => Wants::ClientReader,
        (_, "event_creator") => Wants::EventCreator,
        (_, "initial_synchrotron" | "synchrotron" | "sliding_sync") => Wants::Synchrotron,
        (_, "federation_reader" | "federation_inbound") => Wants::FederationReader,
        (_, "user_dir") => Wants::UserDirectory,
        (_, writer) => {
            let name = writer.strip_prefix("writer:")?;
            Wants::Writer(Stream::ALL.into_iter().find(|stream| stream.key() == name)?)
        }
    })
}

/// Compiled once: it takes tens of milliseconds, and every table has the same rules.
static RULES: LazyLock<Rules> = LazyLock::new(Rules::parse);

/// All rules, ready to be matched at once.
#[derive(Debug)]
pub struct Rules {
    pub all: Vec<Rule>,
    patterns: RegexSet,
}

impl Rules {
    /// The table that is compiled in.
    pub fn get() -> &'static Self {
        &RULES
    }

    /// A test holds that all of the table is well-formed.
    fn parse() -> Self {
        let lines = TABLE.lines().filter(|line| !line.starts_with('#'));
        let all: Vec<Rule> = lines.enumerate().filter_map(|(at, line)| Rule::parse(at + 1, line)).collect();
        let patterns = RegexSetBuilder::new(all.iter().map(|rule| rule.pattern)).unicode(false).build();
        Self { patterns: patterns.unwrap_or_else(|_| RegexSet::empty()), all }
    }

    /// The first rule that fits; the path is matched as it came, as Synapse does it.
    pub fn first(&self, method: &str, path: &str, query: &str) -> Option<&Rule> {
        let matches = self.patterns.matches(path.as_bytes());
        matches.iter().filter_map(|at| self.all.get(at)).find(|rule| rule.fits(method, query))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_a_rule() {
        let rules = Rules::get();
        let lines = TABLE.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!((rules.all.len(), rules.patterns.len()), (lines, lines));
        assert_eq!(lines, 307);
    }

    #[test]
    fn a_sync_without_a_token_is_an_initial_one() {
        // Mutation: conditions on the query ignored: seen red.
        let rules = Rules::get();
        let class = |query| rules.first("GET", "/_matrix/client/v3/sync", query).map(|rule| rule.class);
        assert_eq!(class(""), Some("initial_sync"));
        assert_eq!(class("timeout=0&since=s1"), Some("sync"));
        assert_eq!(class("since=s1&full_state=true"), Some("initial_sync"));
        assert_eq!(class("since=s1&full_state=false"), Some("sync"));
    }
}
