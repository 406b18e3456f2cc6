//! What no reload can change.

use std::fmt;

use super::deployment::Deployment;

/// One setting that a reload cannot change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    pub what: String,
    pub remedy: String,
}

/// Why there is no plan; every reason at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub Vec<Reason>);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = |reason: &Reason| format!("{}\n  {}", reason.what, reason.remedy);
        f.write_str(&self.0.iter().map(line).collect::<Vec<_>>().join("\n"))
    }
}

impl std::error::Error for Refusal {}

/// Refuses what would make another homeserver of it, or what the supervisor holds in its own hands.
pub(super) fn refuse(old: &Deployment, new: &Deployment) -> Result<(), Refusal> {
    let (was, is) = (&old.config, &new.config);
    let mut reasons = Vec::new();
    if was.server_name != is.server_name {
        reasons.push(Reason {
            what: format!(
                "server_name cannot change from {} to {}: it stands in every user and room id and in what was signed \
                 for other servers",
                was.server_name, is.server_name
            ),
            remedy: format!(
                "write server_name = \"{}\" again; another name is another homeserver, with a database and a state_dir \
                 of its own",
                was.server_name
            ),
        });
    }
    let (held, wanted) = (&was.supervisor, &is.supervisor);
    let directory = |path: &std::path::Path| path.display().to_string();
    let own = [
        (
            "state_dir",
            directory(&held.state_dir),
            directory(&wanted.state_dir),
            "its lock and all data lie there",
        ),
        ("run_dir", directory(&held.run_dir), directory(&wanted.run_dir), "its sockets are bound there"),
        ("user", held.user.clone(), wanted.user.clone(), "files and processes belong to that user"),
        ("router_user", held.router_user.clone(), wanted.router_user.clone(), "the router runs as that user"),
    ];
    for (key, before, after, why) in own {
        if before != after {
            reasons.push(Reason {
                what: format!(
                    "{key} in [supervisor] cannot change from {before} to {after} while it runs: {why}"
                ),
                remedy: "apply it by a full restart: systemctl restart synvisor".to_owned(),
            });
        }
    }
    if reasons.is_empty() { Ok(()) } else { Err(Refusal(reasons)) }
}
