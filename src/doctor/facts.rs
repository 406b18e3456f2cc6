//! What is looked at: of each thing what was found, or why it could not be looked at.

use std::net::IpAddr;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use crate::certificate::Certificate;
use crate::certificate::Validity;

/// What was found on a machine.
#[derive(Clone, Debug)]
pub struct Facts {
    pub database: Result<Database, Trouble>,
    /// Whether Redis answers.
    pub redis: Result<(), Trouble>,
    pub ports: Vec<Port>,
    /// Open files that the supervisor's children may have.
    pub most_files: Result<u64, String>,
    /// Whether the kernel's clock is kept by somebody (adjtimex(2)).
    pub clock_is_kept: Result<bool, String>,
    pub places: Vec<Place>,
    /// Bytes of memory.
    pub memory: u64,
    pub kept: Vec<Kept>,
    /// The unit as it is shipped.
    pub shipped: &'static str,
    /// A whole unit that stands in the place of the shipped one.
    pub unit: Option<DropIn>,
    pub drop_ins: Vec<DropIn>,
    /// Whether a Synapse is installed, whose settings are known.
    pub installed: bool,
    /// What synvisor's own check warns of, a sentence each with its remedy.
    pub warnings: Vec<(String, String)>,
    /// Secrets with which nothing starts, likewise.
    pub unfit: Vec<(String, String)>,
    pub certificates: Vec<Served>,
    /// Why listeners have no certificate.
    pub without_certificate: Vec<Trouble>,
    pub public: Public,
}

/// A certificate that a listener has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    pub listen: SocketAddr,
    pub certificate: Certificate,
    /// At this moment.
    pub validity: Validity,
}

/// Why something is not known to be well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It is not; the second line, if there is one, says what to do.
    Fault(String),
    /// It could not be looked at.
    Unseen(String),
}

/// What the database says.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Database {
    pub encoding: String,
    pub collate: String,
    pub ctype: String,
    pub max_connections: i64,
    /// Of these some are not for us.
    pub reserved: i64,
    /// Connections that others than this homeserver have open.
    pub others: i64,
    /// `160004`, for instance.
    pub version: i64,
}

/// An address of `[[listen]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    pub address: SocketAddr,
    /// Who cannot have it, and why; none if it is ours or free.
    pub taken: Option<String>,
}

/// A directory on a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub what: &'static str,
    pub path: PathBuf,
    pub room: Result<Room, Trouble>,
    /// Whether the unit lets the service write there.
    pub open: bool,
}

/// What a file system has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes that an ordinary user may still write, and all of the file system.
    pub free: u64,
    pub size: u64,
    /// Files that may still be made, of all; both 0 where the file system does not count them.
    pub free_files: u64,
    pub files: u64,
}

/// A file or directory that has to have a mode and an owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub path: PathBuf,
    pub owner: u32,
    pub mode: u32,
    /// Who may own it, with their names.
    pub owners: Vec<(u32, String)>,
    /// Bits that it must not have.
    pub never: u32,
}

/// A file of systemd's that changes the unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropIn {
    pub path: PathBuf,
    pub text: String,
}

/// What others see of the homeserver.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Public {
    /// Why nothing was asked.
    pub unasked: Option<String>,
    pub server: WellKnown,
    pub client: WellKnown,
    /// Where other servers end up, and what they are told there: the server's name, or what went wrong.
    pub federation: Result<String, String>,
    /// The host whose SRV records other servers look for, since nothing names a port.
    pub by_record: Option<String>,
    /// Where such a record leads; why it is not known.
    #[serde(skip, default = "nowhere")]
    pub record: Result<Option<String>, String>,
    /// Where clients end up.
    pub clients: Result<(), String>,
    /// Whom the router took for the client, though the request said that it comes for 192.0.2.1.
    pub seen: Option<Seen>,
    /// The address that was asked from.
    pub from: Option<IpAddr>,
    /// What the admin API answers, from outside.
    pub admin: Option<u16>,
}

const fn nowhere() -> Result<Option<String>, String> {
    Ok(None)
}

/// A client as the router sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Seen {
    pub address: IpAddr,
    /// How many addresses of X-Forwarded-For were believed; 0 if it is whoever connected.
    pub believed: usize,
}

/// A file of /.well-known/matrix.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub enum WellKnown {
    Absent,
    /// `m.server`, or `base_url`; whether browsers may read it.
    Says {
        value: String,
        cors: bool,
    },
    Wrong(String),
}
