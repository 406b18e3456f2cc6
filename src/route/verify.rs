//! The table held against what an installed Synapse answers: a new version may move an endpoint.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;

use super::rules::Rule;
use super::rules::Rules;
use super::rules::Wants;

/// An endpoint that Synapse registers, as its main process or a generic worker.
#[derive(Clone, Debug, Deserialize)]
pub struct Endpoint {
    /// `*` for any.
    pub method: String,
    pub pattern: String,
    pub servlet: String,
    pub main: bool,
    pub worker: bool,
    /// The settings under which it is registered: `plain`, `experimental`, `mas` (with the Matrix Authentication
    /// Service) or `sso`.
    pub variants: Vec<String>,
    /// Paths that the pattern describes.
    pub samples: Vec<String>,
}

/// A difference between the table and Synapse.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// No rule but the last one fits.
    Unknown { request: String, servlet: String },
    /// The table sends it to workers, and only main answers it.
    OnlyMain { request: String, servlet: String, rule: usize },
    /// The table sends it to main, and workers answer it too.
    WorkersToo { request: String, servlet: String, rule: usize },
    /// Synapse answers nothing that the rule fits.
    Gone { rule: usize, pattern: &'static str },
}

impl Finding {
    /// Whether requests fail for it: main answers whatever no rule knows, and nobody asks for what is gone.
    pub const fn fails(&self) -> bool {
        match self {
            Self::OnlyMain { .. } => true,
            Self::Unknown { .. } | Self::WorkersToo { .. } | Self::Gone { .. } => false,
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown { request, servlet } => {
                write!(f, "{request} ({servlet}): no rule knows it, so it goes to main")
            }
            Self::OnlyMain { request, servlet, rule } => {
                write!(f, "{request} ({servlet}): only main answers it, and rule {rule} sends it to a worker")
            }
            Self::WorkersToo { request, servlet, rule } => {
                write!(f, "{request} ({servlet}): a worker answers it too, and rule {rule} sends it to main")
            }
            Self::Gone { rule, pattern } => write!(f, "rule {rule} {pattern}: Synapse has nothing there"),
        }
    }
}

/// What only a configuration of its own brings, which `--verify` does not make.
const CONDITIONAL: [&str; 3] = ["^/_matrix/consent(/|$)", "^/_synapse/client/saml2/", "^/_matrix/saml2/"];

/// Compares, path by path.
pub fn compare(rules: &Rules, endpoints: &[Endpoint]) -> Vec<Finding> {
    let mut findings = BTreeSet::new();
    let mut used = BTreeSet::new();
    for endpoint in endpoints {
        let methods: &[&str] = if endpoint.method == "*" { &["GET", "POST"] } else { &[&endpoint.method] };
        for (method, path) in
            methods.iter().flat_map(|method| endpoint.samples.iter().map(move |path| (method, path)))
        {
            // With and without a token a sync is of different rules.
            for query in ["", "since=s&from=f"] {
                let rule = rules.first(method, path, query);
                used.extend(rule.map(|rule| rule.number));
                findings.extend(judge(endpoint, &format!("{method} {path}"), rule));
            }
        }
    }
    let gone = rules.all.iter().filter(|rule| !used.contains(&rule.number) && !is_exempt(rule));
    findings.extend(gone.map(|rule| Finding::Gone { rule: rule.number, pattern: rule.pattern }));
    findings.into_iter().collect()
}

/// The rules that fit whatever no other one does, and those that refuse.
fn is_last(rule: &Rule) -> bool {
    ["^/", "^/_matrix/", "^/_synapse/", "^/_matrix/client/", "^/_synapse/admin/", "^/_synapse/admin(/|$)"]
        .contains(&rule.pattern)
}

fn is_exempt(rule: &Rule) -> bool {
    is_last(rule) || rule.wants == Wants::Nothing || CONDITIONAL.contains(&rule.pattern)
}

/// Whether Synapse keeps what these requests are about in the memory of one process, which is main for us: single
/// sign-on, and signing in by QR code.
fn keeps_sessions(rule: &Rule) -> bool {
    rule.class == "sso" || rule.pattern == "^/_synapse/client/rendezvous(/|$)"
}

fn judge(endpoint: &Endpoint, request: &str, rule: Option<&Rule>) -> Option<Finding> {
    let (request, servlet) = (request.to_owned(), endpoint.servlet.clone());
    let Some(rule) = rule.filter(|rule| !is_last(rule)) else {
        return Some(Finding::Unknown { request, servlet });
    };
    let number = rule.number;
    match rule.wants {
        Wants::Nothing => None,
        Wants::Main if endpoint.worker && !keeps_sessions(rule) => {
            Some(Finding::WorkersToo { request, servlet, rule: number })
        }
        Wants::Main => None,
        Wants::ClientReader
        | Wants::EventCreator
        | Wants::Synchrotron
        | Wants::FederationReader
        | Wants::UserDirectory
        | Wants::Media
        | Wants::Quarantine
        | Wants::Writer(_)
            if !endpoint.worker =>
        {
            Some(Finding::OnlyMain { request, servlet, rule: number })
        }
        Wants::ClientReader
        | Wants::EventCreator
        | Wants::Synchrotron
        | Wants::FederationReader
        | Wants::UserDirectory
        | Wants::Media
        | Wants::Quarantine
        | Wants::Writer(_) => None,
    }
}
