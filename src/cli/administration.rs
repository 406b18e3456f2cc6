//! The verbs that ask Synapse's admin API: users, and registration tokens.

use std::ffi::OsString;
use std::path::Path;

use crate::admin::Admin;
use crate::admin::AdminError;
use crate::admin::Refusal;
use crate::host::secrets;
use crate::host::toml;

use super::Exit;
use super::config;
use super::output;

/// Runs a conversation with main, as root or synvisor's own user; whether authentication is Synapse's is looked at first.
/// `instead` says what to do where it is the Matrix Authentication Service's.
pub(super) fn with_admin(
    path: &Path,
    credentials: Option<&OsString>,
    instead: &str,
    talk: impl AsyncFnOnce(&Admin) -> Result<Exit, Trouble>,
) -> Exit {
    let config = match toml::load(path, credentials) {
        Ok(loaded) => loaded.parsed.config,
        Err(unusable) => return config::refuse(&unusable),
    };
    if config.delegates_authentication() {
        output::problem(format!(
            "users are the Matrix Authentication Service's here ([synapse] matrix_authentication_service)\n  use {instead}"
        ));
        return Exit::Failed;
    }
    let admin = match Admin::of(config, &secrets::credentials(credentials)) {
        Ok(admin) => admin,
        Err(error) => return explain(error),
    };
    match super::commands::block_on(talk(&admin)) {
        Ok(Ok(exit)) => exit,
        Ok(Err(Trouble::Admin(error))) => explain(error),
        Ok(Err(Trouble::Said(exit))) => exit,
        Err(error) => output::fail(&error.to_string()),
    }
}

/// Why a verb did not do what it was to do.
pub(super) enum Trouble {
    Admin(AdminError),
    /// It was said already.
    Said(Exit),
}

impl From<AdminError> for Trouble {
    fn from(error: AdminError) -> Self {
        Self::Admin(error)
    }
}

impl From<Exit> for Trouble {
    fn from(exit: Exit) -> Self {
        Self::Said(exit)
    }
}

fn explain(error: AdminError) -> Exit {
    match error {
        AdminError::NotPermitted(why) => {
            output::problem(format!(
                "this is for root and synvisor's own user: {why}\n  try again with sudo"
            ));
            Exit::NotPermitted
        }
        AdminError::NotRunning(socket) => super::commands::not_running(&socket.display().to_string()),
        AdminError::Away(why) | AdminError::Failed(why) => output::fail(&why),
        AdminError::Refused(refusal) => output::fail(&refused(&refusal)),
        AdminError::Broken(why) => output::fail(&format!(
            "whether it was done is not known: the conversation with main broke off: {why}\n  \
             look at it, and try again: synvisor user list, synvisor register-token list"
        )),
    }
}

/// A refusal that no verb expects.
fn refused(refusal: &Refusal) -> String {
    let remedy = match (refusal.status, refusal.code.as_str(), refusal.text.as_str()) {
        (403, _, "HMAC incorrect") => {
            "main was started with another registration_shared_secret: synvisor restart main"
        }
        (400, _, "Shared secret registration is not enabled") => {
            "main was started without registration_shared_secret: synvisor restart main"
        }
        (_, "M_LIMIT_EXCEEDED", _) => "wait a minute, and try again",
        (500.., _, _) => "see what happened: synvisor logs main",
        _ => "look at [synapse] for what forbids it",
    };
    format!("Synapse refuses: {refusal}\n  {remedy}")
}
