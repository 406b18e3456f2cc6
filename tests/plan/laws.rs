//! Laws that every plan holds, by search over pairs of configurations.
//!
//! Mutations of src/plan/ that were tried, each seen red here:
//! - senders told to restart one after the other, or without main; likewise pushers: "side by side".
//! - `stream_writers` and `instance_map` told to restart one after the other: "disagree".
//! - duties told to restart one after the other: "at a time".
//! - main in the stage of the workers: "starts before main".
//! - groups not merged, or who is added in a group added once more: "moves twice".
//! - the fork server left out of a change of version: "forked of another Synapse".
//! - the version, a priority, or the content of files not compared; all of `caches` on SIGHUP: "does not run with".
//! - services left out of their group: "before postgres".
//! - who is only rewritten not told: "is not replaced".
//! - media settings told to concern all: "moved for nothing".
//! - who is named in a list looked up in main's file alone: "does not run with" on a way back.
//! - rolling restarts in any order, SIGHUP after the groups: the order of kinds, and main's place.

use synvisor::config::roles::WorkerKind;
use synvisor::plan::Action;
use synvisor::plan::Deployment;
use synvisor::plan::Kind;
use synvisor::plan::Plan;
use synvisor::plan::Step;
use synvisor::plan::plan;
use synvisor::topology::UnitName;

use super::Machine;
use super::random::Random;
use super::world::World;
use super::world::minds;
use super::world::must_go_together;

const SEEDS: u64 = 400;

/// A table of the TOML, and lines of which one or none stands in it.
const KNOBS: [(&str, &[&str]); 25] = [
    ("", &["trusted_proxies = [\"10.0.0.1\"]", "trusted_proxies = []"]),
    ("[synapse]", &["max_upload_size = \"50M\"", "max_upload_size = \"100M\""]),
    ("[synapse]", &["enable_registration = false"]),
    ("[synapse]", &["media_retention = { local_media_lifetime = \"90d\" }"]),
    ("[synapse]", &["app_service_config_files = [\"/a\"]", "app_service_config_files = [\"/a\", \"/b\"]"]),
    ("[synapse]", &["email = { smtp_host = \"a\", smtp_pass = { secret_file = \"/smtp\" } }"]),
    (
        "[synapse]",
        &["caches = { global_factor = 2.0 }", "caches = { global_factor = 2.0, expire_caches = false }"],
    ),
    (
        "[synapse]",
        &[
            "oidc_providers = [{ idp_id = \"a\" }]",
            "oidc_providers = [{ idp_id = \"a\" }, { idp_id = \"b\" }]",
        ],
    ),
    ("[units.all]", &["log_level = \"WARNING\"", "log_level = \"DEBUG\""]),
    ("[units.all]", &["environment = { LANG = \"C\" }"]),
    ("[units.workers]", &["max_memory = \"1G\"", "nice = 1"]),
    ("[units.generic]", &["cp_max = 7", "cp_max = 8"]),
    ("[units.generic]", &["caches.per_cache_factors.get_users_in_room = 3.0"]),
    ("[units.generic-2]", &["log_level = \"ERROR\"", "nice = 7"]),
    ("[units.main]", &["settings.gc_thresholds = [700, 10, 10]", "caches.global_factor = 5.0"]),
    ("[units.pusher]", &["nice = 3"]),
    ("[units.federation_sender]", &["cp_max = 3"]),
    (
        "[database]",
        &["host = \"db\"\npassword_file = \"/db\"", "mode = \"embedded\"", "sslmode = \"require\""],
    ),
    ("[redis]", &["host = \"redis\"\npassword_file = \"/redis\"", "mode = \"embedded\""]),
    ("[supervisor]", &["drain_timeout = \"3s\"", "stop_timeout = \"3s\"", "health_timeout = \"3s\""]),
    ("[secrets]", &["worker_replication_secret_file = \"/replication\""]),
    ("[secrets]", &["form_secret_file = \"/form\""]),
    ("[python]", &["venv = \"/venv\""]),
    ("[[listen]]", &["address = \"127.0.0.1:8008\"", "address = \"127.0.0.1:9000\"\nadmin = true"]),
    ("[workers]", &["preset = \"one-of-each\"", "preset = \"specialized-workers\""]),
];

/// What has a content that may change without the TOML.
const CONTENTS: [&str; 7] =
    ["/a", "/smtp", "/db", "/replication", "/form", "/redis", "/var/lib/synvisor/secrets/signing.key"];

/// Which line of each knob stands in the TOML, how many workers there are of each kind, and what files hold.
#[derive(Clone, Debug)]
struct Choice {
    lines: Vec<usize>,
    counts: Vec<usize>,
    contents: Vec<usize>,
    version: usize,
}

impl Choice {
    /// Few things are said, so that one change is not lost among others.
    fn any(random: &mut Random) -> Self {
        let mut choice = Self {
            lines: vec![0; KNOBS.len()],
            counts: vec![0; WorkerKind::all().count()],
            contents: vec![0; CONTENTS.len()],
            version: 0,
        };
        for _ in 0..random.below(30) {
            choice.turn(random);
        }
        choice
    }

    fn turn(&mut self, random: &mut Random) {
        match random.below(20) {
            0 => self.version = random.below(2),
            1 => self.contents[random.below(CONTENTS.len())] = random.below(2),
            2..=9 => {
                let at = random.below(KNOBS.len());
                self.lines[at] = random.below(KNOBS[at].1.len() + 1);
            }
            at => {
                let any = random.below(self.counts.len());
                // Few kinds have rules of their own, and a plan for them is to be met often.
                let ruled = [
                    "federation_sender",
                    "pusher",
                    "background",
                    "user_dir",
                    "appservice",
                    "media_repository",
                ];
                let kind = ruled[random.below(ruled.len())];
                let found = WorkerKind::all().position(|other| other.key() == kind).unwrap();
                let at = if at < 14 { any } else { found };
                let most = usize::from(WorkerKind::all().nth(at).unwrap().max()).min(3);
                self.counts[at] = random.below(most + 1);
            }
        }
    }

    fn machine(&self) -> Machine {
        let mut toml = "server_name = \"example.com\"\n".to_owned();
        let mut table = "";
        let mut sorted: Vec<_> = KNOBS.iter().zip(&self.lines).collect();
        sorted.sort_by_key(|((table, _), _)| *table);
        for ((of, lines), line) in sorted {
            if *of != table && !(*of == "[[listen]]" && *line == 0) {
                toml.push_str(&format!("{of}\n"));
                table = of;
            }
            if *of == "[workers]" {
                for (kind, count) in WorkerKind::all().zip(&self.counts).filter(|(_, count)| **count > 0) {
                    toml.push_str(&format!("{} = {count}\n", kind.key()));
                }
            }
            if let Some(line) = line.checked_sub(1) {
                toml.push_str(&format!("{}\n", lines[line]));
            }
        }
        let mut machine = Machine::new(toml);
        machine.version = ["1.163.2", "1.164.0"][self.version];
        for (path, _) in CONTENTS.iter().zip(&self.contents).filter(|(_, content)| **content > 0) {
            machine = machine.with(path, "new");
        }
        machine
    }
}

/// What runs when a step of a plan fails, as whoever carries it out notes it.
fn half_way(before: &Deployment, after: &Deployment, plan: &Plan, failed: usize) -> Deployment {
    let together = |steps: &[Step]| steps.iter().any(|step| step.kind == Kind::Together);
    let begun = &plan.steps[..=failed];
    let switched = together(begun) || !together(&plan.steps);
    let mut mixed = if switched { after.clone() } else { before.clone() };
    mixed.images.clone_from(&before.images);
    for name in begun.iter().flat_map(|step| step.moves.keys()) {
        match after.images.get(name) {
            Some(image) => mixed.images.insert(name.clone(), image.clone()),
            None => mixed.images.remove(name),
        };
    }
    mixed
}

/// Wherever a plan breaks off there is a way back, which leaves alone whom the plan has not reached.
fn check_back(before: &Deployment, after: &Deployment, found: &Plan) {
    for failed in 0..found.steps.len() {
        let mixed = half_way(before, after, found, failed);
        let back = plan(&mixed, before).unwrap();
        let mut world = World::new(&mixed, before);
        world.carry_out(&back);
        world.check_end(&back);
        let reached: Vec<&UnitName> =
            found.steps[..=failed].iter().flat_map(|step| step.moves.keys()).collect();
        for name in back.steps.iter().flat_map(|step| step.moves.keys()) {
            assert!(reached.contains(&name), "{name} moves back though it never moved");
        }
    }
}

fn check(old: &Machine, new: &Machine) {
    let (before, after) = (old.deployment(), new.deployment());
    assert!(plan(&before, &before).unwrap().is_empty(), "no change is a change");
    let found = plan(&before, &after).unwrap();
    let mut world = World::new(&before, &after);
    world.carry_out(&found);
    world.check_end(&found);
    check_back(&before, &after, &found);
    // What does not concern a process leaves it alone.
    let needed = must_go_together(&before, &after);
    for step in &found.steps {
        for (name, moved) in &step.moves {
            let both = before.images.contains_key(name) && after.images.contains_key(name);
            assert_eq!(moved.action == Action::Start, before.topology.unit(name).is_none(), "{name}");
            assert_eq!(moved.action == Action::Stop, after.topology.unit(name).is_none(), "{name}");
            match step.kind {
                Kind::Together => assert!(needed.contains(name), "{name} goes with others for nothing"),
                Kind::Hup | Kind::Start | Kind::Restart | Kind::Stop => {
                    assert!(!both || minds(name, &before, &after), "{name} is moved for nothing");
                }
            }
        }
    }
    // Whoever only reads anew comes first; who is removed comes last; main restarts before the workers.
    let kinds: Vec<Kind> = found.steps.iter().map(|step| step.kind).collect();
    let order = [Kind::Hup, Kind::Together, Kind::Start, Kind::Restart, Kind::Stop];
    assert!(kinds.is_sorted_by_key(|kind| order.iter().position(|other| other == kind)), "{kinds:?}");
    let rolling: Vec<&UnitName> = found
        .steps
        .iter()
        .filter(|step| step.kind == Kind::Restart)
        .flat_map(|step| step.moves.keys())
        .collect();
    assert!(
        rolling.iter().position(|name| **name == UnitName::main()).is_none_or(|at| at == 0),
        "{rolling:?}"
    );
}

#[test]
fn every_plan_leads_to_what_is_asked_for_and_never_over_what_must_not_be() {
    let given = std::env::var("SEED").ok().map(|seed| seed.parse::<u64>().unwrap());
    let seeds = given.map_or(0..SEEDS, |seed| seed..seed + 1);
    for seed in seeds {
        let mut random = Random(seed ^ 0x5eed);
        let old = Choice::any(&mut random);
        let mut new = old.clone();
        if random.below(4) == 0 {
            new = Choice::any(&mut random);
        }
        for _ in 0..=random.below(4) {
            new.turn(&mut random);
        }
        let (old, new) = (old.machine(), new.machine());
        let held = std::panic::catch_unwind(|| check(&old, &new));
        assert!(held.is_ok(), "SEED={seed}\n--- old\n{}--- new\n{}", old.toml, new.toml);
    }
}
