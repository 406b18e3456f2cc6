//! Worker presets and every default, each with its reason.

use std::ops::RangeInclusive;

use super::roles::Stream;
use super::roles::WorkerKind;

/// Only root may listen below 1024, and this is the port that Synapse's own documentation uses.
pub(super) const LISTEN: &str = "127.0.0.1:8008";
/// Debian's PostgreSQL listens here, and lets in a system user as the role of the same name.
pub(super) const DATABASE_HOST: &str = "/var/run/postgresql";
pub(super) const DATABASE_PORT: u16 = 5432;
/// The names that Synapse's installation guide uses.
pub(super) const DATABASE_USER: &str = "synapse";
pub(super) const DATABASE_NAME: &str = "synapse";
/// Debian's Redis and Valkey listen here.
pub(super) const REDIS_HOST: &str = "127.0.0.1";
pub(super) const REDIS_PORT: u16 = 6379;
/// Where the Filesystem Hierarchy Standard wants state and run-time files.
pub(super) const STATE_DIR: &str = "/var/lib/synvisor";
pub(super) const RUN_DIR: &str = "/run/synvisor";
/// The users that the packages create.
pub(super) const USER: &str = "synvisor";
pub(super) const ROUTER_USER: &str = "synvisor-router";
/// Longer than nearly every request but a long-poll, which a client repeats by itself.
pub(super) const DRAIN_TIMEOUT: u64 = 10_000;
/// Synapse's stop lasts as long as its longest database transaction; SIGKILL leaves locks for two minutes.
pub(super) const STOP_TIMEOUT: u64 = 30_000;
/// A database on another machine may boot at the same time as this one.
pub(super) const DEPENDENCY_TIMEOUT: u64 = 60_000;
/// Bounds of the time-outs, in milliseconds: none at all would cut what is in flight, and beyond an hour a stop
/// looks like a hang.
pub(super) const TIMEOUTS: RangeInclusive<u64> = 1..=3_600_000;

/// A named set of worker counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Preset {
    /// Main alone.
    None,
    LittleFederationHelper,
    OneOfEach,
    SpecializedWorkers,
}

/// The streams that the presets give a writer of its own; thread subscriptions are experimental in Synapse.
const PRESET_STREAMS: [Stream; 9] = [
    Stream::Events,
    Stream::Typing,
    Stream::ToDevice,
    Stream::AccountData,
    Stream::Receipts,
    Stream::Presence,
    Stream::PushRules,
    Stream::DeviceLists,
    Stream::QuarantinedMediaChanges,
];

const HELPERS: [WorkerKind; 6] = [
    WorkerKind::FederationSender,
    WorkerKind::Pusher,
    WorkerKind::MediaRepository,
    WorkerKind::Appservice,
    WorkerKind::UserDir,
    WorkerKind::Background,
];

impl Preset {
    pub(super) const ALL: [Self; 4] =
        [Self::None, Self::LittleFederationHelper, Self::OneOfEach, Self::SpecializedWorkers];

    /// The names of matrix-docker-ansible-deploy, whose users will look for them.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::LittleFederationHelper => "little-federation-helper",
            Self::OneOfEach => "one-of-each",
            Self::SpecializedWorkers => "specialized-workers",
        }
    }

    /// The kinds of which it has one.
    pub(super) fn kinds(self) -> Vec<WorkerKind> {
        let writers = PRESET_STREAMS.into_iter().map(WorkerKind::Writer);
        let specialised =
            [WorkerKind::Room, WorkerKind::Sync, WorkerKind::ClientReader, WorkerKind::FederationReader];
        match self {
            Self::None => Vec::new(),
            Self::LittleFederationHelper => vec![WorkerKind::FederationSender],
            Self::OneOfEach => [WorkerKind::Generic].into_iter().chain(HELPERS).chain(writers).collect(),
            Self::SpecializedWorkers => specialised.into_iter().chain(HELPERS).chain(writers).collect(),
        }
    }
}
