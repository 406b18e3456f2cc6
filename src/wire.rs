//! What the processes of synvisor say to each other: supervisor and router, supervisor and command line.
//!
//! Between supervisor and router one JSON value a line; on the control socket JSON bodies of HTTP.

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
    Table { topology: Topology, listeners: Vec<ListenerSettings> },
    /// This unit is READY and takes requests.
    Up { unit: UnitName, incarnation: Incarnation },
    /// This unit is gone: park what would go to it.
    Down { unit: UnitName },
    /// Send nothing new to this unit, close idle connections to it, answer [`FromRouter::Drained`] when nothing is in flight.
    Drain { unit: UnitName, incarnation: Incarnation },
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
}
