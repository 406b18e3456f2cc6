//! The secrets of a homeserver: which there are, and where each is read from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::path::PathBuf;

use super::check::Wrong;

/// A secret that lies in a file of its own, mode 0600.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Secret {
    MacaroonSecretKey,
    RegistrationSharedSecret,
    FormSecret,
    WorkerReplicationSecret,
    SigningKey,
}

impl Secret {
    pub const ALL: [Self; 5] = [
        Self::MacaroonSecretKey,
        Self::RegistrationSharedSecret,
        Self::FormSecret,
        Self::WorkerReplicationSecret,
        Self::SigningKey,
    ];

    /// The setting of homeserver.yaml that holds the secret itself; with `_path` behind it, the file's.
    pub const fn setting(self) -> &'static str {
        match self {
            Self::MacaroonSecretKey => "macaroon_secret_key",
            Self::RegistrationSharedSecret => "registration_shared_secret",
            Self::FormSecret => "form_secret",
            Self::WorkerReplicationSecret => "worker_replication_secret",
            Self::SigningKey => "signing_key",
        }
    }

    /// The file's name in `STATE_DIR/secrets`.
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::SigningKey => "signing.key",
            Self::MacaroonSecretKey
            | Self::RegistrationSharedSecret
            | Self::FormSecret
            | Self::WorkerReplicationSecret => self.setting(),
        }
    }

    /// The key in `[secrets]` that names a file for it.
    pub const fn key(self) -> &'static str {
        match self {
            Self::MacaroonSecretKey => "macaroon_secret_key_file",
            Self::RegistrationSharedSecret => "registration_shared_secret_file",
            Self::FormSecret => "form_secret_file",
            Self::WorkerReplicationSecret => "worker_replication_secret_file",
            Self::SigningKey => "signing_key_file",
        }
    }

    /// The file that holds it where `[secrets]` names none.
    pub fn path(self, state_dir: &Path) -> PathBuf {
        state_dir.join("secrets").join(self.file_name())
    }
}

/// How the directory of systemd's credentials is written in the TOML file.
const CREDENTIALS: &str = "$CREDENTIALS_DIRECTORY/";

/// Where the user keeps a secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SecretSource {
    File(PathBuf),
    /// A credential that systemd hands to the service, by its name.
    Credential(String),
}

impl SecretSource {
    /// Reads what a key like `password_file` holds; a relative path starts at `base`.
    pub(super) fn parse(text: &str, base: &Path) -> Result<Self, Wrong> {
        let Some(name) = text.strip_prefix(CREDENTIALS) else { return Ok(Self::File(base.join(text))) };
        // systemd.exec(5): a credential's name is a file name.
        if name.is_empty() || name.contains('/') || name.starts_with('.') || name.contains('$') {
            let remedy = format!("write {CREDENTIALS} and the name in LoadCredential=");
            return Err(Wrong::new("does not name a credential", remedy));
        }
        Ok(Self::Credential(name.to_owned()))
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Credential(name) => write!(f, "{CREDENTIALS}{name}"),
        }
    }
}

/// What was read from the places of secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretValues(BTreeMap<SecretSource, String>);

impl SecretValues {
    pub fn insert(&mut self, source: SecretSource, value: String) {
        self.0.insert(source, value);
    }

    pub fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    /// Takes from `before` what is missing of these.
    pub fn inherit<'s>(&mut self, before: &Self, sources: impl Iterator<Item = &'s SecretSource>) {
        for source in sources {
            if let (None, Some(held)) = (self.0.get(source), before.0.get(source)) {
                self.0.insert(source.clone(), held.clone());
            }
        }
    }

    /// The places that hold another secret than they did; those that are on one side only are none of them.
    pub fn changed<'v>(&'v self, before: &'v Self) -> impl Iterator<Item = &'v SecretSource> {
        let another = |(source, value): &(&SecretSource, &String)| {
            before.0.get(*source).is_some_and(|held| held != *value)
        };
        self.0.iter().filter(another).map(|(source, _)| source)
    }

    /// Every secret.
    pub fn values(&self) -> impl Iterator<Item = &str> {
        self.0.values().map(String::as_str)
    }

    /// The secret; empty if it was not read.
    pub fn get(&self, source: &SecretSource) -> &str {
        self.0.get(source).map_or("", String::as_str)
    }
}

/// Where they are from, and nothing of what they are.
impl fmt::Debug for SecretValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_in_a_file_or_a_credential() {
        // Mutation: the slash in a name allowed: seen red.
        let parse = |text| SecretSource::parse(text, Path::new("/etc/synvisor"));
        assert_eq!(parse("db").unwrap(), SecretSource::File("/etc/synvisor/db".into()));
        let credential = parse("$CREDENTIALS_DIRECTORY/db").unwrap();
        assert_eq!(credential, SecretSource::Credential("db".to_owned()));
        assert_eq!(credential.to_string(), "$CREDENTIALS_DIRECTORY/db");
        for wrong in ["", "a/b", ".hidden", "$x"] {
            let path = format!("$CREDENTIALS_DIRECTORY/{wrong}");
            SecretSource::parse(&path, Path::new("/")).unwrap_err();
        }
    }

    #[test]
    fn values_are_not_shown_by_debug() {
        // Mutation: Debug derived: seen red.
        let mut values = SecretValues::default();
        values.insert(SecretSource::Credential("db".to_owned()), "hunter2".to_owned());
        assert!(!format!("{values:?}").contains("hunter2"));
    }
}
