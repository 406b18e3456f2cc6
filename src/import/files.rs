//! Files of Synapse's own: merged as Synapse merges them.

use super::installation::Installation;
use super::installation::Said;
use super::installation::WorkerFile;
use super::report::Entry;
use super::report::Verdict;
use super::source::Source;
use super::yaml;
use super::yaml::Map;

/// Takes files of settings in their order, of which a later one replaces a setting as a whole (1.163:
/// `synapse/config/_base.py`, `read_config_files`), and files of workers.
pub(super) fn read(found: &mut Installation, settings: Vec<(&Source, Map)>, workers: Vec<(&Source, Map)>) {
    for (source, map) in settings {
        if found.directory.is_empty() {
            found.directory = directory(&source.path);
        }
        for (name, value) in map {
            if let Some(at) = found.said.iter().position(|said| said.path == name) {
                let before = found.said.remove(at);
                let text = format!("{} says it once more, and that holds", source.path);
                let (source, verdict) = (before.source, Verdict::Changed);
                found.entries.push(Entry { source, name: before.name, verdict, text });
            }
            found.said.push(Said { source: source.path.clone(), name: name.clone(), path: name.clone() });
            yaml::set(&mut found.settings, &name, value);
        }
    }
    found.workers.extend(
        workers.into_iter().map(|(source, settings)| WorkerFile { source: source.path.clone(), settings }),
    );
}

/// The directory of a file.
pub(super) fn directory(path: &str) -> String {
    path.rsplit_once('/').map_or("", |(directory, _)| directory).to_owned()
}
