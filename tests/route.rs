//! Every rule of the table reaches who must answer it, and none of the usual tricks reaches what is closed.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

use std::path::Path;

use synvisor::config::Config;
use synvisor::route::Clues;
use synvisor::route::Decision;
use synvisor::route::RequestHead;
use synvisor::route::RouteTable;
use synvisor::route::Rules;
use synvisor::topology::Topology;
use synvisor::topology::UnitName;

fn table(workers: &str) -> RouteTable {
    let toml = format!("server_name = \"a.b\"\n[workers]\n{workers}");
    RouteTable::of(&Topology::of(&Config::parse(&toml, Path::new("/")).unwrap().config))
}

fn head<'a>(method: &'a str, target: &'a str, admin: bool) -> RequestHead<'a> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    RequestHead { method, path, query, admin }
}

/// Who answers while the units named are down; none if the request waits.
fn answers(table: &RouteTable, method: &str, target: &str, down: &[&str]) -> Option<String> {
    match table.decide(&head(method, target, true)) {
        Decision::To(route) => {
            let clues = Clues { path: target, authorization: Some("Bearer x"), client: None };
            let up = |unit: &UnitName| !down.contains(&unit.as_str());
            Some(table.choose(route, &clues, 0, up).map_or("(waits)".to_owned(), ToString::to_string))
        }
        Decision::Health => Some("(health)".to_owned()),
        Decision::Denied => Some("(denied)".to_owned()),
        Decision::AdminClosed => Some("(admin closed)".to_owned()),
    }
}

/// A path that a pattern of the table matches: its first alternatives, with a word for every wildcard.
fn sample(pattern: &str) -> String {
    let mut text = pattern.trim_start_matches('^').to_owned();
    for (from, to) in [
        ("(?:[^/]*)", "word"),
        ("(?:[^/]+)", "word"),
        ("(?:[A-Za-z0-9_.~-]+)", "word"),
        ("(?:[\\w\\.]*)", "m.login.word"),
        ("pushrules/.*", "pushrules/global"),
        ("(/|$)", ""),
        ("/?$", ""),
        ("\\.", "."),
        ("$", ""),
    ] {
        text = text.replace(from, to);
    }
    // Optional groups are left out, of the others the first alternative is taken, from the inside outwards.
    while let Some(open) = text.rfind('(') {
        let close = open + text[open..].find(')').unwrap();
        let inner = text[open + 1..close].trim_start_matches("?:").split('|').next().unwrap().to_owned();
        let optional = text[close + 1..].starts_with('?');
        let rest = text[close + 1..].trim_start_matches('?').to_owned();
        text = format!("{}{}{rest}", &text[..open], if optional { "" } else { &inner });
    }
    text
}

#[test]
fn every_rule_reaches_its_owner_under_every_preset() {
    // Mutations: a rule's methods ignored, the last match taken for the first, strict rules given a second tier: red.
    let rules = Rules::new();
    let presets = ["none", "little-federation-helper", "one-of-each", "specialized-workers"];
    for preset in presets {
        let table = table(&format!("preset = \"{preset}\""));
        let mut reached = 0;
        for rule in &rules.all {
            let query = if rule.class == "sync" { "since=1&from=1" } else { "" };
            let path = sample(rule.pattern);
            for method in ["GET", "PUT", "POST", "DELETE"] {
                let Some(first) = rules.first(method, &path, query) else {
                    panic!("nothing fits {method} {path}")
                };
                if first.number != rule.number {
                    continue;
                }
                reached += 1;
                let Decision::To(route) = table.decide(&head(method, &format!("{path}?{query}"), true))
                else {
                    continue;
                };
                let candidates: Vec<String> = table.candidates(route).map(ToString::to_string).collect();
                check(preset, rule, &candidates);
            }
        }
        assert!(reached >= rules.all.len() - 5, "{preset}: only {reached} samples reached their own rule");
    }
}

/// Holds candidates against what the table's columns say, written down a second time.
fn check(preset: &str, rule: &synvisor::route::Rule, candidates: &[String]) {
    let workers = preset == "one-of-each" || preset == "specialized-workers";
    let name = |unit: &str| if workers { unit.to_owned() } else { "main".to_owned() };
    let what = format!("{preset}: rule {} {} goes to {candidates:?}", rule.number, rule.pattern);
    let only = |unit: &str| assert_eq!(candidates, [name(unit)], "{what}");
    let first = |unit: &str| assert_eq!(candidates.first(), Some(&name(unit)), "{what}");
    let reader = if preset == "specialized-workers" { "client-reader-1" } else { "generic-1" };
    let room = if preset == "specialized-workers" { "room-1" } else { "generic-1" };
    match (rule.class, rule.strict) {
        ("typing", true) => only("typing-1"),
        ("to_device", true) => only("to-device-1"),
        ("receipts", true) => only("receipts-1"),
        ("push_rules", true) => only("push-rules-1"),
        // No preset has a writer for it, so main writes it.
        ("thread_subscriptions", true) | ("main_only" | "sso", _) | ("admin", true) => {
            assert_eq!(candidates, ["main"], "{what}");
        }
        ("media", _) => only("media-repository-1"),
        ("media_admin", _) => {
            let owner = if rule.pattern.contains("quarantine") && !rule.pattern.contains("quarantine_changes")
            {
                "quarantined-media-changes-1"
            } else {
                "media-repository-1"
            };
            only(owner);
        }
        ("account_data", _) => first("account-data-1"),
        ("presence", _) => first("presence-1"),
        ("push_rules", false) => first("push-rules-1"),
        ("device_lists", _) => first("device-lists-1"),
        ("user_directory", _) => first("user-dir-1"),
        ("sync" | "initial_sync" | "sliding_sync", _) => {
            first(if preset == "specialized-workers" { "sync-1" } else { "generic-1" });
        }
        ("room" | "rooms_summary", _) => first(room),
        ("event_creation", _) => first(room),
        ("federation_single_room", _) => first(room),
        ("federation_reader" | "federation_inbound", _) => {
            first(if preset == "specialized-workers" { "federation-reader-1" } else { "generic-1" });
        }
        ("client_reader" | "login" | "register" | "room_keys" | "mas", _) | ("admin", false) => first(reader),
        ("thread_subscriptions", false) => first(reader),
        (class, strict) => panic!("{class} {strict} is not written down here"),
    }
    if !rule.strict {
        assert_eq!(candidates.last().map(String::as_str), Some("main"), "{what}");
    }
}

#[test]
fn a_strict_route_waits_and_another_falls_over() {
    let table = table("preset = \"one-of-each\"");
    let typing = "/_matrix/client/v3/rooms/!r/typing/@u:x";
    assert_eq!(answers(&table, "PUT", typing, &[]).unwrap(), "typing-1");
    assert_eq!(answers(&table, "PUT", typing, &["typing-1"]).unwrap(), "(waits)");
    let upload = "/_matrix/media/v3/upload";
    assert_eq!(answers(&table, "POST", upload, &["media-repository-1"]).unwrap(), "(waits)");
    let sync = "/_matrix/client/v3/sync";
    assert_eq!(answers(&table, "GET", sync, &["generic-1"]).unwrap(), "main");
    assert_eq!(answers(&table, "GET", sync, &["generic-1", "main"]).unwrap(), "(waits)");
    let rules = "/_matrix/client/v3/pushrules/global/override/x";
    assert_eq!(answers(&table, "GET", rules, &["push-rules-1"]).unwrap(), "generic-1");
    assert_eq!(answers(&table, "PUT", rules, &["push-rules-1"]).unwrap(), "(waits)");
}

#[test]
fn one_users_requests_meet_and_a_room_of_version_12_has_a_key() {
    let table = table("generic = 8");
    let unit = |target: &str, token: &str| {
        let Decision::To(route) = table.decide(&head("GET", target, false)) else { panic!() };
        let clues = Clues { path: target, authorization: Some(token), client: None };
        table.choose(route, &clues, token.len() as u64, |_| true).unwrap().to_string()
    };
    let sync = "/_matrix/client/v3/sync";
    assert_eq!(unit(sync, "Bearer alice"), unit("/_matrix/client/v3/keys/changes", "Bearer alice"));
    let spread: std::collections::BTreeSet<String> =
        (0..64).map(|n| unit(sync, &format!("Bearer u{n}"))).collect();
    assert_eq!(spread.len(), 8);
    let room = "/_matrix/client/v3/rooms/!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM/members";
    assert_eq!(unit(room, "Bearer alice"), unit(room, "Bearer bob"));
}

/// Where each odd request goes with one worker of each kind; the admin API is open, as on an administrator's listener.
const TRAPS: &[(&str, &str, &str)] = &[
    ("GET", "/health", "(health)"),
    ("GET", "/_synapse/replication/", "(denied)"),
    ("GET", "/_synapse/replication", "(denied)"),
    ("POST", "/_synapse/replication/send_event/x", "(denied)"),
    ("GET", "/_synapse/metrics", "(denied)"),
    ("GET", "/_synapse/metrics/x", "(denied)"),
    // Matched raw, as Synapse does: these are unknown paths, which main answers with 404.
    ("GET", "/_matrix/client/v3/sy%6ec", "main"),
    ("GET", "//_matrix/client/v3/sync", "main"),
    ("GET", "/_matrix//client/v3/sync", "main"),
    ("GET", "/_matrix/./client/v3/sync", "main"),
    ("GET", "/_matrix/x/../client/v3/sync", "main"),
    ("GET", "/_MATRIX/client/v3/sync", "main"),
    ("GET", "/_matrix/client/V3/sync", "main"),
    ("GET", "/_matrix/client/v3/sync/", "main"),
    ("GET", "/_matrix/client/v99/sync", "main"),
    ("GET", "/_matrix/client/v3/synchrotron", "main"),
    ("GET", "/", "main"),
    ("GET", "/nothing", "main"),
    ("POST", "/_matrix/client/v3/sync", "main"),
    ("BREW", "/_matrix/client/v3/sync", "main"),
    ("GET", "/_matrix/client/v3/sync", "generic-1"),
    ("HEAD", "/_matrix/client/v3/sync", "generic-1"),
    ("GET", "/_matrix/client/v3/sync?since=s1", "generic-1"),
    ("GET", "/_matrix/client/r0/sync?since=s1", "generic-1"),
    ("GET", "/_matrix/client/unstable/sync", "generic-1"),
    ("POST", "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", "generic-1"),
    ("PUT", "/_matrix/client/v3/rooms/!r:hs/typing/@u:hs", "typing-1"),
    ("PUT", "/_matrix/client/v3/rooms/%21r%3Ahs/typing/%40u%3Ahs", "typing-1"),
    ("PUT", "/_matrix/client/v3/rooms/!31hneApxJ_1o-63DmFrpeqnkFfWppnzWso1JvH3ogLM/typing/@u:hs", "typing-1"),
    ("PUT", "/_matrix/client/v3/rooms/!r%2Fx:hs/typing/@u:hs", "typing-1"),
    ("PUT", "/_matrix/client/v3/rooms/!r/x:hs/typing/@u:hs", "main"),
    ("GET", "/_matrix/client/v3/rooms/!r:hs/typing/@u:hs", "main"),
    ("PUT", "/_matrix/client/v3/rooms/!r:hs/typing/@u:hs/", "main"),
    ("PUT", "/_matrix/client/v3/rooms//typing/@u:hs", "typing-1"),
    ("POST", "/_matrix/client/v3/rooms/!r/receipt/m.read/$e", "receipts-1"),
    ("POST", "/_matrix/client/v3/rooms/!r/read_markers", "receipts-1"),
    ("PUT", "/_matrix/client/v3/sendToDevice/m.room.encrypted/1", "to-device-1"),
    ("PUT", "/_matrix/client/v3/user/@u:hs/account_data/m.x", "account-data-1"),
    ("PUT", "/_matrix/client/v3/user/@u:hs/rooms/!r/tags/m.favourite", "account-data-1"),
    ("PUT", "/_matrix/client/v3/presence/@u:hs/status", "presence-1"),
    ("GET", "/_matrix/client/v3/pushrules/", "push-rules-1"),
    ("GET", "/_matrix/client/v3/pushrules", "main"),
    ("PUT", "/_matrix/client/v3/pushrules/global/content/x", "push-rules-1"),
    ("POST", "/_matrix/client/v3/keys/upload", "device-lists-1"),
    ("GET", "/_matrix/client/v3/devices", "device-lists-1"),
    ("POST", "/_matrix/client/v3/keys/query", "generic-1"),
    // A key backup's path may hold a room id, and is about the user all the same.
    ("PUT", "/_matrix/client/v3/room_keys/keys/!r:hs/session", "generic-1"),
    ("GET", "/_matrix/client/v3/room_keys/version", "generic-1"),
    ("POST", "/_matrix/media/v3/upload", "media-repository-1"),
    ("PUT", "/_matrix/media/v3/upload/hs/id", "media-repository-1"),
    ("GET", "/_matrix/client/v1/media/download/hs/id", "media-repository-1"),
    ("GET", "/_matrix/client/v1/media/download/hs/id/name.png", "media-repository-1"),
    ("GET", "/_matrix/federation/v1/media/download/id", "media-repository-1"),
    ("GET", "/_matrix/media/v3/config", "media-repository-1"),
    ("POST", "/_synapse/admin/v1/media/quarantine/hs/id", "quarantined-media-changes-1"),
    ("POST", "/_synapse/admin/v1/purge_media_cache", "media-repository-1"),
    ("GET", "/_synapse/admin/v1/server_version", "main"),
    ("PUT", "/_synapse/admin/v2/users/@u:hs", "main"),
    ("GET", "/_synapse/admin/v2/users/@u:hs", "generic-1"),
    ("POST", "/_matrix/client/v3/user_directory/search", "user-dir-1"),
    ("POST", "/_matrix/client/v3/logout", "main"),
    ("POST", "/_matrix/client/v3/account/password", "main"),
    ("GET", "/_matrix/client/v3/login/sso/redirect", "main"),
    ("POST", "/_matrix/client/v3/login", "generic-1"),
    ("PUT", "/_matrix/federation/v1/send/123", "generic-1"),
    ("PUT", "/_matrix/federation/v1/send/123/", "generic-1"),
    ("GET", "/_matrix/federation/v1/version", "generic-1"),
    ("GET", "/_matrix/key/v2/server", "generic-1"),
    ("GET", "/_matrix/key/v2/server/ed25519:a", "generic-1"),
    ("GET", "/.well-known/matrix/server", "generic-1"),
    ("GET", "/.well-known/matrix/client", "generic-1"),
    ("GET", "/.well-known/matrix/other", "main"),
    ("OPTIONS", "/_matrix/client/v3/sync", "main"),
    ("GET", "/_matrix/client/v3/profile/@u:hs", "generic-1"),
    ("GET", "/_matrix/client/v3/sync?x=/_synapse/replication", "generic-1"),
];

#[test]
fn odd_requests_go_where_synapse_would_have_them() {
    let table = table("preset = \"one-of-each\"");
    let wrong: Vec<String> = TRAPS
        .iter()
        .filter_map(|(method, target, expected)| {
            let unit = answers(&table, method, target, &[]).unwrap();
            (unit != *expected).then(|| format!("{method} {target}: {unit}, not {expected}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let long = format!("/_matrix/client/v3/rooms/!{}/members", "x".repeat(60_000));
    assert_eq!(answers(&table, "GET", &long, &[]).unwrap(), "generic-1");
}

#[test]
fn the_admin_api_is_closed_unless_the_listener_opens_it() {
    // Mutation: `!head.admin` dropped: seen red.
    let table = table("preset = \"one-of-each\"");
    for rule in Rules::new().all.iter().filter(|rule| rule.pattern.starts_with("^/_synapse/admin")) {
        let path = sample(rule.pattern);
        for method in ["GET", "PUT", "POST", "DELETE"] {
            assert!(
                matches!(table.decide(&head(method, &path, false)), Decision::AdminClosed),
                "{method} {path}"
            );
        }
    }
    assert!(matches!(table.decide(&head("GET", "/_synapse/adminx", false)), Decision::AdminClosed));
}

#[test]
fn the_explanation_names_unit_rule_and_reason() {
    let table = table("preset = \"one-of-each\"");
    let text = table.explain("PUT", "/_matrix/client/v3/rooms/!r/typing/@u:x");
    for word in
        ["unit:  typing-1", "class typing", "only a writer of the typing stream", "requests wait for it"]
    {
        assert!(text.contains(word), "{text}");
    }
    let text = table.explain("GET", "/_matrix/client/v3/sync?since=1");
    assert!(text.contains("unit:  generic-1") && text.contains("main in its place"), "{text}");
    assert!(table.explain("GET", "/_synapse/metrics").contains("not for clients"));
    assert!(table.explain("GET", "/_synapse/admin/v1/rooms").contains("admin = true"));
}
