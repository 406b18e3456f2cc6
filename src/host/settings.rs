//! Which settings the installed Synapse knows, read from its sources.

use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;

use regex::Regex;

use crate::sys::fs;

/// How `synapse/config/*.py` asks for a setting: by itself, or through a helper that is given the configuration first.
///
/// Without Unicode's tables of letters, which nothing else of us needs.
const DIRECT: &str = r#"(?-u:\b)config[ \n]*\.[ \n]*(?:get|pop|setdefault)\([ \n]*"([a-z0-9_]+)"|(?-u:\b)config\[[ \n]*"([a-z0-9_]+)"[ \n]*\]|"([a-z0-9_]+)"[ \n]+(?:not[ \n]+)?in[ \n]+config(?-u:\b)"#;
const HELPED: &str = r"\([ \n]*config,((?:[^()]|\([^()]*\))*)\)";
const NAME: &str = r#""([a-z0-9_]+)(?:\.[a-z_]+)?""#;
const TABLE: &str = r"\{[^{}]*\}";

/// The settings of the Synapse in a virtualenv; none where there is no Synapse that can be read.
pub fn installed(venv: &Path) -> Option<BTreeSet<String>> {
    let sources = fs::list(&sources(venv)?).ok()?;
    let python = sources.into_iter().filter(|path| path.extension().is_some_and(|end| end == "py"));
    let found: BTreeSet<String> =
        python.filter_map(|path| fs::read(&path).ok()).flat_map(|text| asked_for(&text)).collect();
    (!found.is_empty()).then_some(found)
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
