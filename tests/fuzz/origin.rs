//! Whatever stands in Authorization: a request of another server, or of a user, goes to one process, and always to it.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use synvisor::config::Config;
use synvisor::route::Clues;
use synvisor::route::Decision;
use synvisor::route::RequestHead;
use synvisor::route::RouteTable;
use synvisor::topology::Topology;

static TABLE: LazyLock<RouteTable> = LazyLock::new(|| {
    let toml = "server_name = \"a.b\"\n[workers]\npreset = \"specialized-workers\"\nfederation_reader = 4\nsync = 4";
    let config = Config::parse(toml, Path::new("/")).map(|parsed| parsed.config);
    RouteTable::of(&Topology::of(&config.expect("it is a configuration")))
});

fuzz_target!(|authorization: &str| {
    for (method, path) in [("PUT", "/_matrix/federation/v1/send/1"), ("GET", "/_matrix/client/v3/sync")] {
        let head = RequestHead { method, path, query: "", admin: false };
        let Decision::To(route) = TABLE.decide(&head) else { panic!("{path} goes to a process") };
        let clues = Clues { path, query: "", authorization: Some(authorization), client: None };
        let unit = |turn| TABLE.choose(route, RouteTable::key(route, &clues, turn), |_| true);
        assert!(unit(1).is_some());
        // Who has no origin and no token goes to whoever has the least to do.
        if authorization.to_ascii_lowercase().starts_with("bearer x") {
            assert_eq!(unit(1), unit(2));
        }
    }
});
