//! `synvisor doctor`: looks for what goes wrong in practice, and says what to do.

use std::path::Path;

use hyper::Method;

use crate::doctor;
use crate::doctor::Finding;
use crate::doctor::Severity;
use crate::host::builder::Means;
use crate::host::checkup;
use crate::host::checkup::Circumstances;
use crate::host::layout::Users;
use crate::host::secrets;
use crate::host::toml;
use crate::sys::fs;
use crate::wire::StatusReport;

use super::Exit;
use super::commands;
use super::config;
use super::output;

pub(super) fn doctor(path: &Path, json: bool, offline: bool, means: Means) -> Exit {
    // The running service's, where we may look at them.
    let credentials = secrets::credentials(None);
    let credentials = fs::list(&credentials).is_ok().then(|| credentials.into_os_string());
    let loaded = match toml::load(path, credentials.as_ref()) {
        Ok(loaded) => loaded,
        Err(unusable) => return config::refuse(&unusable),
    };
    let supervisor = match commands::is_running(path) {
        Ok(true) => match commands::ask::<StatusReport>(path, Method::GET, "/v1/status", &()) {
            Ok(report) => Some(report.pid),
            Err(exit) => return exit,
        },
        Ok(false) => None,
        Err(exit) => return exit,
    };
    let users = match Users::of(&loaded.parsed.config) {
        Ok(users) => users,
        Err(why) => return output::fail(&why),
    };
    let around = Circumstances { supervisor, outside: !offline, environment: means.environment };
    let facts = match commands::block_on(checkup::look(&loaded, &users, &around)) {
        Ok(facts) => facts,
        Err(error) => return output::fail(&error.to_string()),
    };
    let findings = doctor::examine(&loaded.parsed.config, &facts);
    if json {
        commands::print_json(&findings);
    } else {
        findings.iter().for_each(print);
    }
    if findings.iter().any(|finding| finding.severity == Severity::Error) { Exit::Failed } else { Exit::Done }
}

fn print(finding: &Finding) {
    let Finding { check, severity, what, remedy } = finding;
    let word = match severity {
        Severity::Fine => "ok",
        Severity::Unknown => "?",
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    output::line(format!("{word:8} {check:16} {what}"));
    if !remedy.is_empty() {
        output::line(format!("{:8} {:16} → {}", "", "", remedy.replace('\n', "; ")));
    }
}
