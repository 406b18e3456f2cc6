//! What the processes of synvisor say to each other: supervisor and router, supervisor and command line.
//!
//! Between supervisor and router one JSON value a line; on the control socket JSON bodies of HTTP.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::topology::{Topology, UnitName};

/// Counts how often a unit was started; names one process among its predecessors and successors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

/// Supervisor to router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToRouter {
    /// The processes to route to; replaces the previous topology. Units that it does not name are forgotten.
    Table { topology: Topology, listeners: Vec<ListenerSettings>, trusted_proxies: Vec<IpNet> },
    /// This unit is READY and takes requests.
    Up { unit: UnitName, incarnation: Incarnation },
    /// This unit is gone: park what would go to it.
    Down { unit: UnitName },
    /// Send nothing new to this unit, close idle connections to it, answer [`FromRouter::Drained`] when nothing is in flight.
    Drain { unit: UnitName, incarnation: Incarnation },
    /// Answer [`FromRouter::Counts`], so that an order can say what it cost.
    Count { ticket: u64 },
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

/// What the router must know of each listener it inherited, in the order of the descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerSettings {
    /// Whether `/_synapse/admin` is reachable on it.
    pub admin: bool,
}

/// Router to supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FromRouter {
    /// A table is in force and the listeners are being accepted from.
    Accepting,
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
    pub state: OverallState,
    /// Addresses that the router listens on.
    pub listen: Vec<String>,
    /// What an administrator should know, a sentence each.
    pub notes: Vec<String>,
    pub units: Vec<UnitReport>,
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
    pub state: String,
    pub pid: Option<i32>,
    pub incarnation: Incarnation,
    /// How often it ended without being asked to.
    pub restarts: u32,
    /// Milliseconds in this state.
    pub since_ms: u64,
    /// Why it is not ready, or why it last ended.
    pub reason: Option<String>,
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
}

/// The answer to whatever is not a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    pub ok: bool,
    /// What happened, and where `ok` is false what to do.
    pub message: String,
}
