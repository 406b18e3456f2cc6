//! What a process must do about what has changed of its own.

use std::collections::BTreeMap;

use crate::topology::UnitName;

use super::deployment::Deployment;
use super::deployment::Image;
use super::matrix;
use super::matrix::Concerned;
use super::matrix::Effect;
use super::matrix::Rule;

/// Something that differs for a process, and what that asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Concern {
    pub(super) effect: Effect,
    /// What differs, as a person says it.
    pub(super) what: String,
    /// Why processes must go down together; empty where they need not.
    pub(super) why: &'static str,
}

/// Everything that differs for a process that both sides have, and that concerns it.
pub(super) fn of_unit(name: &UnitName, old: &Deployment, new: &Deployment) -> Vec<Concern> {
    let (Some(before), Some(after)) = (old.images.get(name), new.images.get(name)) else { return Vec::new() };
    let mut concerns = Vec::new();
    for setting in super::settings::differing(&before.settings, &after.settings) {
        let rule = matrix::of(&setting);
        if concerned(rule, before, after) {
            concerns.push(Concern { effect: rule.effect, what: setting, why: rule.why });
        }
    }
    for (named, held) in &before.files {
        let rule = matrix::of(&named.setting);
        let another = after.files.get(named).is_some_and(|holds| holds != held);
        if another && concerned(rule, before, after) {
            let what = format!("content of {}", named.path.display());
            concerns.push(Concern { effect: rule.effect, what, why: rule.why });
        }
    }
    if before.log != after.log {
        concerns.push(Concern { effect: Effect::Hup, what: "log_level".to_owned(), why: "" });
    }
    concerns.extend(of_process(before, after).into_iter().map(|what| Concern {
        effect: Effect::Restart,
        what,
        why: "",
    }));
    concerns
}

fn concerned(rule: Rule, before: &Image, after: &Image) -> bool {
    match rule.concerned {
        Concerned::All => true,
        Concerned::Media => before.has_media() || after.has_media(),
    }
}

/// What the process is started with, beside its files.
fn of_process(before: &Image, after: &Image) -> Vec<String> {
    let nice = (before.nice != after.nice).then(|| "nice".to_owned());
    let of = |image: &Image| -> BTreeMap<String, String> { image.environment.clone() };
    let (old, new) = (of(before), of(after));
    let mut names: Vec<&String> = old.keys().chain(new.keys()).collect();
    names.sort();
    names.dedup();
    let other = names.into_iter().filter(|name| old.get(*name) != new.get(*name));
    nice.into_iter().chain(other.map(|name| format!("environment.{name}"))).collect()
}
