//! Each check with its fault and without it.

use std::path::Path;

use super::*;
use crate::certificate::Certificate;
use crate::certificate::Validity;
use crate::config::Config;

const GIB: u64 = 1 << 30;

const SHIPPED: &str = "[Service]\nType=notify\nExecStart=/usr/bin/synvisor supervise\nKillMode=process\n";

/// A listener that speaks TLS itself.
const TLS: &str =
    "[[listen]]\naddress = \"0.0.0.0:8448\"\ntls = [{ certificate_file = \"c\", private_key_file = \"k\" }]";

fn config(more: &str) -> Config {
    let text = format!("server_name = \"example.com\"\npublic_baseurl = \"https://m.example.com/\"\n{more}");
    Config::parse(&text, Path::new("/")).unwrap().config
}

fn seen(address: &str, believed: usize) -> Option<Seen> {
    Some(Seen { address: address.parse().unwrap(), believed })
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
            room: Ok(Room { free: 50 * GIB, size: 100 * GIB, free_files: 1_000, files: 2_000 }),
            open: true,
        }],
        memory: 8 * GIB,
        kept: vec![Kept { path: "/secrets".into(), owner: 7, mode: 0o700, owners: own, never: 0o077 }],
        shipped: SHIPPED,
        unit: None,
        drop_ins: vec![DropIn {
            path: "/d/a.conf".into(),
            text: "[Service]\nReadWritePaths=/data\n# Type=x".into(),
        }],
        installed: true,
        warnings: Vec::new(),
        unfit: Vec::new(),
        certificates: vec![Served {
            listen: "0.0.0.0:8448".parse().unwrap(),
            certificate: Certificate { names: vec!["*.example.com".to_owned()], since: 0, until: 1 },
            validity: Validity::Enough,
        }],
        without_certificate: Vec::new(),
        public: Public {
            unasked: None,
            server: WellKnown::Says { value: "m.example.com:443".to_owned(), cors: true },
            client: WellKnown::Says { value: "https://m.example.com".to_owned(), cors: true },
            federation: Ok("example.com".to_owned()),
            by_record: None,
            record: Ok(None),
            clients: Ok(()),
            seen: seen("203.0.113.9", 1),
            from: "198.51.100.7".parse().ok(),
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
    // Mutations, each seen red: POSIX taken for C; what was not seen called an error; unfit secrets a warning; a front that
    // nobody believes not looked for; an address with another behind it taken for one that was passed on; every address of
    // X-Forwarded-For taken for the client's; SRV records not known taken for none; no answer to servers called fine.
    type Break = fn(&mut Facts);
    fn database(facts: &mut Facts) -> &mut Database {
        facts.database.as_mut().unwrap()
    }
    fn room(facts: &mut Facts) -> &mut Room {
        facts.places[0].room.as_mut().unwrap()
    }
    let plain = config("");
    let workers = config("[workers]\npreset = \"one-of-each\"");
    let tls = config(TLS);
    let faults: Vec<(&str, &Config, Severity, Break)> = vec![
        ("database", &plain, Severity::Error, |facts| {
            facts.database = Err(Trouble::Fault("away".to_owned()));
        }),
        ("database", &plain, Severity::Unknown, |facts| {
            facts.database = Err(Trouble::Unseen("its password is not known".to_owned()));
        }),
        ("collation", &plain, Severity::Error, |facts| database(facts).collate = "en_US.UTF-8".to_owned()),
        ("collation", &plain, Severity::Error, |facts| database(facts).ctype = "de_DE".to_owned()),
        ("collation", &plain, Severity::Error, |facts| database(facts).collate = "POSIX".to_owned()),
        ("collation", &plain, Severity::Error, |facts| database(facts).encoding = "LATIN1".to_owned()),
        ("connections", &workers, Severity::Error, |facts| database(facts).max_connections = 50),
        ("connections", &workers, Severity::Error, |facts| database(facts).reserved = 40),
        ("connections", &workers, Severity::Error, |facts| database(facts).others = 40),
        ("postgresql", &plain, Severity::Error, |facts| database(facts).version = 130_009),
        ("redis", &workers, Severity::Error, |facts| {
            facts.redis = Err(Trouble::Fault("away\n  start it".to_owned()));
        }),
        ("redis", &workers, Severity::Unknown, |facts| {
            facts.redis = Err(Trouble::Unseen("its password is not known".to_owned()));
        }),
        ("port", &plain, Severity::Error, |facts| facts.ports[0].taken = Some("in use".to_owned())),
        ("open files", &plain, Severity::Warning, |facts| facts.most_files = Ok(1_024)),
        ("clock", &plain, Severity::Warning, |facts| facts.clock_is_kept = Ok(false)),
        ("disk", &plain, Severity::Warning, |facts| room(facts).free = GIB / 2),
        ("disk", &plain, Severity::Warning, |facts| room(facts).size = 2_000 * GIB),
        ("disk", &plain, Severity::Warning, |facts| room(facts).free_files = 10),
        ("disk", &plain, Severity::Error, |facts| facts.places[0].open = false),
        ("disk", &plain, Severity::Error, |facts| {
            facts.places[0].room = Err(Trouble::Fault("no such directory".to_owned()));
        }),
        ("disk", &plain, Severity::Unknown, |facts| {
            facts.places[0].room = Err(Trouble::Unseen("not permitted".to_owned()));
        }),
        ("modes", &plain, Severity::Error, |facts| facts.kept[0].mode = 0o750),
        ("modes", &plain, Severity::Error, |facts| facts.kept[0].owner = 8),
        ("drop-ins", &plain, Severity::Warning, |facts| {
            facts.drop_ins[0].text.push_str("\nKillMode = mixed")
        }),
        ("memory", &workers, Severity::Error, |facts| facts.memory = GIB / 2),
        ("settings", &plain, Severity::Warning, |facts| {
            facts.warnings.push(("unknown setting".to_owned(), "remove it".to_owned()));
        }),
        ("secrets", &plain, Severity::Error, |facts| {
            facts.unfit.push(("/etc/key is empty".to_owned(), "write it".to_owned()));
        }),
        ("certificate", &tls, Severity::Warning, |facts| {
            facts.certificates[0].validity = Validity::Short(13)
        }),
        ("certificate", &tls, Severity::Error, |facts| facts.certificates[0].validity = Validity::Expired),
        ("certificate", &tls, Severity::Error, |facts| facts.certificates[0].validity = Validity::NotYet),
        ("certificate", &tls, Severity::Warning, |facts| {
            facts.certificates[0].certificate.names = vec!["example.org".to_owned()];
        }),
        ("certificate", &tls, Severity::Error, |facts| {
            facts.without_certificate.push(Trouble::Fault("/etc/a.pem holds none\nput it there".to_owned()));
        }),
        ("certificate", &tls, Severity::Unknown, |facts| {
            facts.without_certificate.push(Trouble::Unseen("/etc/a.pem: not permitted".to_owned()));
        }),
        ("admin API", &plain, Severity::Error, |facts| facts.public.admin = Some(401)),
        ("admin API", &plain, Severity::Unknown, |facts| facts.public.admin = None),
        ("delegation", &plain, Severity::Warning, |facts| {
            facts.public.server = WellKnown::Wrong("it answers 502".to_owned());
        }),
        ("delegation", &plain, Severity::Error, |facts| {
            facts.public.server = WellKnown::Wrong("it answers 502".to_owned());
            facts.public.federation = Err("refused".to_owned());
        }),
        ("delegation", &plain, Severity::Error, |facts| facts.public.federation = Ok("other.com".to_owned())),
        ("delegation", &plain, Severity::Error, |facts| facts.public.federation = Err("refused".to_owned())),
        ("delegation", &plain, Severity::Unknown, |facts| {
            facts.public.server = WellKnown::Absent;
            facts.public.federation = Err("refused".to_owned());
            facts.public.by_record = Some("example.com".to_owned());
            facts.public.record = Err("no name server answers".to_owned());
        }),
        ("clients", &plain, Severity::Error, |facts| facts.public.clients = Err("refused".to_owned())),
        ("clients", &plain, Severity::Warning, |facts| facts.public.client = WellKnown::Absent),
        ("clients", &plain, Severity::Warning, |facts| {
            facts.public.client = WellKnown::Wrong("it answers 500".to_owned());
        }),
        ("clients", &plain, Severity::Warning, |facts| {
            facts.public.client = WellKnown::Says { value: "https://other.com".to_owned(), cors: true };
        }),
        ("clients", &plain, Severity::Warning, |facts| {
            facts.public.client = WellKnown::Says { value: "https://m.example.com/".to_owned(), cors: false };
        }),
        // What clients say of themselves is passed on.
        ("X-Forwarded-For", &plain, Severity::Error, |facts| facts.public.seen = seen("192.0.2.1", 1)),
        // A believed address was added behind it.
        ("X-Forwarded-For", &plain, Severity::Unknown, |facts| facts.public.seen = seen("192.0.2.1", 2)),
        // Nobody believes the web server in front.
        ("X-Forwarded-For", &plain, Severity::Warning, |facts| facts.public.seen = seen("10.0.0.2", 0)),
        // It says nothing, or names another web server in front of itself.
        ("X-Forwarded-For", &plain, Severity::Warning, |facts| facts.public.seen = seen("127.0.0.1", 0)),
        ("X-Forwarded-For", &plain, Severity::Warning, |facts| facts.public.seen = seen("127.0.0.1", 1)),
        ("X-Forwarded-For", &plain, Severity::Unknown, |facts| facts.public.seen = None),
    ];
    let mut missed = Vec::new();
    for (number, (check, config, severity, fault)) in faults.into_iter().enumerate() {
        assert_eq!(worst(check, config, |_| ()), Severity::Fine, "{check} {number}");
        let found = worst(check, config, fault);
        if found != severity {
            missed.push(format!("{check}, {number}: {found:?}, not {severity:?}"));
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn faults_of_the_configuration_are_found() {
    // Mutation: the caches of [units.NAME] left out: seen red.
    let cases = [
        (
            "registration",
            "[synapse]\nenable_registration = true\nenable_registration_without_verification = true",
        ),
        ("admin API", "[[listen]]\naddress = \"0.0.0.0:8008\"\nadmin = true"),
        ("memory", "[workers]\npreset = \"one-of-each\"\n[synapse.caches]\nglobal_factor = 10"),
        ("memory", "[workers]\npreset = \"one-of-each\"\n[units.workers.caches]\nglobal_factor = 10"),
        ("connections", "[workers]\ngeneric = 4\n[units.all]\ncp_max = 50"),
    ];
    for (check, text) in cases {
        assert_eq!(worst(check, &config(""), |_| ()), Severity::Fine, "{check}");
        assert!(worst(check, &config(text), |_| ()) >= Severity::Warning, "{check}: {text}");
    }
}

#[test]
fn registration_is_guarded_by_what_has_to_be_brought() {
    // Mutation: an empty list of addresses taken for a guard: seen red.
    // What Synapse itself asks of open registration (1.163: `synapse/app/homeserver.py`).
    let open = "[synapse]\nenable_registration = true\nenable_registration_without_verification = true";
    for (guard, severity) in [
        ("registration_requires_token = true", Severity::Fine),
        ("enable_registration_captcha = true", Severity::Fine),
        ("registrations_require_3pid = [\"email\"]", Severity::Fine),
        ("registrations_require_3pid = []", Severity::Warning),
        ("enable_registration_captcha = false", Severity::Warning),
    ] {
        let config = config(&format!("{open}\n{guard}"));
        assert_eq!(worst("registration", &config, |_| ()), severity, "{guard}");
    }
}

#[test]
fn the_bound_of_caches_holds_with_jemalloc_alone() {
    // Mutations, each seen red: the bound kept without jemalloc; the factor before the bound.
    let bounded = |memory: &str, factor: &str, more: &str| {
        config(&format!(
            "[workers]\npreset = \"one-of-each\"\n[synapse.caches]\n{factor}\n\
             [synapse.caches.cache_autotuning]\nmax_cache_memory_usage = \"{memory}\"\n{more}"
        ))
    };
    let jemalloc = "[units.all]\nenvironment = { LD_PRELOAD = \"libjemalloc.so.2\" }";
    let findings = |config: &Config| said("memory", config, |_| ());
    // One that fits is what there is to say, however large the factor.
    let fits = findings(&bounded("100M", "global_factor = 10", jemalloc));
    assert_eq!(fits, [(Severity::Fine, "17 processes, 8192 MiB".to_owned())]);
    let large = findings(&bounded("1G", "", jemalloc));
    assert_eq!(large[0].0, Severity::Warning);
    assert!(large[0].1.contains("18258 MiB"), "{large:?}");
    // Without jemalloc it is none.
    let unkept = findings(&bounded("100M", "global_factor = 10", ""));
    assert_eq!(unkept.len(), 2, "{unkept:?}");
    assert!(unkept[0].1.contains("no effect") && unkept[1].1.contains("may grow"), "{unkept:?}");
}

#[test]
fn where_other_servers_go_is_said() {
    // Mutation: no answer to servers called fine: seen red.
    let delegation = |break_it: fn(&mut Public)| {
        let found = said("delegation", &config(""), |facts| break_it(&mut facts.public));
        format!("{:?} {}", found[0].0, found[0].1)
    };
    for (break_it, words) in [
        (
            (|_| ()) as fn(&mut Public),
            "Fine other servers reach example.com: /.well-known/matrix/server leads to m.example.com:443",
        ),
        (
            |public| {
                public.server = WellKnown::Absent;
                public.by_record = Some("example.com".to_owned());
                public.record = Ok(Some("h.example.com:444".to_owned()));
            },
            "Fine other servers reach example.com: an SRV record leads to h.example.com:444",
        ),
        (
            |public| {
                public.server = WellKnown::Wrong("it answers 500".to_owned());
                public.by_record = Some("example.com".to_owned());
            },
            "Warning other servers reach example.com, but /.well-known/matrix/server is no answer (it answers 500), \
             and nothing says another port than 8448",
        ),
        (
            |public| public.server = WellKnown::Absent,
            "Fine other servers reach example.com: server_name says where",
        ),
    ] {
        assert_eq!(delegation(break_it), words);
    }
}

#[test]
fn who_asks_is_told_from_who_stands_in_front() {
    // Mutations, each seen red: a front wanted without TLS too; where it was asked from not looked at.
    let here = config("");
    // A web server on this machine names it.
    let asked_here = |facts: &mut Facts| {
        facts.public.seen = seen("127.0.0.1", 1);
        facts.public.from = "127.0.0.1".parse().ok();
    };
    assert_eq!(worst("X-Forwarded-For", &here, asked_here), Severity::Fine);
    let stranger = |facts: &mut Facts| facts.public.seen = seen("10.0.0.2", 0);
    let mut facts = healthy();
    stranger(&mut facts);
    let finding = examine(&here, &facts).swap_remove(0);
    assert!(finding.remedy.contains("add \"10.0.0.2\" to trusted_proxies"), "{finding:?}");
    // Without TLS nobody has to stand in front.
    let plain = "server_name = \"example.com\"\npublic_baseurl = \"http://m.example.com/\"\n";
    let plain = Config::parse(plain, Path::new("/")).unwrap().config;
    facts.public.seen = seen("10.0.0.2", 0);
    let of = |facts: &Facts| {
        let found = examine(&plain, facts);
        found.into_iter().find(|finding| finding.check == "X-Forwarded-For").unwrap().severity
    };
    assert_eq!(of(&facts), Severity::Fine);
    facts.public.seen = seen("192.0.2.1", 1);
    assert_eq!(of(&facts), Severity::Unknown);
    // Nor where the router speaks it itself.
    let own = config(TLS);
    assert_eq!(worst("X-Forwarded-For", &own, stranger), Severity::Fine);
    assert_eq!(
        worst("X-Forwarded-For", &own, |facts| facts.public.seen = seen("127.0.0.1", 0)),
        Severity::Fine
    );
}

#[test]
fn a_certificate_for_either_name_will_do() {
    let tls = config(TLS);
    let of = |names: &[&str], listen: &str| {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        let found = said("certificate", &tls, |facts| {
            facts.certificates[0].certificate.names = names;
            let other = Served { listen: listen.parse().unwrap(), ..healthy().certificates[0].clone() };
            facts.certificates.push(other);
        });
        found[0].clone()
    };
    assert_eq!(of(&["example.com"], "0.0.0.0:443").0, Severity::Fine);
    assert_eq!(of(&["m.example.com"], "0.0.0.0:443").0, Severity::Fine);
    assert_eq!(of(&["example.org"], "0.0.0.0:8448").0, Severity::Fine);
    let wrong = of(&["example.org", "example.net"], "0.0.0.0:443");
    assert_eq!(
        wrong.1,
        "no certificate of 0.0.0.0:8448 is for m.example.com or example.com: example.org, example.net"
    );
}

#[test]
fn where_no_synapse_is_installed_none_is_said_to_know_the_settings() {
    // Mutation: not looked at: seen red.
    let what = |installed| said("settings", &config(""), |facts| facts.installed = installed)[0].1.clone();
    assert_eq!(what(true), "the installed Synapse knows all of them");
    assert_eq!(what(false), "no Synapse is installed; 1.163 knows all of them");
}

#[test]
fn what_cannot_be_looked_at_is_said_and_is_no_fault() {
    // Mutation: the admin API called closed though nobody asked: seen red.
    let facts = Facts {
        most_files: Err("not running".to_owned()),
        clock_is_kept: Err("not permitted".to_owned()),
        public: Public { unasked: Some("left out".to_owned()), admin: None, ..healthy().public },
        ..healthy()
    };
    let findings = examine(&config(""), &facts);
    let unknown = findings.iter().filter(|finding| finding.severity == Severity::Unknown).count();
    assert_eq!(unknown, 6);
    assert!(findings.iter().all(|finding| finding.severity <= Severity::Unknown));
}

#[test]
fn a_directory_is_open_where_the_unit_or_a_drop_in_says_so() {
    // Mutations, each seen red: words end at spaces within quotes; %% left as it is; an empty value takes nothing back; the
    // state directory not looked at.
    let unit = "[Service]\nReadWritePaths=-/srv -/mnt\nStateDirectory=synvisor\n";
    let drop_ins = healthy().drop_ins;
    let drop_in = |text: &str| vec![DropIn { path: "/d/b.conf".into(), text: text.to_owned() }];
    assert!(is_open(Path::new("/srv/media"), unit, &drop_ins));
    assert!(is_open(Path::new("/var/lib/synvisor/media"), unit, &drop_ins));
    assert!(is_open(Path::new("/data"), unit, &drop_ins));
    assert!(!is_open(Path::new("/srvx"), unit, &drop_ins));
    assert!(!is_open(Path::new("/data"), unit, &[]));
    // As `synvisor init --media` writes it.
    let written = drop_in("[Service]\nReadWritePaths=\"/data/a \\\"b\\\\ 100%%\"\n");
    assert!(is_open(Path::new("/data/a \"b\\ 100%/x"), unit, &written));
    assert!(!is_open(Path::new("/data/a"), unit, &written));
    assert!(is_open(Path::new("/two"), unit, &drop_in("ReadWritePaths=-\"/one\" '/two'\n")));
    // Nothing is said any more.
    assert!(!is_open(Path::new("/srv/media"), unit, &drop_in("ReadWritePaths=\n")));
}

#[test]
fn a_unit_in_the_place_of_the_shipped_one_is_held_against_it() {
    // Mutations, each seen red: every value taken for the same; for another.
    let own = |text: &str| Some(DropIn { path: "/etc/own.service".into(), text: text.to_owned() });
    let same = format!("# mine\n{SHIPPED}ReadWritePaths=/data\n");
    let found = said("unit", &config(""), |facts| facts.unit = own(&same));
    assert_eq!(found[0].0, Severity::Fine, "{found:?}");
    let other = SHIPPED.replace("process", "control-group");
    let found = said("unit", &config(""), |facts| facts.unit = own(&other));
    assert_eq!(found[0].0, Severity::Warning);
    assert!(found[0].1.starts_with("/etc/own.service has KillMode=control-group: "), "{found:?}");
}

#[test]
fn the_services_configuration_is_the_one_that_its_command_names() {
    // Mutation: only --config=FILE understood: seen red.
    let named = |text: &str| {
        let drop_in = DropIn { path: "/d/a.conf".into(), text: text.to_owned() };
        configuration(SHIPPED, &[drop_in]).display().to_string()
    };
    assert_eq!(named(""), "/etc/synvisor/synvisor.toml");
    let other = "ExecStart=\nExecStart=/usr/bin/synvisor supervise";
    assert_eq!(named(&format!("{other} --config \"/a b.toml\"")), "/a b.toml");
    assert_eq!(named(&format!("{other} --config=/b.toml")), "/b.toml");
}
