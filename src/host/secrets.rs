//! Secrets that are generated once and then only read.

use std::io;
use std::path::Path;

use crate::config::secret::Secret;
use crate::sys::fs;
use crate::sys::fs::FsError;
use crate::sys::users::User;

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

/// Writes every secret that is missing, mode 0600; one that exists is never touched.
pub fn complete(directory: &Path, owner: Option<&User>) -> Result<Vec<&'static str>, SecretError> {
    let mut made = Vec::new();
    for secret in Secret::ALL {
        let content = match secret {
            Secret::SigningKey => signing_key()?,
            Secret::MacaroonSecretKey
            | Secret::RegistrationSharedSecret
            | Secret::FormSecret
            | Secret::WorkerReplicationSecret => base64(&random::<32>()?),
        };
        made.extend(make(directory, secret.file_name(), &content, owner)?);
    }
    Ok(made)
}

/// Synapse's format of a signing key: algorithm, version, seed (`signedjson.key.write_signing_keys`).
fn signing_key() -> Result<String, SecretError> {
    let version = base64(&random::<3>()?).replace(['+', '/'], "_");
    Ok(format!("ed25519 a_{version} {}\n", base64(&random::<32>()?)))
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

/// Base64 without padding, as Matrix writes keys.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..=chunk.len() {
            text.push(char::from(DIGITS[(word >> (18 - 6 * digit) & 63) as usize]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn secrets_are_made_once_and_for_nobody_else() {
        // Mutation: `exists` ignored: seen red.
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(complete(dir.path(), None).unwrap().len(), 5);
        let key = dir.path().join("signing.key");
        let first = fs::read(&key).unwrap();
        assert_eq!(complete(dir.path(), None).unwrap(), Vec::<&str>::new());
        assert_eq!(fs::read(&key).unwrap(), first);
        assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let fields: Vec<&str> = first.split_whitespace().collect();
        assert_eq!((fields[0], fields[2].len()), ("ed25519", 43));
    }

    #[test]
    fn base64_is_the_standard_one_without_padding() {
        assert_eq!(base64(b"f"), "Zg");
        assert_eq!(base64(b"fo"), "Zm8");
        assert_eq!(base64(b"foob"), "Zm9vYg");
        assert_eq!(base64(&[0xfb, 0xff]), "+/8");
    }
}
