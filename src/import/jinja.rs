//! Jinja in a playbook's values, as far as it is plain: the name of another variable, and what is not to be read as Jinja.

use super::yaml::Value;

/// How often one variable may lead to another before it must be taken for a circle.
const LONGEST: usize = 16;

/// Finds the value of a variable, as it is written.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<Value>;

/// Puts values in the place of variables.
///
/// # Errors
/// What only Ansible can work out.
pub(super) fn resolve(value: &Value, lookup: Lookup<'_>) -> Result<Value, String> {
    within(value, lookup, 0)
}

fn within(value: &Value, lookup: Lookup<'_>, depth: usize) -> Result<Value, String> {
    Ok(match value {
        Value::Text(text) => rendered(text, lookup, depth)?,
        Value::List(list) => {
            Value::List(list.iter().map(|entry| within(entry, lookup, depth)).collect::<Result<_, _>>()?)
        }
        Value::Map(map) => {
            let entries = map.iter().map(|(key, entry)| Ok((key.clone(), within(entry, lookup, depth)?)));
            Value::Map(entries.collect::<Result<_, String>>()?)
        }
        Value::Null
        | Value::Truth(_)
        | Value::Int(_)
        | Value::Float(_)
        | Value::Date(_)
        | Value::Tagged(_) => value.clone(),
    })
}

fn rendered(text: &str, lookup: Lookup<'_>, depth: usize) -> Result<Value, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("{{").into_iter().chain(rest.find("{%")).chain(rest.find("{#")).min() {
        out.push_str(&rest[..at]);
        let marked = &rest[at..];
        if marked.starts_with("{{") {
            let (expression, after) = cut(marked, "{{", "}}")?;
            let value = variable(expression, lookup, depth)?;
            if at == 0 && after.is_empty() && out.is_empty() {
                return Ok(value);
            }
            out.push_str(&shown(&value)?);
            rest = after;
            continue;
        }
        let (word, after) = cut(marked, "{%", "%}")?;
        if word.trim_matches('-').trim() != "raw" {
            return Err(beyond());
        }
        let end = after.find("{%").and_then(|end| Some((end, cut(&after[end..], "{%", "%}").ok()?)));
        let Some((end, (_, behind))) = end.filter(|(_, (word, _))| word.trim_matches('-').trim() == "endraw")
        else {
            return Err("`{% raw %}` has no end".to_owned());
        };
        out.push_str(&after[..end]);
        rest = behind;
    }
    out.push_str(rest);
    Ok(Value::Text(out))
}

/// What stands between two marks, and what follows.
fn cut<'t>(text: &'t str, from: &str, to: &str) -> Result<(&'t str, &'t str), String> {
    let inside = text.strip_prefix(from).ok_or_else(beyond)?;
    let (word, rest) = inside.split_once(to).ok_or_else(|| format!("`{from}` has no end"))?;
    Ok((word.trim(), rest))
}

/// An expression may hold a secret, and so is not shown.
fn beyond() -> String {
    "only Ansible can work out what Jinja there stands for".to_owned()
}

fn variable(name: &str, lookup: Lookup<'_>, depth: usize) -> Result<Value, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(plain) || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(beyond());
    }
    if depth == LONGEST {
        return Err(format!("{name} leads back to itself"));
    }
    let value = lookup(name).ok_or_else(|| format!("it refers to {name}, which no source sets"))?;
    within(&value, lookup, depth + 1)
}

fn shown(value: &Value) -> Result<String, String> {
    Ok(match value {
        Value::Text(text) | Value::Date(text) => text.clone(),
        Value::Int(int) => int.to_string(),
        Value::Float(float) => float.to_string(),
        // As Python writes them.
        Value::Truth(true) => "True".to_owned(),
        Value::Truth(false) => "False".to_owned(),
        Value::Null | Value::List(_) | Value::Map(_) | Value::Tagged(_) => return Err(beyond()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn names_are_resolved_and_more_is_not() {
        let lookup = |name: &str| match name {
            "domain" => Some(text("a.b")),
            "fqn" => Some(text("matrix.{{ domain }}")),
            "port" => Some(Value::Int(5)),
            "circle" => Some(text("{{ circle }}")),
            _ => None,
        };
        let of = |value: &str| resolve(&text(value), &lookup);
        assert_eq!(of("https://{{ fqn }}/{{port}}"), Ok(text("https://matrix.a.b/5")));
        assert_eq!(of("{{ port }}"), Ok(Value::Int(5)));
        assert_eq!(
            of("{% raw %}{{ user.name }}{% endraw %} {%raw%}{{x}}{%-endraw-%}"),
            Ok(text("{{ user.name }} {{x}}"))
        );
        for beyond in [
            "{{ port | int }}",
            "{% if port %}1{% endif %}",
            "{{ other }}",
            "{{ circle }}",
            "{{",
            "{% raw %}x",
            "{# c #}",
        ] {
            assert!(of(beyond).is_err(), "{beyond}");
        }
    }
}
