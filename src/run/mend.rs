//! Sockets whose file was removed, which nobody can connect to any more though they listen: bound again.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use crate::control::Control;
use crate::supervise::Input;
use crate::supervise::Life;
use crate::supervise::Ticket;
use crate::supervise::Verb;
use crate::sys::fs;
use crate::sys::notify::NotifySocket;
use crate::sys::packet;
use crate::topology;
use crate::topology::Role;
use crate::topology::Unit;
use crate::topology::UnitName;
use crate::wire::Incarnation;

use super::Driver;
use super::store;

/// What is being done about lost sockets.
#[derive(Debug, Default)]
pub(super) struct Mending {
    /// Those that could not be bound, and why.
    failed: BTreeMap<PathBuf, String>,
    /// Processes that restart to have theirs bound anew.
    restarting: BTreeMap<UnitName, Incarnation>,
}

impl Mending {
    /// What `status` says of it.
    pub(super) fn notes(&self) -> impl Iterator<Item = String> {
        self.failed.values().cloned()
    }
}

impl Driver {
    /// Looks whether every socket that somebody connects to by its path is still there.
    pub(super) fn mend_sockets(&mut self) {
        let layout = self.around.layout.clone();
        self.mend(&layout.control_socket(), Self::bind_control);
        self.mend(&layout.notify_socket(), Self::bind_notify);
        self.mend(&layout.fork_server_socket(), Self::bind_fork_server);
        self.mend_units();
    }

    fn mend(&mut self, path: &Path, bind: fn(&mut Self, &Path) -> io::Result<()>) {
        if !is_lost(path) {
            self.mending.failed.remove(path);
            return;
        }
        // Perhaps it went with its directory.
        let made = self.around.layout.make(&self.around.users).map_err(io::Error::other);
        match made.and_then(|()| bind(self, path)) {
            Ok(()) => tracing::warn!("{} was removed by somebody and is bound again", path.display()),
            Err(error) => {
                let why =
                    format!("{} was removed by somebody and cannot be bound again: {error}", path.display());
                if self.mending.failed.insert(path.to_owned(), why.clone()).as_ref() != Some(&why) {
                    tracing::warn!("{why}");
                }
            }
        }
    }

    fn bind_control(&mut self, path: &Path) -> io::Result<()> {
        let control = Control::bind(path)?;
        self.around.control = control.copy()?;
        store::drop_socket("control");
        store::keep_socket("control", &self.around.control);
        self.serving.abort();
        self.serving = tokio::spawn(control.serve(self.around.layout.clone(), self.commands.clone()));
        Ok(())
    }

    fn bind_notify(&mut self, path: &Path) -> io::Result<()> {
        self.hear();
        self.notify = NotifySocket::bind(path, self.around.users.synapse.as_ref())?;
        // Somebody may have said READY to nobody.
        for unit in self.core.status().into_iter().filter(|unit| unit.state == "starting") {
            let life = Life { unit: unit.name, incarnation: unit.incarnation };
            if self.pids.of(&life).is_some() {
                self.ask_again(life);
            }
        }
        Ok(())
    }

    /// The fork server that runs is connected already; the next one gets this.
    fn bind_fork_server(&mut self, path: &Path) -> io::Result<()> {
        self.around.fork_server_control = packet::listen_packets(path)?;
        Ok(())
    }

    /// A process has its socket from its start, so it restarts, as planned, and whoever comes meanwhile waits in the
    /// router.
    fn mend_units(&mut self) {
        let mut names = Vec::new();
        for status in self.core.status().into_iter().filter(|status| status.state == "ready") {
            let life = Life { unit: status.name, incarnation: status.incarnation };
            let known = self.mending.restarting.get(&life.unit) == Some(&life.incarnation);
            let Some(unit) = self.unit(&life.unit).filter(|_| !known && self.pids.of(&life).is_some()) else {
                continue;
            };
            let Some(path) = self.sockets_of(unit, &life).into_iter().find(|path| is_lost(path)) else {
                continue;
            };
            let why = format!("{} was removed by somebody: it restarts to have it again", path.display());
            tracing::warn!("{}: {why}", life.unit);
            self.troubles.insert(life.unit.clone(), why);
            self.mending.restarting.insert(life.unit.clone(), life.incarnation);
            names.push(life.unit);
        }
        if names.is_empty() {
            return;
        }
        if let Err(error) = self.around.layout.make(&self.around.users) {
            tracing::warn!("{error}");
        }
        self.tickets += 1;
        self.input(Input::Order(Ticket(self.tickets), Verb::Restart { at_once: true }, names));
    }

    fn sockets_of(&self, unit: &Unit, life: &Life) -> Vec<PathBuf> {
        let config = &self.running.config;
        match unit.role {
            Role::Postgres { .. } => vec![topology::postgres_socket_dir(config).join(".s.PGSQL.5432")],
            Role::Redis { .. } => vec![topology::redis_socket(config)],
            Role::Router => vec![self.around.layout.router_socket(life.incarnation)],
            Role::ForkServer => Vec::new(),
            Role::Main | Role::Worker(_) => {
                [&unit.client_socket, &unit.private_socket].into_iter().flatten().cloned().collect()
            }
        }
    }
}

/// Whether nobody can connect by this path. What we may not look at is not known to be lost.
pub(super) fn is_lost(path: &Path) -> bool {
    fs::is_socket(path) == Some(false)
}
