//! Which configuration a start begins with: that of the TOML on disk, unless it is known not to work.

use std::ffi::OsString;
use std::path::Path;

use crate::config::Config;
use crate::config::difference;
use crate::host::generations::Generations;
use crate::host::layout::Layout;
use crate::host::toml;
use crate::host::toml::Document;
use crate::host::toml::Unusable;
use crate::host::toml::Usable;
use crate::host::venv;
use crate::sys::clock;
use crate::sys::fs::FsError;
use crate::wire::Generation;
use crate::wire::GenerationResult;

/// A configuration to start with.
pub struct Chosen {
    pub usable: Usable,
    /// The text of the TOML on disk, and why it is not what runs, if it is not.
    pub fallen_back: Option<(String, String)>,
}

/// Reads the TOML, and where that has mistakes, or was tried before and undone, the last one that worked.
///
/// # Errors
/// The TOML cannot be used, and there is none that worked.
pub fn choose(path: &Path, credentials: Option<&OsString>) -> Result<Chosen, Unusable> {
    let usable = match toml::usable(path, credentials) {
        Ok(usable) => usable,
        Err(unusable) => {
            let Unusable::Problems(document, _) = &unusable else { return Err(unusable) };
            let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
            let state = Config::state_dir(&document.text, whole.parent().unwrap_or(Path::new("/")));
            let generations = Generations::new(Layout::generations_below(&state));
            let Some((number, usable)) = read(&generations, path, credentials, is_applied) else {
                return Err(unusable);
            };
            tracing::warn!("{}", unusable.to_string().trim_end());
            let note = format!(
                "{} has mistakes, and generation {number}, the last that was applied, runs: `synvisor check` shows them",
                path.display()
            );
            return Ok(Chosen { usable, fallen_back: Some((document.text.clone(), note)) });
        }
    };
    let generations = Generations::new(Layout::of(&usable.parsed.config).generations());
    // A rollback that was interrupted goes on.
    let good =
        |generation: &Generation| is_applied(generation) || generation.rollback && is_applying(generation);
    let why = generations.undone(&usable.text, path).or_else(|| {
        let applied = read(&generations, path, credentials, is_applied)?.1;
        unlike(&usable, &applied, path)
    });
    if let Some(why) = why
        && let Some((number, good)) = read(&generations, path, credentials, good)
    {
        let note = format!("generation {number} runs; {why}");
        return Ok(Chosen { usable: good, fallen_back: Some((usable.text, note)) });
    }
    Ok(Chosen { usable, fallen_back: None })
}

fn is_applied(generation: &Generation) -> bool {
    generation.result == GenerationResult::Applied
}

fn is_applying(generation: &Generation) -> bool {
    generation.result == GenerationResult::Applying
}

/// What no start can make of a homeserver that ran before.
fn unlike(wanted: &Usable, before: &Usable, path: &Path) -> Option<String> {
    let (is, was) = (&wanted.parsed.config, &before.parsed.config);
    let path = path.display();
    if is.server_name != was.server_name {
        return Some(format!(
            "{path} says server_name = \"{}\", and this homeserver is {}: write that again, or give the other \
             homeserver a state_dir and a database of its own",
            is.server_name, was.server_name
        ));
    }
    let has_synapse = |config: &Config| venv::synapse_version(&config.python.venv).is_some();
    (!has_synapse(is) && has_synapse(was))
        .then(|| format!("{path} names a virtualenv without Synapse, {}", is.python.venv.display()))
}

/// The newest generation that is `wanted`.
fn read(
    generations: &Generations,
    path: &Path,
    credentials: Option<&OsString>,
    wanted: impl Fn(&Generation) -> bool,
) -> Option<(u64, Usable)> {
    let number = generations.list().iter().rfind(|generation| wanted(generation))?.number;
    let text = generations.text(number).ok()?;
    let document = Document { name: format!("generation {number}"), text };
    match toml::usable_as(document, path, credentials) {
        Ok(usable) => Some((number, usable)),
        Err(unusable) => {
            tracing::warn!("generation {number} cannot be used either: {}", unusable.to_string().trim_end());
            None
        }
    }
}

/// Notes with which configuration a start begins, and gives the number of its generation.
///
/// # Errors
/// Of the file system.
pub(super) fn note(generations: &Generations, usable: &Usable) -> Result<u64, FsError> {
    let newest = generations.of_text(&usable.text);
    let resumed = newest.as_ref().filter(|generation| generation.result == GenerationResult::Applying);
    let under_way = |generation: &&Generation| generation.result == GenerationResult::Applying;
    for left in generations.list().iter().filter(under_way) {
        if Some(left.number) != resumed.map(|resumed| resumed.number) {
            let why = "synvisor ended while it was applied, and started with another one".to_owned();
            generations.settle(left.number, GenerationResult::Failed, Some(why))?;
        }
    }
    let applied = generations.applied();
    let in_force =
        |newest: &Generation| applied.as_ref().is_some_and(|applied| applied.number == newest.number);
    match newest {
        Some(newest) if in_force(&newest) || newest.result == GenerationResult::Applying => Ok(newest.number),
        Some(_) | None => {
            let before = applied.and_then(|applied| generations.text(applied.number).ok());
            let changes = before.map_or_else(Vec::new, |before| changes(&before, usable));
            generations.begin(&usable.text, clock::wall(), "start", changes, false)
        }
    }
}

fn changes(before: &str, usable: &Usable) -> Vec<String> {
    // Relative paths do not matter here: values are compared as they are written.
    let Ok(before) = Config::parse(before, Path::new("/")) else { return Vec::new() };
    difference::differences(&before.effective, &usable.parsed.effective)
        .iter()
        .map(ToString::to_string)
        .collect()
}
