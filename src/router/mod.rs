//! The data plane: a process of its own that takes requests and passes each to the process that answers it.
//!
//! All untrusted input ends here. It reads no file, and the only secrets that it knows are the keys of its certificates.

use std::io;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::UnixListener;
use tokio::task::LocalSet;

mod answer;
mod body;
mod charge;
mod control;
mod forward;
mod greeting;
mod headers;
mod http2;
mod listen;
mod park;
mod proxy_protocol;
mod queue;
mod state;
mod tls;
mod upstream;

pub use forward::REPLAY_WITHIN;
pub use forward::RESPONSE;

use state::State;

/// After an accept that failed, mostly for want of descriptors: some will be free again.
const PAUSE: Duration = Duration::from_millis(100);

/// Longer than most clients keep an idle connection themselves: who closes it first loses no request.
pub const LONGEST_SILENCE: Duration = Duration::from_secs(75);

/// What the router is given at its start.
#[derive(Debug)]
pub struct RouterSetup {
    /// Where the supervisor connects, and says at what addresses to listen.
    pub control: std::os::unix::net::UnixListener,
    /// Whom we believe to be the supervisor.
    pub allowed_uids: Vec<u32>,
    /// How long requests in flight may take at the end.
    pub drain_timeout: Duration,
    /// How long a client may take for the head of its next request, whether or not a successor has taken over.
    pub longest_silence: Duration,
    pub parking: Parking,
    /// For comparison: nobody waits, nothing that was sent is sent again, a drain is over at once.
    pub without_parking: bool,
}

/// The bounds of waiting for a process that is away.
#[derive(Clone, Copy, Debug)]
pub struct Parking {
    /// Requests that wait at once for one pool of processes: each holds a connection and some memory.
    pub most: usize,
    /// How long one waits.
    pub longest: Duration,
}

impl Default for Parking {
    /// Clients give up a request after 30 s themselves.
    fn default() -> Self {
        Self { most: 2_000, longest: Duration::from_secs(25) }
    }
}

/// Serves until SIGTERM, then lets requests in flight finish.
///
/// # Errors
/// When a socket or the signal cannot be used.
pub async fn run(setup: RouterSetup) -> io::Result<()> {
    let mut stop = on_signal(signal_hook::consts::SIGTERM)?;
    let stopped = async move {
        let mut byte = [0];
        let _ = stop.read(&mut byte).await;
    };
    serve(setup, stopped).await
}

/// Serves until `stopped` resolves, then lets requests in flight finish; or until its supervisor retires it, and then as
/// long as it was given for those.
///
/// # Errors
/// When a socket cannot be used.
pub async fn serve(setup: RouterSetup, stopped: impl Future<Output = ()>) -> io::Result<()> {
    let local = LocalSet::new();
    local
        .run_until(async {
            let state = State::new(setup.parking, setup.without_parking, setup.longest_silence);
            setup.control.set_nonblocking(true)?;
            let control = UnixListener::from_std(setup.control)?;
            tokio::task::spawn_local(control::serve(control, setup.allowed_uids, Rc::clone(&state)));
            tokio::pin!(stopped);
            tokio::select! {
                () = &mut stopped => {}
                limit = state.retired() => tokio::select! {
                    () = &mut stopped => {}
                    () = state.listeners.gone() => return Ok(()),
                    () = tokio::time::sleep_until(limit) => return Ok(()),
                },
            }
            state.listeners.stop();
            let _ = tokio::time::timeout(setup.drain_timeout, state.listeners.gone()).await;
            Ok(())
        })
        .await
}

fn on_signal(signal: i32) -> io::Result<tokio::net::UnixStream> {
    let (reader, writer) = std::os::unix::net::UnixStream::pair()?;
    reader.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(signal, writer)?;
    tokio::net::UnixStream::from_std(reader)
}
