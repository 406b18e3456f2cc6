//! YAML as PyYAML reads it, which is what Synapse and Ansible read their files with.
//!
//! PyYAML knows YAML 1.1: `yes` is true, `017` is 15, `1:30` is 90 and `1e3` a string. The parser is serde-saphyr's; what
//! its plain scalars mean is decided here by PyYAML's own patterns (`yaml/resolver.py`).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;
use serde_saphyr::granit_parser::Event;
use serde_saphyr::granit_parser::Parser;
use serde_saphyr::granit_parser::ScalarStyle;
use serde_saphyr::granit_parser::Span;
use serde_saphyr::granit_parser::Tag;

use crate::config::problem::Problem;

/// A value of a document.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Truth(bool),
    Int(i64),
    Float(f64),
    Text(String),
    /// What is written for a date, which TOML and Synapse's settings have no use for.
    Date(String),
    List(Vec<Self>),
    Map(Map),
    /// A value with a tag of an application's own, like Ansible's `!vault`.
    Tagged(String),
}

/// Entries in the order of the file; of two with the same key the later one holds, as in PyYAML.
pub(super) type Map = Vec<(String, Value)>;

/// The value of a key.
pub(super) fn get<'m>(map: &'m Map, key: &str) -> Option<&'m Value> {
    map.iter().find(|(held, _)| held == key).map(|(_, value)| value)
}

/// Sets a key in its place, or at the end.
pub(super) fn set(map: &mut Map, key: &str, value: Value) {
    match map.iter_mut().find(|(held, _)| held == key) {
        Some((_, held)) => *held = value,
        None => map.push((key.to_owned(), value)),
    }
}

impl Value {
    pub(super) fn text(&self) -> Option<&str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    pub(super) fn map(&self) -> Option<&Map> {
        if let Self::Map(map) = self { Some(map) } else { None }
    }

    pub(super) fn list(&self) -> &[Self] {
        if let Self::List(list) = self { list } else { &[] }
    }

    pub(super) fn truth(&self) -> Option<bool> {
        if let Self::Truth(value) = self { Some(*value) } else { None }
    }

    pub(super) fn int(&self) -> Option<i64> {
        if let Self::Int(value) = self { Some(*value) } else { None }
    }

    /// The value at the end of a path of keys.
    pub(super) fn at(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |held, key| get(held.map()?, key))
    }
}

/// How deep values may lie in each other, so that no document can exhaust the stack.
const DEEPEST: usize = 64;

/// Values that aliases may bring along: a document of a few lines could otherwise stand for billions of them.
const MOST_COPIES: usize = 100_000;

/// Reads the one document of a text; nothing but comments is [`Value::Null`].
///
/// # Errors
/// It is not YAML, or nothing that PyYAML's safe loader takes: the place and the reason.
pub(super) fn parse(text: &str) -> Result<Value, Problem> {
    let mut reader = Reader { events: Parser::new_from_str(text), text, anchors: BTreeMap::new(), copies: 0 };
    let mut value = None;
    loop {
        let (event, span) = reader.next()?;
        if event == Event::StreamEnd {
            return Ok(value.unwrap_or(Value::Null));
        }
        if !matches!(event, Event::DocumentStart(..)) {
            continue;
        }
        if value.is_some() {
            let remedy =
                "keep one document: remove what stands from this --- on, or save it as a file of its own";
            return Err(wrong(&span, "there is a second document", remedy));
        }
        let (event, span) = reader.next()?;
        value = Some(reader.value(event, &span, 0)?);
    }
}

struct Reader<'t> {
    events: Parser<'t, serde_saphyr::granit_parser::StrInput<'t>>,
    text: &'t str,
    anchors: BTreeMap<usize, Value>,
    copies: usize,
}

const MEND: &str = "mend this place; Synapse and Ansible cannot read the file either";

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<(Event<'t>, Span), Problem> {
        match self.events.next_event() {
            Some(Ok(next)) => Ok(next),
            Some(Err(error)) => {
                let at = error.marker().byte_offset().unwrap_or(0).min(self.text.len());
                Err(Problem::error(at..at + 1, format!("this is not YAML: {}", error.info()), MEND))
            }
            None => Err(Problem::error(None, "the document has no end", MEND)),
        }
    }

    fn value(&mut self, event: Event<'t>, span: &Span, depth: usize) -> Result<Value, Problem> {
        if depth > DEEPEST {
            return Err(wrong(span, "values lie too deep in each other", "write it flatter"));
        }
        let (anchor, value) = if let Event::Alias(id) = event {
            return self.alias(id, span);
        } else if let Event::Scalar(text, style, anchor, tag) = event {
            (anchor, scalar(&text, style, tag.as_deref(), span)?)
        } else if let Event::SequenceStart(_, anchor, tag) = event {
            let list = self.sequence(depth)?;
            (anchor, tagged(tag.as_deref(), "seq").unwrap_or(Value::List(list)))
        } else if let Event::MappingStart(_, anchor, tag) = event {
            let map = self.mapping(depth)?;
            (anchor, tagged(tag.as_deref(), "map").unwrap_or(Value::Map(map)))
        } else {
            return Err(wrong(span, "this is not YAML", MEND));
        };
        if anchor != 0 {
            self.anchors.insert(anchor, value.clone());
        }
        Ok(value)
    }

    fn alias(&mut self, id: usize, span: &Span) -> Result<Value, Problem> {
        let Some(value) = self.anchors.get(&id).cloned() else {
            return Err(wrong(span, "this alias leads to itself or to nothing", MEND));
        };
        self.copies += size(&value);
        if self.copies > MOST_COPIES {
            return Err(wrong(span, "aliases stand for too many values", "write them out"));
        }
        Ok(value)
    }

    fn sequence(&mut self, depth: usize) -> Result<Vec<Value>, Problem> {
        let mut list = Vec::new();
        loop {
            let (event, span) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(list);
            }
            list.push(self.value(event, &span, depth + 1)?);
        }
    }

    fn mapping(&mut self, depth: usize) -> Result<Map, Problem> {
        let (mut own, mut merged) = (Map::new(), Map::new());
        loop {
            let (event, span) = self.next()?;
            if event == Event::MappingEnd {
                break;
            }
            let Event::Scalar(key, style, ..) = event else {
                return Err(wrong(&span, "a key must be a string", "write a string before the colon"));
            };
            let merge = key == "<<" && style == ScalarStyle::Plain;
            let (event, span) = self.next()?;
            let value = self.value(event, &span, depth + 1)?;
            if !merge {
                set(&mut own, &key, value);
                continue;
            }
            let maps = match value {
                Value::Map(map) => vec![map],
                Value::List(list) => list.into_iter().filter_map(|entry| entry.map().cloned()).collect(),
                Value::Null
                | Value::Truth(_)
                | Value::Int(_)
                | Value::Float(_)
                | Value::Text(_)
                | Value::Date(_)
                | Value::Tagged(_) => return Err(wrong(&span, "<< takes a mapping or a list of them", MEND)),
            };
            // Of several mappings the first one holds.
            for (key, value) in maps.into_iter().flatten() {
                if get(&merged, &key).is_none() {
                    merged.push((key, value));
                }
            }
        }
        for (key, value) in own {
            set(&mut merged, &key, value);
        }
        Ok(merged)
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, span: &Span) -> Result<Value, Problem> {
    if let Some(tag) = tag {
        return Ok(match tag.core_suffix() {
            Some("str") => Value::Text(text.to_owned()),
            Some("int" | "float" | "bool" | "null") => plain(text).unwrap_or(Value::Null),
            _ => Value::Tagged(tag.original()),
        });
    }
    if style != ScalarStyle::Plain {
        return Ok(Value::Text(text.to_owned()));
    }
    plain(text).ok_or_else(|| {
        wrong(span, "this number does not fit into 64 bits", "write it in quotes if it is a name")
    })
}

fn wrong(span: &Span, what: &str, remedy: &str) -> Problem {
    Problem::error(place(span), what, remedy)
}

fn place(span: &Span) -> Range<usize> {
    let start = span.start.byte_offset().unwrap_or(0);
    start..span.end.byte_offset().unwrap_or(start).max(start + 1)
}

fn tagged(tag: Option<&Tag>, plain: &str) -> Option<Value> {
    tag.filter(|tag| tag.core_suffix() != Some(plain)).map(|tag| Value::Tagged(tag.original()))
}

fn size(value: &Value) -> usize {
    match value {
        Value::List(list) => 1 + list.iter().map(size).sum::<usize>(),
        Value::Map(map) => 1 + map.iter().map(|(_, value)| size(value)).sum::<usize>(),
        Value::Null
        | Value::Truth(_)
        | Value::Int(_)
        | Value::Float(_)
        | Value::Text(_)
        | Value::Date(_)
        | Value::Tagged(_) => 1,
    }
}

fn pattern(text: &str) -> Regex {
    Regex::new(text).unwrap_or_else(|error| unreachable!("{error}"))
}

static FLOAT: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r"^(?:[-+]?[0-9][0-9_]*\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?)$")
});
static ENDLESS: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"));
static INT: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^[-+]?(?:0b[0-1_]+|0[0-7_]+|0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$"));
/// Base 60, with a fraction too.
static SEXAGESIMAL: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"^[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?$"));
static DATE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"^(?:[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt]|[ \t]+)[0-9]{1,2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]*)?(?:[ \t]*(?:Z|[-+][0-9]{1,2}(?::[0-9]{2})?))?)$",
    )
});

/// What an unquoted scalar means; none for a whole number beyond 64 bits.
fn plain(text: &str) -> Option<Value> {
    Some(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Value::Truth(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Value::Truth(false),
        _ if FLOAT.is_match(text) => Value::Float(text.replace('_', "").parse().ok()?),
        _ if ENDLESS.is_match(text) => Value::Float(text.replace('.', "").parse().ok()?),
        _ if INT.is_match(text) => Value::Int(int(&text.replace('_', ""))?),
        _ if SEXAGESIMAL.is_match(text) => sexagesimal(text)?,
        _ if DATE.is_match(text) => Value::Date(text.to_owned()),
        _ => Value::Text(text.to_owned()),
    })
}

fn int(text: &str) -> Option<i64> {
    let (sign, digits) = signed(text);
    let (digits, radix) = match digits.as_bytes() {
        [b'0', b'b', ..] => (&digits[2..], 2),
        [b'0', b'x', ..] => (&digits[2..], 16),
        [b'0', _, ..] => (&digits[1..], 8),
        _ => (digits, 10),
    };
    // As a whole: the least number has no positive counterpart.
    i64::from_str_radix(&format!("{sign}{digits}"), radix).ok()
}

fn signed(text: &str) -> (&str, &str) {
    match text.as_bytes().first() {
        Some(b'-') => ("-", &text[1..]),
        Some(b'+') => ("", &text[1..]),
        _ => ("", text),
    }
}

/// `1:30` is 90, and `1:30.5` 90.5; a whole number must not begin with 0 and is a string if it does.
fn sexagesimal(text: &str) -> Option<Value> {
    let (sign, digits) = signed(text);
    if !text.contains('.') && digits.starts_with('0') {
        return Some(Value::Text(text.to_owned()));
    }
    let digits = digits.replace('_', "");
    let factor = if sign == "-" { -1 } else { 1 };
    if text.contains('.') {
        let parts = digits.split(':').map(str::parse::<f64>).collect::<Result<Vec<_>, _>>().ok()?;
        let sum = parts.into_iter().fold(0.0_f64, |sum, part| sum.mul_add(60.0, part));
        return Some(Value::Float(f64::from(factor) * sum));
    }
    let parts = digits.split(':').map(|part| part.parse::<i64>().ok());
    let sum = parts.into_iter().try_fold(0_i64, |sum, part| sum.checked_mul(60)?.checked_add(part?))?;
    Some(Value::Int(i64::from(factor) * sum))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_mean_what_pyyaml_takes_them_for() {
        // Each was read by PyYAML 6.0. Mutation: octal read as decimal: seen red.
        let text = |text: &str| Value::Text(text.to_owned());
        for (scalar, value) in [
            ("yes", Value::Truth(true)),
            ("Off", Value::Truth(false)),
            ("y", text("y")),
            ("017", Value::Int(15)),
            ("018", text("018")),
            ("0o17", text("0o17")),
            ("0x_1F", Value::Int(31)),
            ("0b1_01", Value::Int(5)),
            ("1_000", Value::Int(1000)),
            ("-9223372036854775808", Value::Int(i64::MIN)),
            ("+1", Value::Int(1)),
            ("1e3", text("1e3")),
            ("1.e+3", Value::Float(1000.0)),
            ("1.5", Value::Float(1.5)),
            (".5", Value::Float(0.5)),
            ("1.", Value::Float(1.0)),
            ("-.inf", Value::Float(f64::NEG_INFINITY)),
            ("1:30", Value::Int(90)),
            ("-1:30", Value::Int(-90)),
            ("01:30", text("01:30")),
            ("1:30.5", Value::Float(90.5)),
            ("1:60", text("1:60")),
            ("~", Value::Null),
            ("2026-01-01", Value::Date("2026-01-01".to_owned())),
            ("2026-1-1", text("2026-1-1")),
            ("matrix.org", text("matrix.org")),
            ("'017'", text("017")),
            ("!!str 5", text("5")),
            ("!vault x", Value::Tagged("!vault".to_owned())),
        ] {
            assert_eq!(parse(&format!("a: {scalar}\n")).unwrap().at("a"), Some(&value), "{scalar}");
        }
        parse("a: 99999999999999999999").unwrap_err();
    }

    #[test]
    fn keys_merge_and_the_later_of_two_holds() {
        // Mutation: merged entries laid over the mapping's own: seen red.
        let map = parse("x: &x {p: 1, q: 2}\ny: {<<: *x, p: 3}\nz: 1\nz: 2\n").unwrap();
        assert_eq!(map.at("y.p"), Some(&Value::Int(3)));
        assert_eq!(map.at("y.q"), Some(&Value::Int(2)));
        assert_eq!(map.at("z"), Some(&Value::Int(2)));
        assert_eq!(parse("# nothing\n").unwrap(), Value::Null);
    }

    #[test]
    fn what_is_not_yaml_has_its_place() {
        for (text, line) in
            [("a: 1\n b: 2\n", 2), ("a: [1\nb: 2\n", 2), ("a: 1\n---\nb: 2\n", 2), ("a: *b\n", 1)]
        {
            let problem = parse(text).unwrap_err();
            assert_eq!(problem.position(text).map(|(line, _)| line), Some(line), "{text:?}: {problem:?}");
        }
    }

    #[test]
    fn no_document_of_a_few_lines_is_endless() {
        let mut text = "a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for (name, before) in ["b", "c", "d", "e", "f", "g"].into_iter().zip(["a", "b", "c", "d", "e", "f"]) {
            let alias = format!("*{before}");
            text.push_str(&format!("{name}: &{name} [{}]\n", [alias.as_str(); 10].join(", ")));
        }
        assert!(parse(&text).unwrap_err().what.contains("aliases"));
        let deep = format!("a: {}{}", "[".repeat(100), "]".repeat(100));
        assert!(parse(&deep).is_err());
    }
}
