//! The TOML file on disk: read, parsed, and the files that it names looked at.

use std::fmt;
use std::io;
use std::path::Path;

use crate::config::Config;
use crate::config::problem;
use crate::config::problem::Problem;
use crate::sys::fs;

/// A usable configuration.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// Printed warnings; empty if there are none.
    pub warnings: String,
}

/// Printed problems of a configuration that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    text: String,
    /// Whether we merely may not read it.
    pub permission: bool,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Reads and checks a configuration; needs no daemon, virtualenv or database.
///
/// # Errors
/// Every problem, printed with its place.
pub fn load(path: &Path) -> Result<Loaded, Unusable> {
    let text = fs::read(path).map_err(|error| {
        let remedy = if error.kind() == io::ErrorKind::NotFound {
            "write one (the smallest is one line: server_name = \"example.com\"), or name it with --config FILE"
        } else if error.kind() == io::ErrorKind::PermissionDenied {
            "use root, or a user that may read it"
        } else {
            "name another one with --config FILE"
        };
        let permission = error.kind() == io::ErrorKind::PermissionDenied;
        Unusable { text: format!("{error}\n  {remedy}\n"), permission }
    })?;
    // Children and sockets must not depend on the directory that a command was given in.
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let base = whole.parent().unwrap_or(Path::new("/"));
    let name = path.display().to_string();
    let unusable = |problems: &[Problem]| Unusable {
        text: problem::print_all(problems, &name, &text),
        permission: false,
    };
    let parsed = Config::parse(&text, base).map_err(|problems| unusable(&problems))?;
    let missing: Vec<Problem> = parsed
        .files
        .iter()
        .filter_map(|file| {
            let error =
                fs::read(&file.path).err().filter(|error| error.kind() != io::ErrorKind::PermissionDenied)?;
            let remedy = "write the secret into it, with mode 0600, or correct the path";
            Some(Problem::error(file.place.clone(), error.to_string(), remedy))
        })
        .collect();
    if !missing.is_empty() {
        return Err(unusable(&missing));
    }
    Ok(Loaded { config: parsed.config, warnings: problem::print_all(&parsed.warnings, &name, &text) })
}
