//! The fork server: a Python process that has imported Synapse and forks its processes on request, each in a fraction of
//! the time and memory that a fresh interpreter needs.
//!
//! This is the supervisor's end of the connection. What it forks are children of the supervisor, which therefore learns
//! of their end whatever becomes of the fork server.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::render::File;
use crate::render::FileSet;
use crate::supervise::Life;
use crate::sys::clock;
use crate::sys::packet::Packets;
use crate::topology::UnitName;
use crate::wire::Incarnation;

/// Imports and probes take a second or two; one that neither says nor does anything for this long hangs. Less than the time
/// for which the sockets of a process are held that waits for it.
const SILENCE: Duration = Duration::from_secs(25);
/// What a server that gets on has at least of a CPU in that time, on a machine that has little left for it.
const WORK: Duration = Duration::from_millis(100);
/// One that is so often silent works at nothing.
const SILENCES: u32 = 12;

/// The directory that Python runs, file by file.
const PROGRAM: [(&str, &str); 18] = [
    ("__main__.py", include_str!("python/__main__.py")),
    ("synvisor/__init__.py", include_str!("python/synvisor/__init__.py")),
    ("synvisor/certificates.py", include_str!("python/synvisor/certificates.py")),
    ("synvisor/child.py", include_str!("python/synvisor/child.py")),
    ("synvisor/configuration.py", include_str!("python/synvisor/configuration.py")),
    ("synvisor/doublefork.py", include_str!("python/synvisor/doublefork.py")),
    ("synvisor/graceful_stop.py", include_str!("python/synvisor/graceful_stop.py")),
    ("synvisor/inherited.py", include_str!("python/synvisor/inherited.py")),
    ("synvisor/linux.py", include_str!("python/synvisor/linux.py")),
    ("synvisor/preload.py", include_str!("python/synvisor/preload.py")),
    ("synvisor/probe.py", include_str!("python/synvisor/probe.py")),
    ("synvisor/protocol.py", include_str!("python/synvisor/protocol.py")),
    ("synvisor/readiness.py", include_str!("python/synvisor/readiness.py")),
    ("synvisor/recognition.py", include_str!("python/synvisor/recognition.py")),
    ("synvisor/rehearsal.py", include_str!("python/synvisor/rehearsal.py")),
    ("synvisor/replication_pool.py", include_str!("python/synvisor/replication_pool.py")),
    ("synvisor/server.py", include_str!("python/synvisor/server.py")),
    ("synvisor/twisted_reactor.py", include_str!("python/synvisor/twisted_reactor.py")),
];

/// The module that has Synapse read the files that its arguments name, and prints a [`crate::plan::Verdict`] a line.
pub const CHECK: &str = "synvisor.configuration";

/// The program as files below a directory; not writable for who runs it.
pub fn program(directory: &Path) -> FileSet {
    let file = |(name, text): (&str, &str)| (directory.join(name), File { bytes: text.into(), mode: 0o440 });
    PROGRAM.into_iter().map(file).collect()
}

/// A process of Synapse, as the bootstrap in Python wants it described.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Process {
    pub unit: UnitName,
    /// Module whose `main()` it is: one of Synapse's, or [`CHECK`].
    pub app: &'static str,
    pub arguments: Vec<String>,
    /// Paths of the listening sockets that it inherits, in the order of their descriptors.
    pub listeners: Vec<PathBuf>,
    /// The whole environment.
    pub environment: BTreeMap<String, String>,
    pub directory: PathBuf,
    pub umask: u32,
    pub nice: u16,
    /// How long it may take for requests in flight after SIGTERM, in milliseconds.
    pub stop_deadline_ms: u64,
    /// Whether Synapse is to be connected to one before it counts as ready.
    pub redis: bool,
    /// Parts that a test leaves out.
    pub without: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Request<'a> {
    Fork { unit: &'a UnitName, incarnation: Incarnation, process: &'a Process },
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Said {
    Hello { synapse: String, problems: Vec<String> },
    Forked { unit: UnitName, incarnation: Incarnation, pid: i32 },
    Failed { unit: UnitName, incarnation: Incarnation, reason: String },
}

/// What the fork server has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is ready, unless there are problems: things of this Synapse that it does not recognise, a sentence each.
    Hello {
        synapse: String,
        problems: Vec<String>,
    },
    /// The process exists, is our child, and waits for the word to begin.
    Forked(Life, i32),
    Failed(Life, String),
    /// It can be asked for nothing any more, and why.
    Lost(String),
}

#[derive(Debug)]
struct Order {
    life: Life,
    process: Process,
    descriptors: Vec<OwnedFd>,
}

/// A connection to the fork server.
#[derive(Debug)]
pub struct Link {
    orders: mpsc::UnboundedSender<Order>,
    task: JoinHandle<()>,
}

impl Link {
    /// Connects to the server that is process `pid`; the first event is its hello, and the last that it is lost.
    pub fn new(socket: PathBuf, pid: i32, mut tell: impl FnMut(Event) + Send + 'static) -> Self {
        let (orders, queue) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            let why = match talk(&socket, pid, queue, &mut tell).await {
                Ok(()) => "it closed the connection".to_owned(),
                Err(error) => error.to_string(),
            };
            tell(Event::Lost(why));
        });
        Self { orders, task }
    }

    /// Asks for a process. Its descriptors are: output, the pipe that it waits at, the lock, its listeners.
    pub fn fork(&self, life: Life, process: Process, descriptors: Vec<OwnedFd>) {
        // What a lost server misses is started in another way when the loss is known.
        let _ = self.orders.send(Order { life, process, descriptors });
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn talk(
    socket: &Path,
    pid: i32,
    mut queue: mpsc::UnboundedReceiver<Order>,
    tell: &mut (impl FnMut(Event) + Send),
) -> io::Result<()> {
    let packets = Packets::connect(socket)?;
    let Some(hello) = hello(&packets, pid).await? else { return Ok(()) };
    tell(event(&hello)?);
    loop {
        tokio::select! {
            order = queue.recv() => {
                let Some(Order { life, process, descriptors }) = order else { return Ok(()) };
                let Life { unit, incarnation } = &life;
                let message = Request::Fork { unit, incarnation: *incarnation, process: &process };
                let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
                packets.send(&serde_json::to_vec(&message)?, &borrowed).await?;
            }
            message = packets.receive() => {
                let Some(message) = message? else { return Ok(()) };
                tell(event(&message)?);
            }
        }
    }
}

/// What it says first. The imports come before that, and on a slow machine, or where all start at once, they take minutes.
async fn hello(packets: &Packets, pid: i32) -> io::Result<Option<Vec<u8>>> {
    let mut worked = clock::cpu_time(pid)?;
    let mut silences = 0;
    while silences < SILENCES {
        if let Ok(hello) = tokio::time::timeout(SILENCE, packets.receive()).await {
            return hello;
        }
        silences += 1;
        let now = clock::cpu_time(pid)?;
        if now.saturating_sub(worked) < WORK {
            break;
        }
        worked = now;
    }
    Err(io::Error::other(format!("it has said nothing for {} s", (SILENCE * silences).as_secs())))
}

fn event(message: &[u8]) -> io::Result<Event> {
    Ok(match serde_json::from_slice(message)? {
        Said::Hello { synapse, problems } => Event::Hello { synapse, problems },
        Said::Forked { unit, incarnation, pid } => Event::Forked(Life { unit, incarnation }, pid),
        Said::Failed { unit, incarnation, reason } => Event::Failed(Life { unit, incarnation }, reason),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_program_is_in_the_binary() {
        // Mutation: rehearsal.py left out, as it once was: seen red.
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/forkserver/python");
        let mut files = Vec::new();
        for directory in ["", "synvisor"] {
            for entry in std::fs::read_dir(source.join(directory)).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|extension| extension == "py") {
                    files.push(path.strip_prefix(&source).unwrap().to_str().unwrap().to_owned());
                }
            }
        }
        files.sort();
        assert_eq!(files, PROGRAM.map(|(name, _)| name));
    }
}
