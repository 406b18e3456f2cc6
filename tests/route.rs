//! Who answers which request: every rule of the table under three presets, and requests made to mislead.
//!
//! What is expected stands here a second time, by the table's columns and not by the code that reads them.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

use std::collections::BTreeSet;
use std::path::Path;

use synvisor::config::Config;
use synvisor::config::roles::Resource;
use synvisor::route::Clues;
use synvisor::route::Decision;
use synvisor::route::RequestHead;
use synvisor::route::Route;
use synvisor::route::RouteTable;
use synvisor::topology::Topology;

#[path = "route/table.rs"]
mod table;
#[path = "route/traps.rs"]
mod traps;
#[path = "route/words.rs"]
mod words;

use table::Line;
use table::lines;
use table::owners;
use table::query;
use table::samples;
use traps::CLOSED;
use traps::DISGUISED;
use traps::TRAPS;

const PRESETS: [&str; 4] = ["none", "little-federation-helper", "one-of-each", "specialized-workers"];

struct World {
    topology: Topology,
    table: RouteTable,
}

fn world(workers: &str) -> World {
    let toml = format!("server_name = \"a.b\"\n[workers]\n{workers}");
    let topology = Topology::of(&Config::parse(&toml, Path::new("/")).unwrap().config);
    World { table: RouteTable::of(&topology), topology }
}

fn preset(name: &str) -> World {
    world(&format!("preset = \"{name}\""))
}

impl World {
    fn decide(&self, method: &str, target: &str, admin: bool) -> Decision<'_> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        self.table.decide(&RequestHead { method, path, query, admin })
    }

    fn choose(&self, route: &Route, target: &str, down: &[&str], turn: u64) -> Option<String> {
        let clues = Clues { path: target, authorization: Some("Bearer u"), ..Clues::default() };
        let key = RouteTable::key(route, &clues, turn);
        let up = |unit: &_| !down.iter().any(|name| *unit == synvisor::topology::UnitName::new(*name));
        self.table.choose(route, key, up).map(ToString::to_string)
    }

    /// A short word for what becomes of a request while everything is up.
    fn verdict(&self, method: &str, target: &str, admin: bool) -> String {
        match self.decide(method, target, admin) {
            Decision::To(route) => self.choose(route, target, &[], 0).unwrap(),
            Decision::Health => "(health)".to_owned(),
            Decision::Denied => "(denied)".to_owned(),
            Decision::AdminClosed => "(closed)".to_owned(),
        }
    }
}

/// Every rule with every sample path and method that reaches it: a later rule may be hidden on some of its paths.
fn each_rule(world: &World, mut check: impl FnMut(&Line, &str, &str, &Route)) {
    for line in lines() {
        let mut reached = 0;
        for path in samples(line.pattern) {
            for method in &line.methods {
                let target = format!("{path}?{}", query(&line));
                match world.decide(method, &target, true) {
                    Decision::To(route) if route.rule.number == line.number => {
                        reached += 1;
                        check(&line, method, &target, route);
                    }
                    // An earlier rule that fits the same path.
                    Decision::To(route) => assert!(route.rule.number < line.number, "{method} {target}"),
                    Decision::Denied | Decision::Health => {
                        assert_eq!(line.class, "deny", "{method} {target}");
                        reached += 1;
                    }
                    Decision::AdminClosed => panic!("{method} {target}: the listener is open"),
                }
            }
        }
        assert!(reached > 0, "nothing reaches rule {} {}", line.number, line.pattern);
    }
}

#[test]
fn every_rule_goes_to_its_owner_and_falls_over_only_if_it_may() {
    // Mutations, each seen red: methods ignored; the last match taken for the first; a second tier for strict writers,
    // and for media; the room tier left out.
    for name in PRESETS {
        let world = preset(name);
        let mut seen = BTreeSet::new();
        each_rule(&world, |line, method, target, route| {
            let what = format!("{name}: rule {} {method} {target}", line.number);
            let owners = owners(line, name);
            let candidates: Vec<String> = world.table.candidates(route).map(ToString::to_string).collect();
            assert_eq!(candidates, owners, "{what}");
            assert_eq!(route.rule.strict, line.strict, "{what}");
            if line.strict {
                assert_eq!(owners.len(), 1, "{what}");
            } else {
                assert_eq!(owners.last(), Some(&"main"), "{what}");
            }
            // The turn must not matter where there is one process for it, and the last one down leaves nobody.
            for (down, owner) in owners.iter().enumerate() {
                for turn in 0..3 {
                    let chosen = world.choose(route, target, &owners[..down], turn);
                    assert_eq!(chosen.as_deref(), Some(*owner), "{what}");
                }
            }
            assert_eq!(world.choose(route, target, &owners, 0), None, "{what}");
            // Whichever single process is down, the first of the others answers.
            for down in world.topology.synapse().map(|unit| unit.name.as_str()) {
                let first = owners.iter().find(|owner| **owner != down);
                let chosen = world.choose(route, target, &[down], 0);
                assert_eq!(chosen.as_deref(), first.copied(), "{what}, {down} down");
            }
            seen.insert(line.number);
        });
        // All but the three that are denied.
        assert_eq!(seen.len(), 304, "{name}");
    }
}

#[test]
fn nobody_is_asked_for_what_it_does_not_serve() {
    // Mutation: quarantine writers kept without the media resource: seen red by this test alone.
    let mixed =
        "generic = 1\nroom = 1\nsync = 1\nclient_reader = 1\nfederation_reader = 1\nthread_subscriptions = 1";
    let worlds = PRESETS.map(preset).into_iter();
    for world in
        worlds.chain([world(mixed), world("quarantined_media_changes = 1"), world("federation_reader = 1")])
    {
        each_rule(&world, |line, method, target, route| {
            for name in world.table.candidates(route) {
                let unit = world.topology.unit(name).unwrap();
                let needed = match line.eligible {
                    "generic:federation,main" => Resource::Federation,
                    eligible if eligible.starts_with("media") => Resource::Media,
                    _ => Resource::Client,
                };
                let what = format!("{method} {target} at {name}");
                assert!(
                    unit.resources.contains(&needed),
                    "{what}: {needed:?} is not in {:?}",
                    unit.resources
                );
                assert!(unit.client_socket.is_some(), "{what}");
            }
        });
    }
}

const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"];

#[test]
fn requests_made_to_mislead_go_where_synapse_would_have_them() {
    // Mutation: patterns that ignore case: seen red.
    assert!(TRAPS.len() >= 150, "{}", TRAPS.len());
    let world = preset("specialized-workers");
    let wrong = TRAPS.iter().filter_map(|(method, target, expected)| {
        let found = world.verdict(method, target, false);
        (found != *expected).then(|| format!("{method} {target}: {found}, not {expected}"))
    });
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn long_paths_are_paths_like_others() {
    // Mutation: only the first 8 KiB of a path matched: seen red.
    let world = preset("specialized-workers");
    let long = "x".repeat(1_000_000);
    assert_eq!(world.verdict("GET", &format!("/_matrix/client/v3/rooms/!{long}/members"), false), "room-1");
    assert_eq!(
        world.verdict("PUT", &format!("/_matrix/client/v3/rooms/!{long}/typing/@u"), false),
        "typing-1"
    );
    assert_eq!(world.verdict("GET", &format!("/{long}"), false), "main");
    assert_eq!(world.verdict("GET", &format!("/{}", "a/".repeat(500_000)), false), "main");
    assert_eq!(world.verdict("GET", &format!("/_synapse/replication/{long}"), false), "(denied)");
    assert_eq!(world.verdict("GET", &format!("/_synapse/admin/{long}"), false), "(closed)");
}

#[test]
fn nothing_reaches_replication_or_metrics() {
    // Mutation: the check of `Wants::Nothing` switched off: seen red.
    for name in PRESETS {
        let world = preset(name);
        for path in CLOSED {
            for method in METHODS {
                for admin in [false, true] {
                    assert_eq!(world.verdict(method, path, admin), "(denied)", "{name}: {method} {path}");
                }
            }
        }
        for path in DISGUISED {
            for method in METHODS {
                assert_eq!(world.verdict(method, path, false), "main", "{name}: {method} {path}");
            }
        }
        // Nobody behind the router's side of a process offers them, whatever path comes through.
        for unit in world.topology.synapse() {
            for resource in &unit.resources {
                assert!(["client", "federation", "media"].contains(&resource.name()), "{}", unit.name);
            }
        }
    }
}

#[test]
fn the_admin_api_needs_a_listener_that_opens_it() {
    // Mutation: `!head.admin` dropped: seen red.
    for name in PRESETS {
        let world = preset(name);
        let mut paths: Vec<String> = lines()
            .iter()
            .filter(|line| line.pattern.starts_with("^/_synapse/admin"))
            .flat_map(|line| samples(line.pattern))
            .collect();
        assert!(paths.len() > 80);
        paths.extend(["/_synapse/admin", "/_synapse/admin/", "/_synapse/admin/v9/x"].map(str::to_owned));
        for path in paths {
            for method in METHODS {
                assert_eq!(world.verdict(method, &path, false), "(closed)", "{name}: {method} {path}");
                assert_ne!(world.verdict(method, &path, true), "(closed)", "{name}: {method} {path}");
            }
        }
        // What only holds such a path is not one.
        assert_ne!(world.verdict("GET", "/_matrix/client/v3/sync?/_synapse/admin", false), "(closed)");
    }
}

#[test]
fn what_belongs_together_meets_in_one_process() {
    // Mutations, each seen red: a user's key taken from the room id in the path; `%21` not known for a sigil;
    // the query left out of the URI.
    let world = world("client_reader = 5\nroom = 5\nfederation_reader = 5");
    let unit = |method: &str, target: &str, authorization: &str, turn: u64| {
        let Decision::To(route) = world.decide(method, target, false) else { panic!("{target}") };
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let clues = Clues { path, query, authorization: Some(authorization), ..Clues::default() };
        world.table.choose(route, RouteTable::key(route, &clues, turn), |_| true).unwrap().to_string()
    };
    let spread = |requests: &mut dyn Iterator<Item = String>| requests.collect::<BTreeSet<_>>().len();
    // A key backup is its user's, whichever room stands in the path.
    let backup =
        |n: u64, user: &str| unit("PUT", &format!("/_matrix/client/v3/room_keys/keys/!r{n}:hs/s"), user, n);
    assert_eq!(spread(&mut (0..50).map(|n| backup(n, "Bearer alice"))), 1);
    assert_eq!(spread(&mut (0..50).map(|n| backup(1, &format!("Bearer u{n}")))), 5);
    // A room is everybody's, with a server in its id or without.
    for room in ["!r:hs", "%21r%3Ahs", "!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM"] {
        let members = format!("/_matrix/client/v3/rooms/{room}/members");
        let messages = format!("/_matrix/client/v3/rooms/{room}/messages");
        let users = &mut (0..50).map(|n| unit("GET", &members, &format!("Bearer u{n}"), n));
        assert_eq!(spread(users), 1, "{room}");
        assert_eq!(unit("GET", &members, "Bearer a", 1), unit("GET", &messages, "Bearer b", 2), "{room}");
    }
    let rooms =
        &mut (0..50).map(|n| unit("GET", &format!("/_matrix/client/v3/rooms/!{n}:hs/members"), "", n));
    assert_eq!(spread(rooms), 5);
    // Transactions of one server arrive in order.
    let send = |n: u64, origin: &str| {
        let signed = format!("X-Matrix origin=\"{origin}\",key=\"ed25519:{n}\",sig=\"{n}\"");
        unit("PUT", &format!("/_matrix/federation/v1/send/{n}"), &signed, n)
    };
    assert_eq!(spread(&mut (0..50).map(|n| send(n, "hs.example"))), 1);
    assert_eq!(spread(&mut (0..50).map(|n| send(n, &format!("hs{n}.example")))), 5);
    // What asks for the same meets in one process, and what asks for something else does not.
    let profile = |n: u64, turn: u64| {
        let target = format!("/_matrix/federation/v1/query/profile?user_id=@u{n}:hs");
        unit("GET", &target, &format!("X-Matrix origin=hs{turn}"), turn)
    };
    assert_eq!(spread(&mut (0..50).map(|n| profile(1, n))), 1);
    assert_eq!(spread(&mut (0..50).map(|n| profile(n, 1))), 5);
    let keys =
        |n: u64| unit("POST", "/_matrix/federation/v1/user/keys/query", &format!("X-Matrix origin=hs{n}"), 1);
    assert_eq!(spread(&mut (0..50).map(keys)), 5);
    // Without a key the turn spreads them.
    let versions = &mut (0..50).map(|n| unit("GET", "/_matrix/client/versions", "", n));
    assert_eq!(spread(versions), 5);
}

/// Why synvisor sends a request to another process than matrix-docker-ansible-deploy does.
const REASONS: [(&str, &str); 5] = [
    (
        "room-without-server",
        "ids of rooms of version 12 have no server part, and its expressions want a colon",
    ),
    ("workers-can", "workers answer it, as Synapse's own servlets show, and it is left with main"),
    ("about-a-room", "it is about one room, and belongs to the process that has the room in its caches"),
    ("about-the-user", "the room id in the path of a key backup is a name: the request is about the user"),
    ("a-sync", "it is as heavy as an initial sync, and belongs with these"),
];

#[test]
fn every_difference_from_another_tools_routing_has_its_reason() {
    // Mutations, each seen red: a reason taken away from a line that differs; one given to a line that does not.
    let worlds = ["one-of-each", "specialized-workers"].map(preset);
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    let lines: Vec<&str> =
        include_str!("route/mdad.tsv").lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(lines.len(), 150);
    for line in lines {
        let fields: Vec<&str> = line.split('\t').collect();
        let [method, path, one_of_each, specialized, reason] = fields[..] else { panic!("{line}") };
        let ours = worlds.each_ref().map(|world| {
            let unit = world.verdict(method, path, true);
            unit.trim_end_matches("-1").replace('-', "_")
        });
        let differs = ours != [one_of_each.to_owned(), specialized.to_owned()];
        if differs != (reason != "-") {
            wrong.push(format!("{line}: ours {ours:?}"));
        }
        used.insert(reason);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let known: BTreeSet<&str> = REASONS.iter().map(|(reason, _)| *reason).chain(["-"]).collect();
    assert_eq!(used, known);
}
