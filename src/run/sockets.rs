//! The listening sockets of Synapse's processes: ours, so that connections wait while a process is away.

use std::collections::BTreeMap;
use std::io;
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
    /// The sockets of a unit, bound now if they are not yet: for clients first, then the private one.
    ///
    /// # Errors
    /// Of the file system, with the path.
    pub(super) fn hold(&mut self, unit: &Unit, users: &Users) -> io::Result<&[Held]> {
        if !self.held.contains_key(&unit.name) {
            let synapse = users.synapse.as_ref();
            // The router's group may connect for clients.
            let shared = match (synapse, &users.router) {
                (Some(synapse), Some(router)) => Some(User { gid: router.gid, ..synapse.clone() }),
                (None, _) | (_, None) => None,
            };
            let client = (&unit.client_socket, render::CLIENT_SOCKET_MODE, shared.as_ref());
            let private = (&unit.private_socket, render::PRIVATE_SOCKET_MODE, synapse);
            let mut sockets = Vec::new();
            for (path, mode, owner) in [client, private] {
                if let Some(path) = path {
                    sockets.push(Held { path: path.clone(), listener: bind(path, mode, owner)? });
                }
            }
            self.held.insert(unit.name.clone(), sockets);
        }
        Ok(self.held.get(&unit.name).map(Vec::as_slice).unwrap_or_default())
    }

    /// Closes the sockets of a unit and removes them, so that callers are refused at once.
    pub(super) fn release(&mut self, unit: &UnitName) {
        for Held { path, listener } in self.held.remove(unit).unwrap_or_default() {
            drop(listener);
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
