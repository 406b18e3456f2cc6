//! Descriptors that outlive us: systemd keeps copies of them (sd_pid_notify_with_fds(3)) and hands them to the next
//! supervisor; where there is no systemd, the processes that have them do.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use sd_notify::NotifyState;

use crate::supervise::Life;
use crate::sys::socket;
use crate::sys::socket::Listening;

/// Has systemd keep a copy of a listening socket.
pub(super) fn keep_socket(name: &str, socket: &impl AsFd) {
    keep(&name_of(name), socket, true);
}

/// Has systemd keep a process's descriptor: it is not to be dropped as soon as the process ends, which is what a new
/// supervisor has to learn.
pub(super) fn keep_process(life: &Life, process: &impl AsFd) {
    keep(&name_of(&life.to_string()), process, false);
}

fn keep(name: &str, descriptor: &impl AsFd, poll: bool) {
    let mut states = vec![NotifyState::FdStore, NotifyState::FdName(name)];
    if !poll {
        states.push(NotifyState::Custom("FDPOLL=0"));
    }
    // Without systemd there is nobody to tell.
    let _ = sd_notify::notify_with_fds(&states, &[descriptor.as_fd()]);
}

/// Has systemd close what it keeps under a name.
pub(super) fn drop_socket(name: &str) {
    forget(&name_of(name));
}

pub(super) fn drop_process(life: &Life) {
    forget(&name_of(&life.to_string()));
}

fn forget(name: &str) {
    let _ = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
}

/// A name as systemd allows it: without colons (`fdname_is_valid` in its `src/shared/fdset.c`).
fn name_of(text: &str) -> String {
    text.replace(':', ".")
}

/// What somebody kept for us: sockets by where they listen, processes by the names that we gave them.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) tcp: BTreeMap<SocketAddr, TcpListener>,
    pub(super) unix: BTreeMap<PathBuf, UnixListener>,
    others: BTreeMap<String, OwnedFd>,
    /// Every name under which systemd keeps something.
    names: BTreeSet<String>,
}

impl Kept {
    pub(super) fn add(&mut self, name: String, descriptor: OwnedFd) {
        if !name.is_empty() {
            self.names.insert(name.clone());
        }
        match socket::listening(descriptor) {
            Ok(Listening::Tcp(address, listener)) => {
                self.tcp.entry(address).or_insert(listener);
            }
            Ok(Listening::Unix(path, listener)) => {
                self.unix.entry(path).or_insert(listener);
            }
            Err(other) => {
                self.others.insert(name, other);
            }
        }
    }

    /// Closes whatever was not taken, and has systemd keep nothing of it.
    pub(super) fn let_go(self, used: impl Iterator<Item = String>) {
        let used: BTreeSet<String> = used.map(|name| name_of(&name)).collect();
        for name in self.names.difference(&used) {
            forget(name);
        }
    }

    pub(super) fn process(&mut self, life: &Life) -> Option<OwnedFd> {
        self.others.remove(&name_of(&life.to_string()))
    }
}
