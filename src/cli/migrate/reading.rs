//! Synapse's own reading of what the new configuration makes, while no supervisor runs that would ask it.

use std::path::Path;
use std::process::Output;
use std::process::Stdio;

use crate::config::problem::Problem;
use crate::forkserver;
use crate::host::layout::Users;
use crate::host::python;
use crate::plan::Deployment;
use crate::plan::Digest;
use crate::plan::Verdict;
use crate::plan::objections;
use crate::render::FileSet;
use crate::sys::fs;
use crate::sys::users;

use super::Move;

impl Move<'_> {
    /// What Synapse has against the configuration; every secret has been made.
    ///
    /// # Errors
    /// It cannot be asked.
    pub(super) fn objections(&self) -> Result<Vec<Problem>, String> {
        let Self { usable, place, venv, .. } = self;
        let version = venv.synapse.as_deref().unwrap_or_default();
        // What files hold matters only to who compares.
        let digest = |_: &Path| Digest(String::new());
        let target = Deployment::of(&usable.parsed, &usable.secrets, version, digest);
        let (layout, user) = (&place.layout, place.users.synapse.as_ref());
        // In directories of that user's.
        let written = |files: &FileSet| {
            let write =
                || layout.write(files, &Users::default()).map(drop).map_err(|error| error.to_string());
            users::as_user(user, write)
        };
        let clear = || users::as_user(user, || fs::clear(&layout.check()).map_err(|error| error.to_string()));
        written(&forkserver::program(&layout.fork_server_program()))?;
        clear()?;
        let mut verdicts = Vec::new();
        for (environment, files) in target.to_read(&layout.check(), |_, _| true) {
            written(&files)?;
            let mut command = python::command(&place.config.python.venv, user);
            command.env_clear().env("HOME", &layout.state).env("LANG", "C.UTF-8").envs(environment);
            command.env("TMPDIR", layout.temporary()).current_dir(&layout.state).stdin(Stdio::null());
            command.arg("-B").arg(layout.fork_server_program()).arg("check").args(files.keys());
            let done = command.output().map_err(|error| format!("Synapse cannot be asked: {error}"));
            // They hold secrets.
            clear()?;
            verdicts.extend(understood(&done?, &files).map_err(|why| target.without_secrets(&why))?);
        }
        Ok(objections(&verdicts, &target, &[]))
    }
}

/// One verdict for each file.
fn understood(done: &Output, files: &FileSet) -> Result<Vec<Verdict>, String> {
    let said = String::from_utf8_lossy(&done.stdout);
    let verdicts: Vec<Verdict> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    if verdicts.len() == files.len() {
        return Ok(verdicts);
    }
    let last = python::last_line(&done.stderr);
    Err(format!(
        "Synapse did not finish reading its new configuration ({}): {last}\n  nothing was changed; then the same again",
        done.status
    ))
}
