//! `make bench`: what one decision of the router costs, from a request's head to the process that answers it.
//!
//! Beside it stands what a reverse proxy does with such a table: one expression after the other until one fits. The
//! medians are written to target/bench/route.json.
#![expect(clippy::unwrap_used, clippy::disallowed_methods, clippy::print_stdout, reason = "a benchmark may")]

use std::hint::black_box;
use std::path::Path;
use std::time::Duration;

use criterion::BenchmarkId;
use criterion::Criterion;
use regex::bytes::Regex;
use regex::bytes::RegexBuilder;
use serde_json::Value;
use serde_json::json;
use synvisor::config::Config;
use synvisor::route::Clues;
use synvisor::route::Decision;
use synvisor::route::RequestHead;
use synvisor::route::RouteTable;
use synvisor::route::Rules;
use synvisor::topology::Topology;

/// What a homeserver is asked, in about the proportions of one: syncs, then what clients and servers send.
const REQUESTS: [(&str, &str, &str); 12] = [
    ("GET", "/_matrix/client/v3/sync", "since=s1&timeout=30000"),
    ("POST", "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", "pos=5&timeout=30000"),
    ("GET", "/_matrix/client/v3/sync", "timeout=0"),
    ("PUT", "/_matrix/client/v3/rooms/!OGEhHVWSdvArJzumhm:example.com/send/m.room.message/m17", ""),
    ("PUT", "/_matrix/client/v3/rooms/!OGEhHVWSdvArJzumhm:example.com/typing/@alice:example.com", ""),
    ("POST", "/_matrix/client/v3/rooms/!OGEhHVWSdvArJzumhm:example.com/receipt/m.read/$event", ""),
    ("GET", "/_matrix/client/v3/rooms/!OGEhHVWSdvArJzumhm:example.com/messages", "dir=b&limit=50"),
    ("POST", "/_matrix/client/v3/keys/query", ""),
    ("GET", "/_matrix/client/v1/media/download/example.com/AbCdEf", ""),
    ("PUT", "/_matrix/federation/v1/send/1732500000", ""),
    ("GET", "/_matrix/federation/v1/event/$event", ""),
    ("GET", "/_matrix/client/v3/pushers", ""),
];
const AUTHORIZATION: [&str; 2] =
    ["Bearer syt_YWxpY2U_AbCdEfGh_123456", "X-Matrix origin=\"hs.example\",key=\"ed25519:a\",sig=\"x\""];

/// The rules as a list of expressions.
struct Row(Vec<(Vec<String>, Regex)>);

impl Row {
    fn new() -> Self {
        let rules = Rules::get().all.iter();
        let compiled = |pattern| RegexBuilder::new(pattern).unicode(false).build().unwrap();
        Self(
            rules
                .map(|rule| (rule.methods().split(',').map(str::to_owned).collect(), compiled(rule.pattern)))
                .collect(),
        )
    }

    fn first(&self, method: &str, path: &str) -> usize {
        let fits = |(methods, pattern): &(Vec<String>, Regex)| {
            methods.iter().any(|other| other == "any" || other == method) && pattern.is_match(path.as_bytes())
        };
        self.0.iter().position(fits).unwrap()
    }
}

fn table(each: usize) -> RouteTable {
    let kinds = ["generic", "sync", "client_reader", "room", "federation_reader"];
    let counts: String = kinds.iter().map(|kind| format!("{kind} = {each}\n")).collect();
    let toml = format!("server_name = \"a.b\"\n[workers]\n{counts}");
    RouteTable::of(&Topology::of(&Config::parse(&toml, Path::new("/")).unwrap().config))
}

/// One decision about each of the requests.
fn decide(table: &RouteTable, turn: &mut u64) {
    for (at, (method, path, query)) in REQUESTS.into_iter().enumerate() {
        let head = black_box(RequestHead { method, path, query, admin: false });
        let Decision::To(route) = table.decide(&head) else { continue };
        choose(table, route.rule.number, at, turn);
    }
}

/// The same by the list.
fn decide_in_a_row(table: &RouteTable, rules: &Row, turn: &mut u64) {
    for (at, (method, path, _)) in REQUESTS.into_iter().enumerate() {
        let number = rules.first(black_box(method), black_box(path)) + 1;
        choose(table, number, at, turn);
    }
}

fn choose(table: &RouteTable, rule: usize, request: usize, turn: &mut u64) {
    let Some(route) = table.route(rule) else { return };
    let (_, path, query) = REQUESTS[request];
    let federation = path.starts_with("/_matrix/federation");
    let authorization = Some(AUTHORIZATION[usize::from(federation)]);
    let clues = Clues { path, query, authorization, client: Some([192, 0, 2, 1].into()) };
    *turn += 1;
    black_box(table.choose(route, RouteTable::key(route, &clues, *turn), |_| true));
}

/// The median that criterion measured for one pass over the requests, in nanoseconds a request.
fn median(target: &Path, name: &str, workers: usize) -> Option<f64> {
    let path = target.join(format!("criterion/decision/{name}/{workers}/new/estimates.json"));
    let estimates: Value = serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()?;
    #[expect(clippy::cast_precision_loss, reason = "it is twelve")]
    Some(estimates["median"]["point_estimate"].as_f64()? / REQUESTS.len() as f64)
}

fn main() {
    let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("target");
    let mut criterion = Criterion::default()
        .output_directory(&target.join("criterion"))
        .sample_size(50)
        .measurement_time(Duration::from_secs(4))
        .configure_from_args();
    let rules = Row::new();
    let setups = [20, 200];
    let mut group = criterion.benchmark_group("decision");
    for workers in setups {
        let table = table(workers / 5);
        let mut turn = 0;
        group.bench_function(BenchmarkId::new("automaton", workers), |b| {
            b.iter(|| decide(&table, &mut turn));
        });
        group.bench_function(BenchmarkId::new("in a row", workers), |b| {
            b.iter(|| decide_in_a_row(&table, &rules, &mut turn));
        });
    }
    group.finish();
    criterion.final_summary();

    let rows: Vec<Value> = setups
        .into_iter()
        .filter_map(|workers| {
            let (ours, theirs) =
                (median(&target, "automaton", workers)?, median(&target, "in a row", workers)?);
            println!("{workers} workers: {ours:.0} ns a decision; with the rules in a row {theirs:.0} ns");
            Some(json!({
                "metric": "decision",
                "unit": "ns",
                "setup": format!("{workers} workers"),
                "value": ours.round(),
                "baseline": "rules in a row",
                "baseline_value": theirs.round(),
                "ratio": (ours / theirs * 1000.0).round() / 1000.0,
            }))
        })
        .collect();
    // Without a measurement, as when it is only tried whether it runs, what was measured before stays.
    if rows.len() == setups.len() {
        let file = target.join("bench/route.json");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, serde_json::to_string_pretty(&rows).unwrap() + "\n").unwrap();
        println!("written to {}", file.display());
    }
}
