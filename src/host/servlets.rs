//! Asks the Synapse of a virtualenv which requests it answers.

use std::os::unix::process::CommandExt;
use std::path::Path;

use crate::route::verify::Endpoint;
use crate::sys::users::User;

use super::venv;

/// The endpoints of main and a generic worker, as user `user` sees them.
///
/// # Errors
/// One sentence on what is wrong and one on what to do.
#[expect(clippy::disallowed_methods, reason = "runs in a command that has no other children")]
pub fn registered(venv: &Path, user: Option<&User>) -> Result<Vec<Endpoint>, String> {
    let python = venv::interpreter(venv);
    let mut command = std::process::Command::new(&python);
    command.args(["-I", "-W", "ignore", "-c", include_str!("servlets.py")]).current_dir("/");
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
    crate::sys::process::incapable(&mut command);
    let shown = python.display();
    let output = command.output().map_err(|error| {
        format!("cannot run {shown}: {error}\n  name the virtualenv that holds Synapse in [python]")
    })?;
    serde_json::from_slice(&output.stdout).map_err(|_| {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing");
        format!(
            "the Synapse of {shown} does not say what it answers: {last}\n  \
             its insides may have changed; routing goes on with the rules that were verified with Synapse 1.163"
        )
    })
}
