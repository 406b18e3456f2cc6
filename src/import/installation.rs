//! An installation as any kind of source describes it: what its main process and workers were configured with.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::roles::WorkerKind;

use super::mdad;
use super::report::Entry;
use super::report::Verdict;
use super::yaml;
use super::yaml::Map;
use super::yaml::Value;

/// What a source says, and which setting of homeserver.yaml that is.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) source: String,
    /// By the source's own name for it.
    pub(super) name: String,
    /// A path into the settings, like `email.smtp_host`.
    pub(super) path: String,
}

/// What has to be told of a setting; the most specific path that it is about.
#[derive(Clone, Debug)]
pub(super) struct Note {
    pub(super) path: String,
    pub(super) verdict: Verdict,
    pub(super) text: String,
}

/// The file of a worker.
#[derive(Clone, Debug)]
pub(super) struct WorkerFile {
    pub(super) source: String,
    pub(super) settings: Map,
}

/// An installation of Synapse.
#[derive(Clone, Debug, Default)]
pub(super) struct Installation {
    /// What the main process read, every file merged as Synapse merges them.
    pub(super) settings: Map,
    pub(super) said: Vec<Said>,
    pub(super) workers: Vec<WorkerFile>,
    /// Counts that are said as such, as by a playbook.
    pub(super) preset: Option<String>,
    pub(super) counts: BTreeMap<WorkerKind, u16>,
    /// Level of the root logger, where it is said other than by a log configuration.
    pub(super) log_level: Option<String>,
    /// Directories of a container, and where they are on this machine.
    pub(super) mounts: Vec<(String, String)>,
    /// Whether it ran in containers: their addresses and names mean nothing outside.
    pub(super) container: bool,
    /// The directory of the first file: relative paths start there, and a signing key that nobody names lies there.
    pub(super) directory: String,
    /// Secrets that are somewhere, by their settings, and why they are not at hand.
    pub(super) elsewhere: BTreeMap<&'static str, String>,
    /// What is known of some settings before they are looked at.
    pub(super) notes: Vec<Note>,
    /// What is no setting of Synapse at all.
    pub(super) entries: Vec<Entry>,
}

impl Installation {
    pub(super) fn get(&self, path: &str) -> Option<&Value> {
        let (first, rest) = path.split_once('.').unwrap_or((path, ""));
        let value = yaml::get(&self.settings, first)?;
        if rest.is_empty() { Some(value) } else { value.at(rest) }
    }

    pub(super) fn text(&self, path: &str) -> Option<&str> {
        self.get(path)?.text()
    }

    /// Where a path that a setting names is on this machine.
    pub(super) fn here(&self, path: &str) -> String {
        if let Some(mapped) = self.mapped(path) {
            return mapped;
        }
        Path::new(&self.directory).join(path).to_string_lossy().into_owned()
    }

    /// Where a path of a container is on this machine; none for any other text.
    pub(super) fn mapped(&self, path: &str) -> Option<String> {
        let beneath = |(inside, outside): &(String, String)| {
            let rest = path.strip_prefix(inside.as_str())?;
            (rest.is_empty() || rest.starts_with('/')).then(|| format!("{outside}{rest}"))
        };
        self.mounts.iter().find_map(beneath)
    }

    /// Knows where `/data` and the media of a playbook are: beside the homeserver.yaml that names them.
    pub(super) fn find_mounts(&mut self) {
        let inside = |start: &str| {
            let paths = ["log_config", "signing_key_path", "media_store_path", "pid_file"];
            paths.iter().any(|path| self.text(path).is_some_and(|text| text.starts_with(start)))
        };
        let known = |start: &str| self.mounts.iter().any(|(held, _)| held == start);
        let mut found = Vec::new();
        if inside("/data/") && !known("/data") && !self.directory.starts_with("/data") {
            found.push(("/data".to_owned(), self.directory.clone()));
        }
        let parent = "/matrix-media-store-parent";
        if inside(parent) && !known(parent) {
            let beside = Path::new(&self.directory).parent().unwrap_or(Path::new("/")).join("storage");
            found.push((parent.to_owned(), beside.to_string_lossy().into_owned()));
            let text = mdad::found_at(self, mdad::FEDERATION_PORT);
            self.notes.push(Note { path: mdad::WELL_KNOWN.to_owned(), verdict: Verdict::Left, text });
        }
        self.container |= !found.is_empty();
        self.mounts.extend(found);
    }
}
