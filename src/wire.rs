//! What the processes of synvisor say to each other: supervisor and router, supervisor and command line.
//!
//! Between supervisor and router one JSON value a line; on the control socket JSON bodies of HTTP.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::config::AccessLog;
use crate::topology::{Topology, UnitName};

/// Counts how often a unit was started; names one process among its predecessors and successors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

/// Supervisor to router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToRouter {
    /// The processes to route to, and the listening sockets, which come with the line in the order of `listeners`, each
    /// followed by its certificates; replaces the previous table. Units and addresses that it does not name are forgotten.
    Table {
        topology: Topology,
        listeners: Vec<ListenerSettings>,
        trusted_proxies: Vec<IpNet>,
        /// How many bytes an upload may have.
        largest_upload: u64,
        access_log: AccessLog,
    },
    /// This unit is READY and takes requests.
    Up { unit: UnitName, incarnation: Incarnation },
    /// This unit is gone: park what would go to it.
    Down { unit: UnitName },
    /// Send nothing new to this unit, close idle connections to it, answer [`FromRouter::Drained`] when nothing is in flight.
    Drain { unit: UnitName, incarnation: Incarnation },
    /// Answer [`FromRouter::Counts`], so that an order can say what it cost.
    Count { ticket: u64 },
    /// A successor takes over: accept nobody any more, answer who is there once more, long-polls included, and end when
    /// the last has gone, after so many milliseconds at the latest.
    Retire { limit_ms: u64 },
}

impl ToRouter {
    /// How many descriptors come with it.
    pub fn descriptors(&self) -> usize {
        match self {
            Self::Table { listeners, .. } => {
                listeners.iter().map(|listener| 1 + usize::from(listener.certificates)).sum()
            }
            Self::Up { .. }
            | Self::Down { .. }
            | Self::Drain { .. }
            | Self::Count { .. }
            | Self::Retire { .. } => 0,
        }
    }
}

/// What the router has counted of requests for one unit since its own start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Requests that waited because the unit was away.
    pub parked: u64,
    /// How long the one that waited longest since the last answer did, in milliseconds.
    pub longest_ms: u64,
    /// Requests that had been sent and were sent again.
    pub replayed: u64,
    /// Long-polls whose upstream connection was given up at a planned stop, to be asked again.
    pub taken_back: u64,
    /// Body transfers that outlasted the drain and were ended, and requests whose process ended before it answered.
    pub cut: u64,
}

impl Counts {
    /// Those of two routers, together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            parked: self.parked.saturating_add(other.parked),
            longest_ms: self.longest_ms.max(other.longest_ms),
            replayed: self.replayed.saturating_add(other.replayed),
            taken_back: self.taken_back.saturating_add(other.taken_back),
            cut: self.cut.saturating_add(other.cut),
        }
    }

    /// What came since.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            parked: self.parked.saturating_sub(earlier.parked),
            longest_ms: self.longest_ms,
            replayed: self.replayed.saturating_sub(earlier.replayed),
            taken_back: self.taken_back.saturating_sub(earlier.taken_back),
            cut: self.cut.saturating_sub(earlier.cut),
        }
    }
}

/// What the router must know of a listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerSettings {
    /// Which one it is: no two sockets can have the same.
    pub address: SocketAddr,
    /// Whether `/_synapse/admin` is reachable on it.
    pub admin: bool,
    /// Whether `/_synvisor/metrics` is.
    pub metrics: bool,
    /// Whether TLS is spoken on it.
    #[serde(default)]
    pub tls: bool,
    /// How many certificates come with it, each a file with the chain and the private key in PEM; with none it keeps those
    /// that it has.
    #[serde(default)]
    pub certificates: u16,
    /// Whether each connection begins with the PROXY protocol.
    #[serde(default)]
    pub proxy_protocol: bool,
}

/// Router to supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromRouter {
    /// A table is in force, and connections are accepted at these addresses and no others.
    Accepting { addresses: Vec<SocketAddr> },
    /// Nothing is in flight any more to this incarnation.
    Drained { unit: UnitName, incarnation: Incarnation },
    /// The answer to [`ToRouter::Count`], with every unit of the table.
    Counts { ticket: u64, counts: BTreeMap<UnitName, Counts> },
}

/// `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    pub version: String,
    pub pid: u32,
    /// How often a supervisor took over from another one since the homeserver was started.
    #[serde(default)]
    pub takeovers: u64,
    pub state: OverallState,
    /// Addresses that the router listens on.
    pub listen: Vec<String>,
    /// What TLS is spoken with.
    #[serde(default)]
    pub certificates: Vec<CertificateReport>,
    /// What an administrator should know, a sentence each.
    pub notes: Vec<String>,
    pub units: Vec<UnitReport>,
}

/// A certificate that a listener has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateReport {
    pub listen: String,
    /// The names that it is for.
    pub names: Vec<String>,
    /// The end of its validity: seconds since 1970-01-01 UTC.
    pub expires: u64,
}

/// The homeserver as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OverallState {
    /// Main has not been READY yet.
    Starting,
    /// Every unit that is wanted is READY.
    Ready,
    /// Some unit is not.
    Degraded,
    Stopping,
}

/// One unit in a [`StatusReport`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitReport {
    pub name: UnitName,
    /// What it is: `main`, `generic`, `postgres (external)`, ….
    pub role: String,
    /// `away` of a service that is not ours and does not answer; otherwise the word of the supervisor's core.
    pub state: String,
    pub pid: Option<i32>,
    pub incarnation: Incarnation,
    /// How often it ended without being asked to.
    pub restarts: u32,
    /// Milliseconds in this state.
    pub since_ms: u64,
    /// Why it is not ready, or why it last ended.
    pub reason: Option<String>,
    /// How its process was made; none where it has no process of Synapse.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub made: Option<Made>,
}

/// How a process of Synapse was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Made {
    /// By the fork server.
    Forked,
    /// By an interpreter of its own, with inherited sockets and a graceful stop: the fork server was not there.
    Executed,
    /// As Synapse's documentation has it, without either: this Synapse is not one that the bootstrap knows.
    Plain,
}

/// `GET /v1/plan`: what the configuration on disk would change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum PlanReport {
    Planned {
        /// Whether there is nothing to do.
        empty: bool,
        /// As it is shown to a person.
        text: String,
        plan: serde_json::Value,
        /// Of the configuration, as they are shown to a person.
        warnings: String,
    },
    /// No reload can do this.
    Refused { message: String },
    /// The configuration has mistakes.
    Unusable { message: String },
    /// What runs is changing at this moment.
    Busy { message: String },
}

/// A configuration that was applied, or was to be: `GET /v1/generations` gives all that are kept, the oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    pub number: u64,
    /// When it was begun: seconds since 1970-01-01 UTC.
    pub at: u64,
    /// Who asked for it, and how.
    pub who: String,
    /// What differs from the one before, a line each.
    pub changes: Vec<String>,
    /// Whether somebody went back to it: then the TOML on disk says something else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rollback: bool,
    pub result: GenerationResult,
    /// Why it is not in force, where that needs a reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What became of a [`Generation`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GenerationResult {
    /// It is under way, or the supervisor ended while it was.
    Applying,
    Applied,
    /// The one before is in force again.
    RolledBack,
    /// Neither it nor the one before is in force as a whole.
    Failed,
}

/// Body of `POST /v1/rollback`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RollbackRequest {
    /// Where to go back to; without it, to what was in force before.
    #[serde(default)]
    pub generation: Option<u64>,
}

/// Body of `POST /v1/dump`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DumpRequest {
    pub unit: UnitName,
}

/// What every thread of a process was doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DumpReport {
    pub unit: UnitName,
    pub pid: i32,
    /// What it wrote to its log when it was asked: the stack of each thread, the latest call first.
    pub text: String,
}

/// Body of `POST /v1/start`, `/v1/stop` and `/v1/restart`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OrderRequest {
    #[serde(default)]
    pub units: Vec<UnitName>,
    /// Every Synapse process: main and the workers.
    #[serde(default)]
    pub all: bool,
    /// Restart all of them together rather than one after the other.
    #[serde(default)]
    pub at_once: bool,
    /// Answer with one JSON value a line: an [`OrderNews`] for each unit that is done, and one for the whole.
    #[serde(default)]
    pub progress: bool,
}

/// A line of the answer to an order with `progress`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OrderNews {
    Reached(UnitSummary),
    Answer(Answer),
}

/// What an order did to one unit, and what that cost its clients.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitSummary {
    pub unit: UnitName,
    /// From the moment when it got no new requests to its end, in milliseconds.
    pub stop_ms: Option<u64>,
    /// From the start of the new process to READY, in milliseconds.
    pub start_ms: Option<u64>,
    /// How long nobody was there to take new requests, in milliseconds.
    pub gap_ms: Option<u64>,
    /// How many processes before it still finish what they have.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retired: usize,
    #[serde(flatten)]
    pub counts: Counts,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
const fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// What can stand in the way of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Obstacle {
    /// Something else is under way: the same may do later.
    Busy,
    /// The configuration has mistakes.
    Config,
}

/// `POST /v1/reload`; no body is the same as an empty one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadRequest {
    #[serde(default)]
    pub migration: Migration,
}

/// What the new main process of another Synapse does to the database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Migration {
    /// Nobody has looked: it may take long, and a way back is tried.
    #[default]
    Unknown,
    /// Nothing that takes long.
    None,
    /// What the Synapse of before cannot use afterwards.
    OneWay,
}

/// The answer to whatever is not a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub ok: bool,
    /// What happened, and where `ok` is false what to do.
    pub message: String,
    /// What stood in the way, where that is more than the message can say to a program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub obstacle: Option<Obstacle>,
    /// What an order did, unit by unit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub units: Vec<UnitSummary>,
}

impl Answer {
    pub fn done(message: impl Into<String>) -> Self {
        Self { ok: true, message: message.into(), obstacle: None, units: Vec::new() }
    }

    pub fn failed(message: impl Into<String>) -> Self {
        Self { ok: false, message: message.into(), obstacle: None, units: Vec::new() }
    }

    pub fn hindered(obstacle: Obstacle, message: impl Into<String>) -> Self {
        Self { obstacle: Some(obstacle), ..Self::failed(message) }
    }
}
