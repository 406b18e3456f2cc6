//! What the web servers in front are told: golden files for each of them and each way to be found.
//!
//! `UPDATE=1 cargo test --test front` writes the golden files anew; `tests/e2e/test_front_configs.py` runs what is in them.

#![expect(clippy::disallowed_methods, reason = "tests write golden files and run the command line")]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use synvisor::config::Config;
use synvisor::config::problem;
use synvisor::render::front;
use synvisor::render::front::Server;
use synvisor::router;

const SPLIT: &str = "server_name = \"example.com\"\npublic_baseurl = \"https://matrix.example.com/\"\n";

/// Hosts and ports by which a homeserver is reached as well.
type Also = &'static [(&'static str, u16)];

/// Name, file, whether port 8448 is wanted, and by what else it is reached.
const SETUPS: [(&str, &str, bool, Also); 5] = [
    ("same-host", "server_name = \"example.com\"\n", false, &[]),
    ("same-host-8448", "server_name = \"example.com\"\n", true, &[]),
    ("split-host", SPLIT, false, &[]),
    ("split-host-8448", SPLIT, true, &[]),
    ("split-host-also-8448", SPLIT, false, &[("matrix.example.com", 8448)]),
];

/// What only some have.
const RARE: &str = "server_name = \"example.com\"
trusted_proxies = [\"10.0.0.0/8\"]
[[listen]]
address = \"127.0.0.1:8009\"
admin = true
[[listen]]
address = \"[2001:db8::7]:8008\"
[synapse]
serve_server_wellknown = false
max_upload_size = \"300M\"
matrix_authentication_service.enabled = true
matrix_authentication_service.endpoint = \"http://localhost:8080/\"
matrix_authentication_service.secret_path = \"/etc/mas\"
";

fn printed(text: &str, server: Server, federation_port: bool) -> Result<String, String> {
    printed_also(text, server, federation_port, &[])
}

fn printed_also(
    text: &str,
    server: Server,
    federation_port: bool,
    also: &[(&str, u16)],
) -> Result<String, String> {
    let also: Vec<(String, u16)> = also.iter().map(|(host, port)| ((*host).to_owned(), *port)).collect();
    let parsed = Config::parse(text, Path::new("/etc/synvisor"));
    let parsed = parsed.unwrap_or_else(|problems| panic!("{}", problem::print_all(&problems, "f", text)));
    front::front(&parsed, server, federation_port, &also).map_err(|problem| problem.print("f", text))
}

#[test]
fn configurations_are_as_they_were() {
    // Anything in render/front/ that changes what is printed is seen red here by definition.
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/front");
    let mut expected: BTreeSet<PathBuf> = BTreeSet::new();
    let mut differing = Vec::new();
    let setups = SETUPS.into_iter().chain([("rare", RARE, false, &[][..])]);
    for (name, text, federation_port, also) in setups {
        for server in Server::ALL {
            let found = printed_also(text, server, federation_port, also).unwrap_or_else(|problem| problem);
            let path = golden.join(format!("{name}.{}", server.name()));
            if std::env::var_os("UPDATE").is_some() {
                fs::create_dir_all(&golden).unwrap();
                fs::write(&path, &found).unwrap();
            }
            if !fs::read(&path).is_ok_and(|held| held == found.as_bytes()) {
                differing.push(format!("{}:\n{found}", path.display()));
            }
            expected.insert(path);
        }
    }
    for entry in fs::read_dir(golden).unwrap().map(|entry| entry.unwrap().path()) {
        assert!(expected.contains(&entry), "{} is no longer made", entry.display());
    }
    assert!(
        differing.is_empty(),
        "not as in tests/golden/front (UPDATE=1 rewrites):\n{}",
        differing.join("\n")
    );
}

#[test]
fn what_no_front_can_stand_before_is_refused_with_its_place() {
    // Mutation: the first listener taken, whatever it is: seen red.
    let problem = |text: &str| printed(text, Server::Nginx, false).unwrap_err();
    let admin = problem("server_name = \"a.org\"\n[[listen]]\naddress = \"127.0.0.1:8008\"\nadmin = true\n");
    assert!(admin.starts_with("f:4:9: error: every [[listen]] has admin = true"), "{admin}");
    let plain = problem("server_name = \"a.org\"\npublic_baseurl = \"http://localhost:8008\"\n");
    assert!(plain.starts_with("f:2:18: error: public_baseurl is without TLS"), "{plain}");
}

#[test]
fn the_command_line_prints_it_or_says_why_not() {
    // Mutation: --federation-port not passed on: seen red.
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("synvisor.toml");
    let run = |text: &str, arguments: &[&str]| {
        fs::write(&file, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_synvisor"));
        let output = command.arg("front").args(arguments).arg("--config").arg(&file).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(output.stdout), text(output.stderr), output.status.code().unwrap())
    };
    for server in Server::ALL {
        for (flags, wanted, also) in [
            (vec![], false, &[][..]),
            (vec!["--federation-port"], true, &[]),
            (vec!["--also", "b.org:1", "--also", "[::1]:2"], false, &[("b.org", 1), ("[::1]", 2)]),
        ] {
            let found = run(SPLIT, &[vec![server.name()], flags].concat());
            let expected = printed_also(SPLIT, server, wanted, also).unwrap();
            assert_eq!(found, (expected, String::new(), 0));
        }
    }
    let (out, err, code) = run("server_nam = \"a.org\"\n", &["nginx"]);
    assert_eq!((out.as_str(), code), ("", 78));
    assert!(err.contains("synvisor.toml:1:1: error:"), "{err}");
    assert_eq!(run("server_name = \"a.org\"\npublic_baseurl = \"https://a.org/b\"\n", &["caddy"]).2, 78);
    assert_eq!(run(SPLIT, &["lighttpd"]).2, 64);
    assert_eq!(run(SPLIT, &["caddy", "--also", "b.org"]).2, 64);
}

#[test]
fn a_front_waits_longer_than_the_router_and_closes_idle_connections_first() {
    // Mutation: IDLE 80: seen red.
    assert!(front::IDLE < router::KeepAlive::default().timeout.as_secs());
    let longest = router::REPLAY_WITHIN + router::Parking::default().longest + router::RESPONSE;
    assert!(front::PATIENCE > longest.as_secs());
}
