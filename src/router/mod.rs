//! The data plane: a process of its own that takes requests and passes each to the process that answers it.
//!
//! All untrusted input ends here; it knows no secret and reads no file.

use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::LocalSet;

mod answer;
mod body;
mod charge;
mod control;
mod forward;
mod headers;
mod park;
mod queue;
mod state;
mod upstream;

use state::State;

/// After an accept that failed, mostly for want of descriptors: some will be free again.
const PAUSE: Duration = Duration::from_millis(100);
/// A client that sends no whole head for this long is let go; idle connections likewise.
const HEAD: Duration = Duration::from_secs(75);
/// Synapse's own limits are 16 KiB and 500 headers (`synapse/http/site.py`).
const MOST_HEADERS: usize = 500;
const LARGEST_HEAD: usize = 64 * 1024;

/// What the router is given at its start.
#[derive(Debug)]
pub struct RouterSetup {
    pub listeners: Vec<std::net::TcpListener>,
    /// Where the supervisor connects.
    pub control: std::os::unix::net::UnixListener,
    /// Whom we believe to be the supervisor.
    pub allowed_uids: Vec<u32>,
    /// How long requests in flight may take at the end.
    pub drain_timeout: Duration,
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

/// Serves until `stopped` resolves, then lets requests in flight finish.
///
/// # Errors
/// When a socket cannot be used.
pub async fn serve(setup: RouterSetup, stopped: impl Future<Output = ()>) -> io::Result<()> {
    let local = LocalSet::new();
    local
        .run_until(async {
            let state = State::new(setup.parking, setup.without_parking);
            setup.control.set_nonblocking(true)?;
            let control = UnixListener::from_std(setup.control)?;
            tokio::task::spawn_local(control::serve(control, setup.allowed_uids, Rc::clone(&state)));
            // Each connection holds a receiver: when the last is gone, all are.
            let (stopping, stop) = watch::channel(false);
            for (index, listener) in setup.listeners.into_iter().enumerate() {
                listener.set_nonblocking(true)?;
                let listener = TcpListener::from_std(listener)?;
                tokio::task::spawn_local(accept(listener, index, Rc::clone(&state), stop.clone()));
            }
            drop(stop);
            stopped.await;
            stopping.send_replace(true);
            let _ = tokio::time::timeout(setup.drain_timeout, stopping.closed()).await;
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

/// Accepts connections from the first table on; before it, and after the stop, they wait in the kernel.
async fn accept(listener: TcpListener, index: usize, state: Rc<State>, mut stop: watch::Receiver<bool>) {
    tokio::select! {
        () = state.first_table() => {}
        _ = stop.wait_for(|stop| *stop) => return,
    }
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let peer = peer.ip().to_canonical();
                tokio::task::spawn_local(connection(stream, index, peer, Rc::clone(&state), stop.clone()));
            }
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    listener: usize,
    peer: std::net::IpAddr,
    state: Rc<State>,
    mut stop: watch::Receiver<bool>,
) {
    // Small answers must not wait for an acknowledgement of the last one.
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| {
        let state = Rc::clone(&state);
        async move { Ok::<_, Infallible>(forward::answer(&state, listener, peer, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_headers(MOST_HEADERS)
        .max_buf_size(LARGEST_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // How a client leaves is its own affair.
    tokio::select! {
        _ = &mut connection => return,
        _ = stop.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}
