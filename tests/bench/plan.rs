//! What planning costs for a homeserver of 200 workers: one line of JSON, in seconds, for `tests/bench/reload.py`.
#![expect(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, reason = "a benchmark may")]

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use serde_json::json;
use synvisor::config::Config;
use synvisor::config::secret::SecretValues;
use synvisor::plan::Deployment;
use synvisor::plan::Digest;
use synvisor::plan::plan;

const WORKERS: &str =
    "generic = 150\nfederation_sender = 20\npusher = 10\nevents = 10\nmedia_repository = 10";
const ROUNDS: usize = 15;

fn deployment(settings: &str) -> Deployment {
    let text = format!("server_name = \"example.com\"\n[workers]\n{WORKERS}\n[synapse]\n{settings}\n");
    let parsed = Config::parse(&text, Path::new("/etc/synvisor")).unwrap();
    Deployment::of(&parsed, &SecretValues::default(), "1.163.2", |path| Digest(path.display().to_string()))
}

/// The median of what a few times took.
fn seconds<T>(mut call: impl FnMut() -> T) -> f64 {
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let begun = Instant::now();
            black_box(call());
            begun.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
}

fn main() {
    let (old, new) = (deployment("max_upload_size = \"50M\""), deployment("turn_allow_guests = false"));
    assert!(!plan(&old, &new).unwrap().is_empty());
    let figures = json!({
        "read_200_workers": seconds(|| deployment("turn_allow_guests = false")),
        "plan_200_workers": seconds(|| plan(&old, &new).unwrap()),
        "print_200_workers": seconds(|| plan(&old, &new).unwrap().to_string()),
    });
    println!("{figures}");
}
