//! What goes wrong in practice, from what was found on a machine: a finding for each check, with its remedy.

mod certificates;
mod facts;
mod homeserver;
mod machine;
mod outside;
mod services;
mod unit;

pub use facts::Database;
pub use facts::DropIn;
pub use facts::Facts;
pub use facts::Kept;
pub use facts::Place;
pub use facts::Port;
pub use facts::Public;
pub use facts::Room;
pub use facts::Seen;
pub use facts::Served;
pub use facts::Trouble;
pub use facts::WellKnown;

pub use outside::FORGED;
pub use unit::configuration;
pub use unit::is_open;

use serde::Serialize;

use crate::config::Config;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// As it should be.
    Fine,
    /// It could not be looked at, and why.
    Unknown,
    Warning,
    Error,
}

/// What a check came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub check: &'static str,
    pub severity: Severity,
    /// What is so.
    pub what: String,
    /// What to do; empty where there is nothing.
    pub remedy: String,
}

impl Finding {
    fn new(
        check: &'static str,
        severity: Severity,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { check, severity, what: what.into(), remedy: remedy.into() }
    }

    fn fine(check: &'static str, what: impl Into<String>) -> Self {
        Self::new(check, Severity::Fine, what, "")
    }

    fn unknown(check: &'static str, why: impl Into<String>) -> Self {
        Self::new(check, Severity::Unknown, format!("not looked at: {}", why.into()), "")
    }

    fn warning(check: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(check, Severity::Warning, what, remedy)
    }

    fn error(check: &'static str, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(check, Severity::Error, what, remedy)
    }

    /// What is not known to be well; `remedy` is for what says none itself.
    fn trouble(check: &'static str, trouble: &Trouble, remedy: &str) -> Self {
        match trouble {
            Trouble::Unseen(why) => Self::unknown(check, why.replace('\n', ":")),
            Trouble::Fault(why) => {
                let (what, said) = why.split_once('\n').unwrap_or((why, remedy));
                Self::error(check, what, said.trim())
            }
        }
    }
}

/// Judges everything that was found; what is wrong comes first.
pub fn examine(config: &Config, facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<Finding> = services::examine(config, facts)
        .into_iter()
        .chain(machine::examine(config, facts))
        .chain(unit::examine(facts))
        .chain(homeserver::examine(config, facts))
        .chain(certificates::examine(config, facts))
        .chain(outside::examine(config, facts))
        .collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

#[cfg(test)]
mod tests;
