//! The directories of state and run time, with the owners and modes that keep the router out of what it must not see.

use std::path::Path;
use std::path::PathBuf;

use crate::config::Config;
use crate::render::File;
use crate::render::FileSet;
use crate::sys::fs;
use crate::sys::fs::FsError;
use crate::sys::process::may_change_user;
use crate::sys::users;
use crate::sys::users::User;
use crate::topology::UnitName;
use crate::wire::Incarnation;

/// Whom the processes run as; none means as the supervisor itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Users {
    /// Synapse and the embedded services.
    pub synapse: Option<User>,
    pub router: Option<User>,
    /// What `status` says about it, when there is something to say.
    pub note: Option<String>,
}

impl Users {
    /// Finds the users of a configuration.
    ///
    /// # Errors
    /// One sentence on what is wrong and one on what to do.
    pub fn of(config: &Config) -> Result<Self, String> {
        let settings = &config.supervisor;
        if !may_change_user() {
            let name = users::own_name();
            let note = format!(
                "everything runs as {name}: without root there is no separation between the router and Synapse"
            );
            return Ok(Self { synapse: None, router: None, note: Some(note) });
        }
        let find = |key: &str, name: &str| {
            users::user(name).ok_or_else(|| {
                format!(
                    "there is no user {name} ([supervisor] {key})\n  \
                     create it with: useradd --system --home-dir {} --shell /usr/sbin/nologin {name}",
                    settings.state_dir.display()
                )
            })
        };
        let synapse = find("user", &settings.user)?;
        let router = find("router_user", &settings.router_user)?;
        let note = (synapse.uid == router.uid).then(|| {
            format!(
                "the router runs as {}, as Synapse does: there is no separation between them",
                router.name
            )
        });
        Ok(Self { synapse: Some(synapse), router: Some(router), note })
    }
}

/// Paths under the state and run directories.
#[derive(Clone, Debug)]
pub struct Layout {
    pub state: PathBuf,
    pub run: PathBuf,
}

impl Layout {
    pub fn of(config: &Config) -> Self {
        Self { state: config.supervisor.state_dir.clone(), run: config.supervisor.run_dir.clone() }
    }
    /// What one supervisor holds, and nobody else.
    pub fn supervisor_lock(&self) -> PathBuf {
        self.state.join("supervisor.lock")
    }
    /// What every process holds that a supervisor has started.
    pub fn lock(&self) -> PathBuf {
        self.state.join("lock")
    }
    /// What a supervisor leaves for the next one.
    pub fn state_file(&self) -> PathBuf {
        self.run.join("state.json")
    }
    pub fn images_file(&self) -> PathBuf {
        self.run.join("images.toml")
    }
    /// What one process holds that waits for what becomes of the service.
    pub fn waiter_lock(&self) -> PathBuf {
        self.run.join("waiter.lock")
    }
    /// What the synvisor of an upgrade is asked whether it can read it.
    pub fn offers_file(&self) -> PathBuf {
        self.run.join("offers.json")
    }
    /// Says that the service was told to stop.
    pub fn stopping_mark(&self) -> PathBuf {
        self.run.join("stopping")
    }
    /// Says when a start was given up.
    pub fn gave_up_mark(&self) -> PathBuf {
        self.run.join("gave-up")
    }
    pub fn logs(&self) -> PathBuf {
        self.state.join("logs")
    }
    pub fn log(&self, unit: &UnitName) -> PathBuf {
        self.logs().join(format!("{unit}.log"))
    }
    pub fn config_file(&self, unit: &UnitName) -> PathBuf {
        self.state.join("config").join(format!("{unit}.yaml"))
    }
    /// Configurations that Synapse reads on trial.
    pub fn check(&self) -> PathBuf {
        self.state.join("check")
    }
    /// Configurations that were applied, or were to be.
    pub fn generations(&self) -> PathBuf {
        Self::generations_below(&self.state)
    }
    /// The same where only the state directory is known.
    pub fn generations_below(state: &Path) -> PathBuf {
        state.join("generations")
    }
    pub fn secrets(&self) -> PathBuf {
        self.state.join("secrets")
    }
    /// The access token of synvisor's own account.
    pub fn admin_token(&self) -> PathBuf {
        self.secrets().join("admin_access_token")
    }
    /// What one command line holds that makes that account.
    pub fn admin_lock(&self) -> PathBuf {
        self.state.join("admin.lock")
    }
    pub fn media(&self) -> PathBuf {
        self.state.join("media_store")
    }
    /// How far a media store is that moves in, and what one command line holds that moves it.
    pub fn media_note(&self) -> PathBuf {
        self.state.join("media_import.json")
    }
    pub fn media_lock(&self) -> PathBuf {
        self.state.join("media_import.lock")
    }
    /// How far the move from another server is.
    pub fn migration(&self) -> PathBuf {
        self.state.join("migration.json")
    }
    /// Says that an old server serves again in the place of this one.
    pub fn returned_mark(&self) -> PathBuf {
        self.state.join("returned")
    }
    /// Which backup was restored here, as far as it got.
    pub fn restore_note(&self) -> PathBuf {
        self.state.join("restored.json")
    }
    pub fn temporary(&self) -> PathBuf {
        self.state.join("tmp")
    }
    pub fn postgres_data(&self) -> PathBuf {
        self.state.join("postgres")
    }
    pub fn redis_data(&self) -> PathBuf {
        self.state.join("redis")
    }
    pub fn control_socket(&self) -> PathBuf {
        control_socket(&self.run)
    }
    pub fn notify_socket(&self) -> PathBuf {
        self.run.join("notify.sock")
    }
    pub fn fork_server_socket(&self) -> PathBuf {
        self.run.join("forkserver.sock")
    }
    /// The program of the fork server.
    pub fn fork_server_program(&self) -> PathBuf {
        self.state.join("forkserver")
    }
    /// Where a router process is reached: each has a socket of its own, since several live side by side.
    pub fn router_socket(&self, incarnation: Incarnation) -> PathBuf {
        self.run.join(format!("router-{}.sock", incarnation.0))
    }

    /// Makes the directories below that of the state which are Synapse's; with none, its user is who makes them.
    pub fn make_state(&self, synapse: Option<&User>) -> Result<(), FsError> {
        for private in
            ["check", "config", "forkserver", "forkserver/synvisor", "secrets", "postgres", "redis", "tmp"]
        {
            fs::directory(&self.state.join(private), 0o700, synapse)?;
        }
        // Media may lie elsewhere, in a directory that the administrator has made for them.
        let media = self.media();
        if fs::link_target(&media).is_none() {
            fs::directory(&media, 0o700, synapse)?;
        }
        fs::directory(&self.logs(), 0o750, synapse)
    }

    /// Makes every directory, as the supervisor.
    pub fn make(&self, users: &Users) -> Result<(), FsError> {
        self.make_for_services(users)?;
        // What ran before is the supervisor's own, and no Synapse's.
        fs::directory(&self.generations(), 0o700, None)
    }

    /// Makes those that Synapse and the embedded services need. A command of root's must not make more, where the supervisor
    /// is not root's.
    pub fn make_for_services(&self, users: &Users) -> Result<(), FsError> {
        let synapse = users.synapse.as_ref();
        fs::directory(&self.state, 0o750, synapse)?;
        self.make_state(synapse)?;
        // The router must reach `client`, so the way to it is open; every other entry is closed itself.
        fs::directory(&self.run, 0o755, synapse)?;
        for private in ["private", "postgres", "redis"] {
            fs::directory(&self.run.join(private), 0o700, synapse)?;
        }
        // Whose group may enter it may connect to the sockets in it.
        let client = match (synapse, &users.router) {
            (Some(synapse), Some(router)) => Some(User { gid: router.gid, ..synapse.clone() }),
            (None, _) | (_, None) => None,
        };
        fs::directory(&self.run.join("client"), 0o750, client.as_ref())
    }

    /// Removes the sockets that processes left which did not end by themselves; none may run any more.
    pub fn remove_sockets(&self) -> Result<(), FsError> {
        fs::clear_of(&self.run, |name| name.starts_with("router-") && name.ends_with(".sock"))?;
        for directory in ["client", "private", "postgres", "redis"] {
            fs::clear(&self.run.join(directory))?;
        }
        Ok(())
    }

    /// Writes rendered files, all of them or, where there is no room, none; returns those that changed.
    pub fn write(&self, files: &FileSet, users: &Users) -> Result<Vec<PathBuf>, FsError> {
        let others = files.iter().filter(|(path, file)| !fs::holds(path, &file.bytes, file.mode));
        let new = |(path, file): (&PathBuf, &File)| {
            let replacement = fs::Replacement::new(path, &file.bytes, file.mode, users.synapse.as_ref())?;
            Ok((path.clone(), replacement))
        };
        let replacements = others.map(new).collect::<Result<Vec<_>, FsError>>()?;
        let mut changed = Vec::new();
        for (path, replacement) in replacements {
            replacement.commit()?;
            changed.push(path);
        }
        Ok(changed)
    }
}

/// Where the command line reaches the daemon that has this run directory.
pub fn control_socket(run: &Path) -> PathBuf {
    run.join("control.sock")
}

/// Removes what a process left at the path of its socket: Twisted refuses a path whose lock names a living pid.
pub fn remove_socket(path: &Path) -> Result<(), FsError> {
    fs::remove(path)?;
    let mut lock = path.as_os_str().to_owned();
    lock.push(".lock");
    fs::remove(Path::new(&lock))
}
