//! Whatever stands in the TOML file: it is usable, or there is at least one error, and everything can be printed.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use synvisor::config::Config;
use synvisor::config::effective;
use synvisor::config::problem;
use synvisor::config::problem::Severity;
use synvisor::config::secret::SecretValues;
use synvisor::render::render;
use synvisor::topology::Topology;

fuzz_target!(|text: &str| {
    let lines = text.matches('\n').count() + 1;
    let _ = Config::run_dir(text);
    match Config::parse(text, Path::new("/etc/synvisor")) {
        Ok(parsed) => {
            assert!(parsed.warnings.iter().all(|problem| problem.severity == Severity::Warning));
            let _ = problem::print_all(&parsed.warnings, "f", text);
            let shown = effective::print(&parsed.effective, text);
            if let Err(error) = shown.parse::<toml::Table>() {
                panic!("what is shown is no TOML: {error}\n{shown}");
            }
            let files = render(&parsed.config, &Topology::of(&parsed.config), &SecretValues::default());
            assert!(files.len() >= 2);
        }
        Err(problems) => {
            assert!(problems.iter().any(|problem| problem.severity == Severity::Error));
            for problem in &problems {
                assert!(!problem.remedy.is_empty(), "{problem:?}");
                assert!(problem.position(text).is_none_or(|(line, _)| line <= lines), "{problem:?}");
            }
            let _ = problem::print_all(&problems, "f", text);
        }
    }
});
