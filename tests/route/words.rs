//! What `synvisor route` and `synvisor routes` print.

use std::collections::BTreeSet;
use std::path::Path;

use synvisor::config::Config;
use synvisor::route::RouteTable;
use synvisor::route::token_of;

use super::preset;
use super::world;

#[test]
fn the_explanation_names_unit_rule_and_reason() {
    // Mutations, each seen red: the chosen one not left out of those who stand in; the user not looked at; the next tier
    // not named.
    let table = preset("one-of-each").table;
    let has = |table: &RouteTable, method: &str, target: &str, words: &[&str]| {
        let text = table.explain(method, target, None, false);
        for word in words {
            assert!(text.contains(word), "{word} is not in {text}");
        }
    };
    let typing = [
        "unit:  typing-1\n",
        "rule:  28 PUT /_matrix/client/(api/v1|r0|v3|unstable)/rooms/*/typing/* (class typing)\n",
        "why:   only a writer of the typing stream can do it\n",
        "away:  requests wait for typing-1; no other process can answer them",
    ];
    has(&table, "PUT", "/_matrix/client/v3/rooms/!r/typing/@u:x", &typing);
    let sync = "/_matrix/client/v3/sync?since=1";
    has(&table, "GET", sync, &["unit:  generic-1\n", "main while generic-1 is down"]);
    has(&table, "GET", "/_synapse/metrics", &["unit:  none", "not for clients"]);
    has(&table, "GET", "/_synapse/admin/v1/rooms", &["unit:  main", "admin = true"]);
    has(&table, "GET", "http://x/_synapse/admin", &["unit:  none", "400"]);
    has(&table, "GET", "/health", &["unit:  router"]);
    has(&table, "GET", "/_matrix/client/v3/login/sso/redirect", &["unit:  main\n", "single sign-on"]);
    has(&table, "GET", "/nothing", &["unit:  main\n", "no other rule fits"]);

    let table = world("sync = 4\ngeneric = 2").table;
    has(
        &table,
        "GET",
        sync,
        &[
            "unit:  sync-1…4\n",
            "--user",
            "another one of them; while all of sync-1…4 are, generic-1…2, then main",
        ],
    );
    let of = |user: &str| {
        let header = format!("Bearer {}", token_of(user).unwrap());
        let text = table.explain("GET", sync, Some(&header), false);
        assert!(text.contains("all of this user's requests"), "{text}");
        let named = |label: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(label)).unwrap().trim();
            line.split(' ').next().unwrap().to_owned()
        };
        (named("unit:"), named("away:"))
    };
    let chosen: BTreeSet<_> = (0..40).map(|n| of(&format!("@user{n}:a.b"))).collect();
    assert!(chosen.iter().all(|(unit, away)| unit != away && away.starts_with("sync-")), "{chosen:?}");
    assert_eq!(chosen.iter().map(|(unit, _)| unit).collect::<BTreeSet<_>>().len(), 4);
}

#[test]
fn the_listing_has_a_line_for_each_rule() {
    // Mutation: wildcards left as they stand in the table: seen red.
    let table = world("sync = 4").table;
    let listing = table.listing(false);
    let rules: Vec<&str> =
        listing.lines().skip_while(|line| !line.starts_with("rule")).skip(1).map(str::trim).collect();
    assert_eq!(rules.len(), 307);
    assert!(rules.iter().enumerate().all(|(at, line)| line.starts_with(&format!("{} ", at + 1))));
    assert!(!rules.iter().any(|line| line.contains("[^") || line.contains('$') || line.contains("?:")));
    let sync = "sync-1…4 > main  /_matrix/client/(r0|v3|unstable)/sync  without since";
    assert!(listing.contains(sync), "{listing}");
    assert!(listing.contains(" /_matrix/federation/v1/send/*/?\n"), "{listing}");
    assert!(listing.contains(" /_synapse/mas/…\n"), "{listing}");
}

#[test]
fn what_the_matrix_authentication_service_does_is_said() {
    // Mutation: the setting not looked at: seen red.
    let toml = |enabled: &str| {
        format!("server_name = \"a.b\"\n[synapse.matrix_authentication_service]\nenabled = {enabled}\n")
    };
    let config = |enabled| Config::parse(&toml(enabled), Path::new("/")).unwrap().config;
    assert!(config("true").delegates_authentication() && !config("false").delegates_authentication());
    let table = preset("one-of-each").table;
    let login = "/_matrix/client/v3/login";
    let note =
        |target, delegated| table.explain("POST", target, None, delegated).contains("Authentication Service");
    assert!(note(login, true) && note("/_matrix/client/v3/refresh", true));
    assert!(!note(login, false) && !note("/_matrix/client/v3/register", true));
    assert!(table.listing(true).contains("left to MAS: 404") && !table.listing(false).contains("MAS"));
}
