//! PostgreSQL's own programs: a dump, a restore, and the embedded server where nobody else runs it.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::config::Config;
use crate::sys::fs;
use crate::sys::process;
use crate::sys::users;
use crate::sys::users::User;
use crate::topology;

use super::database;
use super::layout::Layout;
use super::program;
use super::venv::Venv;

/// Where distributions keep the programs of each version.
const PACKAGED: [&str; 2] = ["/usr/lib/postgresql", "/usr/pgsql"];

/// Keys that a client may have taken since, which must never be handed out again (Synapse's
/// `docs/usage/administration/backups.md`).
const NOT_KEPT: &str = "e2e_one_time_keys_json";

/// What pg_dump says when it gives up because somebody waits to have a table alone, as Synapse's background updates do
/// (`parallel.c`, lockTableForWorker); they have it then, for a moment.
const LOCKED: &str = "could not obtain lock on relation";

/// How often a dump is begun, where that is why it ended.
const DUMPS: u32 = 4;

/// How often, and with which pause, one asks whether the server answers: for a minute.
const ATTEMPTS: u32 = 600;
const PAUSE: Duration = Duration::from_millis(100);

/// How often it may end at once.
const ENDS: u32 = 20;

/// The directory of the oldest programs that can talk to a server of this major version: what a newer pg_dump writes, an
/// older server may not read.
///
/// # Errors
/// There are none, and what to install.
pub fn programs(server: u32, venv: &Venv) -> Result<PathBuf, String> {
    let below = |place: &str| fs::list(Path::new(place)).unwrap_or_default();
    let mut found: Vec<(u32, PathBuf)> = PACKAGED
        .iter()
        .flat_map(|place| below(place))
        .filter_map(|directory| Some((directory.file_name()?.to_str()?.parse().ok()?, directory.join("bin"))))
        .collect();
    let embedded = || Some((venv.postgres_version.as_ref()?.parse().ok()?, venv.postgres.clone()?));
    found.extend(embedded());
    found.retain(|(version, place)| *version >= server && place.join("pg_dump").exists());
    found.sort();
    found.into_iter().next().map(|(_, place)| place).ok_or_else(|| {
        format!("there is no pg_dump of PostgreSQL {server} or newer\n  apt-get install postgresql-client-{server}")
    })
}

/// Where to, and as whom: libpq's environment, so that no password is in an argument.
#[derive(Clone, Debug)]
pub struct Client<'a> {
    pub programs: PathBuf,
    pub connection: &'a serde_json::Value,
    pub user: Option<&'a User>,
}

impl Client<'_> {
    /// Writes all of a database into a directory that is not there yet, as it was at one moment.
    ///
    /// # Errors
    /// What pg_dump said.
    pub fn dump(&self, directory: &Path, say: &mut dyn FnMut(&str)) -> Result<(), String> {
        for _ in 1..DUMPS {
            let mut locked = false;
            let dumped = self.dump_once(directory, &mut |line| {
                locked |= line.contains(LOCKED);
                say(line);
            });
            if dumped.is_ok() || !locked {
                return dumped;
            }
            say("begun anew: somebody wanted a table alone");
            let begun = || fs::remove_all(directory).map_err(|error| error.to_string());
            users::as_user(self.user, begun)?;
        }
        self.dump_once(directory, say)
    }

    fn dump_once(&self, directory: &Path, say: &mut dyn FnMut(&str)) -> Result<(), String> {
        let mut command = self.command("pg_dump");
        command.args(["--format=directory", "--no-owner", "--no-privileges", "--verbose"]);
        command.arg(format!("--jobs={}", jobs())).arg(format!("--exclude-table-data={NOT_KEPT}"));
        command.arg("--file").arg(directory);
        program::run(command, say)
    }

    /// Fills an empty database from such a directory.
    ///
    /// # Errors
    /// What pg_restore said.
    pub fn restore(&self, directory: &Path, say: &mut dyn FnMut(&str)) -> Result<(), String> {
        let mut command = self.command("pg_restore");
        command.args(["--no-owner", "--no-privileges", "--exit-on-error", "--verbose"]);
        command.arg(format!("--jobs={}", jobs())).arg("--dbname").arg(self.text("dbname")).arg(directory);
        program::run(command, say)
    }

    fn text(&self, key: &str) -> String {
        match self.connection.get(key) {
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        }
    }

    fn command(&self, name: &str) -> Command {
        let mut command = program(&self.programs.join(name), self.user);
        let variables = [
            ("PGHOST", "host"),
            ("PGPORT", "port"),
            ("PGUSER", "user"),
            ("PGDATABASE", "dbname"),
            ("PGPASSWORD", "password"),
            ("PGSSLMODE", "sslmode"),
        ];
        let given = variables.into_iter().filter(|(_, key)| self.connection.get(key).is_some());
        command.envs(given.map(|(variable, key)| (variable, self.text(key))));
        command
    }
}

fn jobs() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8)
}

#[expect(clippy::disallowed_methods, reason = "runs in a command that has no other children")]
fn program(path: &Path, user: Option<&User>) -> Command {
    let mut command = Command::new(path);
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LANG", "C.UTF-8").current_dir("/");
    command.stdin(Stdio::null());
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
    process::incapable(&mut command);
    // Which ends the server and the client programs in an orderly way.
    process::end_with_us(&mut command, Signal::SIGINT);
    command
}

/// The embedded server while no supervisor runs it; it stops when this is dropped.
#[derive(Debug)]
pub struct Embedded(Child);

impl Embedded {
    /// Starts it, made if need be, where the configuration says; returns when its database is there.
    ///
    /// # Errors
    /// What it said.
    pub fn start(config: &Config, layout: &Layout, venv: &Venv, user: Option<&User>) -> Result<Self, String> {
        let programs = venv.postgres.as_ref().ok_or("the virtualenv brings no PostgreSQL")?;
        database::fits(venv.postgres_version.as_deref().unwrap_or_default(), layout)?;
        database::initialise_postgres(programs, layout, user)?;
        let spawn = || {
            let mut command = program(&programs.join("postgres"), user);
            command.arg("-D").arg(layout.postgres_data().join("data"));
            command.arg("-k").arg(topology::postgres_socket_dir(config));
            command.args(["-c", "listen_addresses="]).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().map(Self).map_err(|error| format!("PostgreSQL cannot be run: {error}"))
        };
        let mut this = spawn()?;
        let mut ends = 0;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            if let Ok(Some(ended)) = this.0.try_wait() {
                ends += 1;
                if ends > ENDS {
                    return Err(format!(
                        "the embedded PostgreSQL ended at once: {ended}\n  is another one running?"
                    ));
                }
                // That of a run which was broken off may be about to end.
                std::thread::sleep(PAUSE * 5);
                this = spawn()?;
            }
            match runtime.block_on(database::reach_postgres(config, None)) {
                Ok(()) => return Ok(this),
                Err(why) => last = why,
            }
            std::thread::sleep(PAUSE);
        }
        Err(last)
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        // Its fast shutdown: SIGTERM would wait for clients.
        let _ = process::signal(self.0.id().cast_signed(), Signal::SIGINT);
        let _ = self.0.wait();
    }
}
