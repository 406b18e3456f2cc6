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
use synvisor::route::token_of;
use synvisor::topology::Topology;

const TABLE: &str = include_str!("../src/route/rules.tsv");
const PRESETS: [&str; 4] = ["none", "little-federation-helper", "one-of-each", "specialized-workers"];

/// A line of the table.
struct Line {
    number: usize,
    methods: Vec<&'static str>,
    pattern: &'static str,
    class: &'static str,
    sticky: &'static str,
    eligible: &'static str,
    preferred: &'static str,
    strict: bool,
    query: &'static str,
}

fn lines() -> Vec<Line> {
    let lines = TABLE.lines().filter(|line| !line.starts_with('#')).enumerate();
    let lines = lines.map(|(at, line)| {
        let fields: Vec<&str> = line.split('\t').collect();
        let [methods, pattern, class, sticky, eligible, preferred, strict, query] = fields[..] else {
            panic!("line {} has {} fields", at + 1, fields.len())
        };
        Line {
            number: at + 1,
            methods: if methods == "*" { vec!["GET", "POST", "PATCH"] } else { methods.split(',').collect() },
            pattern,
            class,
            sticky,
            eligible,
            preferred,
            strict: strict == "strict",
            query,
        }
    });
    lines.collect()
}

/// A query under which a line fits, and no earlier line with a condition does.
fn query(line: &Line) -> &'static str {
    match (line.query, line.class) {
        (_, "sync") => "since=s1&from=s1",
        ("-", _) | (_, "initial_sync") => "",
        (other, _) => panic!("write down a query for {other}"),
    }
}

/// Every path that a pattern describes: all alternatives, optional parts left out and put in, wildcards by example.
fn samples(pattern: &str) -> Vec<String> {
    let mut rest = pattern.strip_prefix('^').unwrap();
    let found = alternatives(&mut rest);
    assert!(rest.is_empty(), "{pattern}: what is {rest}?");
    found
}

/// Up to the closing parenthesis or the end.
fn alternatives(rest: &mut &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut branch = vec![String::new()];
    while let Some(sign) = rest.chars().next() {
        if sign == ')' {
            break;
        }
        if let Some(after) = rest.strip_prefix('|') {
            *rest = after;
            found.append(&mut branch);
            branch = vec![String::new()];
            continue;
        }
        let mut piece = atom(rest);
        if let Some(after) = rest.strip_prefix('?') {
            *rest = after;
            piece.push(String::new());
        }
        let joined = branch.iter().flat_map(|head| piece.iter().map(move |tail| format!("{head}{tail}")));
        branch = joined.collect();
    }
    found.append(&mut branch);
    found
}

fn atom(rest: &mut &str) -> Vec<String> {
    // Wildcards of the table, each with what may stand in its place; `[^/]*` may also be empty.
    let wildcards: [(&str, &[&str]); 6] = [
        ("[^/]*", &["!r:hs", "w", "%21r%3Ahs"]),
        ("[^/]+", &["w"]),
        ("[\\w\\.]*", &["m.login.dummy"]),
        ("[A-Za-z0-9_.~-]+", &["oidc-x"]),
        (".*", &["", "global/override/.x"]),
        ("$", &[""]),
    ];
    for (wildcard, examples) in wildcards {
        if let Some(after) = rest.strip_prefix(wildcard) {
            *rest = after;
            return examples.iter().map(|example| (*example).to_owned()).collect();
        }
    }
    if let Some(inner) = rest.strip_prefix("(?:").or_else(|| rest.strip_prefix('(')) {
        *rest = inner;
        let found = alternatives(rest);
        *rest = rest.strip_prefix(')').unwrap();
        return found;
    }
    *rest = rest.strip_prefix('\\').unwrap_or(rest);
    let sign = rest.chars().next().unwrap();
    assert!(!"[]{}*+?^".contains(sign), "write down what stands for {rest}");
    *rest = &rest[sign.len_utf8()..];
    vec![sign.to_string()]
}

/// Who answers by the table's columns: each tier is asked once those before it are down.
fn owners(line: &Line, preset: &str) -> Vec<&'static str> {
    if ["none", "little-federation-helper"].contains(&preset) {
        return vec!["main"];
    }
    let special = preset == "specialized-workers";
    let reader = if special { "client-reader-1" } else { "generic-1" };
    let room = if special { "room-1" } else { "generic-1" };
    let sync = if special { "sync-1" } else { "generic-1" };
    let federation = if special { "federation-reader-1" } else { "generic-1" };
    let about_a_room = line.sticky == "room" || line.class == "federation_single_room";
    let mut tiers = match line.preferred {
        "main" | "sso" => vec!["main"],
        _ if line.eligible.starts_with("media&writer:") => vec!["quarantined-media-changes-1"],
        "media_repository" => vec!["media-repository-1"],
        "client_reader" | "federation_reader" if about_a_room => {
            let second = if line.preferred == "client_reader" { reader } else { federation };
            vec![room, second, "main"]
        }
        "client_reader" | "mas_helper" => vec![reader, "main"],
        "event_creator" => vec![room, reader, "main"],
        "initial_synchrotron" | "synchrotron" | "sliding_sync" => vec![sync, reader, "main"],
        "federation_reader" | "federation_inbound" => vec![federation, "main"],
        "user_dir" => vec!["user-dir-1", reader, "main"],
        // No preset has a writer for it.
        "writer:thread_subscriptions" if line.strict => vec!["main"],
        "writer:thread_subscriptions" => vec![reader, "main"],
        writer => {
            let unit = match writer.strip_prefix("writer:").unwrap() {
                "typing" => "typing-1",
                "to_device" => "to-device-1",
                "account_data" => "account-data-1",
                "receipts" => "receipts-1",
                "presence" => "presence-1",
                "push_rules" => "push-rules-1",
                "device_lists" => "device-lists-1",
                other => panic!("write down who writes {other}"),
            };
            if line.strict { vec![unit] } else { vec![unit, reader, "main"] }
        }
    };
    tiers.dedup();
    tiers
}

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

/// Requests made to mislead, and where they go with one worker of each kind of `specialized-workers`.
///
/// Paths are matched as they came, as Synapse does it: what is written in another way is an unknown path, which main
/// answers with 404. The listener is one for everybody.
const TRAPS: &[(&str, &str, &str)] = &[
    // Encoded letters.
    ("GET", "/_matrix/client/v3/sy%6ec", "main"),
    ("GET", "/_matrix%2Fclient%2Fv3%2Fsync", "main"),
    ("GET", "/%5Fmatrix/client/v3/sync", "main"),
    ("GET", "/_matrix/client/v3/rooms/%21r%3Ahs/members", "room-1"),
    ("GET", "/_matrix/client/v3/rooms/!r%2Fx:hs/members", "room-1"),
    ("GET", "/_matrix/client/v3/rooms/!r%2fmembers", "main"),
    ("GET", "/_matrix/client/v3/rooms/!r:hs%2Fmembers", "main"),
    ("PUT", "/_matrix/client/v3/rooms/%21r%3Ahs/typing/%40u%3Ahs", "typing-1"),
    ("PUT", "/_matrix/client/v3/rooms/!r:hs/typing/@u%2F:hs", "typing-1"),
    ("PUT", "/_matrix/client/v3/rooms/!r:hs%2Ftyping/@u:hs", "main"),
    ("POST", "/_matrix/client/v3/join/%23room%3Ahs", "room-1"),
    ("GET", "/_matrix/client/v3/rooms/%00/members", "room-1"),
    ("GET", "/_matrix/client/v3/rooms/%/members", "room-1"),
    // Slashes and dots.
    ("GET", "//_matrix/client/v3/sync", "main"),
    ("GET", "/_matrix//client/v3/sync", "main"),
    ("GET", "/_matrix/client/v3//sync", "main"),
    ("GET", "/_matrix/client/v3/sync//", "main"),
    ("GET", "/./_matrix/client/v3/sync", "main"),
    ("GET", "/_matrix/./client/v3/sync", "main"),
    ("GET", "/_matrix/x/../client/v3/sync", "main"),
    ("GET", "/_matrix/client/v3/rooms//members", "room-1"),
    ("GET", "/_matrix/client/v3/rooms/./members", "room-1"),
    ("GET", "/_matrix/client/v3/rooms/../members", "room-1"),
    ("GET", "/_matrix/client/v3/rooms/!r/x:hs/members", "main"),
    ("PUT", "/_matrix/client/v3/rooms/!r/x:hs/typing/@u:hs", "main"),
    ("GET", "/_matrix/client/v3/pushrules/../sync", "push-rules-1"),
    ("GET", "/_matrix/media/v3/download/../../x", "media-repository-1"),
    // Trailing slashes: federation and a few prefixes allow one.
    ("GET", "/_matrix/client/v3/sync/", "main"),
    ("GET", "/_matrix/client/versions/", "main"),
    ("PUT", "/_matrix/client/v3/rooms/!r:hs/typing/@u:hs/", "main"),
    ("PUT", "/_matrix/federation/v1/send/123/", "federation-reader-1"),
    ("PUT", "/_matrix/federation/v1/send/123//", "main"),
    ("PUT", "/_matrix/federation/v1/send/", "federation-reader-1"),
    ("GET", "/_matrix/federation/v1/event/$e/", "federation-reader-1"),
    ("GET", "/_matrix/federation/v1/state/!r:hs/", "room-1"),
    ("GET", "/_matrix/federation/v1/version/", "main"),
    ("GET", "/_matrix/client/v3/pushrules/", "push-rules-1"),
    ("GET", "/_matrix/client/v3/pushrules", "main"),
    // Upper case.
    ("GET", "/_MATRIX/client/v3/sync", "main"),
    ("GET", "/_matrix/Client/v3/sync", "main"),
    ("GET", "/_matrix/client/V3/sync", "main"),
    ("GET", "/_matrix/client/v3/Sync", "main"),
    ("GET", "/_matrix/client/v3/joinedRooms", "main"),
    // Versions.
    ("GET", "/_matrix/client/v99/sync", "main"),
    ("GET", "/_matrix/client/v1/sync", "main"),
    ("GET", "/_matrix/client/api/v1/sync", "main"),
    ("GET", "/_matrix/client/api/v1/events", "sync-1"),
    ("GET", "/_matrix/client/api/v2/events", "main"),
    ("PUT", "/_matrix/federation/v9/send/1", "main"),
    ("PUT", "/_matrix/federation/v2/send_join/!r:hs/$e", "room-1"),
    ("GET", "/_matrix/media/v9/config", "main"),
    ("GET", "/_matrix/media/unstable/config", "main"),
    ("GET", "/_matrix/client/v3/media/config", "main"),
    // Room ids of version 12 have no server, and ids are found where they stand.
    ("GET", "/_matrix/client/v3/rooms/!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM/members", "room-1"),
    ("PUT", "/_matrix/client/v3/rooms/!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM/typing/@u:hs", "typing-1"),
    ("POST", "/_matrix/client/v3/join/!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM", "room-1"),
    ("GET", "/_matrix/client/v1/rooms/!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM/hierarchy", "room-1"),
    ("GET", "/_matrix/client/v3/rooms/31hneApxJ/members", "room-1"),
    // The path of a key backup holds a room id, and is about the user; so are tags and account data of a room.
    ("PUT", "/_matrix/client/v3/room_keys/keys/!r:hs/session", "client-reader-1"),
    ("GET", "/_matrix/client/v3/room_keys/keys/%21r%3Ahs", "client-reader-1"),
    ("PUT", "/_matrix/client/v3/room_keys/keys", "client-reader-1"),
    ("PUT", "/_matrix/client/v3/room_keys/keys/!r:hs/s/e", "main"),
    ("PUT", "/_matrix/client/v3/user/@u:hs/rooms/!r:hs/tags/m.favourite", "account-data-1"),
    ("GET", "/_matrix/client/v3/user/@u:hs/rooms/!r:hs/account_data/m.x", "account-data-1"),
    // Methods.
    ("HEAD", "/_matrix/client/v3/sync", "sync-1"),
    ("HEAD", "/_matrix/media/v3/download/hs/id", "media-repository-1"),
    ("HEAD", "/_matrix/client/v3/rooms/!r:hs/typing/@u:hs", "main"),
    ("OPTIONS", "/_matrix/client/v3/sync", "sync-1"),
    ("OPTIONS", "/_matrix/client/v3/rooms/!r:hs/typing/@u:hs", "typing-1"),
    ("OPTIONS", "/_matrix/media/v3/upload", "media-repository-1"),
    ("OPTIONS", "*", "(denied)"),
    ("get", "/_matrix/client/v3/sync", "main"),
    ("POST", "/_matrix/client/v3/sync", "main"),
    ("BREW", "/_matrix/client/v3/sync", "main"),
    ("PUT", "/_matrix/client/v3/rooms/!r:hs/state/m.room.name", "room-1"),
    ("POST", "/_matrix/client/v3/rooms/!r:hs/state/m.room.name", "main"),
    // Queries decide nothing but which sync it is.
    ("GET", "/_matrix/client/v3/sync?x=/_synapse/replication", "sync-1"),
    ("GET", "/_matrix/client/v3/sync?since=s1?full_state=true", "sync-1"),
    ("GET", "/?/_matrix/client/v3/sync", "main"),
    // What looks like another path.
    ("GET", "/_matrix/client/v3/synchrotron", "main"),
    ("GET", "/x/_matrix/client/v3/sync", "main"),
    ("GET", "/_matrix/federation/v1/sync", "main"),
    ("GET", "/.well-known/matrix/server", "client-reader-1"),
    ("GET", "/xwell-known/matrix/server", "main"),
    ("GET", "/.well-known/matrix/support", "main"),
    ("GET", "/_matrix/key/v2/server/ed25519:a", "federation-reader-1"),
    ("GET", "/_matrix/federation/v1/media/download/id", "media-repository-1"),
    ("GET", "/", "main"),
    ("GET", "", "(denied)"),
    ("GET", "_matrix/client/v3/sync", "(denied)"),
    ("GET", "http://hs/_matrix/client/v3/sync", "(denied)"),
    ("GET", "/health", "(health)"),
    ("GET", "/health/", "main"),
    ("GET", "/Health", "main"),
    // Encoded, doubled, dotted: once more for what only one process may have.
    ("PUT", "/_matrix/client/v3/rooms/!r:hs/%74yping/@u:hs", "main"),
    ("PUT", "/_matrix/client/v3/rooms/!r:hs//typing/@u:hs", "main"),
    ("PUT", "/_matrix/client/v3/rooms/!r:hs/./typing/@u:hs", "main"),
    ("PUT", "/_matrix/client/v3/rooms/!r:hs/typing/../typing/@u:hs", "main"),
    ("PUT", "/_matrix/client/v3/rooms/!r:hs/Typing/@u:hs", "main"),
    ("POST", "/_matrix/client/v3/rooms/%21r/receipt/m.read/%24e", "receipts-1"),
    ("POST", "/_matrix/client/v3/rooms/!r/receipt/m.read/$e/", "main"),
    ("POST", "/_matrix/client/v3/rooms/!r/receipt//$e", "receipts-1"),
    ("POST", "/_matrix/client/v3/rooms/!r/receipts/m.read/$e", "main"),
    ("PUT", "/_matrix/client/v3/sendToDevice/m.x/%2F", "to-device-1"),
    ("PUT", "/_matrix/client/v3/sendToDevice/m.x/a/b", "main"),
    ("PUT", "/_matrix/client/v3/sendtodevice/m.x/1", "main"),
    ("PUT", "/_matrix/client/v3/pushrules/global/override/.x", "push-rules-1"),
    ("DELETE", "/_matrix/client/r0/pushrules/global/override/%2E%2E", "push-rules-1"),
    ("PUT", "/_matrix/client/v9/pushrules/global/override/.x", "main"),
    ("PUT", "/_matrix/client/v3/presence/%40u%3Ahs/status", "presence-1"),
    ("PUT", "/_matrix/client/v3/presence/@u:hs/status/", "main"),
    ("POST", "/_matrix/client/v3/keys/upload", "device-lists-1"),
    ("POST", "/_matrix/client/v3/keys/upload/", "main"),
    ("POST", "/_matrix/client/v3/keys/upload/DEVICE/x", "main"),
    ("POST", "/_matrix/client/v3/keys//upload", "main"),
    ("POST", "/_matrix/media/v3/upload/", "main"),
    ("POST", "/_matrix/media//v3/upload", "main"),
    ("GET", "/_matrix/media/v3/download/hs/id/%2e%2e%2fsecret", "media-repository-1"),
    ("GET", "/_matrix/media/v3/download/hs", "main"),
    ("GET", "/_matrix/client/v1/media/download/hs/id/name", "media-repository-1"),
    ("GET", "/_matrix/client/v1/media/download/hs/id/a/b", "main"),
    ("POST", "/_synapse/admin/v1/quarantine_media/!r:hs", "(closed)"),
    // What looks like the admin API and is of the client API, and the other way round.
    ("GET", "/_matrix/client/v3/admin/whois/@u:hs", "main"),
    ("GET", "/_synapse/admin", "(closed)"),
    ("GET", "/_synapse/admin/../client/v3/sync", "(closed)"),
    ("GET", "/_synapse/administrator", "(closed)"),
    ("GET", "/_synapse/client/../admin/v1/rooms", "main"),
    ("GET", "/_synapse/client/pick_idp", "main"),
    ("GET", "/_synapse/client/pick_idpx", "main"),
    ("GET", "/_synapse", "main"),
    ("GET", "/_synapse/", "main"),
    // Federation of one room goes with the room, whatever the case of the escapes.
    ("GET", "/_matrix/federation/v1/state_ids/%21r%3ahs", "room-1"),
    ("GET", "/_matrix/federation/v1/backfill/!r:hs?v=$a&limit=1", "room-1"),
    ("POST", "/_matrix/federation/v1/get_missing_events/!r:hs/", "main"),
    ("GET", "/_matrix/federation/v3/version", "main"),
    ("GET", "/_matrix/federation//v1/version", "main"),
    ("GET", "/_matrix/key/v2/server/", "federation-reader-1"),
    ("GET", "/_matrix/key/v1/server", "main"),
    ("POST", "/_matrix/key/v2/query", "federation-reader-1"),
    ("GET", "/_matrix/key/v2/Query/hs", "main"),
];

/// Ways to replication, metrics and the admin API; the last part of each is what is closed.
const CLOSED: &[&str] = &[
    "/_synapse/replication",
    "/_synapse/replication/",
    "/_synapse/replication/send_event/x",
    "/_synapse/metrics",
    "/_synapse/metrics/",
    "/_synapse/metrics/x",
];

/// The same, written in a way that no rule knows: main's client socket offers neither, and matches raw as well.
const DISGUISED: &[&str] = &[
    "//_synapse/replication/send_event/x",
    "/_synapse//replication/send_event/x",
    "/./_synapse/replication/send_event/x",
    "/_synapse/./replication",
    "/_matrix/../_synapse/replication",
    "/_synapse/%72eplication/send_event/x",
    "/%5Fsynapse/replication",
    "/_synapse%2Freplication",
    "/_SYNAPSE/replication",
    "/_synapse/Replication",
    "/_synapse/replicationx",
    "//_synapse/metrics",
    "/_synapse//metrics",
    "/_synapse/./metrics",
    "/_synapse/%6detrics",
    "/_synapse/Metrics",
    "/_synapse/metricsx",
    "/_synapse/x/../metrics",
    "//_synapse/admin/v1/rooms",
    "/_synapse//admin/v1/rooms",
    "/_synapse/./admin/v1/rooms",
    "/_synapse/%61dmin/v1/rooms",
    "/_synapse/Admin/v1/rooms",
    "/_synapse%2Fadmin/v1/rooms",
    "/_matrix/../_synapse/admin/v1/rooms",
];

const METHODS: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"];

#[test]
fn requests_made_to_mislead_go_where_synapse_would_have_them() {
    // Mutation: patterns that ignore case: seen red.
    assert!(TRAPS.len() + CLOSED.len() + DISGUISED.len() >= 150, "{}", TRAPS.len());
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
    // Mutations, each seen red: a user's key taken from the room id in the path; `%21` not known for a sigil.
    let world = world("client_reader = 5\nroom = 5\nfederation_reader = 5");
    let unit = |method: &str, target: &str, authorization: &str, turn: u64| {
        let Decision::To(route) = world.decide(method, target, false) else { panic!("{target}") };
        let clues = Clues { path: target, authorization: Some(authorization), ..Clues::default() };
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
    // Without a key the turn spreads them.
    let versions = &mut (0..50).map(|n| unit("GET", "/_matrix/client/versions", "", n));
    assert_eq!(spread(versions), 5);
}

#[test]
fn the_explanation_names_unit_rule_and_reason() {
    // Mutations, each seen red: the chosen one not left out of those who stand in; the user not looked at.
    let table = preset("one-of-each").table;
    let text = table.explain("PUT", "/_matrix/client/v3/rooms/!r/typing/@u:x", None);
    for word in [
        "unit:  typing-1",
        "class typing",
        "only a writer of the typing stream",
        "requests wait for typing-1",
    ] {
        assert!(text.contains(word), "{text}");
    }
    let text = table.explain("GET", "/_matrix/client/v3/sync?since=1", None);
    assert!(text.contains("unit:  generic-1") && text.contains("main while generic-1 is down"), "{text}");
    assert!(table.explain("GET", "/_synapse/metrics", None).contains("not for clients"));
    assert!(table.explain("GET", "/_synapse/admin/v1/rooms", None).contains("admin = true"));
    assert!(table.explain("GET", "http://x/_synapse/admin", None).contains("400"));

    let table = world("sync = 4").table;
    let target = "/_matrix/client/v3/sync?since=1";
    assert!(table.explain("GET", target, None).contains("unit:  sync-1…4\n"));
    let of = |user: &str| {
        let header = format!("Bearer {}", token_of(user).unwrap());
        let text = table.explain("GET", target, Some(&header));
        let named = |label: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(label)).unwrap().trim();
            line.split(' ').next().unwrap().to_owned()
        };
        (named("unit:"), named("away:"))
    };
    let chosen: BTreeSet<_> = (0..40).map(|n| of(&format!("@user{n}:a.b"))).collect();
    assert!(chosen.iter().all(|(unit, away)| unit != away && away.starts_with("sync-")), "{chosen:?}");
    assert_eq!(chosen.iter().map(|(unit, _)| unit).collect::<BTreeSet<_>>().len(), 4);

    let listing = table.listing();
    assert_eq!(listing.lines().filter(|line| line.contains("  ^/")).count(), 307);
    assert!(
        listing.contains("sync-1…4 > main  ^/_matrix/client/(r0|v3|unstable)/sync$  without since"),
        "{listing}"
    );
}

/// Why synvisor sends a request to another process than matrix-docker-ansible-deploy does.
const REASONS: [(&str, &str); 5] = [
    ("room-without-server", "ids of rooms of version 12 have no server part, and its expressions want a colon"),
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
