//! Secrets: those that are generated once and then only read, and those that the user keeps.

use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;

use crate::config::Config;
use crate::config::Kind;
use crate::config::Referred;
use crate::config::Secrets;
use crate::config::problem::Problem;
use crate::config::secret::Secret;
use crate::config::secret::SecretSource;
use crate::config::secret::SecretValues;
use crate::sys::fs;
use crate::sys::fs::FsError;
use crate::sys::users;
use crate::sys::users::User;

/// What was found at the places that the TOML names.
#[derive(Clone, Debug, Default)]
pub struct Found {
    pub values: SecretValues,
    /// Missing, empty, or not for us alone.
    pub unfit: Vec<Problem>,
    /// Nothing that we may read.
    pub hidden: Vec<Problem>,
}

/// Reads every secret that the TOML names and looks who else may.
pub fn look(files: &[Referred], user: &str, credentials: Option<&Path>) -> Found {
    let mut found = Found::default();
    let trusted = [Some(0), users::user(user).map(|user| user.uid), Some(users::own_uid())];
    for file in files {
        let path = match (&file.source, credentials) {
            (SecretSource::File(path), _) => path.clone(),
            (SecretSource::Credential(name), Some(directory)) => directory.join(name),
            (SecretSource::Credential(name), None) => {
                let what =
                    format!("credential {name} is there for the service alone, and this is not the service");
                let remedy = credential_remedy(name);
                found.hidden.push(Problem::error(file.place.clone(), what, remedy));
                continue;
            }
        };
        let trusted = trusted.iter().flatten().copied().collect::<Vec<u32>>();
        let problem = |what: String, remedy: String| Problem::error(file.place.clone(), what, remedy);
        match (fs::read(&path), &file.source) {
            (Ok(text), source) => {
                let strange = match source {
                    SecretSource::File(path) if file.kind != Kind::Certificate => stranger(path, &trusted),
                    // systemd makes them for the service alone.
                    SecretSource::File(_) | SecretSource::Credential(_) => None,
                };
                if let Some((what, remedy)) = strange {
                    found.unfit.push(problem(what, remedy));
                }
                let value = text.trim_end_matches(['\r', '\n']);
                if value.is_empty() {
                    found.unfit.push(problem(format!("{} is empty", path.display()), file.remedy.to_owned()));
                }
                found.values.insert(file.source.clone(), value.to_owned());
            }
            (Err(error), SecretSource::Credential(name)) => {
                let remedy = credential_remedy(name);
                found.unfit.push(problem(format!("there is no credential {name}: {error}"), remedy));
            }
            (Err(error), SecretSource::File(_)) if error.kind() == io::ErrorKind::PermissionDenied => {
                let remedy = format!("chown {} {}", users::own_name(), path.display());
                found.hidden.push(problem(error.to_string(), remedy));
            }
            (Err(error), SecretSource::File(_)) => {
                found.unfit.push(problem(error.to_string(), file.remedy.to_owned()));
            }
        }
    }
    found
}

/// Which of the files that the TOML names the service, as this user, is not let read, whatever we may.
///
/// # Errors
/// The kernel does not let us look as that user.
pub fn closed_to(user: &User, files: &[Referred]) -> Result<Vec<Problem>, String> {
    let look = |file: &Referred| match &file.source {
        SecretSource::File(path) => {
            let error =
                fs::readable(path).err().filter(|error| error.kind() == io::ErrorKind::PermissionDenied)?;
            let what = format!("{error}, as {} who runs the service", user.name);
            let remedy = format!("chown {} {}", user.name, path.display());
            Some(Problem::error(file.place.clone(), what, remedy))
        }
        SecretSource::Credential(_) => None,
    };
    users::as_user(Some(user), || Ok(files.iter().filter_map(look).collect()))
}

fn credential_remedy(name: &str) -> String {
    format!(
        "run systemctl edit synvisor.service, and write below [Service]:\nLoadCredential={name}:/etc/synvisor/{name}"
    )
}

/// Where systemd has the credentials of the service (systemd.exec(5)), for who is not started by it.
const CREDENTIALS: &str = "/run/credentials/synvisor.service";

/// The directory of systemd's credentials, which is said to the service alone.
pub fn credentials(said: Option<&OsString>) -> PathBuf {
    said.map_or_else(|| CREDENTIALS.into(), PathBuf::from)
}

/// What proves to Synapse that somebody may register users; `credentials` is the directory of systemd's credentials.
///
/// # Errors
/// It cannot be read, mostly for want of permission.
pub fn registration_shared_secret(config: &Config, credentials: &Path) -> Result<String, FsError> {
    let secret = Secret::RegistrationSharedSecret;
    let text = match config.secrets.files.get(&secret) {
        // In a directory of Synapse's user, whom root does not follow elsewhere.
        None => fs::read_itself(&secret.path(&config.supervisor.state_dir)),
        Some(SecretSource::File(path)) => fs::read(path),
        Some(SecretSource::Credential(name)) => fs::read(&credentials.join(name)),
    };
    Ok(text?.trim_end_matches(['\r', '\n']).to_owned())
}

/// Why a secret is not for us alone, and what to do.
fn stranger(path: &Path, trusted: &[u32]) -> Option<(String, String)> {
    let (owner, mode) = fs::owner_and_mode(path).ok()?;
    let shown = path.display();
    if !trusted.contains(&owner) {
        let name = users::name_of(owner).unwrap_or_else(|| owner.to_string());
        return Some((
            format!("{shown} belongs to {name}, who can read and change it"),
            format!("chown root {shown}"),
        ));
    }
    // Debian's way is root:GROUP and 0640, so that a service may read and not change.
    if mode & 0o037 != 0 {
        let what = format!("{shown} is a secret, and others than its owner may use it (mode {mode:04o})");
        return Some((what, format!("chmod 600 {shown}")));
    }
    None
}

/// Why the secrets are not complete.
#[derive(Debug)]
pub enum SecretError {
    Fs(FsError),
    /// The kernel gave no random bytes.
    Random(io::Error),
}

impl std::fmt::Display for SecretError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fs(error) => error.fmt(f),
            Self::Random(error) => write!(f, "cannot get random bytes from the kernel: {error}"),
        }
    }
}

/// Writes every secret that is missing and not the user's to keep, mode 0600; one that exists is never touched.
pub fn complete(
    directory: &Path,
    settings: &Secrets,
    owner: Option<&User>,
) -> Result<Vec<&'static str>, SecretError> {
    let mut made = Vec::new();
    for secret in Secret::ALL {
        let required = secret == Secret::SigningKey && settings.signing_key_required;
        if required || settings.files.contains_key(&secret) {
            continue;
        }
        let content = match secret {
            Secret::SigningKey => signing_key()?,
            Secret::MacaroonSecretKey
            | Secret::RegistrationSharedSecret
            | Secret::FormSecret
            | Secret::WorkerReplicationSecret => BASE64_STANDARD_NO_PAD.encode(random::<32>()?),
        };
        made.extend(make(directory, secret.file_name(), &content, owner)?);
    }
    Ok(made)
}

/// Synapse's format of a signing key: algorithm, version, seed (`signedjson.key.write_signing_keys`).
fn signing_key() -> Result<String, SecretError> {
    let version = BASE64_STANDARD_NO_PAD.encode(random::<3>()?).replace(['+', '/'], "_");
    Ok(format!("ed25519 a_{version} {}\n", BASE64_STANDARD_NO_PAD.encode(random::<32>()?)))
}

fn make(
    directory: &Path,
    name: &'static str,
    secret: &str,
    owner: Option<&User>,
) -> Result<Option<&'static str>, SecretError> {
    let path = directory.join(name);
    if path.exists() {
        return Ok(None);
    }
    fs::replace(&path, secret.as_bytes(), 0o600, owner).map_err(SecretError::Fs)?;
    Ok(Some(name))
}

fn random<const N: usize>() -> Result<[u8; N], SecretError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| SecretError::Random(io::Error::other(error)))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn secrets_are_made_once_and_for_nobody_else() {
        // Mutation: `exists` ignored: seen red.
        let dir = tempfile::tempdir().unwrap();
        let nothing = Secrets { files: std::collections::BTreeMap::new(), signing_key_required: false };
        assert_eq!(complete(dir.path(), &nothing, None).unwrap().len(), 5);
        let key = dir.path().join("signing.key");
        let first = fs::read(&key).unwrap();
        assert_eq!(complete(dir.path(), &nothing, None).unwrap(), Vec::<&str>::new());
        assert_eq!(fs::read(&key).unwrap(), first);
        assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let fields: Vec<&str> = first.split_whitespace().collect();
        assert_eq!((fields[0], fields[2].len()), ("ed25519", 43));
    }

    #[test]
    fn the_registration_secret_is_where_the_toml_says() {
        // Mutation: the credential looked for elsewhere: seen red.
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("secrets")).unwrap();
        let places = ["secrets/registration_shared_secret", "mine", "given"];
        for place in places {
            fs::replace(&dir.path().join(place), format!("of {place}\n").as_bytes(), 0o600, None).unwrap();
        }
        for (place, said) in [
            (places[0], ""),
            (places[1], "registration_shared_secret_file = \"mine\""),
            (places[2], "registration_shared_secret_file = \"$CREDENTIALS_DIRECTORY/given\""),
        ] {
            let text = format!("server_name = \"a.b\"\n[supervisor]\nstate_dir = \".\"\n[secrets]\n{said}\n");
            let config = Config::parse(&text, dir.path()).unwrap().config;
            assert_eq!(registration_shared_secret(&config, dir.path()).unwrap(), format!("of {place}"));
        }
    }

    #[test]
    fn what_is_the_users_is_not_made() {
        // Mutations, each seen red: `required` ignored; `files` ignored.
        let dir = tempfile::tempdir().unwrap();
        let source = SecretSource::File("/etc/form".into());
        let settings = Secrets { files: [(Secret::FormSecret, source)].into(), signing_key_required: true };
        let made = complete(dir.path(), &settings, None).unwrap();
        assert_eq!(made, ["macaroon_secret_key", "registration_shared_secret", "worker_replication_secret"]);
    }

    #[test]
    fn secrets_of_the_user_are_read_and_their_modes_looked_at() {
        // Mutations, each seen red: the mode not looked at; the owner not looked at (as root); an empty file taken;
        // a credential outside of the service taken for missing.
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str, mode| {
            let path = dir.path().join(name);
            fs::replace(&path, text.as_bytes(), mode, None).unwrap();
            SecretSource::File(path)
        };
        let credential = |name: &str| SecretSource::Credential(name.to_owned());
        file("given", "c\n", 0o400);
        let sources = [
            file("good", "a\n", 0o640),
            file("open", "b", 0o644),
            file("empty", "\n", 0o600),
            SecretSource::File(dir.path().join("missing")),
            credential("given"),
            credential("forgotten"),
        ];
        let refer = |source: &SecretSource| {
            let (source, kind) = (source.clone(), Kind::Secret);
            Referred { source, place: 0..1, remedy: "write it", kind }
        };
        let files: Vec<Referred> = sources.iter().map(refer).collect();
        let found = look(&files, "nobody", Some(dir.path()));
        assert_eq!((found.values.get(&sources[0]), found.values.get(&sources[4])), ("a", "c"));
        let problems: Vec<&str> = found.unfit.iter().map(|problem| problem.what.as_str()).collect();
        assert_eq!(problems.len(), 4, "{problems:?}");
        for (problem, said) in
            problems.iter().zip(["mode 0644", "is empty", "missing", "no credential forgotten"])
        {
            assert!(problem.contains(said), "{problem}");
        }
        assert!(found.hidden.is_empty());
        let outside = look(&files[4..], "nobody", None);
        assert_eq!((outside.unfit.len(), outside.hidden.len()), (0, 2));
        if users::own_uid() == 0 {
            let SecretSource::File(path) = &sources[0] else { unreachable!() };
            std::os::unix::fs::chown(path, Some(4_000_000), None).unwrap();
            assert!(look(&files[..1], "nobody", None).unfit[0].what.contains("belongs to 4000000"));
        }
    }
}
