//! Everything that one configuration asks for, ready to be compared with another.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use toml::Table;
use toml::Value;

use crate::config::Config;
use crate::config::Parsed;
use crate::config::effective::Effective;
use crate::config::mask;
use crate::config::secret::SecretSource;
use crate::config::secret::SecretValues;
use crate::render;
use crate::render::FileSet;
use crate::topology::Role;
use crate::topology::Topology;
use crate::topology::UnitName;

use super::settings;
use super::settings::Named;

/// What a file holds, as the shell sums it up: equal where the content is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Digest(pub String);

/// What one process of Synapse runs with.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Image {
    pub role: Role,
    /// Its homeserver.yaml, with every secret that stands in it; never shown.
    pub settings: Table,
    /// Its log configuration.
    pub log: Table,
    pub nice: Option<u16>,
    pub environment: BTreeMap<String, String>,
    /// Bytes; the supervisor looks after it, not the process.
    pub max_memory: Option<u64>,
    /// The files that its settings name, and what they hold.
    #[serde(serialize_with = "as_pairs", deserialize_with = "of_pairs")]
    pub files: BTreeMap<Named, Digest>,
}

/// A key of TOML is a string, so that a map by anything else is a list there.
fn as_pairs<S: Serializer>(files: &BTreeMap<Named, Digest>, to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(files)
}

fn of_pairs<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<Named, Digest>, D::Error> {
    Ok(Vec::deserialize(from)?.into_iter().collect())
}

impl Image {
    /// Whether it serves media.
    pub(super) fn has_media(&self) -> bool {
        self.settings.get("enable_media_repo").and_then(Value::as_bool).unwrap_or(true)
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image").field("role", &self.role).finish_non_exhaustive()
    }
}

/// What is shorter hides nothing, and would take pieces out of ordinary words; in bytes.
const SHORTEST: usize = 4;

/// Everything that one configuration asks for.
#[derive(Clone, PartialEq)]
pub struct Deployment {
    pub config: Config,
    /// What holds, key by key.
    pub effective: Vec<Effective>,
    /// The version of Synapse in the virtualenv.
    pub synapse_version: String,
    pub topology: Topology,
    /// What each process of Synapse runs with.
    pub images: BTreeMap<UnitName, Image>,
    pub secrets: SecretValues,
    /// Secrets that systemd hands to the service, by their names.
    pub credentials: BTreeSet<String>,
}

impl Deployment {
    /// What a configuration asks for; `digest` looks at a file, or a directory of templates, that a setting names.
    pub fn of(
        parsed: &Parsed,
        secrets: &SecretValues,
        synapse_version: &str,
        mut digest: impl FnMut(&Path) -> Digest,
    ) -> Self {
        let topology = Topology::of(&parsed.config);
        let mut documents = render::documents(&parsed.config, &topology, secrets);
        let mut image = |unit: &crate::topology::Unit| {
            let documents = documents.remove(&unit.name)?;
            let process = render::unit_settings(&parsed.config, unit);
            let files = settings::files(&documents.settings).into_iter();
            let image = Image {
                role: unit.role,
                files: files.map(|named| (named.clone(), digest(&named.path))).collect(),
                settings: documents.settings,
                log: documents.log,
                nice: process.nice,
                environment: process.environment,
                max_memory: process.max_memory,
            };
            Some((unit.name.clone(), image))
        };
        let images = topology.synapse().filter_map(&mut image).collect();
        let credential = |source: &SecretSource| match source {
            SecretSource::Credential(name) => Some(name.clone()),
            SecretSource::File(_) => None,
        };
        Self {
            config: parsed.config.clone(),
            effective: parsed.effective.clone(),
            synapse_version: synapse_version.to_owned(),
            topology,
            images,
            secrets: secrets.clone(),
            credentials: parsed.files.iter().filter_map(|file| credential(&file.source)).collect(),
        }
    }

    /// Every file that its processes read.
    pub fn render(&self) -> FileSet {
        let files = |(name, image): (&UnitName, &Image)| {
            render::files(&self.config, name, &image.settings, &image.log)
        };
        self.images.iter().flat_map(files).collect()
    }

    /// The homeserver.yaml of each of these processes, below a directory, for Synapse to read on trial; by the environment with
    /// which the modules are found that it names.
    pub fn to_read(
        &self,
        directory: &Path,
        which: impl Fn(&UnitName, &Image) -> bool,
    ) -> BTreeMap<BTreeMap<String, String>, FileSet> {
        let mut found: BTreeMap<_, FileSet> = BTreeMap::new();
        for (name, image) in self.images.iter().filter(|(name, image)| which(name, image)) {
            let [(_, file), _] = render::files(&self.config, name, &image.settings, &image.log);
            let path = directory.join(format!("{name}.yaml"));
            found.entry(image.environment.clone()).or_default().insert(path, file);
        }
        found
    }

    /// What somebody else says of this deployment, without its secrets.
    pub fn without_secrets(&self, text: &str) -> String {
        let mut secrets: Vec<&str> = self.secrets.values().collect();
        for (key, value) in self.images.values().flat_map(|image| &image.settings) {
            mask::secrets(key, value, &mut secrets);
        }
        // The longest first: one may be a part of another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.dedup();
        secrets.retain(|secret| secret.len() >= SHORTEST && text.contains(secret));
        secrets.iter().fold(text.to_owned(), |text, secret| text.replace(secret, "…"))
    }

    /// How many workers there are that do the same as this unit.
    pub(super) fn count(&self, role: Role) -> usize {
        self.images.values().filter(|image| image.role == role).count()
    }
}

impl fmt::Debug for Deployment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deployment").field("images", &self.images).finish_non_exhaustive()
    }
}
