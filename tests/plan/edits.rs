//! The text of a plan for one edit each.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use synvisor::plan::plan;

use super::Machine;

/// A homeserver of middling size.
const BASE: &str = "server_name = \"example.com\"
[workers]
generic = 3
federation_sender = 2
pusher = 1
user_dir = 1
events = 1
media_repository = 1
quarantined_media_changes = 1
[synapse]
max_upload_size = \"50M\"
app_service_config_files = [\"/etc/synvisor/irc.yaml\"]
[synapse.templates]
custom_template_directory = \"/etc/synvisor/templates\"
[synapse.email]
smtp_host = \"mail.example.com\"
smtp_pass = { secret_file = \"/etc/synvisor/smtp\" }
";

/// What stands in files of secrets, in credentials and in a variable that sounds like a secret.
const SECRETS: [&str; 4] = ["hunter2", "in /etc/synvisor/smtp", "in /etc/synvisor/oidc", "in db"];

const ALONE: &str = "server_name = \"example.com\"\n";

const PROVIDER: &str = "[[synapse.oidc_providers]]
idp_id = \"authentik\"
idp_name = \"authentik\"
issuer = \"https://auth.example.com/\"
client_id = \"matrix\"
client_secret = { secret_file = \"/etc/synvisor/oidc\" }
";

fn base() -> Machine {
    Machine::new(BASE)
}

/// The base with one text in place of another.
fn edited(old: &str, new: &str) -> Machine {
    assert!(BASE.contains(old), "{old}");
    Machine::new(BASE.replacen(old, new, 1))
}

/// The base with something below it.
fn and(more: &str) -> Machine {
    Machine::new(format!("{BASE}{more}"))
}

fn whole(settings: &str) -> Machine {
    Machine::new(format!("{ALONE}{settings}"))
}

/// Name, before, after.
type Edit = (String, Machine, Machine);

fn edits() -> Vec<Edit> {
    let mut edits: Vec<Edit> = Vec::new();
    let mut both = |name: &str, old: Machine, new: Machine| {
        edits.push((format!("{name}-added"), old.clone(), new.clone()));
        edits.push((format!("{name}-removed"), new, old));
    };
    both("generic", base(), edited("generic = 3", "generic = 4"));
    let readers = ["room", "sync", "client_reader", "federation_reader"];
    for kind in readers {
        both(&kind.replace('_', "-"), base(), edited("generic = 3", &format!("generic = 3\n{kind} = 2")));
    }
    both("federation-sender", base(), edited("federation_sender = 2", "federation_sender = 3"));
    both("pusher", base(), edited("pusher = 1", "pusher = 3"));
    both("media-repository", base(), edited("media_repository = 1", "media_repository = 2"));
    for kind in ["background", "appservice"] {
        both(kind, base(), edited("generic = 3", &format!("generic = 3\n{kind} = 1")));
    }
    both("user-dir", edited("user_dir = 1\n", ""), base());
    let writers = [
        "events = 2",
        "typing = 1",
        "to_device = 1",
        "account_data = 1",
        "receipts = 2",
        "presence = 1",
        "push_rules = 1",
        "device_lists = 1",
        "thread_subscriptions = 1",
        "quarantined_media_changes = 2",
    ];
    for writer in writers {
        let kind = writer.split(' ').next().unwrap();
        let line = format!("{kind} = 1\n");
        let new = if BASE.contains(&line) {
            edited(&line, &format!("{writer}\n"))
        } else {
            edited("events = 1", &format!("events = 1\n{writer}"))
        };
        both(&format!("writer-{}", kind.replace('_', "-")), base(), new);
    }
    both("first-worker", whole(""), whole("[workers]\ngeneric = 1\n"));
    both("federation-helper", whole(""), whole("[workers]\npreset = \"little-federation-helper\"\n"));
    both("oidc-provider", base(), and(PROVIDER));
    both(
        "listener",
        base(),
        and("[[listen]]\naddress = \"127.0.0.1:8008\"\n[[listen]]\naddress = \"0.0.0.0:8448\"\n"),
    );

    let mut one = |name: &str, old: Machine, new: Machine| edits.push((name.to_owned(), old, new));
    one("no-change", base(), base());
    one("comment-only", base(), edited("generic = 3", "# three of them\ngeneric   =  3 # really"));
    one("log-level-of-one", base(), and("[units.generic-2]\nlog_level = \"DEBUG\"\n"));
    one("log-level-of-all", base(), and("[units.all]\nlog_level = \"WARNING\"\n"));
    one("cache-factor", base(), and("[synapse.caches]\nglobal_factor = 2.0\n"));
    one("cache-factor-of-a-kind", base(), and("[units.generic]\ncaches.global_factor = 4.0\n"));
    one(
        "cache-autotuning",
        base(),
        and("[synapse.caches.cache_autotuning]\nmax_cache_memory_usage = \"1G\"\n"),
    );
    one("secret-rotated", base(), base().with("/etc/synvisor/smtp", "new"));
    one("signing-key-rotated", base(), base().with("/var/lib/synvisor/secrets/signing.key", "new"));
    one(
        "replication-secret-rotated",
        base(),
        base().with("/var/lib/synvisor/secrets/worker_replication_secret", "new"),
    );
    one("registration-edited", base(), base().with("/etc/synvisor/irc.yaml", "new"));
    one("template-edited", base(), base().with("/etc/synvisor/templates", "new"));
    one("upload-size", base(), edited("50M", "100M"));
    one("mail-server", base(), edited("mail.example.com", "smtp.example.com"));
    one("listener-moved", base(), and("[[listen]]\naddress = \"127.0.0.1:9000\"\n"));
    one("listener-admin", base(), and("[[listen]]\naddress = \"127.0.0.1:8008\"\nadmin = true\n"));
    one("trusted-proxy", base(), edited("[workers]", "trusted_proxies = [\"10.0.0.7\"]\n[workers]"));
    one("database-moved", base(), and("[database]\nhost = \"db.example.com\"\n"));
    one("database-embedded", base(), and("[database]\nmode = \"embedded\"\n"));
    let password = || and("[database]\nhost = \"db\"\npassword_file = \"/etc/synvisor/db\"\n");
    one("database-password-rotated", password(), password().with("/etc/synvisor/db", "new"));
    let credential = || and("[database]\npassword_file = \"$CREDENTIALS_DIRECTORY/db\"\n");
    one("credential-named", credential(), credential());
    one("redis-moved", base(), and("[redis]\nhost = \"10.0.0.9\"\n"));
    one("connections", base(), and("[units.generic]\ncp_max = 9\n"));
    one("nice", base(), and("[units.pusher-1]\nnice = 10\n"));
    one("memory-limit", base(), and("[units.workers]\nmax_memory = \"1G\"\n"));
    one("environment", base(), and("[units.main]\nenvironment = { SENTRY_TOKEN = \"hunter2\" }\n"));
    one("stop-timeout", base(), and("[supervisor]\nstop_timeout = \"60s\"\n"));
    let preset = |name: &str| whole(&format!("[workers]\npreset = \"{name}\"\n"));
    one("preset-changed", preset("one-of-each"), preset("specialized-workers"));
    one(
        "preset-written-out",
        preset("little-federation-helper"),
        whole("[workers]\nfederation_sender = 1\n"),
    );
    one("synapse-version", base(), Machine { version: "1.164.0", ..base() });
    one("venv", base(), and("[python]\nvenv = \"/opt/synapse\"\n"));
    let embedded = "[database]\nmode = \"embedded\"\n[redis]\nmode = \"embedded\"\n";
    one(
        "venv-beside-embedded-services",
        and(embedded),
        and(&format!("{embedded}[python]\nvenv = \"/opt/synapse\"\n")),
    );
    one("server-name", base(), edited("example.com", "example.org"));
    one(
        "directories-and-users",
        base(),
        and("[supervisor]\nstate_dir = \"/srv/synvisor\"\nuser = \"matrix\"\n"),
    );
    let several = BASE
        .replace("generic = 3", "generic = 5\nbackground = 1")
        .replace("federation_sender = 2", "federation_sender = 1")
        .replace("pusher = 1", "pusher = 2\nsync = 1")
        .replace("50M", "100M")
        + "[units.generic]\nnice = 5\n[units.events]\nlog_level = \"DEBUG\"\n";
    one("several-at-once", base(), Machine::new(several));
    let many = |line: &str| whole(&format!("[workers]\ngeneric = 50\nsync = 12\n[synapse]\n{line}\n"));
    one("many-workers", many(""), many("enable_registration = true"));
    edits
}

fn transcript(old: &Machine, new: &Machine) -> String {
    match plan(&old.deployment(), &new.deployment()) {
        Ok(plan) => {
            let json = serde_json::to_string(&plan).unwrap();
            assert!(SECRETS.iter().all(|secret| !json.contains(secret)), "{json}");
            plan.to_string()
        }
        Err(refusal) => format!("refused: {refusal}\n"),
    }
}

#[test]
fn the_text_of_each_plan_is_as_it_was() {
    // Mutation: anything in plan/ that changes what is said is seen red here by definition, as is a duty told to move from
    // main to main (`another` in groups.rs always true).
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/plan");
    let mut expected: BTreeSet<PathBuf> = BTreeSet::new();
    let mut differing = Vec::new();
    for (name, old, new) in edits() {
        let text = transcript(&old, &new);
        assert!(SECRETS.iter().all(|secret| !text.contains(secret)), "{name}: {text}");
        let path = golden.join(format!("{name}.txt"));
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&path, &text).unwrap();
        } else if !fs::read(&path).is_ok_and(|held| held == text.as_bytes()) {
            differing.push(format!("{}:\n{text}", path.display()));
        }
        assert!(expected.insert(path), "{name} stands there twice");
    }
    for entry in fs::read_dir(golden).unwrap().map(|entry| entry.unwrap().path()) {
        assert!(expected.contains(&entry), "{} is no longer planned", entry.display());
    }
    assert!(
        differing.is_empty(),
        "not as in tests/golden/plan (UPDATE=1 rewrites):\n{}",
        differing.join("\n")
    );
}

#[test]
fn what_has_no_effect_on_any_process_is_told_but_moves_nobody() {
    // Mutation: a memory limit that asks for a restart (`of_process` comparing it): seen red.
    let find = |name: &str| edits().into_iter().find(|(held, _, _)| held == name).unwrap();
    for name in ["no-change", "comment-only", "credential-named"] {
        let (_, old, new) = find(name);
        assert!(plan(&old.deployment(), &new.deployment()).unwrap().is_empty(), "{name}");
    }
    for name in ["preset-written-out", "trusted-proxy", "listener-added", "stop-timeout", "memory-limit"] {
        let (_, old, new) = find(name);
        let plan = plan(&old.deployment(), &new.deployment()).unwrap();
        assert!(!plan.is_empty() && plan.steps.is_empty(), "{name}: {plan}");
    }
}
