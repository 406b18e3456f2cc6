//! What a changed TOML does to what runs: laws that every plan holds, by search, and the text of plans for single edits.
//!
//! `UPDATE=1 cargo test --test plan` writes the golden files anew; `SEED=n cargo test --test plan` searches from one seed.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests write golden files, read SEED, and may panic"
)]

#[path = "plan/edits.rs"]
mod edits;
#[path = "plan/laws.rs"]
mod laws;
#[path = "support/random.rs"]
mod random;
#[path = "plan/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::path::Path;

use synvisor::config::Config;
use synvisor::config::problem;
use synvisor::config::secret::SecretSource;
use synvisor::config::secret::SecretValues;
use synvisor::plan::Deployment;
use synvisor::plan::Digest;

/// What is on a machine: the TOML and what it points to.
#[derive(Clone, Debug)]
struct Machine {
    toml: String,
    version: &'static str,
    /// Content of files, secrets and credentials that is not as everywhere.
    content: BTreeMap<String, String>,
}

impl Machine {
    fn new(toml: impl Into<String>) -> Self {
        Self { toml: toml.into(), version: "1.163.2", content: BTreeMap::new() }
    }

    fn with(mut self, path: &str, content: &str) -> Self {
        self.content.insert(path.to_owned(), content.to_owned());
        self
    }

    fn deployment(&self) -> Deployment {
        let parsed = Config::parse(&self.toml, Path::new("/etc/synvisor"));
        let parsed = parsed.unwrap_or_else(|problems| {
            panic!("{}", problem::print_all(&problems, "synvisor.toml", &self.toml))
        });
        let content = |name: &str| self.content.get(name).cloned().unwrap_or_else(|| format!("in {name}"));
        let mut secrets = SecretValues::default();
        for file in &parsed.files {
            let name = match &file.source {
                SecretSource::File(path) => path.to_str().unwrap().to_owned(),
                SecretSource::Credential(name) => name.clone(),
            };
            secrets.insert(file.source.clone(), content(&name));
        }
        let digest = |path: &Path| Digest(content(path.to_str().unwrap()));
        Deployment::of(&parsed, &secrets, self.version, digest)
    }
}
