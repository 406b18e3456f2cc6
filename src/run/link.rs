//! The supervisor's end of its connection to the router.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::supervise::Life;
use crate::sys::fs;
use crate::sys::lines::Lines;
use crate::wire::FromRouter;
use crate::wire::ToRouter;

use super::News;
use super::listeners::Pem;

/// Between the loss of a connection and the next attempt.
const REDIAL: Duration = Duration::from_millis(100);

/// What is told, and what goes with it.
type Message = (ToRouter, Vec<Attached>);

/// What goes with a line, as a descriptor.
pub(super) enum Attached {
    Socket(Arc<TcpListener>),
    /// Text that must stand in no line and no file.
    Certificate(Pem),
}

impl Attached {
    fn descriptor(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Socket(socket) => socket.as_fd().try_clone_to_owned(),
            Self::Certificate(pem) => fs::sealed("certificate", pem.0.as_bytes()).map(OwnedFd::from),
        }
    }
}

/// One router process and the way to tell it things.
#[derive(Debug)]
pub(super) struct Link {
    messages: mpsc::UnboundedSender<Message>,
    task: JoinHandle<()>,
}

impl Link {
    /// Connects to the router's socket, which the kernel has accepted for since before the router started.
    pub(super) fn new(life: Life, socket: PathBuf, news: mpsc::UnboundedSender<News>) -> Self {
        let (messages, queue) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            if let Err(error) = talk(&life, &socket, queue, &news).await {
                tracing::warn!("the connection to the router is lost: {error}");
            }
            // A router that lets go of every connection must not make us dial in circles.
            tokio::time::sleep(REDIAL).await;
            let _ = news.send(News::RouterLost(life));
        });
        Self { messages, task }
    }

    /// Tells the router something; what a dead router misses, its successor gets at its start.
    pub(super) fn tell(&self, message: ToRouter) {
        let _ = self.messages.send((message, Vec::new()));
    }

    /// Tells it a table, with the sockets and certificates of its listeners.
    pub(super) fn tell_table(&self, table: ToRouter, attached: Vec<Attached>) {
        let _ = self.messages.send((table, attached));
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn talk(
    life: &Life,
    socket: &PathBuf,
    mut queue: mpsc::UnboundedReceiver<Message>,
    news: &mpsc::UnboundedSender<News>,
) -> io::Result<()> {
    let stream = tokio::time::timeout(Duration::from_secs(10), UnixStream::connect(socket)).await??;
    let mut lines = Lines::new(stream);
    loop {
        tokio::select! {
            message = queue.recv() => {
                let Some((message, attached)) = message else { return Ok(()) };
                let owned: Vec<OwnedFd> =
                    attached.iter().map(Attached::descriptor).collect::<io::Result<_>>()?;
                let descriptors: Vec<_> = owned.iter().map(AsFd::as_fd).collect();
                lines.send(&serde_json::to_vec(&message)?, &descriptors).await?;
            }
            line = lines.receive() => {
                let Some(line) = line? else { return Ok(()) };
                let message: FromRouter = serde_json::from_str(&line)?;
                let _ = news.send(News::Router(life.clone(), message));
            }
        }
    }
}
