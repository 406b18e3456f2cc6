//! The TOML file on disk: read, parsed, and the secrets that it names looked at.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use crate::config::Config;
use crate::config::Kind;
use crate::config::Parsed;
use crate::config::Referred;
use crate::config::problem;
use crate::config::problem::Problem;
use crate::config::secret::SecretSource;
use crate::config::secret::SecretValues;
use crate::plan;
use crate::sys::fs;

use super::certificates;
use super::certificates::Looked;
use super::secrets;
use super::settings;

/// Bytes of the longest file that is looked at; the longest example has some two thousand.
const LARGEST: u64 = 256 * 1024;

/// A TOML file as it was read.
#[derive(Clone, Debug)]
pub struct Document {
    /// As the user named it.
    pub name: String,
    pub text: String,
}

impl Document {
    /// Problems as they are shown to a person.
    pub fn print(&self, problems: &[Problem]) -> String {
        problem::print_all(problems, &self.name, &self.text)
    }
}

/// A configuration without errors.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub document: Document,
    pub parsed: Parsed,
    pub warnings: Vec<Problem>,
    pub secrets: SecretValues,
    /// Secrets that are missing, or that others may read; nothing runs with these.
    pub unfit: Vec<Problem>,
    /// Secrets that this process may not read, and so cannot judge.
    pub hidden: Vec<Problem>,
    /// What was found of the listeners' certificates; their texts are among the secrets.
    pub certificates: Looked,
}

/// A configuration to run with.
#[derive(Clone, Debug)]
pub struct Usable {
    pub text: String,
    pub parsed: Parsed,
    pub secrets: SecretValues,
    /// As they are shown to a person.
    pub warnings: String,
    /// Why listeners have no certificate, as it is shown to a person; their texts are not among the secrets.
    pub without_certificate: String,
}

impl Usable {
    /// Files that it names: secrets, and what settings of Synapse are read from.
    pub fn named_files(&self) -> Vec<PathBuf> {
        named_files(&self.parsed)
    }
}

impl Loaded {
    /// Files that it names: secrets, and what settings of Synapse are read from.
    pub fn named_files(&self) -> Vec<PathBuf> {
        named_files(&self.parsed)
    }

    /// The configuration and its secrets, to run with. A listener that has no certificate is in nobody's way: an ACME client
    /// may be writing it at this moment, and a router that runs has the one before.
    ///
    /// # Errors
    /// A secret is missing, others may read it, or we may not.
    pub fn usable(self) -> Result<Usable, Unusable> {
        let problems: Vec<Problem> = self.unfit.into_iter().chain(self.hidden).collect();
        if problems.is_empty() {
            let warnings = self.document.print(&self.warnings);
            let faults: Vec<Problem> = self.certificates.faults().cloned().collect();
            let without_certificate = self.document.print(&faults);
            let (text, parsed, secrets) = (self.document.text, self.parsed, self.secrets);
            return Ok(Usable { text, parsed, secrets, warnings, without_certificate });
        }
        Err(Unusable::Problems(self.document, problems))
    }
}

/// Why a configuration cannot be used.
#[derive(Clone, Debug)]
pub enum Unusable {
    /// The file cannot be read; whether that is for want of permission.
    Unread {
        text: String,
        permission: bool,
    },
    Problems(Document, Vec<Problem>),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unread { text, .. } => f.write_str(text),
            Self::Problems(document, problems) => f.write_str(&document.print(problems)),
        }
    }
}

/// Reads a configuration to run with.
///
/// # Errors
/// As [`load`] and [`Loaded::usable`].
pub fn usable(path: &Path, credentials: Option<&OsString>) -> Result<Usable, Unusable> {
    load(path, credentials).and_then(Loaded::usable)
}

/// Reads and checks a configuration; needs no daemon, virtualenv or database.
///
/// `credentials` is the directory of systemd's credentials, where there is one.
///
/// # Errors
/// The file cannot be read, or it has errors: all of them.
pub fn load(path: &Path, credentials: Option<&OsString>) -> Result<Loaded, Unusable> {
    let (text, foreign) = read(path)?;
    let document = Document { name: path.display().to_string(), text };
    if let Some(at) = foreign {
        let what = "this is not UTF-8, and TOML has no other encoding";
        let problem = Problem::error(at..at + 1, what, "save the file as UTF-8 in your editor");
        return Err(Unusable::Problems(document, vec![problem]));
    }
    judge(document, path, credentials)
}

/// Checks a text that is kept elsewhere as if it stood in the file at `path`.
///
/// # Errors
/// As [`load`] and [`Loaded::usable`].
pub fn usable_as(
    document: Document,
    path: &Path,
    credentials: Option<&OsString>,
) -> Result<Usable, Unusable> {
    judge(document, path, credentials).and_then(Loaded::usable)
}

/// The same where secrets that it names may be missing yet.
///
/// # Errors
/// As [`load`].
pub fn load_as(document: Document, path: &Path, credentials: Option<&OsString>) -> Result<Loaded, Unusable> {
    judge(document, path, credentials)
}

fn named_files(parsed: &Parsed) -> Vec<PathBuf> {
    let secrets = parsed.files.iter().filter_map(|file| match &file.source {
        SecretSource::File(path) => Some(path.clone()),
        SecretSource::Credential(_) => None,
    });
    let settings = plan::files(&parsed.config.synapse).into_iter().map(|named| named.path);
    let mut all: Vec<PathBuf> = secrets.chain(settings).collect();
    all.sort();
    all.dedup();
    all
}

fn judge(document: Document, path: &Path, credentials: Option<&OsString>) -> Result<Loaded, Unusable> {
    // Children and sockets must not depend on the directory that a command was given in.
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let base = whole.parent().unwrap_or(Path::new("/"));
    let installed = settings::installed(&Config::venv(&document.text, base));
    let parsed = match Config::parse_for(&document.text, base, installed.as_ref()) {
        Ok(parsed) => parsed,
        Err(problems) => return Err(Unusable::Problems(document, problems)),
    };
    let credentials = credentials.map(Path::new);
    let own: Vec<Referred> = parsed.files.iter().filter(|file| file.kind == Kind::Secret).cloned().collect();
    let secrets::Found { values: mut secrets, unfit, hidden } =
        secrets::look(&own, &parsed.config.supervisor.user, credentials);
    let mut certificates = certificates::look(&parsed, credentials);
    secrets.extend(std::mem::take(&mut certificates.values));
    let warnings = parsed.warnings.iter().chain(&certificates.warnings).cloned().collect();
    Ok(Loaded { document, parsed, warnings, secrets, unfit, hidden, certificates })
}

/// The text of a file, and where the first byte stood that is not UTF-8.
fn read(path: &Path) -> Result<(String, Option<usize>), Unusable> {
    let bytes = fs::read_start(path, LARGEST + 1).map_err(|error| {
        let remedy = if error.kind() == io::ErrorKind::NotFound {
            "write one (the smallest is one line: server_name = \"example.com\"), or name it with --config FILE"
        } else if error.kind() == io::ErrorKind::PermissionDenied {
            "use root, or a user that may read it"
        } else {
            "name another one with --config FILE"
        };
        let permission = error.kind() == io::ErrorKind::PermissionDenied;
        Unusable::Unread { text: format!("{error}\n  {remedy}\n"), permission }
    })?;
    if bytes.len() as u64 > LARGEST {
        let text = format!(
            "{} is larger than {} KiB: that is no configuration of synvisor\n  name another one with --config FILE\n",
            path.display(),
            LARGEST / 1024
        );
        return Err(Unusable::Unread { text, permission: false });
    }
    let foreign = std::str::from_utf8(&bytes).err().map(|error| error.valid_up_to());
    Ok((String::from_utf8_lossy(&bytes).into_owned(), foreign))
}

/// The run directory of a configuration, which may have mistakes: a daemon that runs has a good one.
///
/// # Errors
/// The file cannot be read.
pub fn run_dir(path: &Path) -> Result<PathBuf, Unusable> {
    let (text, _) = read(path)?;
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let base = whole.parent().unwrap_or(Path::new("/"));
    Ok(base.join(Config::run_dir(&text)))
}
