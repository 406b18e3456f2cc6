//! The verbs about routing; none of them needs a daemon.

use std::path::Path;

use crate::config::Config;
use crate::host::layout::Users;
use crate::host::servlets;
use crate::host::toml;
use crate::route;
use crate::route::RouteTable;
use crate::route::Rules;
use crate::route::verify::Finding;
use crate::route::verify::compare;
use crate::sys::fs;
use crate::topology::Topology;

use super::Exit;
use super::config;
use super::output;

/// Says who answers one request.
pub(super) fn explain(
    path: &Path,
    method: &str,
    target: &str,
    user: Option<&str>,
    token_file: Option<&Path>,
) -> Exit {
    let token = match (user, token_file) {
        (Some(user), _) => match route::token_of(user) {
            Some(token) => Some(token),
            None => {
                output::problem(format!("{user} is not a user id\n  write it like @alice:example.com"));
                return Exit::Usage;
            }
        },
        (None, Some(file)) => match fs::read(file) {
            Ok(token) => Some(token.trim().to_owned()),
            Err(error) => {
                output::problem(format!(
                    "{error}\n  name a file that holds an access token and nothing else"
                ));
                return Exit::Failed;
            }
        },
        (None, None) => None,
    };
    if !method.chars().all(|sign| sign.is_ascii_alphabetic() || sign == '-') {
        output::problem(format!(
            "{method} is not a method\n  write it like GET or PUT, and the path after it"
        ));
        return Exit::Usage;
    }
    let authorization = token.map(|token| format!("Bearer {token}"));
    // Methods are upper case on the wire, and nobody means another one.
    let method = method.to_ascii_uppercase();
    with_table(path, |table, delegated| table.explain(&method, target, authorization.as_deref(), delegated))
}

/// Prints the whole table.
pub(super) fn list(path: &Path) -> Exit {
    with_table(path, |table, delegated| table.listing(delegated).trim_end().to_owned())
}

/// Compares the table with what the Synapse of the virtualenv answers.
pub(super) fn verify(path: &Path) -> Exit {
    let config = match toml::load(path, None) {
        Ok(loaded) => loaded.parsed.config,
        Err(unusable) => return config::refuse(&unusable),
    };
    // As in service: a virtualenv is not run by root.
    let users = Users::of(&config).unwrap_or_default();
    let venv = config.python.venv.display();
    let (count, findings) = match compared(&config, &users) {
        Ok(compared) => compared,
        Err(why) => return output::fail(&why),
    };
    let (failing, others): (Vec<_>, Vec<_>) = findings.iter().partition(|finding| finding.fails());
    for finding in &others {
        output::line(finding);
    }
    if failing.is_empty() {
        output::line(format!("{venv}: all {count} endpoints go where they are answered"));
        if !others.is_empty() {
            output::line("  what is listed above fails nobody: main answers it, or nobody asks for it");
        }
        return Exit::Done;
    }
    for finding in &failing {
        output::problem(finding);
    }
    output::fail(&format!(
        "{venv}: {} of its {count} endpoints go where they are not answered\n  \
         look for a newer synvisor, or report this with Synapse's version",
        failing.len()
    ))
}

/// Compares the table with what the Synapse of a configuration answers: how many endpoints it has, and what differs.
///
/// # Errors
/// Synapse does not say what it answers.
pub(super) fn compared(config: &Config, users: &Users) -> Result<(usize, Vec<Finding>), String> {
    let endpoints = servlets::registered(&config.python.venv, users.synapse.as_ref())?;
    Ok((endpoints.len(), compare(Rules::get(), &endpoints)))
}

fn with_table(path: &Path, say: impl FnOnce(&RouteTable, bool) -> String) -> Exit {
    match toml::load(path, None) {
        Ok(loaded) => {
            let config = &loaded.parsed.config;
            let table = RouteTable::of(&Topology::of(config));
            output::line(say(&table, config.delegates_authentication()));
            Exit::Done
        }
        Err(unusable) => config::refuse(&unusable),
    }
}
