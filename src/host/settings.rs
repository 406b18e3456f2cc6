//! Which settings and streams the installed Synapse knows, read from its sources.

use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

use regex::Regex;

use crate::config::Installed;
use crate::sys::fs;

/// How `synapse/config/*.py` asks for a setting: by itself, or through a helper that is given the configuration first.
///
/// Without Unicode's tables of letters, which nothing else of us needs.
const DIRECT: &str = r#"(?-u:\b)config[ \n]*\.[ \n]*(?:get|pop|setdefault)\([ \n]*"([a-z0-9_]+)"|(?-u:\b)config\[[ \n]*"([a-z0-9_]+)"[ \n]*\]|"([a-z0-9_]+)"[ \n]+(?:not[ \n]+)?in[ \n]+config(?-u:\b)"#;
const HELPED: &str = r"\([ \n]*config,((?:[^()]|\([^()]*\))*)\)";
const NAME: &str = r#""([a-z0-9_]+)(?:\.[a-z_]+)?""#;
const TABLE: &str = r"\{[^{}]*\}";

/// How `synapse/config/workers.py` declares a stream that can have writers (class `WriterLocations`).
const WRITERS: &str = r"(?m)^    ([a-z_]+): (?:list|List)\[str\]";

/// What the Synapse in a virtualenv knows; none where there is no Synapse that can be read.
pub fn installed(venv: &Path) -> Option<Installed> {
    let sources = fs::list(&sources(venv)?).ok()?;
    let python = sources.into_iter().filter(|path| path.extension().is_some_and(|end| end == "py"));
    let mut found = Installed::default();
    for path in python {
        let Ok(text) = fs::read(&path) else { continue };
        if path.ends_with("workers.py") {
            found.streams = streams(&text);
        }
        found.settings.extend(asked_for(&text));
    }
    (!found.settings.is_empty()).then_some(found)
}

fn streams(text: &str) -> BTreeSet<String> {
    let Some((_, class)) = text.split_once("class WriterLocations") else { return BTreeSet::new() };
    // It ends where something begins that is not indented.
    let end = class
        .match_indices('\n')
        .map(|(at, _)| at)
        .find(|at| class[at + 1..].starts_with(|first: char| !first.is_whitespace()));
    let writers =
        Regex::new(WRITERS).unwrap_or_else(|error| unreachable!("a constant expression is right: {error}"));
    writers.captures_iter(&class[..end.unwrap_or(class.len())]).map(|found| found[1].to_owned()).collect()
}

fn sources(venv: &Path) -> Option<PathBuf> {
    let libraries = fs::list(&venv.join("lib")).ok()?;
    let config = |path: PathBuf| path.join("site-packages").join("synapse").join("config");
    libraries.into_iter().map(config).find(|path| path.exists())
}

fn asked_for(text: &str) -> BTreeSet<String> {
    let regex = |pattern| {
        Regex::new(pattern).unwrap_or_else(|error| unreachable!("a constant expression is right: {error}"))
    };
    let (direct, helped, name, table) = (regex(DIRECT), regex(HELPED), regex(NAME), regex(TABLE));
    let mut names = BTreeSet::new();
    for found in direct.captures_iter(text) {
        names.extend(found.iter().skip(1).flatten().map(|name| name.as_str().to_owned()));
    }
    for found in helped.captures_iter(text) {
        let arguments = table.replace_all(&found[1], "");
        names.extend(name.captures_iter(&arguments).map(|name| name[1].to_owned()));
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_what_the_class_of_writers_declares() {
        // Mutation: the end of the class not looked for: seen red.
        let text = "class Other:\n    a: list[str]\n\nclass WriterLocations:\n    \"\"\"x\"\"\"\n\n    events: list[str] = attr.ib(\n        \
                    default=[\"master\"],\n    )\n    typing: List[str] = 1\n    n: int = 2\n\nclass After:\n    b: list[str]\n";
        assert_eq!(streams(text), BTreeSet::from(["events".to_owned(), "typing".to_owned()]));
        assert!(streams("class Other:\n    a: list[str]\n").is_empty());
    }

    #[test]
    fn every_way_to_ask_for_a_setting_is_seen() {
        // Mutation: each pattern left out: seen red.
        let text = r#"
            self.a = config.get("one", {"x": config_of_another.get("not_this")})
            config.setdefault("two", {})
            b = config["three"]
            if "four" in config or "five" not in config:
            parse(config, "six.part", defaults={"per_second": 1})
            self._duty(
                config, "seven", legacy="eight",
            )
            email_config.get("smtp_host")
        "#;
        let names = asked_for(text).into_iter().collect::<Vec<_>>().join(" ");
        assert_eq!(names, "eight five four one seven six three two");
    }
}
