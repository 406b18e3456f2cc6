//! Signals to the supervisor, as something to wait for.

use std::io;

use signal_hook::consts::SIGCHLD;
use signal_hook::consts::SIGHUP;
use signal_hook::consts::SIGINT;
use signal_hook::consts::SIGTERM;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// A child has ended.
    Child,
    Stop,
    Reload,
}

/// Signals that have arrived and not been read; several of one kind may have become one.
#[derive(Debug)]
pub(super) struct Signals {
    child: UnixStream,
    stop: UnixStream,
    reload: UnixStream,
}

impl Signals {
    pub(super) fn register() -> io::Result<Self> {
        Ok(Self { child: pipe(&[SIGCHLD])?, stop: pipe(&[SIGTERM, SIGINT])?, reload: pipe(&[SIGHUP])? })
    }

    pub(super) async fn next(&mut self) -> Received {
        let mut bytes = [0; 64];
        let (mut other, mut another) = ([0; 64], [0; 64]);
        tokio::select! {
            _ = self.child.read(&mut bytes) => Received::Child,
            _ = self.stop.read(&mut other) => Received::Stop,
            _ = self.reload.read(&mut another) => Received::Reload,
        }
    }
}

fn pipe(signals: &[i32]) -> io::Result<UnixStream> {
    let (reader, writer) = std::os::unix::net::UnixStream::pair()?;
    reader.set_nonblocking(true)?;
    for signal in signals {
        signal_hook::low_level::pipe::register(*signal, writer.try_clone()?)?;
    }
    UnixStream::from_std(reader)
}
