//! Synapse's own reading of what a configuration makes, where no supervisor runs that would ask it.

use std::process::Stdio;

use crate::config::problem::Problem;
use crate::plan::Deployment;
use crate::plan::Digest;
use crate::plan::Verdict;
use crate::plan::objections;
use crate::render::FileSet;
use crate::sys::fs;

use super::layout::Layout;
use super::layout::Users;
use super::python;
use super::toml::Usable;

/// Prints a [`Verdict`] a line, of each file that an argument names.
const SCRIPT: &str = concat!(include_str!("../forkserver/python/synvisor/configuration.py"), "\nmain()\n");

/// What Synapse has against a configuration; every secret has been made.
///
/// # Errors
/// It cannot be asked.
pub fn read(usable: &Usable, synapse_version: &str, users: &Users) -> Result<Vec<Problem>, String> {
    let layout = Layout::of(&usable.parsed.config);
    // What files hold matters only to who compares.
    let target = Deployment::of(&usable.parsed, &usable.secrets, synapse_version, |_| Digest(String::new()));
    let clear = || fs::clear(&layout.check()).map_err(|error| error.to_string());
    clear()?;
    let mut verdicts = Vec::new();
    for (environment, files) in target.to_read(&layout.check(), |_, _| true) {
        layout.write(&files, users).map_err(|error| error.to_string())?;
        let mut command = python::command(&usable.parsed.config.python.venv, users.synapse.as_ref());
        command.env_clear().envs(environment).current_dir(&layout.state).stdin(Stdio::null());
        command.args(["-B", "-W", "ignore", "-c", SCRIPT]).args(files.keys());
        let done = command.output().map_err(|error| format!("Synapse cannot be asked: {error}"));
        // They hold secrets.
        clear()?;
        verdicts.extend(understood(&done?, &files).map_err(|why| target.without_secrets(&why))?);
    }
    Ok(objections(&verdicts, &target, &[]))
}

/// One verdict for each file.
fn understood(done: &std::process::Output, files: &FileSet) -> Result<Vec<Verdict>, String> {
    let said = String::from_utf8_lossy(&done.stdout);
    let verdicts: Vec<Verdict> = said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    if verdicts.len() == files.len() {
        return Ok(verdicts);
    }
    let last = python::last_line(&done.stderr);
    Err(format!("Synapse did not finish reading its new configuration ({}): {last}", done.status))
}
