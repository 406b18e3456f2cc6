//! The data plane: a process of its own that takes requests and passes each to the process that answers it.
//!
//! All untrusted input ends here. It reads no file, and the only secrets that it knows are the keys of its certificates.

use std::io;
use std::num::NonZero;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::task::LocalSet;

mod access_log;
mod answer;
mod asker;
mod buffer;
mod charge;
mod client;
mod control;
mod crowd;
mod exchange;
mod forward;
mod greeting;

mod http1;
mod http2;
mod inbound;
mod limits;
mod listen;
mod metrics;
mod outgoing;
mod park;
mod proxy_protocol;
mod queue;
mod reading;
mod state;
mod team;
mod timer;
mod tls;
mod trace;
mod translate;
mod upstream;

pub use exchange::RESPONSE;
pub use forward::REPLAY_WITHIN;

use crowd::Everybody;
use metrics::Metrics;
use state::State;
use team::Answer;
use team::Order;
use team::Team;

/// After an accept that failed, mostly for want of descriptors: some will be free again.
const PAUSE: Duration = Duration::from_millis(100);

/// What the router is given at its start.
#[derive(Debug)]
pub struct RouterSetup {
    /// Where the supervisor connects, and says at what addresses to listen.
    pub control: std::os::unix::net::UnixListener,
    /// Whom we believe to be the supervisor.
    pub allowed_uids: Vec<u32>,
    /// How long requests in flight may take at the end.
    pub drain_timeout: Duration,
    pub keep_alive: KeepAlive,
    pub parking: Parking,
    /// How many threads serve, each with connections of its own.
    pub threads: NonZero<usize>,
    /// For comparison: nobody waits, nothing that was sent is sent again, a drain is over at once.
    pub without_parking: bool,
}

/// How long a client may stay, whether or not a successor has taken over.
#[derive(Clone, Copy, Debug)]
pub struct KeepAlive {
    /// How long it may take for the head of its next request.
    pub timeout: Duration,
    /// How old its connection may get: then it has one more answer.
    pub time: Duration,
}

impl Default for KeepAlive {
    /// Longer than most clients keep an idle connection themselves: who closes it first loses no request. nginx lets one
    /// grow as old (`keepalive_time`).
    fn default() -> Self {
        Self { timeout: Duration::from_secs(75), time: Duration::from_secs(3_600) }
    }
}

/// The bounds of waiting for a process that is away.
#[derive(Clone, Copy, Debug)]
pub struct Parking {
    /// Requests that wait at once for one pool of processes, on each thread: each holds a connection and some memory.
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
/// When a socket cannot be used, or a thread cannot be had.
pub async fn serve(setup: RouterSetup, stopped: impl Future<Output = ()>) -> io::Result<()> {
    let RouterSetup { control, allowed_uids, drain_timeout, keep_alive, parking, without_parking, threads } =
        setup;
    let threads = threads.get();
    let share = Share {
        parking,
        without_parking,
        keep_alive,
        drain_timeout,
        threads,
        everybody: Arc::default(),
        metrics: Arc::new(Metrics::new()),
    };
    let (answers, heard) = mpsc::unbounded_channel();
    let (finished, mut finishing) = mpsc::unbounded_channel();
    let mut orders = Vec::new();
    for number in 2..=threads {
        let (order, told) = mpsc::unbounded_channel();
        orders.push(order);
        let (share, answers, finished) = (share.clone(), answers.clone(), finished.clone());
        thread(number, move || share.work(told, answers, finished))?;
    }
    let (order, told) = mpsc::unbounded_channel();
    orders.push(order);
    let local = LocalSet::new();
    local
        .run_until(async {
            control.set_nonblocking(true)?;
            let control = UnixListener::from_std(control)?;
            let team = Team::new(orders.clone());
            tokio::task::spawn_local(control::serve(control, allowed_uids, team, heard));
            tokio::task::spawn_local(share.work(told, answers, finished));
            tokio::pin!(stopped);
            let (mut left, mut stopping) = (threads, false);
            while left > 0 {
                tokio::select! {
                    () = &mut stopped, if !stopping => {
                        stopping = true;
                        for order in &orders {
                            let _ = order.send(Order::Stop);
                        }
                    }
                    _ = finishing.recv() => left -= 1,
                }
            }
            Ok(())
        })
        .await
}

/// What each thread has of the whole.
#[derive(Clone)]
struct Share {
    parking: Parking,
    without_parking: bool,
    keep_alive: KeepAlive,
    drain_timeout: Duration,
    threads: usize,
    everybody: Arc<Everybody>,
    metrics: Arc<Metrics>,
}

/// Starts a thread that does this work.
fn thread<F: Future<Output = ()>>(
    number: usize,
    work: impl FnOnce() -> F + Send + 'static,
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new()
        .name(format!("router-{number}"))
        .spawn(move || LocalSet::new().block_on(&runtime, work()))?;
    Ok(())
}

impl Share {
    /// Serves clients as it is told, and says when there are none any more. It answers until all have finished: they are one
    /// router.
    async fn work(
        self,
        told: mpsc::UnboundedReceiver<Order>,
        answers: mpsc::UnboundedSender<Answer>,
        finished: mpsc::UnboundedSender<()>,
    ) {
        let drain_timeout = self.drain_timeout;
        let state = State::new(self, answers);
        let (stop, mut stopped) = oneshot::channel();
        tokio::task::spawn_local(upstream::close_idle(Rc::clone(&state)));
        tokio::task::spawn_local(access_log::keep_up(Rc::clone(&state)));
        let obeying = tokio::task::spawn_local(obey(Rc::clone(&state), told, stop));
        tokio::select! {
            _ = &mut stopped => {
                state.listeners.stop();
                let _ = tokio::time::timeout(drain_timeout, state.listeners.gone()).await;
            }
            limit = state.retired() => tokio::select! {
                _ = &mut stopped => {
                    state.listeners.stop();
                    let _ = tokio::time::timeout(drain_timeout, state.listeners.gone()).await;
                }
                () = state.listeners.gone() => {}
                () = tokio::time::sleep_until(limit) => {}
            },
        }
        state.access_log.flush();
        let _ = finished.send(());
        let _ = obeying.await;
    }
}

/// Does what a thread is told, until it is to stop.
async fn obey(state: Rc<State>, mut told: mpsc::UnboundedReceiver<Order>, stop: oneshot::Sender<()>) {
    let mut stop = Some(stop);
    while let Some(order) = told.recv().await {
        match order {
            Order::Obey { number, message, descriptors } => {
                if let Err(error) = state.obey(number, message, descriptors).await {
                    state.answer(number, Err(error));
                }
            }
            Order::Stop => drop(stop.take()),
        }
    }
}

fn on_signal(signal: i32) -> io::Result<tokio::net::UnixStream> {
    let (reader, writer) = std::os::unix::net::UnixStream::pair()?;
    reader.set_nonblocking(true)?;
    signal_hook::low_level::pipe::register(signal, writer)?;
    tokio::net::UnixStream::from_std(reader)
}
