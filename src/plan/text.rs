//! A plan as a person reads it.

use std::collections::BTreeMap;
use std::fmt;

use crate::config::difference::Difference;
use crate::topology::UnitName;

use super::Action;
use super::Kind;
use super::Plan;
use super::Step;

/// Columns of a line, if the words allow it.
const WIDTH: usize = 100;

/// Columns that what differs may take before the values stand on no common line with those of the others.
const LABEL: usize = 60;

/// Units of one kind with consecutive numbers are named by the first and the last if there are as many as this.
const RANGE: usize = 3;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = vec![changes(&self.changes), steps(&self.steps), rest(self)];
        parts.retain(|part| !part.is_empty());
        f.write_str(&parts.join("\n"))
    }
}

impl Plan {
    /// What carrying it out has done, on one line.
    pub fn summary(&self) -> String {
        let moves = || self.steps.iter().flat_map(|step| &step.moves);
        let whom = |action: Action| -> Vec<UnitName> {
            moves().filter(|(_, moved)| moved.action == action).map(|(name, _)| name.clone()).collect()
        };
        let parts = [
            ("restarted", Action::Restart),
            ("started", Action::Start),
            ("stopped", Action::Stop),
            ("read their files anew:", Action::Hup),
        ];
        let parts = parts.into_iter().map(|(word, action)| (word, whom(action)));
        let parts: Vec<String> = parts
            .filter(|(_, names)| !names.is_empty())
            .map(|(word, names)| format!("{word} {}", compressed(&names)))
            .collect();
        if !parts.is_empty() {
            parts.join("; ")
        } else if self.router {
            "the router was told".to_owned()
        } else if self.is_empty() {
            "no change".to_owned()
        } else {
            "applied; it concerns no process".to_owned()
        }
    }
}

fn changes(changes: &[Difference]) -> String {
    let width = changes.iter().map(|change| change.what.chars().count()).max().unwrap_or(0).min(LABEL);
    let line = |change: &Difference| match (&change.old, &change.new) {
        (None, None) => format!("  {:width$}  changed\n", change.what),
        (old, new) => format!("  {:width$}  {} → {}\n", change.what, shown(old), shown(new)),
    };
    if changes.is_empty() {
        return String::new();
    }
    format!("Changes:\n{}", changes.iter().map(line).collect::<String>())
}

fn shown(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or("not set")
}

fn steps(steps: &[Step]) -> String {
    if steps.is_empty() {
        return String::new();
    }
    let mut text = "Steps, each once the one before is done:\n".to_owned();
    let mut at = 0;
    while let Some(step) = steps.get(at) {
        let alike = steps[at..].iter().take_while(|other| other.kind == step.kind).count();
        let count = if step.kind == Kind::Restart { alike } else { 1 };
        let number = match count {
            1 => format!("{}.", at + 1),
            more => format!("{}–{}.", at + 1, at + more),
        };
        text.push_str(&block(&number, &steps[at..at + count]));
        at += count;
    }
    text
}

/// One step, or several that do the same to one unit each.
fn block(number: &str, steps: &[Step]) -> String {
    let moves: Vec<_> = steps.iter().flat_map(|step| &step.moves).collect();
    let Some((step, (_, first))) = steps.first().zip(moves.first()) else { return String::new() };
    let everywhere = |why: &&String| moves.iter().all(|(_, moved)| moved.why.contains(why));
    let common: Vec<&String> = first.why.iter().filter(everywhere).collect();
    let head = match step.kind {
        Kind::Hup => "read anew, without a restart (SIGHUP)",
        Kind::Together => "go down together, and come up once all are down",
        Kind::Start => "start",
        Kind::Restart if steps.len() > 1 => "restart one after the other, each once the one before is READY",
        Kind::Restart => "restart",
        Kind::Stop => "stop",
    };
    let indent = " ".repeat(4);
    let mut text = format!(" {number} {head}\n");
    // What makes units go together is explained once, and named where it is not the reason of all.
    let explained = moves.iter().flat_map(|(_, moved)| &moved.why).filter(|why| short(why) != why.as_str());
    let mut because: Vec<&String> = common.clone();
    explained.for_each(|why| {
        if !because.contains(&why) {
            because.push(why)
        }
    });
    for (at, why) in because.iter().enumerate() {
        let lead = if at == 0 { "because" } else { "and" };
        text.push_str(&wrapped(&format!("{indent}{lead:7} "), &words(why)));
    }
    for (stage, row) in rows(steps) {
        for (at, ((action, why), names)) in row.into_iter().enumerate() {
            let lead = match (step.kind, stage, at) {
                (Kind::Together, Some(0) | None, _) => format!("{indent}{:7}  ", word(action)),
                (Kind::Together, Some(_), 0) => {
                    format!("{indent}then, once READY:\n{indent}{:7}  ", word(action))
                }
                (Kind::Together, Some(_), _) => format!("{indent}{:7}  ", word(action)),
                (Kind::Hup | Kind::Start | Kind::Restart | Kind::Stop, _, _) => indent.clone(),
            };
            let own: Vec<&str> =
                why.iter().filter(|why| !common.contains(why)).map(|why| short(why)).collect();
            let also = match (own.is_empty(), common.is_empty()) {
                (true, _) => String::new(),
                (false, true) => format!(" ({})", own.join(", ")),
                (false, false) => format!(" (also {})", own.join(", ")),
            };
            text.push_str(&wrapped(&lead, &words(&format!("{}{also}", compressed(&names)))));
        }
    }
    text
}

/// A reason without its explanation.
fn short(why: &str) -> &str {
    why.split(": ").next().unwrap_or(why)
}

/// In the order of the first of each.
type Row = Vec<((Action, Vec<String>), Vec<UnitName>)>;

/// Units with equal action and reason, stage by stage; those that stop for good stand before all stages.
fn rows(steps: &[Step]) -> Vec<(Option<usize>, Row)> {
    let mut rows: BTreeMap<Option<usize>, Row> = BTreeMap::new();
    for step in steps {
        let place = |name: &UnitName| step.stages.iter().position(|stage| stage.contains(name));
        let order = step.leave.iter().chain(step.stages.iter().flatten());
        // Nobody goes down or comes up where files are only read anew.
        let rest = step.moves.keys().filter(|name| step.stages.is_empty() && !step.leave.contains(name));
        for name in order.chain(rest) {
            let Some(moved) = step.moves.get(name) else { continue };
            let key = (moved.action, moved.why.clone());
            let row = rows.entry(place(name)).or_default();
            match row.iter_mut().find(|(held, _)| *held == key) {
                Some((_, names)) => names.push(name.clone()),
                None => row.push((key, vec![name.clone()])),
            }
        }
    }
    rows.into_iter().collect()
}

const fn word(action: Action) -> &'static str {
    match action {
        Action::Stop => "stop",
        Action::Restart => "restart",
        Action::Start => "start",
        Action::Hup => "SIGHUP",
    }
}

/// What is not a step.
fn rest(plan: &Plan) -> String {
    let mut text = String::new();
    let mut tell = |lead: &str, said: &str| text.push_str(&wrapped(lead, &words(said)));
    if plan.is_empty() {
        tell("", "no change");
    } else {
        if plan.router {
            tell("router: ", "gets a new table, without a restart");
        }
        if plan.supervisor {
            tell("supervisor: ", "goes by the new limits, without a restart");
        }
        if !plan.rewritten.is_empty() {
            let names: Vec<UnitName> = plan.rewritten.iter().cloned().collect();
            let said = format!("{} (files that differ in nothing that concerns them)", compressed(&names));
            tell("only rewritten: ", &said);
        }
        let count = plan.untouched.len();
        tell("untouched: ", &format!("{count} {}", if count == 1 { "process" } else { "processes" }));
    }
    for note in &plan.notes {
        tell("note: ", note);
    }
    text
}

/// Names with consecutive numbers as `generic-1 to generic-4`, main first.
pub fn compressed(names: &[UnitName]) -> String {
    let mut runs: Vec<Vec<&UnitName>> = Vec::new();
    let numbered = |name: &UnitName| {
        let (kind, number) = name.as_str().rsplit_once('-')?;
        Some((kind.to_owned(), number.parse::<u32>().ok()?))
    };
    let mut names: Vec<&UnitName> = names.iter().collect();
    names.sort_by_key(|name| (**name != UnitName::main(), numbered(name), name.as_str()));
    for name in names {
        let follows = |last: &&UnitName| match (numbered(last), numbered(name)) {
            (Some((kind, before)), Some((same, number))) => kind == same && number == before + 1,
            (_, _) => false,
        };
        match runs.last_mut().filter(|run| run.last().is_some_and(follows)) {
            Some(run) => run.push(name),
            None => runs.push(vec![name]),
        }
    }
    let shown = |run: Vec<&UnitName>| match (run.first(), run.last()) {
        (Some(first), Some(last)) if run.len() >= RANGE => format!("{first} to {last}"),
        (_, _) => run.into_iter().map(UnitName::as_str).collect::<Vec<_>>().join(", "),
    };
    runs.into_iter().map(shown).collect::<Vec<_>>().join(", ")
}

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace().collect()
}

/// Words after a lead, on as many lines as they need, each below the first word.
fn wrapped(lead: &str, words: &[&str]) -> String {
    let last_line = lead.rsplit('\n').next().unwrap_or_default();
    let margin = last_line.chars().count();
    let mut text = lead.to_owned();
    let mut column = margin;
    for (at, word) in words.iter().enumerate() {
        let length = word.chars().count();
        if at > 0 && column + 1 + length > WIDTH {
            text.push_str(&format!("\n{}", " ".repeat(margin)));
            column = margin;
        } else if at > 0 {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += length;
    }
    text.push('\n');
    text
}
