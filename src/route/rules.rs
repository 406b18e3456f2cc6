//! The routing rules as data, and the one that fits a request.

use std::sync::LazyLock;

use regex_automata::Anchored;
use regex_automata::MatchKind;
use regex_automata::dfa::Automaton;
use regex_automata::dfa::StartKind;
use regex_automata::dfa::dense;
use regex_automata::dfa::sparse;
use regex_automata::util::start;

use crate::config::roles::Stream;

use super::query;
use super::replay;
use super::replay::Replay;

/// Verified against the servlets that Synapse 1.163 registers; the order is that of precedence.
pub const TABLE: &str = include_str!("rules.tsv");

/// What requests of one key have in common, so that they should meet in one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sticky {
    None,
    User,
    Room,
    Origin,
    Ip,
    /// The whole target: what asks for the same gets it from the same cache.
    Uri,
}

impl Sticky {
    /// As the table has it, and as it is shown.
    pub const fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::User => "user",
            Self::Room => "room",
            Self::Origin => "origin",
            Self::Ip => "ip",
            Self::Uri => "uri",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let all = [Self::None, Self::User, Self::Room, Self::Origin, Self::Ip, Self::Uri];
        all.into_iter().find(|sticky| sticky.word() == text)
    }
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
    query: query::Condition,
    /// Where a method does not say enough.
    pub(super) replays: Vec<(&'static str, Replay)>,
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
            sticky: Sticky::parse(sticky)?,
            wants: wants(eligible, preferred)?,
            strict: strict == "strict",
            query: query::Condition::parse(query)?,
            replays: Vec::new(),
        })
    }

    pub(super) const fn takes_any_method(&self) -> bool {
        self.methods.is_empty()
    }

    /// The methods of the rule as they are shown.
    pub fn methods(&self) -> String {
        if self.methods.is_empty() { "any".to_owned() } else { self.methods.join(",") }
    }

    /// Its pattern as a person reads it: `*` for one part of a path, `…` for whatever follows.
    pub fn shown(&self) -> String {
        let mut text = self.pattern.trim_start_matches('^').to_owned();
        for part in ["(?:[^/]*)", "(?:[^/]+)", "(?:[A-Za-z0-9_.~-]+)", "(?:[\\w\\.]*)"] {
            text = text.replace(part, "*");
        }
        text = text.replace("(?:", "(").replace("\\.", ".").replace(".*", "…");
        match (text.strip_suffix("(/|$)"), text.strip_suffix('$')) {
            (Some(whole), _) => format!("{whole}(/…)?"),
            (None, Some(whole)) => whole.to_owned(),
            (None, None) => text + "…",
        }
    }

    /// Its condition on the query as it is shown; empty if there is none.
    pub fn condition(&self) -> &'static str {
        self.query.words()
    }

    /// An expression on a request as [`Rules::first`] reads it: a letter for the query, the method, a space, the path.
    fn expression(&self) -> Option<String> {
        let path = self.pattern.strip_prefix('^')?;
        let method = if self.methods.is_empty() {
            "[A-Za-z0-9!#$%&'*+.^_`|~-]+".to_owned()
        } else {
            // A browser asks with OPTIONS whether it may send the real request: whoever answers that answers this.
            format!("(?:{}|OPTIONS)", self.methods.join("|"))
        };
        Some(format!("{}{method} (?:{path})", self.query.letters()))
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
    /// One automaton for all of them. It never goes back and never allocates; of several rules that fit it gives the
    /// first.
    automaton: sparse::DFA<Vec<u8>>,
}

impl Rules {
    /// The table that is compiled in.
    pub fn get() -> &'static Self {
        &RULES
    }

    /// A test holds that all of the table is well-formed.
    fn parse() -> Self {
        Self::of(TABLE)
    }

    /// The rules of a table; what is no rule is left out.
    pub fn of(table: &'static str) -> Self {
        let lines = table.lines().filter(|line| !line.starts_with('#'));
        let mut all: Vec<Rule> =
            lines.enumerate().filter_map(|(at, line)| Rule::parse(at + 1, line)).collect();
        replay::exceptions(&mut all);
        let expressions: Vec<String> = all.iter().filter_map(Rule::expression).collect();
        let automaton = automaton(&expressions)
            .unwrap_or_else(|error| unreachable!("a test holds that the table makes an automaton: {error}"));
        Self { all, automaton }
    }

    /// The first rule that fits; the path is matched as it came, as Synapse does it.
    pub fn first(&self, method: &str, path: &str, query: &str) -> Option<&Rule> {
        let start = start::Config::new().anchored(Anchored::Yes);
        let mut state = self.automaton.start_state(&start).ok()?;
        let mut found = None;
        let letter = query::letter(query);
        for byte in [letter].iter().chain(method.as_bytes()).chain(b" ").chain(path.as_bytes()) {
            state = self.automaton.next_state(state, *byte);
            // A match is seen one byte late, and a later one is of a rule that is as early or earlier.
            if self.automaton.is_match_state(state) {
                found = Some(self.automaton.match_pattern(state, 0));
            }
            if self.automaton.is_dead_state(state) || self.automaton.is_quit_state(state) {
                break;
            }
        }
        state = self.automaton.next_eoi_state(state);
        if self.automaton.is_match_state(state) {
            found = Some(self.automaton.match_pattern(state, 0));
        }
        self.all.get(found?.as_usize())
    }
}

fn automaton(expressions: &[String]) -> Result<sparse::DFA<Vec<u8>>, Box<dense::BuildError>> {
    let settings = dense::Config::new().start_kind(StartKind::Anchored).match_kind(MatchKind::LeftmostFirst);
    // Paths are bytes: what is no UTF-8 is matched as it came.
    let syntax = regex_automata::util::syntax::Config::new().unicode(false).utf8(false);
    let nfa = regex_automata::nfa::thompson::Config::new().utf8(false);
    let whole =
        dense::Builder::new().configure(settings).syntax(syntax).thompson(nfa).build_many(expressions)?;
    Ok(whole.to_sparse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_a_rule() {
        let rules = Rules::get();
        let lines = TABLE.lines().filter(|line| !line.starts_with('#')).count();
        assert_eq!((rules.all.len(), rules.automaton.pattern_len()), (lines, lines));
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
        assert_eq!(class("from=s1"), Some("initial_sync"));
        let events = |query| rules.first("GET", "/_matrix/client/v3/events", query).map(|rule| rule.class);
        assert_eq!((events(""), events("from=s1")), (Some("initial_sync"), Some("sync")));
    }

    #[test]
    fn the_automaton_agrees_with_the_rules_in_a_row() {
        // Mutations, each seen red: MatchKind::All; the end of the path not looked at.
        let rules = Rules::get();
        let one_by_one: Vec<regex::bytes::Regex> = rules
            .all
            .iter()
            .map(|rule| {
                let pattern = regex::bytes::RegexBuilder::new(&rule.expression().unwrap());
                let mut pattern = pattern;
                pattern.unicode(false).build().unwrap()
            })
            .collect();
        let parts = [
            "_matrix",
            "client",
            "v3",
            "rooms",
            "!r:h",
            "send",
            "sync",
            "keys",
            "admin",
            "_synapse",
            "",
            "federation",
            "v1",
            "media",
            "x",
        ];
        let mut state = 7_usize;
        let mut fitted = 0;
        for _ in 0..20_000 {
            let mut path = String::new();
            for _ in 0..=state % 7 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                path.push('/');
                path.push_str(parts[(state >> 33) % parts.len()]);
            }
            let method = ["GET", "PUT", "OPTIONS", "M-SEARCH"][(state >> 40) % 4];
            let whole = format!("{}{method} {path}", char::from(query::letter("")));
            let slow = one_by_one
                .iter()
                .position(|pattern| pattern.find(whole.as_bytes()).is_some_and(|found| found.start() == 0));
            let quick = rules.first(method, &path, "").map(|rule| rule.number - 1);
            assert_eq!(quick, slow, "{whole}");
            fitted += usize::from(slow.is_some());
        }
        assert!(fitted > 1_000, "{fitted}");
    }
}
