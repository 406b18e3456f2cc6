//! A mistake in the TOML file, and the one way in which mistakes are printed.

use std::fmt::Write;
use std::ops::Range;

use unicode_width::UnicodeWidthChar;

use super::mask;

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
    /// Bytes of the file's text; none where something is missing from the file as a whole.
    pub place: Option<Range<usize>>,
    pub what: String,
    /// What is allowed, or how to mend it; long lines are wrapped, short ones may be given as they should stand.
    pub remedy: String,
}

impl Problem {
    pub fn error(
        place: impl Into<Option<Range<usize>>>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Error, place: place.into(), what: what.into(), remedy: remedy.into() }
    }

    pub fn warning(
        place: impl Into<Option<Range<usize>>>,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { severity: Severity::Warning, ..Self::error(place, what, remedy) }
    }

    /// The same, but not in the way of anything.
    #[must_use]
    pub fn into_warning(self) -> Self {
        Self { severity: Severity::Warning, ..self }
    }

    /// Line and column of its place, counted from 1, columns in characters.
    pub fn position(&self, text: &str) -> Option<(usize, usize)> {
        let cited = Cited::of(text, self.place.as_ref()?);
        Some((cited.line, cited.column))
    }

    /// `FILE:LINE:COL: error: text`, the line with carets under what is meant, the remedy.
    ///
    /// Lines and columns count from 1, columns in characters. What looks like a secret is not shown.
    pub fn print(&self, file: &str, text: &str) -> String {
        let word = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        let mut printed = match &self.place {
            None => format!("{file}: {word}: {}\n", self.what),
            Some(place) => {
                let cited = Cited::of(text, place);
                let (line, column) = (cited.line, cited.column);
                format!("{file}:{line}:{column}: {word}: {}\n{}", self.what, cited.lines)
            }
        };
        for line in self.remedy.lines().flat_map(wrapped) {
            let _ = writeln!(printed, "  {line}");
        }
        printed
    }
}

/// A line of the file, as it is shown.
struct Cited {
    line: usize,
    column: usize,
    /// The line and the carets below it; empty if nothing is on the line.
    lines: String,
}

impl Cited {
    fn of(text: &str, place: &Range<usize>) -> Self {
        let start = floor(text, place.start);
        let end = floor(text, place.end).max(start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line = text[line_start..].split(['\n', '\r']).next().unwrap_or_default();
        let (from, to) = (start - line_start, end - line_start);
        let mut cited = Self {
            line: text[..line_start].matches('\n').count() + 1,
            column: text[line_start..start].chars().filter(|c| *c != BYTE_ORDER_MARK).count() + 1,
            lines: String::new(),
        };
        if !line.trim().is_empty() {
            let (mut shown, mut indent, mut carets) = (String::new(), String::new(), 0);
            for (at, piece) in pieces(line) {
                shown.push_str(&piece);
                if at < from {
                    // Tabs stay tabs, so that the caret stands where the terminal puts the text.
                    indent.extend(piece.chars().flat_map(|c| blank(c).chars()));
                } else if at < to {
                    carets += piece.chars().map(width).sum::<usize>();
                }
            }
            let carets = "^".repeat(carets.max(1));
            cited.lines = format!("    {}\n    {indent}{carets}\n", shown.trim_end());
        }
        cited
    }
}

const BYTE_ORDER_MARK: char = '\u{feff}';

/// The characters of a line with their byte, as they are shown: a secret is one `…`, a control character a `�`.
fn pieces(line: &str) -> impl Iterator<Item = (usize, String)> {
    let secrets = mask::in_line(line);
    line.char_indices().map(move |(at, c)| {
        let piece = match secrets.iter().find(|secret| secret.contains(&at)) {
            Some(secret) if secret.start == at => "…".to_owned(),
            Some(_) => String::new(),
            None if c == BYTE_ORDER_MARK => String::new(),
            None if c.is_control() && c != '\t' => char::REPLACEMENT_CHARACTER.to_string(),
            None => c.to_string(),
        };
        (at, piece)
    })
}

/// How many columns a terminal gives to a character.
fn width(c: char) -> usize {
    c.width().unwrap_or(1)
}

/// What takes as much room as a character and shows nothing.
fn blank(c: char) -> &'static str {
    match (c, width(c)) {
        ('\t', _) => "\t",
        (_, 0) => "",
        (_, 1) => " ",
        (_, _) => "  ",
    }
}

/// Breaks a line of text between words.
fn wrapped(line: &str) -> Vec<String> {
    const LONGEST: usize = 100;
    let mut lines: Vec<String> = Vec::new();
    for word in line.split(' ') {
        match lines.last_mut() {
            Some(last) if last.chars().count() + 1 + word.chars().count() <= LONGEST => {
                last.push(' ');
                last.push_str(word);
            }
            Some(_) | None => lines.push(word.to_owned()),
        }
    }
    lines
}

/// The start of the character that a byte belongs to.
fn floor(text: &str, mut at: usize) -> usize {
    at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// Prints problems in the order of the file; those without a place come first.
pub fn print_all(problems: &[Problem], file: &str, text: &str) -> String {
    in_order(problems).map(|problem| problem.print(file, text)).collect()
}

/// Problems in the order of their places in the file.
pub fn in_order(problems: &[Problem]) -> impl Iterator<Item = &Problem> {
    let mut sorted: Vec<&Problem> = problems.iter().collect();
    sorted.sort_by_key(|problem| problem.place.as_ref().map(|place| (place.start, place.end)));
    sorted.into_iter()
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
    fn wide_and_invisible_characters_do_not_shift_the_caret() {
        // Mutation: `width` always 1: seen red by the ideographs; the byte order mark counted: seen red.
        let text = "\u{feff}\"日本\" = e\u{301} # \u{1b}\r\n";
        let at = text.find("e\u{301}").unwrap();
        let printed = Problem::error(at..at + 3, "wrong", "").print("f", text);
        assert_eq!(printed, "f:1:8: error: wrong\n    \"日本\" = e\u{301} # \u{fffd}\n             ^\n");
    }

    #[test]
    fn a_secret_is_not_shown() {
        // Mutation: `in_line` empty: seen red.
        let text = "redis = { password = \"hunter2, really\", prot = 1 }";
        let at = text.find("prot").unwrap();
        let printed = Problem::error(at..at + 4, "unknown", "").print("f", text);
        assert!(printed.contains("password = \"…\", prot"), "{printed}");
        let (line, carets) = (printed.lines().nth(1).unwrap(), printed.lines().nth(2).unwrap());
        let prot = line.chars().collect::<String>().find("prot").unwrap() - ("…".len() - 1);
        assert_eq!(carets.find('^'), Some(prot));
    }

    #[test]
    fn a_problem_of_the_whole_file_has_no_line() {
        let problems = [Problem::error(3..4, "second", ""), Problem::error(None, "first", "x ".repeat(80))];
        let printed = print_all(&problems, "f", "abcdef");
        assert!(printed.starts_with("f: error: first\n  x x"), "{printed}");
        assert!(printed.lines().all(|line| line.len() <= 102), "{printed}");
        assert!(printed.ends_with("f:1:4: error: second\n    abcdef\n       ^\n"), "{printed}");
    }
}
