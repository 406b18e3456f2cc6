//! The control socket: HTTP with JSON bodies, for the command line and for curl.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::sync::oneshot;

use crate::host::layout::Layout;
use crate::supervise::Verb;
use crate::sys::descriptors;
use crate::sys::socket;
use crate::sys::users;
use crate::sys::users::User;
use crate::topology::UnitName;
use crate::wire::Answer;
use crate::wire::DumpReport;
use crate::wire::Generation;
use crate::wire::OrderNews;
use crate::wire::OrderRequest;
use crate::wire::PlanReport;
use crate::wire::ReloadRequest;
use crate::wire::StatusReport;

pub mod client;
mod logs;
mod serve;

/// After an accept that failed.
const PAUSE: Duration = Duration::from_millis(100);

/// Members of this group may control the supervisor.
const GROUP: &str = "synvisor";

/// What a client wants of the supervisor's loop, with the way to answer.
#[derive(Debug)]
pub enum Command {
    Status(oneshot::Sender<StatusReport>),
    Plan(oneshot::Sender<PlanReport>),
    Order(Verb, OrderRequest, mpsc::UnboundedSender<OrderNews>),
    /// Who asks comes first.
    Reload(String, ReloadRequest, oneshot::Sender<Answer>),
    Rollback(String, Option<u64>, oneshot::Sender<Answer>),
    Generations(oneshot::Sender<Vec<Generation>>),
    /// Who asks; the answer comes only when it failed.
    SelfUpgrade(String, oneshot::Sender<Answer>),
    /// Why there is no dump, if there is none.
    Dump(UnitName, oneshot::Sender<Result<DumpReport, String>>),
}

/// The bound socket.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    group: Option<u32>,
}

impl Control {
    /// Binds the socket in place of one that a dead supervisor left.
    ///
    /// # Errors
    /// Of the file system.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let group = users::group(GROUP);
        let shared = group.and_then(|gid| {
            let owner = User { name: users::own_name(), uid: users::own_uid(), gid };
            socket::listen_unix(path, 0o660, Some(&owner)).ok()
        });
        // Who may not give it to the group keeps it.
        Self::with(shared.map_or_else(|| socket::listen_unix(path, 0o600, None), Ok)?, group)
    }

    /// The same on a socket that is bound.
    ///
    /// # Errors
    /// When it cannot be waited on.
    pub fn of(listener: std::os::unix::net::UnixListener) -> io::Result<Self> {
        Self::with(listener, users::group(GROUP))
    }

    fn with(listener: std::os::unix::net::UnixListener, group: Option<u32>) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener: UnixListener::from_std(listener)?, group })
    }

    /// A copy of the socket, for whoever serves it after us.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn copy(&self) -> io::Result<OwnedFd> {
        self.listener.as_fd().try_clone_to_owned()
    }

    /// Answers clients for as long as the supervisor lives; one at a time also where there are no descriptors left, so
    /// that somebody can learn why.
    pub async fn serve(self, layout: Layout, commands: mpsc::Sender<Command>) {
        let mut spare = None;
        let mut said = false;
        loop {
            // Whoever was let in by it has to leave before the next one is.
            spare = spare.or_else(descriptors::spare);
            if spare.is_none() {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    said = false;
                    self.let_in(stream, &layout, &commands);
                }
                Err(error) if descriptors::are_used_up(&error) => {
                    drop(spare.take());
                    if let Ok((stream, _)) = self.listener.accept().await {
                        self.let_in(stream, &layout, &commands);
                    }
                }
                Err(error) => {
                    if !said {
                        tracing::warn!("cannot accept on the control socket: {error}");
                    }
                    said = true;
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn let_in(&self, stream: UnixStream, layout: &Layout, commands: &mpsc::Sender<Command>) {
        let who = self.allowed(&stream);
        tokio::spawn(serve::connection(stream, who, layout.clone(), commands.clone()));
    }

    /// Root, our own user, and who is in the group, by name; nobody else.
    fn allowed(&self, stream: &UnixStream) -> Option<String> {
        let (uid, gid) = socket::peer(stream).ok()?;
        let allowed = uid == 0
            || uid == users::own_uid()
            || self
                .group
                .is_some_and(|group| group == gid || socket::peer_is_in(stream, group).unwrap_or(false));
        allowed.then(|| users::name_of(uid).unwrap_or_else(|| format!("user {uid}")))
    }
}
