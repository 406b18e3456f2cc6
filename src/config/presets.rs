//! The worker presets.

use super::roles::Stream;
use super::roles::WorkerKind;

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
