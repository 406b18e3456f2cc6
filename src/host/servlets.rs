//! Asks the Synapse of a virtualenv which requests it answers.

use std::path::Path;

use crate::route::verify::Endpoint;
use crate::sys::users::User;

use super::python;
use super::venv;

/// The endpoints of main and a generic worker, as user `user` sees them.
///
/// # Errors
/// One sentence on what is wrong and one on what to do.
pub fn registered(venv: &Path, user: Option<&User>) -> Result<Vec<Endpoint>, String> {
    let mut command = python::command(venv, user);
    command.args(["-W", "ignore", "-c", include_str!("servlets.py")]);
    let python = venv::interpreter(venv);
    let shown = python.display();
    let output = command.output().map_err(|error| {
        format!("cannot run {shown}: {error}\n  name the virtualenv that holds Synapse in [python]")
    })?;
    serde_json::from_slice(&output.stdout).map_err(|_| {
        let last = python::last_line(&output.stderr);
        format!(
            "the Synapse of {shown} does not say what it answers: {last}\n  \
             its insides may have changed; routing goes on with the rules that were verified with Synapse 1.163"
        )
    })
}
