//! What Synapse itself has against the files of a configuration, and where in the TOML that stands.

use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;

use crate::config::effective::Effective;
use crate::config::effective::Origin;
use crate::config::problem::Problem;
use crate::topology::UnitName;

use super::Deployment;
use super::compressed;

/// What shows the place of a setting of Synapse's in the TOML.
const TABLE: &str = "[synapse]";

/// What Synapse says of one file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Verdict {
    /// Named after its unit.
    pub file: PathBuf,
    /// What is wrong, in Synapse's words.
    pub problem: Option<String>,
    /// The setting that is meant, from the outermost key on, as far as Synapse tells.
    pub path: Vec<String>,
}

/// What Synapse has against the files of a deployment, each objection once; `before` is what held when it had nothing.
pub fn objections(verdicts: &[Verdict], target: &Deployment, before: &[Effective]) -> Vec<Problem> {
    let mut objections: Vec<(&str, &[String], Vec<UnitName>)> = Vec::new();
    for verdict in verdicts {
        let Some(problem) = &verdict.problem else { continue };
        let unit = unit_of(&verdict.file);
        match objections.iter_mut().find(|(known, ..)| known == problem) {
            Some((_, _, units)) => units.push(unit),
            None => objections.push((problem, &verdict.path, vec![unit])),
        }
    }
    let problem = |(what, path, units): (&str, &[String], Vec<UnitName>)| {
        let what = target.without_secrets(&format!("Synapse refuses this: {}", what.trim_end()));
        let whose = compressed(&units);
        let remedy = format!("it concerns {whose}");
        Problem::error(place(what.as_str(), path, target, before), what, remedy)
    };
    objections.into_iter().map(problem).collect()
}

fn unit_of(file: &Path) -> UnitName {
    UnitName::new(file.file_stem().unwrap_or_default().to_string_lossy())
}

/// Whether somebody's words name a file that a setting names.
fn names(held: &Effective, what: &str) -> bool {
    held.value.split(['"', '\'']).any(|text| text.starts_with('/') && what.contains(text))
}

/// Where the setting stands that Synapse names, or that its words name if they name one only, or a file of it; or that is
/// the only one which is another than before.
fn place(what: &str, path: &[String], target: &Deployment, before: &[Effective]) -> Option<Range<usize>> {
    let said = |key: &str| {
        let edge = |c: char| !(c.is_alphanumeric() || c == '_');
        what.split(edge).any(|word| word == key)
    };
    let same = |one: &Effective, other: &Effective| one.key == other.key && one.value == other.value;
    let held_before = |held: &Effective| before.iter().any(|was| was.table == TABLE && same(was, held));
    let only = |meant: &dyn Fn(&Effective) -> bool| {
        let mut all = target.effective.iter().filter(|held| held.table == TABLE && meant(held));
        let one = all.next().filter(|_| all.next().is_none())?;
        match &one.origin {
            Origin::At(place) => Some(place.clone()),
            Origin::Default(_) | Origin::Preset(_) | Origin::From(_) => None,
        }
    };
    path.first()
        .and_then(|first| only(&|held| held.key == *first))
        .or_else(|| only(&|held| said(&held.key)))
        .or_else(|| only(&|held| names(held, what)))
        .or_else(|| only(&|held| !held_before(held)))
}
