//! What is known of a request when it is over, for metrics and the access log.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;

use super::access_log::Line;
use super::state::State;
use super::upstream::Upstream;

/// A request, which is over when this is dropped.
pub(super) struct Trace {
    state: Rc<State>,
    started: Instant,
    /// 0 until there is one.
    pub(super) status: u16,
    /// Of the body that was sent.
    pub(super) bytes: u64,
    /// The class of its rule, or what the router did itself.
    pub(super) class: &'static str,
    /// How often a process was asked.
    pub(super) attempts: u32,
    /// How long it waited because nobody could take it.
    pub(super) parked: Duration,
    /// How long the last process that was asked took for the head of its answer.
    pub(super) upstream: Option<Duration>,
    /// Who was asked last.
    pub(super) unit: Option<Rc<Upstream>>,
    /// What a line of the log begins with, if there is one.
    line: Option<Box<Line>>,
}

impl Trace {
    /// One that begins now, of a request that the router answers itself until somebody else does.
    pub(super) fn new(
        state: &Rc<State>,
        client: IpAddr,
        method: &str,
        target: &str,
        protocol: &'static str,
    ) -> Self {
        let line = state.access_log.is_on().then(|| Box::new(Line::new(client, method, target, protocol)));
        Self {
            state: Rc::clone(state),
            started: Instant::now(),
            status: 0,
            bytes: 0,
            class: "router",
            attempts: 0,
            parked: Duration::ZERO,
            upstream: None,
            unit: None,
            line,
        }
    }

    pub(super) const fn started(&self) -> Instant {
        self.started
    }

    pub(super) fn duration(&self) -> Duration {
        self.started.elapsed()
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.state.metrics.record(self);
        if let Some(line) = self.line.take() {
            self.state.access_log.write(&line, self);
        }
    }
}
