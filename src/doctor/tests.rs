//! Each check with its fault and without it.

use std::path::Path;

use super::*;
use crate::config::Config;

const GIB: u64 = 1 << 30;

fn config(more: &str) -> Config {
    let text = format!("server_name = \"example.com\"\npublic_baseurl = \"https://m.example.com/\"\n{more}");
    Config::parse(&text, Path::new("/")).unwrap().config
}

/// A machine on which everything is as it should be.
fn healthy() -> Facts {
    let own = vec![(7, "synvisor".to_owned())];
    Facts {
        database: Ok(Database {
            encoding: "UTF8".to_owned(),
            collate: "C".to_owned(),
            ctype: "C".to_owned(),
            max_connections: 100,
            reserved: 3,
            others: 0,
            version: 150_004,
        }),
        redis: Ok(()),
        ports: vec![Port { address: "127.0.0.1:8008".parse().unwrap(), taken: None }],
        most_files: Ok(65_536),
        clock_is_kept: Ok(true),
        places: vec![Place {
            what: "media",
            path: "/srv/media".into(),
            free: 50 * GIB,
            size: 100 * GIB,
            free_files: 1_000,
            files: 2_000,
            open: true,
        }],
        memory: 8 * GIB,
        kept: vec![Kept { path: "/secrets".into(), owner: 7, mode: 0o700, owners: own, never: 0o077 }],
        drop_ins: vec![DropIn {
            path: "/d/a.conf".into(),
            text: "[Service]\nReadWritePaths=/data\n# Type=x".into(),
        }],
        warnings: Vec::new(),
        public: Public {
            unasked: None,
            server: WellKnown::Says { value: "m.example.com:443".to_owned(), cors: true },
            client: WellKnown::Says { value: "https://m.example.com".to_owned(), cors: true },
            federation: Ok("example.com".to_owned()),
            clients: Ok(()),
            address: "203.0.113.9".parse().ok(),
            admin: Some(403),
        },
    }
}

/// What a check says of a machine that is healthy but for one thing.
fn said(check: &str, config: &Config, break_it: impl FnOnce(&mut Facts)) -> Vec<(Severity, String)> {
    let mut facts = healthy();
    break_it(&mut facts);
    let findings = examine(config, &facts);
    let of = findings.iter().filter(|finding| finding.check == check);
    let found: Vec<_> = of.map(|finding| (finding.severity, finding.what.clone())).collect();
    for finding in &findings {
        let silent = matches!(finding.severity, Severity::Fine | Severity::Unknown);
        assert_eq!(finding.remedy.is_empty(), silent, "{finding:?}");
        assert!(!silent || finding.check == check || finding.severity == Severity::Fine, "{finding:?}");
    }
    found
}

/// The worst that a check says.
fn worst(check: &str, config: &Config, break_it: impl FnOnce(&mut Facts)) -> Severity {
    said(check, config, break_it).into_iter().map(|(severity, _)| severity).max().unwrap()
}

#[test]
fn a_healthy_machine_has_nothing_to_complain_of() {
    for text in ["", "[workers]\npreset = \"one-of-each\""] {
        let findings = examine(&config(text), &healthy());
        assert!(findings.iter().all(|finding| finding.severity == Severity::Fine), "{findings:#?}");
        assert!(findings.len() >= 15);
    }
}

#[test]
fn each_fault_is_found_by_its_check() {
    type Break = fn(&mut Facts);
    fn database(facts: &mut Facts) -> &mut Database {
        facts.database.as_mut().unwrap()
    }
    let plain = config("");
    let workers = config("[workers]\npreset = \"one-of-each\"");
    let faults: Vec<(&str, &Config, Severity, Break)> = vec![
        ("database", &plain, Severity::Error, |facts| facts.database = Err("away".to_owned())),
        ("collation", &plain, Severity::Error, |facts| database(facts).collate = "en_US.UTF-8".to_owned()),
        ("collation", &plain, Severity::Error, |facts| database(facts).ctype = "de_DE".to_owned()),
        ("collation", &plain, Severity::Error, |facts| database(facts).encoding = "LATIN1".to_owned()),
        ("connections", &workers, Severity::Error, |facts| database(facts).max_connections = 50),
        ("connections", &workers, Severity::Error, |facts| database(facts).reserved = 40),
        ("connections", &workers, Severity::Error, |facts| database(facts).others = 40),
        ("postgresql", &plain, Severity::Warning, |facts| database(facts).version = 130_009),
        ("redis", &workers, Severity::Error, |facts| facts.redis = Err("away\n  start it".to_owned())),
        ("port", &plain, Severity::Error, |facts| facts.ports[0].taken = Some("in use".to_owned())),
        ("open files", &plain, Severity::Warning, |facts| facts.most_files = Ok(1_024)),
        ("clock", &plain, Severity::Warning, |facts| facts.clock_is_kept = Ok(false)),
        ("disk", &plain, Severity::Warning, |facts| facts.places[0].free = GIB / 2),
        ("disk", &plain, Severity::Warning, |facts| facts.places[0].size = 2_000 * GIB),
        ("disk", &plain, Severity::Warning, |facts| facts.places[0].free_files = 10),
        ("disk", &plain, Severity::Error, |facts| facts.places[0].open = false),
        ("modes", &plain, Severity::Error, |facts| facts.kept[0].mode = 0o750),
        ("modes", &plain, Severity::Error, |facts| facts.kept[0].owner = 8),
        ("drop-ins", &plain, Severity::Warning, |facts| {
            facts.drop_ins[0].text.push_str("\nKillMode = mixed")
        }),
        ("memory", &workers, Severity::Error, |facts| facts.memory = GIB / 2),
        ("settings", &plain, Severity::Warning, |facts| {
            facts.warnings.push(("unknown setting".to_owned(), "remove it".to_owned()));
        }),
        ("admin API", &plain, Severity::Error, |facts| facts.public.admin = Some(401)),
        ("delegation", &plain, Severity::Error, |facts| {
            facts.public.server = WellKnown::Wrong("it answers 502".to_owned());
        }),
        ("delegation", &plain, Severity::Error, |facts| facts.public.federation = Ok("other.com".to_owned())),
        ("delegation", &plain, Severity::Error, |facts| facts.public.federation = Err("refused".to_owned())),
        ("clients", &plain, Severity::Error, |facts| facts.public.clients = Err("refused".to_owned())),
        ("clients", &plain, Severity::Warning, |facts| facts.public.client = WellKnown::Absent),
        ("clients", &plain, Severity::Warning, |facts| {
            facts.public.client = WellKnown::Says { value: "https://other.com".to_owned(), cors: true };
        }),
        ("clients", &plain, Severity::Warning, |facts| {
            facts.public.client = WellKnown::Says { value: "https://m.example.com/".to_owned(), cors: false };
        }),
        ("X-Forwarded-For", &plain, Severity::Error, |facts| facts.public.address = Some(FORGED)),
        ("X-Forwarded-For", &plain, Severity::Warning, |facts| {
            facts.public.address = "127.0.0.1".parse().ok();
        }),
    ];
    for (number, (check, config, severity, fault)) in faults.into_iter().enumerate() {
        assert_eq!(worst(check, config, |_| ()), Severity::Fine, "{check} {number}");
        assert_eq!(worst(check, config, fault), severity, "{check} {number}");
    }
}

#[test]
fn faults_of_the_configuration_are_found() {
    let cases = [
        (
            "registration",
            "[synapse]\nenable_registration = true\nenable_registration_without_verification = true",
        ),
        ("admin API", "[[listen]]\naddress = \"0.0.0.0:8008\"\nadmin = true"),
        (
            "memory",
            "[workers]\npreset = \"one-of-each\"\n[synapse.caches.cache_autotuning]\nmax_cache_memory_usage = \"1024M\"",
        ),
        ("memory", "[workers]\npreset = \"one-of-each\"\n[synapse.caches]\nglobal_factor = 10"),
        ("connections", "[workers]\ngeneric = 4\n[units.all]\ncp_max = 50"),
    ];
    for (check, text) in cases {
        assert_eq!(worst(check, &config(""), |_| ()), Severity::Fine, "{check}");
        assert!(worst(check, &config(text), |_| ()) >= Severity::Warning, "{check}: {text}");
    }
    let guarded = "[synapse]\nenable_registration = true\nregistration_requires_token = true";
    assert_eq!(worst("registration", &config(guarded), |_| ()), Severity::Fine);
}

#[test]
fn what_cannot_be_looked_at_is_said_and_is_no_fault() {
    let facts = Facts {
        most_files: Err("not running".to_owned()),
        clock_is_kept: Err("not permitted".to_owned()),
        public: Public { unasked: Some("left out".to_owned()), ..healthy().public },
        ..healthy()
    };
    let findings = examine(&config(""), &facts);
    let unknown = findings.iter().filter(|finding| finding.severity == Severity::Unknown).count();
    assert_eq!(unknown, 5);
    assert!(findings.iter().all(|finding| finding.severity <= Severity::Unknown));
}

#[test]
fn a_directory_is_open_where_the_unit_or_a_drop_in_says_so() {
    let unit = "[Service]\nReadWritePaths=-/srv -/mnt\n";
    let drop_ins = healthy().drop_ins;
    assert!(is_open(Path::new("/srv/media"), unit, &drop_ins));
    assert!(is_open(Path::new("/data"), unit, &drop_ins));
    assert!(!is_open(Path::new("/srvx"), unit, &drop_ins));
    assert!(!is_open(Path::new("/data"), unit, &[]));
}
