//! A mistake in the TOML file, and the one way in which mistakes are printed.

use std::fmt::Write;
use std::ops::Range;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Error,
    Warning,
}

/// One mistake: where, what, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub severity: Severity,
    /// Bytes of the file's text.
    pub place: Range<usize>,
    pub what: String,
    /// What is allowed, or how to mend it.
    pub remedy: String,
}

impl Problem {
    pub fn error(place: Range<usize>, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity: Severity::Error, place, what: what.into(), remedy: remedy.into() }
    }

    pub fn warning(place: Range<usize>, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, place, what: what.into(), remedy: remedy.into() }
    }

    /// `FILE:LINE:COL: text`, the line with a caret under what is meant, the remedy.
    pub fn print(&self, file: &str, text: &str) -> String {
        let start = floor(text, self.place.start);
        let end = floor(text, self.place.end).max(start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line = text[line_start..].split(['\n', '\r']).next().unwrap_or_default();
        let number = text[..line_start].matches('\n').count() + 1;
        let column = text[line_start..start].chars().count() + 1;
        let word = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let mut printed = format!("{file}:{number}:{column}: {word}: {}\n", self.what);
        // What is missing altogether is nowhere.
        if !line.trim().is_empty() && self.place != (0..0) {
            // Tabs stay tabs, so that the caret stands where the terminal puts the text.
            let before = text[line_start..start].chars();
            let indent: String = before.map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            let shown = end.min(line_start + line.len()).max(start);
            let carets = text[start..shown].chars().count().max(1);
            let _ = writeln!(printed, "    {}\n    {indent}{}", masked(line), "^".repeat(carets));
        }
        for line in self.remedy.lines() {
            let _ = writeln!(printed, "  {line}");
        }
        printed
    }
}

/// The line without what is written to the right of a key that names a secret: what is printed ends up in logs.
fn masked(line: &str) -> String {
    let secret = ["password", "secret", "token", "signing_key", "api_key"];
    // Where a secret is kept is no secret.
    let mut text = line.to_owned();
    for word in secret {
        let Some(at) = text.find(word) else { continue };
        let Some(equals) = text[at..].find('=').map(|found| at + found + 1) else { continue };
        let key = text[at..equals].trim_end_matches('=').trim_end();
        if !key.ends_with("_file") && !key.ends_with("_path") {
            text.truncate(equals);
            text.push_str(" …");
        }
    }
    text
}

/// The start of the character that a byte belongs to.
fn floor(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Prints problems in the order of the file.
pub fn print_all(problems: &[Problem], file: &str, text: &str) -> String {
    let mut sorted: Vec<&Problem> = problems.iter().collect();
    sorted.sort_by_key(|problem| (problem.place.start, problem.place.end));
    sorted.iter().map(|problem| problem.print(file, text)).collect()
}

/// The known name that a mistyped one most likely means.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let best = known.into_iter().map(|other| (distance(name, other), other)).min()?;
    // A third of the letters wrong is no longer a slip of the finger.
    (best.0 <= (name.chars().count() / 3).max(1)).then_some(best.1)
}

/// Letters to add, drop, change or swap to get from one name to the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut least = change.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    least = least.min(rows[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caret_stands_under_what_is_meant() {
        // Mutation: columns counted in bytes: seen red by the line with ü.
        let text = "a = 1\n\tkü = \"x\"\n";
        let at = text.find("\"x\"").unwrap();
        let printed = Problem::error(at..at + 3, "wrong", "do this\nor that").print("f.toml", text);
        assert_eq!(
            printed,
            "f.toml:2:7: error: wrong\n    \tkü = \"x\"\n    \t     ^^^\n  do this\n  or that\n"
        );
        let end = Problem::warning(text.len()..text.len() + 5, "end", "").print("f", text);
        assert_eq!(end, "f:3:1: warning: end\n");
    }

    #[test]
    fn a_secret_in_the_cited_line_is_not_printed() {
        // Mutation: masked returns the line: seen red.
        for line in ["password = \"hunter2\"", "synapse = { macaroon_secret_key = \"hunter2\", x = 1 }"] {
            let printed = Problem::error(0..3, "wrong", "").print("f", line);
            assert!(!printed.contains("hunter2") && printed.contains(" …"), "{printed}");
        }
        let file = "password_file = \"/nowhere\"";
        assert!(Problem::error(0..3, "wrong", "").print("f", file).contains("/nowhere"));
    }

    #[test]
    fn a_slip_finds_its_name_and_nonsense_finds_none() {
        let known = ["generic", "federation_sender", "pusher"];
        assert_eq!(nearest("genric", known), Some("generic"));
        assert_eq!(nearest("federation_snedr", known), Some("federation_sender"));
        assert_eq!(nearest("xyz", known), None);
    }
}
