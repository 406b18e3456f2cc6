//! Programs of ours that the Python of a virtualenv runs, as the user that Synapse runs as.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use serde::de::DeserializeOwned;

use crate::sys::users::User;

use super::venv;

/// The interpreter of a virtualenv, isolated from what lies about; waited for in a command that has no other children.
#[expect(clippy::disallowed_methods, reason = "runs in a command that has no other children")]
pub fn command(venv: &Path, user: Option<&User>) -> Command {
    let mut command = Command::new(venv::interpreter(venv));
    command.arg("-I").current_dir("/");
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
    crate::sys::process::incapable(&mut command);
    command
}

/// Runs a script that reads one JSON value and prints another.
///
/// # Errors
/// That the interpreter cannot be run, or what it said last.
pub fn ask<T: DeserializeOwned>(
    mut command: Command,
    script: &str,
    input: &serde_json::Value,
) -> Result<T, String> {
    let python = command.get_program().to_string_lossy().into_owned();
    command.args(["-W", "ignore", "-c", script]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("{python} cannot be run: {error}"))?;
    if let Some(mut pipe) = child.stdin.take() {
        // One that ends without having read it says why.
        let _ = pipe.write_all(input.to_string().as_bytes());
    }
    let done = child.wait_with_output().map_err(|error| error.to_string())?;
    serde_json::from_slice(&done.stdout).map_err(|_| last_line(&done.stderr))
}

/// What a program said last, where that is the reason.
pub fn last_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing").to_owned()
}
