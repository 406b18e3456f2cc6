//! Whatever a client sends as the head of a request: it is refused, or it says one thing only, and says the same once it
//! has been written anew for a process.
#![no_main]

use std::path::Path;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use synvisor::config::Config;
use synvisor::http1;
use synvisor::http1::Length;
use synvisor::http1::RequestHead;
use synvisor::route::Clues;
use synvisor::route::Decision;
use synvisor::route::RouteTable;
use synvisor::topology::Topology;

static TABLE: LazyLock<RouteTable> = LazyLock::new(|| {
    let toml = "server_name = \"a.b\"\n[workers]\npreset = \"specialized-workers\"";
    let config = Config::parse(toml, Path::new("/")).map(|parsed| parsed.config);
    RouteTable::of(&Topology::of(&config.expect("it is a configuration")))
});

fuzz_target!(|bytes: &[u8]| {
    let mut room = http1::room();
    let Ok(Some((head, length))) = RequestHead::parse(bytes, &mut room) else { return };
    let text = &bytes[..length];
    assert!(text.ends_with(b"\r\n\r\n"));
    assert!(text.iter().enumerate().all(|(at, byte)| *byte != b'\n' || text[at - 1] == b'\r'), "a bare line feed");
    assert!(head.target.bytes().all(|byte| byte.is_ascii_graphic()));
    let lengths: Vec<&[u8]> = http1::find(head.fields, "content-length").collect();
    let encodings = http1::find(head.fields, "transfer-encoding").count();
    match head.body {
        Length::Chunked => assert!(encodings == 1 && lengths.is_empty()),
        Length::Known(length) => {
            assert_eq!(encodings, 0);
            assert!(lengths.len() <= 1);
            assert_eq!(lengths.first().map_or(0, |text| std::str::from_utf8(text).unwrap().parse().unwrap()), length);
        }
        Length::UntilClose => panic!("a request has an end"),
    }
    // A part of it is never taken for the whole.
    for end in [length / 2, length - 1] {
        assert!(!matches!(RequestHead::parse(&bytes[..end], &mut http1::room()), Ok(Some(_))));
    }
    let asked = synvisor::route::RequestHead { method: head.method, path: head.path(), query: head.query(), admin: false };
    if let Decision::To(route) = TABLE.decide(&asked) {
        assert!(!asked.path.starts_with("/_synapse/admin"));
        let clues = Clues { path: asked.path, query: asked.query, authorization: head.authorization, client: None };
        assert!(TABLE.choose(route, RouteTable::key(route, &clues, 1), |_| true).is_some());
    }
});
