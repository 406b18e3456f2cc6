//! The verbs about the configuration itself; none of them needs a daemon.

use std::path::Path;

use serde_json::json;

use crate::config::effective;
use crate::config::problem::Problem;
use crate::config::problem::Severity;
use crate::config::problem::in_order;
use crate::config::schema as json_schema;
use crate::host::toml;
use crate::host::toml::Document;
use crate::host::toml::Unusable;
use crate::host::toml::Usable;
use crate::sys::fs;
use crate::topology::Topology;

use super::Exit;
use super::answers::UNNAMED;
use super::output;

/// Prints what is wrong. A secret that is missing is a warning: this may not be the machine that the file is for.
pub(super) fn check(path: &Path, json: bool) -> Exit {
    let mut unnamed = false;
    let (document, problems, units) = match toml::load(path, None) {
        Ok(loaded) => {
            unnamed = loaded.parsed.config.server_name == UNNAMED;
            let missing =
                loaded.unfit.into_iter().chain(loaded.certificates.unfit).map(Problem::into_warning);
            let wrong = loaded.certificates.wrong;
            let units = wrong.is_empty().then(|| Topology::of(&loaded.parsed.config).units.len());
            let problems: Vec<Problem> = loaded.warnings.into_iter().chain(missing).chain(wrong).collect();
            (loaded.document, problems, units)
        }
        Err(Unusable::Problems(document, problems)) => (document, problems, None),
        Err(unread @ Unusable::Unread { .. }) => return refuse(&unread),
    };
    if json {
        output::line(as_json(&document, &problems, units));
    } else {
        output::problems(&document.print(&problems));
        if let Some(units) = units {
            let found = match problems.len() {
                0 => "no mistakes found".to_owned(),
                1 => "usable, with 1 warning".to_owned(),
                many => format!("usable, with {many} warnings"),
            };
            let units = format!("{units} {}", if units == 1 { "process" } else { "processes" });
            output::line(format!("{}: {found}, {units}", document.name));
            if unnamed {
                output::line(format!("  {UNNAMED} is nobody's server_name: synvisor init asks for yours"));
            }
        }
    }
    if units.is_some() { Exit::Done } else { Exit::Config }
}

fn as_json(document: &Document, problems: &[Problem], units: Option<usize>) -> String {
    let problem = |problem: &Problem| {
        let (line, column) = problem.position(&document.text).unzip();
        let severity = match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        json!({
            "severity": severity, "line": line, "column": column,
            "what": problem.what, "remedy": problem.remedy,
        })
    };
    let problems: Vec<_> = in_order(problems).map(problem).collect();
    let usable = units.is_some();
    format!("{:#}", json!({ "file": document.name, "usable": usable, "units": units, "problems": problems }))
}

/// Prints what takes effect and where it is from.
pub(super) fn show(path: &Path, json: bool) -> Exit {
    match toml::load(path, None) {
        Ok(loaded) => {
            let print = if json { effective::json } else { effective::print };
            output::line(print(&loaded.parsed.effective, &loaded.document.text).trim_end());
            Exit::Done
        }
        Err(unusable) => refuse(&unusable),
    }
}

/// Prints the JSON schema of the TOML file.
pub(super) fn schema() -> Exit {
    output::line(json_schema::schema().trim_end());
    Exit::Done
}

/// The configuration that a text would be in the file at `path`; what is wrong with it is printed.
pub(super) fn usable(path: &Path, text: String) -> Result<Usable, Exit> {
    let document = Document { name: path.display().to_string(), text };
    toml::usable_as(document, path, None).map_err(|unusable| refuse(&unusable))
}

/// Changes the file, and leaves its owner and mode.
pub(super) fn rewrite(path: &Path, text: &str) -> Result<(), Exit> {
    fs::rewrite(path, text.as_bytes()).map_err(|error| not_writable(&error))
}

pub(super) fn not_writable(error: &fs::FsError) -> Exit {
    output::problem(format!("{error}\n  use root, or whoever may write there"));
    Exit::NotPermitted
}

/// Prints why a configuration cannot be used.
pub(super) fn refuse(unusable: &Unusable) -> Exit {
    output::problems(&unusable.to_string());
    match unusable {
        Unusable::Unread { permission: true, .. } => Exit::NotPermitted,
        Unusable::Unread { permission: false, .. } | Unusable::Problems(..) => Exit::Config,
    }
}
