//! The listening sockets of Synapse's processes: ours, so that connections wait while a process is away.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::path::PathBuf;

use crate::host::layout;
use crate::host::layout::Users;
use crate::render;
use crate::sys::socket;
use crate::sys::users::User;
use crate::topology::Unit;
use crate::topology::UnitName;

use super::mend;
use super::store;

/// A bound socket and where it is.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) path: PathBuf,
    pub(super) listener: UnixListener,
}

/// Every socket that is held, by unit.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    held: BTreeMap<UnitName, Vec<Held>>,
}

impl Sockets {
    /// Takes a unit's sockets from what was kept for us, if all of them are there.
    pub(super) fn take_back(&mut self, kept: &mut BTreeMap<PathBuf, UnixListener>, unit: &Unit) {
        let paths = [&unit.client_socket, &unit.private_socket].into_iter().flatten();
        let found: Vec<Held> = paths
            .clone()
            .filter_map(|path| Some(Held { path: path.clone(), listener: kept.remove(path)? }))
            .collect();
        if found.len() == paths.count() && !found.is_empty() {
            self.held.insert(unit.name.clone(), found);
        }
    }

    /// The sockets of a unit, bound now if they are not yet: for clients first, then the private one.
    ///
    /// # Errors
    /// Of the file system, with the path.
    pub(super) fn hold(&mut self, unit: &Unit, users: &Users) -> io::Result<&[Held]> {
        let held = self.held.get(&unit.name).into_iter().flatten();
        if held.into_iter().any(|held| mend::is_lost(&held.path)) {
            self.release(&unit.name);
        }
        if !self.held.contains_key(&unit.name) {
            let synapse = users.synapse.as_ref();
            let client = (&unit.client_socket, render::CLIENT_SOCKET_MODE);
            let private = (&unit.private_socket, render::PRIVATE_SOCKET_MODE);
            let mut sockets = Vec::new();
            for (path, mode) in [client, private] {
                if let Some(path) = path {
                    let listener = bind(path, mode, synapse)?;
                    store::keep_socket(&path.to_string_lossy(), &listener);
                    sockets.push(Held { path: path.clone(), listener });
                }
            }
            self.held.insert(unit.name.clone(), sockets);
        }
        Ok(self.held.get(&unit.name).map(Vec::as_slice).unwrap_or_default())
    }

    /// What they are called where they are kept.
    pub(super) fn names(&self) -> impl Iterator<Item = String> {
        self.held.values().flatten().map(|held| held.path.to_string_lossy().into_owned())
    }

    pub(super) fn all(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.held.values().flatten().map(|held| held.listener.as_fd())
    }

    /// Closes the sockets of a unit and removes them, so that callers are refused at once.
    pub(super) fn release(&mut self, unit: &UnitName) {
        for Held { path, listener } in self.held.remove(unit).unwrap_or_default() {
            drop(listener);
            store::drop_socket(&path.to_string_lossy());
            if let Err(error) = layout::remove_socket(&path) {
                tracing::warn!("{error}");
            }
        }
    }
}

fn bind(path: &Path, mode: u32, owner: Option<&User>) -> io::Result<UnixListener> {
    let listener = socket::listen_unix(path, mode, owner)
        .map_err(|error| io::Error::new(error.kind(), format!("cannot bind {}: {error}", path.display())))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
