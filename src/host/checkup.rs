//! Looks at everything that the doctor judges.

use std::net::SocketAddr;
use std::net::TcpListener;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;

use crate::certificate::Certificate;
use crate::config::CertificateFiles;
use crate::config::Config;
use crate::config::Redis;
use crate::config::mask;
use crate::config::problem::Problem;
use crate::config::secret::SecretSource;
use crate::doctor;
use crate::doctor::Database;
use crate::doctor::Facts;
use crate::doctor::Kept;
use crate::doctor::Place;
use crate::doctor::Port;
use crate::doctor::Public;
use crate::doctor::Room;
use crate::doctor::Served;
use crate::doctor::Trouble;
use crate::doctor::WellKnown;
use crate::render;
use crate::sys::clock;
use crate::sys::descriptors;
use crate::sys::fs;
use crate::sys::names;
use crate::sys::users;
use crate::sys::users::User;
use crate::topology;

use super::database;
use super::layout::Layout;
use super::layout::Users;
use super::machine::Machine;
use super::python;
use super::secrets;
use super::settings;
use super::systemd;
use super::toml::Loaded;

/// What the Python of a virtualenv finds out, of what it was asked.
#[derive(Deserialize)]
struct Told {
    database: Option<Result<Database, String>>,
    public: Option<Result<Public, String>>,
    federation: Option<Result<String, String>>,
}

/// What the doctor is told beside the configuration.
pub struct Circumstances {
    /// Pid of the supervisor, if one runs; its addresses are ours then.
    pub supervisor: Option<u32>,
    /// Whether to ask what others see of the homeserver.
    pub outside: bool,
    /// The caller's variables that say how the world is reached.
    pub environment: Vec<(std::ffi::OsString, std::ffi::OsString)>,
}

/// Looks at a machine, for some seconds where something does not answer.
pub async fn look(loaded: &Loaded, users: &Users, around: &Circumstances) -> Facts {
    let config = &loaded.parsed.config;
    let layout = Layout::of(config);
    let drop_ins = systemd::drop_ins();
    let unit = systemd::installed();
    let text = unit.as_ref().map(systemd::Installed::text);
    // Only what the service runs with has to do with what the unit allows.
    let in_service =
        text.filter(|text| is_same(&doctor::configuration(text, &drop_ins), &loaded.document.name));
    let unfit = sentences(&unfit(loaded, users.synapse.as_ref().filter(|_| in_service.is_some())));
    let (database, public) = outside_and_database(loaded, users, around).await;
    Facts {
        redis: redis(loaded).await,
        database,
        ports: config.listen.iter().map(|listen| port(listen.address, around.supervisor)).collect(),
        most_files: match around.supervisor {
            Some(pid) => descriptors::most_of(pid).map_err(|error| error.to_string()),
            None => Err("synvisor is not running".to_owned()),
        },
        clock_is_kept: clock::is_kept().map_err(|error| error.to_string()),
        places: places(&layout, |path| in_service.is_none_or(|unit| doctor::is_open(path, unit, &drop_ins))),
        memory: Machine::look().memory,
        kept: kept(loaded, users),
        shipped: systemd::UNIT,
        unit: match unit {
            Some(systemd::Installed::Own(unit)) => Some(unit),
            Some(systemd::Installed::Packaged) | None => None,
        },
        drop_ins,
        installed: settings::installed(&config.python.venv).is_some(),
        warnings: sentences(&loaded.warnings),
        unfit,
        certificates: certificates(loaded),
        without_certificate: without_certificate(loaded),
        public,
    }
}

/// What is wrong with the secrets, for us and for the user of the service if there is one.
fn unfit(loaded: &Loaded, service: Option<&User>) -> Vec<Problem> {
    let closed = service.map(|user| secrets::closed_to(user, &loaded.parsed.files).unwrap_or_default());
    let new = |problem: &Problem| loaded.unfit.iter().all(|held| held.place != problem.place);
    loaded.unfit.iter().cloned().chain(closed.into_iter().flatten().filter(new)).collect()
}

fn is_same(one: &Path, other: &str) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    real(one).is_some_and(|one| real(Path::new(other)).as_ref() == Some(&one))
}

/// Why a secret could not be had by which something is asked.
fn unread(loaded: &Loaded, source: Option<&SecretSource>) -> Option<Trouble> {
    let source = source.filter(|source| loaded.secrets.get(source).is_empty())?;
    let place = &loaded.parsed.files.iter().find(|file| file.source == *source)?.place;
    let problem =
        loaded.hidden.iter().chain(&loaded.unfit).find(|problem| problem.place.as_ref() == Some(place));
    let why = problem.map_or("it was not read", |problem| &problem.what);
    Some(Trouble::Unseen(format!("its password is not known: {why}")))
}

async fn redis(loaded: &Loaded) -> Result<(), Trouble> {
    let config = &loaded.parsed.config;
    let source = match &config.redis {
        Redis::External(external) => external.password.as_ref(),
        Redis::Embedded => None,
    };
    if let Some(trouble) = unread(loaded, source) {
        return Err(trouble);
    }
    let password = source.map(|source| loaded.secrets.get(source));
    database::reach_redis(config, password).await.map_err(Trouble::Fault)
}

/// Has the virtualenv's Python ask the database and the outside.
async fn outside_and_database(
    loaded: &Loaded,
    users: &Users,
    around: &Circumstances,
) -> (Result<Database, Trouble>, Public) {
    let config = &loaded.parsed.config;
    let hidden = unread(loaded, config.database.password());
    let asked = serde_json::json!({
        "connection": hidden.is_none().then(|| render::connection(config, &loaded.secrets)),
        "server_name": config.server_name,
        "public_baseurl": config.public_baseurl,
        "forged": around.outside.then(|| doctor::FORGED.to_string()),
    });
    let (database, public) = match ask(config, users, around, &asked) {
        Ok(told) => (told.database, told.public.unwrap_or(Err("left out by --offline".to_owned()))),
        Err(why) => {
            let is_there = config.python.venv.join("bin/python").exists();
            let remedy = if is_there { "" } else { "\n  synvisor init makes the virtualenv" };
            (Some(Err(why + remedy)), Err("the virtualenv cannot be run".to_owned()))
        }
    };
    let database = match (hidden, database) {
        (Some(trouble), _) => Err(trouble),
        (None, Some(Ok(database))) => Ok(database),
        (None, Some(Err(why))) => Err(Trouble::Fault(format!("cannot be asked: {why}"))),
        (None, None) => Err(Trouble::Unseen("the virtualenv says nothing of it".to_owned())),
    };
    let mut public = public.unwrap_or_else(unasked);
    if let Some(host) = public.by_record.clone() {
        public.record = Ok(None);
        // The second name is that of old (Matrix specification, server-server API, "Resolving server names").
        for service in ["_matrix-fed._tcp", "_matrix._tcp"] {
            match names::service(&format!("{service}.{host}")).await {
                Ok(None) => {}
                Ok(Some((target, port))) => {
                    let asked = serde_json::json!({ "record": (&host, &target, port) });
                    let told = ask(config, users, around, &asked);
                    public.federation = told.and_then(|told| told.federation.unwrap_or(public.federation));
                    public.record = Ok(Some(format!("{target}:{port}")));
                    break;
                }
                Err(error) => {
                    public.record = Err(error.to_string());
                    break;
                }
            }
        }
    }
    (database, public)
}

fn unasked(why: String) -> Public {
    Public {
        unasked: Some(why),
        server: WellKnown::Absent,
        client: WellKnown::Absent,
        federation: Err(String::new()),
        by_record: None,
        record: Ok(None),
        clients: Err(String::new()),
        seen: None,
        from: None,
        admin: None,
    }
}

fn ask(
    config: &Config,
    users: &Users,
    around: &Circumstances,
    asked: &serde_json::Value,
) -> Result<Told, String> {
    let mut command = python::command(&config.python.venv, users.synapse.as_ref());
    command.env_clear().envs(around.environment.iter().map(|(name, value)| (name, value)));
    python::ask(command, include_str!("doctor.py"), asked)
}

fn port(address: SocketAddr, supervisor: Option<u32>) -> Port {
    let taken = match supervisor {
        Some(_) => None,
        None => TcpListener::bind(address).err().map(|error| error.to_string()),
    };
    Port { address, taken }
}

/// Where data lie; `is_open` says where the service may write.
fn places(layout: &Layout, is_open: impl Fn(&Path) -> bool) -> Vec<Place> {
    let state = &layout.state;
    let media = state.join("media_store");
    let media = fs::link_target(&media).map(|target| state.join(target));
    let look = |what: &'static str, path: PathBuf, absent: fn(String) -> Trouble| {
        let room = fs::space(&path).map_err(|error| {
            let unknown = error.kind() != std::io::ErrorKind::NotFound;
            if unknown { Trouble::Unseen(error.to_string()) } else { absent(error.to_string()) }
        });
        let room =
            room.map(|fs::Space { free, size, free_files, files }| Room { free, size, free_files, files });
        Place { what, open: is_open(&path), path, room }
    };
    // The state directory is made when the service starts first; what a link leads to is not.
    let media =
        media.filter(|media| !media.starts_with(state)).map(|media| look("media", media, Trouble::Fault));
    std::iter::once(look("the state directory", state.clone(), Trouble::Unseen)).chain(media).collect()
}

/// Files and directories that others must not get at.
fn kept(loaded: &Loaded, users: &Users) -> Vec<Kept> {
    let config = &loaded.parsed.config;
    let layout = Layout::of(config);
    let own = users
        .synapse
        .as_ref()
        .map_or_else(|| (users::own_uid(), users::own_name()), |user| (user.uid, user.name.clone()));
    let root = (0, "root".to_owned());
    let one = |path: PathBuf, owners: &[(u32, String)], never: u32| {
        let (owner, mode) = fs::owner_and_mode(&path).ok()?;
        Some(Kept { path, owner, mode, owners: owners.to_vec(), never })
    };
    let both = [own.clone(), root.clone()];
    let mut all = vec![one(layout.state.clone(), &both, 0o027), one(layout.secrets(), &both, 0o077)];
    all.extend(
        fs::list(&layout.secrets()).unwrap_or_default().into_iter().map(|path| one(path, &both, 0o077)),
    );
    let configs = layout.config_file(&topology::UnitName::main());
    all.extend(configs.parent().map(|path| one(path.to_owned(), &both, 0o077)));
    let mine = [root, own, (users::own_uid(), users::own_name())];
    // Others may read it unless a secret stands in it.
    let never = if has_secrets(&loaded.document.text) { 0o027 } else { 0o022 };
    all.push(one(PathBuf::from(&loaded.document.name), &mine, never));
    all.into_iter().flatten().collect()
}

/// Whether a secret stands in the file itself.
fn has_secrets(text: &str) -> bool {
    let table: toml::Table = toml::from_str(text).unwrap_or_default();
    let mut found = Vec::new();
    table.iter().for_each(|(key, value)| mask::secrets(key, value, &mut found));
    !found.is_empty()
}

fn certificates(loaded: &Loaded) -> Vec<Served> {
    let now = clock::wall();
    let all = loaded
        .parsed
        .config
        .listen
        .iter()
        .flat_map(|listen| listen.tls.iter().map(|files| (listen.address, files)));
    let served = |(listen, files): (SocketAddr, &CertificateFiles)| {
        let certificate = Certificate::of(files.texts(&loaded.secrets)?.0)?;
        Some(Served { listen, validity: certificate.validity(now), certificate })
    };
    all.filter_map(served).collect()
}

fn without_certificate(loaded: &Loaded) -> Vec<Trouble> {
    let found = &loaded.certificates;
    let faults = found.unfit.iter().chain(&found.wrong);
    let faults = faults
        .map(|problem| Trouble::Fault(format!("{}\n{}", problem.what, problem.remedy.replace('\n', " "))));
    faults.chain(found.hidden.iter().map(|problem| Trouble::Unseen(problem.what.clone()))).collect()
}

fn sentences(problems: &[Problem]) -> Vec<(String, String)> {
    problems.iter().map(|problem| (problem.what.clone(), problem.remedy.clone())).collect()
}
