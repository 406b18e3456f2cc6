//! A world in which the steps of a plan are carried out, and what must hold in it at every moment.
//!
//! It knows by itself, and not from the planner, what Synapse demands.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::rc::Rc;

use synvisor::plan::Deployment;
use synvisor::plan::Digest;
use synvisor::plan::Image;
use synvisor::plan::Kind;
use synvisor::plan::Plan;
use synvisor::plan::Step;
use synvisor::topology::UnitName;
use toml::Table;
use toml::Value;

/// What must be the same in all processes that run side by side.
type Agreed = (Vec<Option<Value>>, (String, PathBuf), Option<Digest>);

/// What a process has read, and with which Synapse it runs.
#[derive(Clone, Debug)]
pub(super) struct Process {
    image: Image,
    synapse: (String, PathBuf),
    contents: BTreeMap<PathBuf, Digest>,
    agreed: Rc<Agreed>,
}

/// The duties that one process alone may have.
const DUTIES: [&str; 4] = [
    "run_background_tasks_on",
    "notify_appservices_from_worker",
    "update_user_directory_from_worker",
    "media_instance_running_background_jobs",
];

/// Settings that a process without the media repository does not read.
const MEDIA: [&str; 3] = ["max_upload_size", "media_retention", "url_preview_url_blacklist"];

fn synapse(deployment: &Deployment) -> (String, PathBuf) {
    (deployment.synapse_version.clone(), deployment.config.python.venv.clone())
}

fn born(name: &UnitName, deployment: &Deployment) -> Process {
    let image = deployment.images[name].clone();
    let contents = image.files.iter().map(|(named, held)| (named.path.clone(), held.clone())).collect();
    let agreed = Rc::new(agreed(&image.settings, &contents, synapse(deployment)));
    Process { image, synapse: synapse(deployment), contents, agreed }
}

fn names(value: Option<&Value>) -> Vec<UnitName> {
    let unit = |value: &Value| match value.as_str().unwrap() {
        "master" => UnitName::main(),
        name => UnitName::new(name),
    };
    match value {
        None => vec![UnitName::main()],
        Some(Value::Array(list)) => list.iter().map(unit).collect(),
        Some(one) => vec![unit(one)],
    }
}

fn agreed(settings: &Table, contents: &BTreeMap<PathBuf, Digest>, synapse: (String, PathBuf)) -> Agreed {
    let mut redis = settings.get("redis").cloned();
    let mut database = settings["database"].clone();
    if let Some(Value::Table(redis)) = &mut redis {
        redis.remove("password");
    }
    let arguments = database["args"].as_table_mut().unwrap();
    for key in ["password", "sslmode", "cp_min", "cp_max"] {
        arguments.remove(key);
    }
    let keys =
        ["stream_writers", "instance_map", "worker_replication_secret", "worker_replication_secret_path"];
    let mut values: Vec<Option<Value>> = keys.iter().map(|key| settings.get(*key).cloned()).collect();
    values.extend([redis, Some(database)]);
    let secret = settings.get("worker_replication_secret_path").and_then(Value::as_str);
    let secret = secret.map(|path| contents[std::path::Path::new(path)].clone());
    (values, synapse, secret)
}

/// What of its settings a process of this name goes by.
fn minded(name: &UnitName, image: &Image) -> Table {
    let mut settings = image.settings.clone();
    let holds = |key: &str| names(image.settings.get(key)).contains(name);
    if !holds("federation_sender_instances") && *name != UnitName::main() {
        settings.remove("federation_sender_instances");
    }
    if !holds("pusher_instances") {
        settings.remove("pusher_instances");
    }
    for duty in DUTIES {
        settings.insert(duty.to_owned(), holds(duty).into());
    }
    if settings["enable_media_repo"] == Value::Boolean(false) {
        MEDIA.iter().for_each(|key| {
            settings.remove(*key);
        });
    }
    settings
}

/// Whether a process that runs with one would behave otherwise with the other.
pub(super) fn minds(name: &UnitName, old: &Deployment, new: &Deployment) -> bool {
    differs(name, &born(name, old), &born(name, new))
}

fn differs(name: &UnitName, one: &Process, other: &Process) -> bool {
    let parts = |process: &Process| {
        let Process { image, synapse, contents, agreed: _ } = process.clone();
        (minded(name, &image), image.log, image.nice, image.environment, synapse, contents)
    };
    parts(one) != parts(other)
}

/// Who must not run side by side, some with the one and some with the other.
pub(super) fn must_go_together(old: &Deployment, new: &Deployment) -> BTreeSet<UnitName> {
    let main = UnitName::main();
    let (before, after) = (born(&main, old), born(&main, new));
    let service = |name: &UnitName| service(name, old) != service(name, new);
    if before.agreed != after.agreed || service(&UnitName::postgres()) || service(&UnitName::redis()) {
        return old.topology.units.iter().chain(&new.topology.units).map(|unit| unit.name.clone()).collect();
    }
    let mut units = BTreeSet::new();
    for key in DUTIES.iter().chain(&["federation_sender_instances", "pusher_instances"]) {
        let [was, is] = [&before, &after].map(|process| names(process.image.settings.get(*key)));
        if was != is {
            units.extend(was.into_iter().chain(is));
            units.extend((*key == "federation_sender_instances").then_some(main.clone()));
        }
    }
    units
}

pub(super) struct World<'d> {
    new: &'d Deployment,
    alive: BTreeMap<UnitName, Process>,
    /// The Synapse that the fork server forks.
    forks: (String, PathBuf),
    /// What the services are.
    services: BTreeMap<UnitName, (synvisor::topology::Role, String)>,
    /// Units that have moved.
    moved: BTreeSet<UnitName>,
}

fn service(name: &UnitName, deployment: &Deployment) -> Option<(synvisor::topology::Role, String)> {
    let unit = deployment.topology.unit(name)?;
    let mut config = deployment.config.clone();
    if let synvisor::config::Database::External(external) = &mut config.database {
        (external.password, external.sslmode, external.user) = (None, None, String::new());
    }
    if let synvisor::config::Redis::External(external) = &mut config.redis {
        external.password = None;
    }
    let what = if *name == UnitName::postgres() {
        format!("{:?}", config.database)
    } else {
        format!("{:?}", config.redis)
    };
    Some((unit.role, what))
}

impl<'d> World<'d> {
    pub(super) fn new(old: &Deployment, new: &'d Deployment) -> Self {
        let services = [UnitName::postgres(), UnitName::redis()];
        let services = services.into_iter().filter_map(|name| Some((name.clone(), service(&name, old)?)));
        Self {
            new,
            alive: old.images.keys().map(|name| (name.clone(), born(name, old))).collect(),
            forks: synapse(old),
            services: services.collect(),
            moved: BTreeSet::new(),
        }
    }

    pub(super) fn carry_out(&mut self, plan: &Plan) {
        self.check();
        for step in &plan.steps {
            self.step(step);
        }
    }

    fn step(&mut self, step: &Step) {
        let staged: Vec<&UnitName> = step.stages.iter().flatten().collect();
        let named: BTreeSet<&UnitName> = staged.iter().copied().chain(&step.leave).collect();
        if step.kind == Kind::Hup {
            assert!(named.is_empty(), "a signal stops nobody");
        } else {
            assert_eq!(named, step.moves.keys().collect(), "moves and stages name the same units");
            assert_eq!(named.len(), staged.len() + step.leave.len(), "nobody is named twice");
        }
        for (name, moved) in &step.moves {
            assert!(self.moved.insert(name.clone()), "{name} moves twice");
            assert!(!moved.why.is_empty(), "{name} moves for no reason");
        }
        if step.kind == Kind::Hup {
            step.moves.keys().for_each(|name| self.signal(name));
            return;
        }
        for name in named {
            let ran = self.alive.remove(name).is_some() | self.services.remove(name).is_some();
            let starts = step.moves[name].action == synvisor::plan::Action::Start;
            assert!(
                ran != starts || *name == UnitName::fork_server(),
                "{name}: ran: {ran}, starts: {starts}"
            );
            self.check();
        }
        for stage in &step.stages {
            // Those of a stage come up in any order; this one finds who should have waited.
            for name in stage.iter().rev() {
                self.start(name);
                self.check();
            }
        }
    }

    /// What Synapse reads anew on SIGHUP.
    fn signal(&mut self, name: &UnitName) {
        let after = &self.new.images[name];
        let process = self.alive.get_mut(name).unwrap();
        process.image.log = after.log.clone();
        let nothing = Value::Table(Table::new());
        let new = after.settings.get("caches").unwrap_or(&nothing).as_table().unwrap();
        let held = process.image.settings.entry("caches").or_insert_with(|| nothing.clone());
        let held = held.as_table_mut().unwrap();
        for key in ["global_factor", "per_cache_factors"] {
            held.remove(key);
            held.extend(new.get(key).map(|value| (key.to_owned(), value.clone())));
        }
        if held.is_empty() && !after.settings.contains_key("caches") {
            process.image.settings.remove("caches");
        }
    }

    fn start(&mut self, name: &UnitName) {
        if *name == UnitName::fork_server() {
            self.forks = synapse(self.new);
            return;
        }
        if let Some(service) = service(name, self.new).filter(|_| !self.new.images.contains_key(name)) {
            self.services.insert(name.clone(), service);
            return;
        }
        let process = born(name, self.new);
        for service in self.new.topology.units.iter().filter(|unit| !unit.role.is_synapse()) {
            let is_one = [UnitName::postgres(), UnitName::redis()].contains(&service.name);
            let there = self.services.get(&service.name).cloned();
            assert!(
                !is_one || there == self::service(&service.name, self.new),
                "{name} before {}",
                service.name
            );
        }
        assert_eq!(self.forks, process.synapse, "{name} is forked of another Synapse");
        if *name != UnitName::main() {
            let main = self.alive.get(&UnitName::main());
            assert!(main.is_some_and(|main| main.agreed == process.agreed), "{name} starts before main");
        }
        assert!(self.alive.insert(name.clone(), process).is_none(), "two processes of {name}");
    }

    /// What must hold at every moment.
    fn check(&self) {
        let all: Vec<&Rc<Agreed>> = self.alive.values().map(|process| &process.agreed).collect();
        assert!(
            all.windows(2).all(|pair| Rc::ptr_eq(pair[0], pair[1]) || pair[0] == pair[1]),
            "processes that disagree run side by side"
        );
        for key in ["federation_sender_instances", "pusher_instances"] {
            let also_main = key == "federation_sender_instances";
            let concerned = self.alive.iter().filter(|(name, process)| {
                names(process.image.settings.get(key)).contains(name)
                    || also_main && **name == UnitName::main()
            });
            let lists: BTreeSet<Vec<UnitName>> =
                concerned.map(|(_, process)| names(process.image.settings.get(key))).collect();
            assert!(lists.len() <= 1, "{key}: {lists:?} side by side");
        }
        for duty in DUTIES {
            let holders: Vec<&UnitName> = self
                .alive
                .iter()
                .filter(|(name, process)| names(process.image.settings.get(duty)).contains(name))
                .map(|(name, _)| name)
                .collect();
            assert!(holders.len() <= 1, "{duty}: {holders:?} at a time");
        }
    }

    /// What must hold when all is done.
    pub(super) fn check_end(&self, plan: &Plan) {
        let (alive, wanted): (Vec<_>, Vec<_>) =
            (self.alive.keys().collect(), self.new.images.keys().collect());
        assert_eq!(alive, wanted);
        for (name, process) in &self.alive {
            let new = born(name, self.new);
            assert!(!differs(name, process, &new), "{name} does not run with what is asked for");
            let same = process.image.settings == new.image.settings && process.image.log == new.image.log;
            // The files of whoever moves are replaced too, and one that is read anew on SIGHUP is so in parts.
            let replaced = plan.rewritten.contains(name) || self.moved.contains(name);
            assert!(same || replaced, "the file of {name} is not replaced");
        }
        for name in [UnitName::postgres(), UnitName::redis()] {
            assert_eq!(self.services.get(&name).cloned(), service(&name, self.new));
        }
        assert_eq!(self.forks, synapse(self.new));
    }
}
