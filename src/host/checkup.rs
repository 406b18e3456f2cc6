//! Looks at everything that the doctor judges.

use std::io::Write;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

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
use super::toml::Loaded;
use super::venv;

/// The unit as it is shipped: where it lets the service write.
const UNIT: &str = include_str!("../../systemd/synvisor.service");

/// Where systemd looks for what changes the unit (systemd.unit(5)).
const DROP_INS: [&str; 3] = [
    "/etc/systemd/system/synvisor.service.d",
    "/run/systemd/system/synvisor.service.d",
    "/usr/local/lib/systemd/system/synvisor.service.d",
];

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
    let drop_ins = drop_ins();
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
#[expect(clippy::disallowed_methods, reason = "runs in a command that has no other children")]
fn ask(loaded: &Loaded, users: &Users, around: &Circumstances) -> Result<Told, String> {
    let config = &loaded.parsed.config;
    let python = venv::interpreter(&config.python.venv);
    let mut command = Command::new(&python);
    command.args(["-I", "-W", "ignore", "-c", include_str!("doctor.py")]).current_dir("/").env_clear();
    command.envs(around.environment.iter().map(|(name, value)| (name, value)));
    if let Some(user) = &users.synapse {
        command.uid(user.uid).gid(user.gid);
    }
    crate::sys::process::incapable(&mut command);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child =
        command.spawn().map_err(|error| format!("{} cannot be run: {error}", python.display()))?;
    let asked = serde_json::json!({
        "connection": render::connection(config, &loaded.secrets),
        "server_name": config.server_name,
        "public_baseurl": config.public_baseurl,
        "forged": around.outside.then(|| doctor::FORGED.to_string()),
    });
    if let Some(mut input) = child.stdin.take() {
        // One that ends without having read it says why.
        let _ = input.write_all(asked.to_string().as_bytes());
    }
    let done = child.wait_with_output().map_err(|error| error.to_string())?;
    serde_json::from_slice(&done.stdout).map_err(|error| {
        let said = String::from_utf8_lossy(&done.stderr);
        let last = said.lines().rev().find(|line| !line.trim().is_empty()).map(str::to_owned);
        format!("{} does not answer: {}", python.display(), last.unwrap_or_else(|| error.to_string()))
    })
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
        let open = !in_service || path.starts_with(state) || doctor::is_open(&path, UNIT, drop_ins);
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

fn drop_ins() -> Vec<DropIn> {
    let files = DROP_INS.iter().flat_map(|directory| fs::list(Path::new(directory)).unwrap_or_default());
    let configs = files.filter(|path| path.extension().is_some_and(|extension| extension == "conf"));
    configs.filter_map(|path| Some(DropIn { text: fs::read(&path).ok()?, path })).collect()
}

fn warnings(warnings: &[Problem], unfit: &[Problem]) -> Vec<(String, String)> {
    warnings.iter().chain(unfit).map(|problem| (problem.what.clone(), problem.remedy.clone())).collect()
}
