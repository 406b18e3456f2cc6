//! Mistakes in how TOML is written.

use std::collections::BTreeMap;

use super::problem::Problem;

/// Problems beyond this many are counted only: they come of one slip, or the file is something else.
const MOST: usize = 100;

/// One problem a line: what the parser says after the first is mostly an echo of it.
pub(super) fn problems(text: &str, errors: &[toml::de::Error]) -> Vec<Problem> {
    let ends: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).collect();
    let line = |at: usize| ends.partition_point(|end| *end < at);
    let mut by_line: BTreeMap<usize, Problem> = BTreeMap::new();
    for error in errors {
        let place = error.span().unwrap_or(text.len()..text.len());
        by_line.entry(line(place.start)).or_insert_with(|| {
            let message = error.message();
            Problem::error(place, format!("this is not TOML: {message}"), remedy(message))
        });
    }
    let beyond = by_line.len().saturating_sub(MOST);
    let mut problems: Vec<Problem> = by_line.into_values().collect();
    if let Some(place) = problems.get(MOST).and_then(|problem| problem.place.clone()) {
        problems.truncate(MOST);
        let what = format!("{beyond} more lines are not TOML");
        problems.push(Problem::error(
            place,
            what,
            "mend the first ones, or name another file with --config FILE",
        ));
    }
    problems
}

/// The slips that people make, and for the others how TOML is written.
fn remedy(message: &str) -> &'static str {
    const FORM: &str =
        "write key = value, text in double quotes, and tables as [name] on a line of their own";
    let known = [
        ("must be quoted", "text stands in quotes: key = \"value\"; numbers, true and false do not"),
        ("key with no value", "write key = value; a table is written [name]"),
        ("duplicate key", "it stands further up already: keep one of the two"),
        ("missing comma", "put a comma between the two"),
        ("unclosed array", "close it with ]"),
        ("escaped value", "write \\\\ for a backslash, or the string in single quotes"),
        ("visible characters", "remove the control character, or write it like \\u001b"),
        ("basic string", "close the quotes at the end of the line"),
    ];
    known.into_iter().find(|(words, _)| message.contains(words)).map_or(FORM, |(_, remedy)| remedy)
}
