//! Looks at everything that the doctor judges.

use std::net::SocketAddr;
use std::net::TcpListener;
use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;

use crate::config::Redis;
use crate::config::problem::Problem;
use crate::doctor;
use crate::doctor::Database;
use crate::doctor::DropIn;
use crate::doctor::Facts;
use crate::doctor::Kept;
use crate::doctor::Place;
use crate::doctor::Port;
use crate::doctor::Public;
use crate::doctor::WellKnown;
use crate::render;
use crate::sys::clock;
use crate::sys::descriptors;
use crate::sys::fs;
use crate::sys::users;
use crate::topology;

use super::database;
use super::layout::Layout;
use super::layout::Users;
use super::machine::Machine;
use super::python;
use super::systemd;
use super::toml::Loaded;

/// What the Python of a virtualenv finds out.
#[derive(Deserialize)]
struct Told {
    database: Result<Database, String>,
    public: Option<Public>,
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
    let told = ask(loaded, users, around);
    let (database, public) = match told {
        Ok(told) => (told.database, told.public),
        Err(why) => (Err(why), None),
    };
    let unasked = |why: &str| Public {
        unasked: Some(why.to_owned()),
        server: WellKnown::Absent,
        client: WellKnown::Absent,
        federation: Err(String::new()),
        clients: Err(String::new()),
        address: None,
        admin: None,
    };
    let password = match &config.redis {
        Redis::External(external) => external.password.as_ref().map(|source| loaded.secrets.get(source)),
        Redis::Embedded => None,
    };
    let drop_ins = systemd::drop_ins();
    let in_service = layout.state == Path::new("/var/lib/synvisor");
    Facts {
        redis: database::reach_redis(config, password).await,
        database,
        ports: config.listen.iter().map(|listen| port(listen.address, around.supervisor)).collect(),
        most_files: match around.supervisor {
            Some(pid) => descriptors::most_of(pid).map_err(|error| error.to_string()),
            None => Err("synvisor is not running".to_owned()),
        },
        clock_is_kept: clock::is_kept().map_err(|error| error.to_string()),
        places: places(&layout, &drop_ins, in_service),
        memory: Machine::look().memory,
        kept: kept(loaded, users),
        drop_ins,
        warnings: warnings(&loaded.warnings, &loaded.unfit),
        public: public.unwrap_or_else(|| {
            unasked(if around.outside { "the virtualenv cannot be run" } else { "left out by --offline" })
        }),
    }
}

/// Has the virtualenv's Python ask the database and the outside.
fn ask(loaded: &Loaded, users: &Users, around: &Circumstances) -> Result<Told, String> {
    let config = &loaded.parsed.config;
    let mut command = python::command(&config.python.venv, users.synapse.as_ref());
    command.env_clear().envs(around.environment.iter().map(|(name, value)| (name, value)));
    let asked = serde_json::json!({
        "connection": render::connection(config, &loaded.secrets),
        "server_name": config.server_name,
        "public_baseurl": config.public_baseurl,
        "forged": around.outside.then(|| doctor::FORGED.to_string()),
    });
    python::ask(command, include_str!("doctor.py"), &asked)
}

fn port(address: SocketAddr, supervisor: Option<u32>) -> Port {
    let taken = match supervisor {
        Some(_) => None,
        None => TcpListener::bind(address).err().map(|error| error.to_string()),
    };
    Port { address, taken }
}

fn places(layout: &Layout, drop_ins: &[DropIn], in_service: bool) -> Vec<Place> {
    let media = layout.state.join("media_store");
    let media = fs::link_target(&media).unwrap_or(media);
    let state = &layout.state;
    let look = |what: &'static str, path: PathBuf| {
        let space = fs::space(&path).ok()?;
        let open = !in_service || path.starts_with(state) || doctor::is_open(&path, systemd::UNIT, drop_ins);
        let fs::Space { free, size, free_files, files } = space;
        Some(Place { what, path, free, size, free_files, files, open })
    };
    let media = (!media.starts_with(state)).then(|| look("media", media)).flatten();
    look("the state directory", state.clone()).into_iter().chain(media).collect()
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
    all.push(one(PathBuf::from(&loaded.document.name), &mine, 0o022));
    all.into_iter().flatten().collect()
}

fn warnings(warnings: &[Problem], unfit: &[Problem]) -> Vec<(String, String)> {
    warnings.iter().chain(unfit).map(|problem| (problem.what.clone(), problem.remedy.clone())).collect()
}
