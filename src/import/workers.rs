//! Which workers an installation had, and which of synvisor's do the same.
//!
//! Who does what is said by the lists of the shared configuration; the files of the workers say how many there are
//! besides. Who got which requests stood in a web server's configuration, which synvisor's router has no need of.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use toml::Table;

use crate::config::roles::Stream;
use crate::config::roles::WorkerKind;
use crate::topology::MASTER;

use super::installation::WorkerFile;
use super::listeners::resources;
use super::report::Entry;
use super::report::Verdict;
use super::services;
use super::translate::Translator;
use super::yaml;
use super::yaml::Value;

/// Settings that are read here.
pub(super) const HANDLED: [&str; 13] = [
    "instance_map",
    "stream_writers",
    "federation_sender_instances",
    "send_federation",
    "pusher_instances",
    "start_pushers",
    "run_background_tasks_on",
    "update_user_directory_from_worker",
    "update_user_directory",
    "notify_appservices_from_worker",
    "notify_appservices",
    "enable_media_repo",
    "media_instance_running_background_jobs",
];

/// Each duty that one worker has, by the setting that names it, the older one that takes it from main, and the
/// `worker_app` that had it then.
const SINGLES: [(WorkerKind, &str, &str, &str); 3] = [
    (WorkerKind::Background, "run_background_tasks_on", "", ""),
    (
        WorkerKind::UserDir,
        "update_user_directory_from_worker",
        "update_user_directory",
        "synapse.app.user_dir",
    ),
    (
        WorkerKind::Appservice,
        "notify_appservices_from_worker",
        "notify_appservices",
        "synapse.app.appservice",
    ),
];

const SHARDED: [(WorkerKind, &str, &str, &str); 2] = [
    (
        WorkerKind::FederationSender,
        "federation_sender_instances",
        "send_federation",
        "synapse.app.federation_sender",
    ),
    (WorkerKind::Pusher, "pusher_instances", "start_pushers", "synapse.app.pusher"),
];

/// What a worker is for that nobody gave a duty, by its `worker_app` of before Synapse 1.60 or by a playbook's names.
const BY_NAME: [(&str, WorkerKind); 9] = [
    ("synapse.app.synchrotron", WorkerKind::Sync),
    ("synapse.app.client_reader", WorkerKind::ClientReader),
    ("synapse.app.federation_reader", WorkerKind::FederationReader),
    ("matrix-synapse-worker-room-", WorkerKind::Room),
    ("matrix-synapse-worker-sync-", WorkerKind::Sync),
    ("matrix-synapse-worker-client-reader-", WorkerKind::ClientReader),
    ("matrix-synapse-worker-federation-reader-", WorkerKind::FederationReader),
    ("matrix-synapse-worker-generic-", WorkerKind::Generic),
    ("matrix-synapse-worker-media-repository-", WorkerKind::MediaRepository),
];

/// Settings of a worker's file that follow from what synvisor knows of it.
const OF_WORKERS: [&str; 12] = [
    "worker_app",
    "worker_name",
    "worker_listeners",
    "worker_daemonize",
    "worker_pid_file",
    "worker_manhole",
    "worker_main_http_uri",
    "worker_replication_host",
    "worker_replication_port",
    "worker_replication_http_port",
    "worker_replication_http_tls",
    "enable_media_repo",
];

/// Workers by kind, in the order in which they are listed.
#[derive(Default)]
struct Duties(BTreeMap<WorkerKind, Vec<String>>);

impl Duties {
    fn give(&mut self, kind: WorkerKind, name: &str) {
        let names = self.0.entry(kind).or_default();
        if !names.iter().any(|held| held == name) {
            names.push(name.to_owned());
        }
    }

    fn of<'d>(&'d self, name: &'d str) -> impl Iterator<Item = (WorkerKind, String)> + 'd {
        self.0.iter().filter_map(move |(kind, names)| {
            let at = names.iter().position(|held| held == name)?;
            Some((*kind, kind.unit_name(u16::try_from(at + 1).ok()?)))
        })
    }
}

fn names(value: Option<&Value>) -> Vec<String> {
    let Some(value) = value else { return Vec::new() };
    let list = value.list().iter().filter_map(Value::text);
    value.text().into_iter().chain(list).map(str::to_owned).collect()
}

fn of_file<'f>(file: &'f WorkerFile, key: &str) -> Option<&'f Value> {
    yaml::get(&file.settings, key)
}

fn app(file: &WorkerFile) -> &str {
    of_file(file, "worker_app").and_then(Value::text).unwrap_or("synapse.app.generic_worker")
}

/// Synapse calls a worker without a name as its app.
fn name(file: &WorkerFile) -> &str {
    of_file(file, "worker_name").and_then(Value::text).unwrap_or_else(|| app(file))
}

fn offered(file: &WorkerFile) -> BTreeSet<&str> {
    let listeners = of_file(file, "worker_listeners").map(Value::list).unwrap_or_default();
    listeners.iter().flat_map(resources).collect()
}

impl Translator<'_> {
    pub(super) fn workers(&mut self) {
        let mut duties = Duties::default();
        self.media_workers(&mut duties);
        self.shards(&mut duties);
        self.single_duties(&mut duties);
        self.writers(&mut duties);
        self.others(&mut duties);
        if let Some(preset) = &self.from.preset {
            self.document.workers.insert("preset".to_owned(), preset.clone().into());
        }
        for (kind, names) in &duties.0 {
            let count = names.len().min(usize::from(WorkerKind::max(*kind)));
            self.document.workers.insert(kind.key().to_owned(), i64::try_from(count).unwrap_or(1).into());
            if names.len() > count {
                let text = format!("{} is for one process at most", kind.key());
                self.note("instance_map", Verdict::Changed, text);
            }
        }
        for (kind, count) in &self.from.counts {
            self.document.workers.insert(kind.key().to_owned(), i64::from(*count).into());
        }
        for file in &self.from.workers {
            self.worker(file, &duties);
        }
        if self.from.get("instance_map").is_some() {
            self.note("instance_map", Verdict::Changed, "follows from the counts in [workers]");
        }
        if !self.document.workers.is_empty() && self.from.get("redis").is_none() {
            self.note(
                "redis",
                Verdict::Changed,
                "workers talk over a Redis on 127.0.0.1:6379: install redis-server",
            );
        }
    }

    fn media_workers(&mut self, duties: &mut Duties) {
        let from = self.from;
        let on_main = from.get("enable_media_repo").and_then(Value::truth).unwrap_or(true);
        let serves = |file: &&WorkerFile| {
            let own = of_file(file, "enable_media_repo").and_then(Value::truth) == Some(true);
            app(file) == "synapse.app.media_repository"
                || (!on_main && own)
                || offered(file).contains("media")
        };
        for file in from.workers.iter().filter(serves) {
            duties.give(WorkerKind::MediaRepository, name(file));
        }
        let jobs = from.text("media_instance_running_background_jobs").filter(|name| *name != MASTER);
        if let (Some(jobs), false) = (jobs, on_main) {
            duties.give(WorkerKind::MediaRepository, jobs);
        }
        if from.get("media_instance_running_background_jobs").is_some() {
            let text = "it is the first process that serves media";
            self.note("media_instance_running_background_jobs", Verdict::Changed, text);
        }
        let external =
            !on_main && duties.0.is_empty() && !from.counts.contains_key(&WorkerKind::MediaRepository);
        if external && from.preset.is_none() {
            let text = "nobody among the sources serves media (is there another program for it?): main does now; let the web \
                        server in front send /_matrix/media, /_matrix/client/v1/media and /_matrix/federation/v1/media to \
                        that program";
            self.note("enable_media_repo", Verdict::Left, text);
        }
    }

    fn shards(&mut self, duties: &mut Duties) {
        let from = self.from;
        for (kind, setting, legacy, old_app) in SHARDED {
            let held = from.get(setting).filter(|held| **held != Value::Null);
            let listed = names(held);
            if listed.iter().any(|name| name == MASTER) && listed.len() > 1 {
                let text = "main does not do it beside workers";
                self.note(setting, Verdict::Changed, text);
            }
            for name in listed.iter().filter(|name| *name != MASTER) {
                duties.give(kind, name);
            }
            let off = from.get(legacy).and_then(Value::truth) == Some(false);
            if held.is_none() {
                for file in from.workers.iter().filter(|file| app(file) == old_app) {
                    duties.give(kind, name(file));
                }
            }
            let nobody = !duties.0.contains_key(&kind) && !from.counts.contains_key(&kind);
            if nobody && (off || held.is_some() && listed.is_empty()) {
                let text = "nobody did it: main does now";
                self.note(if off { legacy } else { setting }, Verdict::Left, text);
            }
        }
    }

    fn single_duties(&mut self, duties: &mut Duties) {
        let from = self.from;
        for (kind, setting, legacy, old_app) in SINGLES {
            if let Some(name) = from.text(setting).filter(|name| *name != MASTER) {
                duties.give(kind, name);
                if name == "main" {
                    let text = "nobody did it, since main is called master there";
                    self.note(setting, Verdict::Changed, text);
                }
                continue;
            }
            let off = !legacy.is_empty() && from.get(legacy).and_then(Value::truth) == Some(false);
            for file in from.workers.iter().filter(|file| off && app(file) == old_app) {
                duties.give(kind, name(file));
            }
            if off && !duties.0.contains_key(&kind) {
                self.note(legacy, Verdict::Left, "nobody among the sources did it: main does now");
            }
        }
    }

    fn writers(&mut self, duties: &mut Duties) {
        let Some(map) = self.from.get("stream_writers").and_then(Value::map) else { return };
        let media = duties.0.get(&WorkerKind::MediaRepository).cloned().unwrap_or_default();
        for (key, value) in map {
            let path = format!("stream_writers.{key}");
            let Some(stream) = Stream::ALL.into_iter().find(|stream| stream.key() == key) else {
                self.note(path, Verdict::Left, "synvisor knows no such stream");
                continue;
            };
            let mut writers = names(Some(value));
            // These write it anyhow, and so does main.
            if stream == Stream::QuarantinedMediaChanges {
                writers.retain(|name| name == MASTER || !media.contains(name));
            }
            let workers: Vec<&String> = writers.iter().filter(|name| *name != MASTER).collect();
            if !workers.is_empty()
                && workers.len() < writers.len()
                && stream != Stream::QuarantinedMediaChanges
            {
                self.note(path, Verdict::Changed, "main does not write it beside workers");
            }
            for name in workers {
                duties.give(WorkerKind::Writer(stream), name);
            }
        }
    }

    /// Workers that nobody gave a duty: they answered requests.
    fn others(&mut self, duties: &mut Duties) {
        for file in &self.from.workers {
            let name = name(file);
            if duties.of(name).next().is_some() {
                continue;
            }
            let known = BY_NAME.iter().find(|(start, _)| *start == app(file) || name.starts_with(start));
            let offered = offered(file);
            let kind = match known {
                Some((_, kind)) => *kind,
                None if offered.contains("client") => WorkerKind::Generic,
                None if offered.contains("federation") => WorkerKind::FederationReader,
                None => {
                    let text = "no list gives it a duty, and it answered no client or server: it is left out";
                    self.tell(file, "worker_name", Verdict::Left, text);
                    continue;
                }
            };
            duties.give(kind, name);
        }
    }

    fn tell(&mut self, file: &WorkerFile, name: &str, verdict: Verdict, text: impl Into<String>) {
        let (source, name) = (file.source.clone(), name.to_owned());
        self.entries.push(Entry { source, name, verdict, text: text.into() });
    }

    /// What one worker has that others have not.
    fn worker(&mut self, file: &WorkerFile, duties: &Duties) {
        let units: Vec<String> = duties.of(name(file)).map(|(_, unit)| unit).collect();
        match units.as_slice() {
            [] => {}
            [unit] => {
                self.tell(file, "worker_name", Verdict::Changed, format!("{} is the unit {unit}", name(file)))
            }
            several => {
                let text = format!(
                    "{} did the work of {}: each is a process of its own",
                    name(file),
                    several.join(" and ")
                );
                self.tell(file, "worker_name", Verdict::Changed, text);
            }
        }
        for (key, value) in &file.settings {
            match key.as_str() {
                "worker_name" => {}
                "worker_log_config" => self.worker_level(file, value, &units),
                key if OF_WORKERS.contains(&key) => {
                    self.tell(file, key, Verdict::Changed, "follows from what the unit is for");
                }
                key if self.from.get(key) == Some(value) => {
                    self.tell(file, key, Verdict::Carried, "as in every process");
                }
                key => self.own_setting(file, key, value, &units),
            }
        }
    }

    fn worker_level(&mut self, file: &WorkerFile, value: &Value, units: &[String]) {
        let Some(path) = value.text() else { return };
        let (level, text) = self.root_level(path);
        let verdict = if level.is_some() { Verdict::Changed } else { Verdict::Left };
        self.tell(file, "worker_log_config", verdict, text);
        let shared = self.from.text("log_config").and_then(|path| self.root_level(path).0);
        if let Some(level) = level.filter(|level| Some(level) != shared.as_ref()) {
            units.iter().for_each(|unit| self.level(unit, &level));
        }
    }

    fn own_setting(&mut self, file: &WorkerFile, key: &str, value: &Value, units: &[String]) {
        if HANDLED.contains(&key)
            || services::HANDLED.contains(&key) && key != "database"
            || key == "server_name"
        {
            let text = "differs from what main has, and must not: main's holds";
            return self.tell(file, key, Verdict::Left, text);
        }
        if key == "database" {
            return self.own_pool(file, value, units);
        }
        for unit in units {
            let Some(value) = self.aside(file, &format!("{unit}.{key}"), key, value) else { continue };
            let table = self.document.unit(unit);
            if key == "caches" {
                table.insert("caches".to_owned(), value);
                continue;
            }
            let held = table.entry("settings").or_insert_with(|| toml::Value::Table(Table::new()));
            if let Some(settings) = held.as_table_mut() {
                settings.insert(key.to_owned(), value);
            }
        }
        let beside = self.from.get("caches").filter(|_| key == "caches").is_some();
        let (verdict, text) = match (units.is_empty(), beside) {
            (true, _) => (Verdict::Left, "its worker is left out"),
            (false, true) => (
                Verdict::Changed,
                "laid over the caches of [synapse], where it had taken the place of all of them",
            ),
            (false, false) => (Verdict::Carried, ""),
        };
        self.tell(file, key, verdict, text);
    }

    /// [`Self::value`], with what has to be told of it told of the worker's file.
    fn aside(&mut self, file: &WorkerFile, path: &str, key: &str, value: &Value) -> Option<toml::Value> {
        let before = self.notes.len();
        let value = self.value(path, key, value);
        for note in self.notes.split_off(before) {
            self.tell(file, key, note.verdict, note.text);
        }
        value
    }

    /// Of a database of its own a worker can keep the size of its pool.
    fn own_pool(&mut self, file: &WorkerFile, value: &Value, units: &[String]) {
        for key in ["cp_min", "cp_max"] {
            let size =
                value.at(&format!("args.{key}")).and_then(Value::int).filter(|size| (1..=200).contains(size));
            if let Some(size) = size {
                for unit in units {
                    self.document.unit(unit).insert(key.to_owned(), size.into());
                }
            }
        }
        let text = "the size of its pool is kept; all processes use the same database";
        self.tell(file, "database", Verdict::Changed, text);
    }
}
