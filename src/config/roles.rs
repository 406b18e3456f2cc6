//! The table of worker kinds: what each is called, how many there may be, what it owns and what it serves.

use serde::{Deserialize, Serialize};

/// The ten streams of Synapse's `stream_writers` (1.163: `synapse/config/workers.py`, class `WriterLocations`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    Events,
    Typing,
    ToDevice,
    AccountData,
    Receipts,
    Presence,
    PushRules,
    DeviceLists,
    ThreadSubscriptions,
    QuarantinedMediaChanges,
}

impl Stream {
    pub const ALL: [Self; 10] = [
        Self::Events,
        Self::Typing,
        Self::ToDevice,
        Self::AccountData,
        Self::Receipts,
        Self::Presence,
        Self::PushRules,
        Self::DeviceLists,
        Self::ThreadSubscriptions,
        Self::QuarantinedMediaChanges,
    ];

    /// The key in Synapse's `stream_writers` and in our `[workers]`.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Typing => "typing",
            Self::ToDevice => "to_device",
            Self::AccountData => "account_data",
            Self::Receipts => "receipts",
            Self::Presence => "presence",
            Self::PushRules => "push_rules",
            Self::DeviceLists => "device_lists",
            Self::ThreadSubscriptions => "thread_subscriptions",
            Self::QuarantinedMediaChanges => "quarantined_media_changes",
        }
    }

    /// Synapse refuses a second writer for these (1.163: `synapse/config/workers.py`, `WorkerConfig.read_config`).
    pub const fn single_writer(self) -> bool {
        match self {
            Self::Typing | Self::ToDevice | Self::AccountData | Self::Presence | Self::PushRules => true,
            Self::Events
            | Self::Receipts
            | Self::DeviceLists
            | Self::ThreadSubscriptions
            | Self::QuarantinedMediaChanges => false,
        }
    }
}

/// What a worker process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerKind {
    /// Serves any client or federation request that is not bound to an owner.
    Generic,
    /// Requests about one room.
    Room,
    /// `/sync`, sliding sync, `/events`, `/initialSync`.
    Sync,
    /// Client requests that are neither about a room nor a sync.
    ClientReader,
    /// Requests of other servers.
    FederationReader,
    /// Sends to other servers.
    FederationSender,
    /// Sends push notifications.
    Pusher,
    /// Uploads, downloads, thumbnails.
    MediaRepository,
    /// Notifies application services.
    Appservice,
    /// Maintains and searches the user directory.
    UserDir,
    /// Runs background tasks (`run_background_tasks_on`).
    Background,
    /// Writes one stream.
    Writer(Stream),
}

/// HTTP listener resources of Synapse that a worker can offer to clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    Client,
    Federation,
    Media,
}

impl Resource {
    /// The name in a listener's `resources`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Federation => "federation",
            Self::Media => "media",
        }
    }
}

impl WorkerKind {
    /// Every kind, in the order in which their units are listed.
    pub fn all() -> impl Iterator<Item = Self> {
        [
            Self::Generic,
            Self::Room,
            Self::Sync,
            Self::ClientReader,
            Self::FederationReader,
            Self::FederationSender,
            Self::Pusher,
            Self::MediaRepository,
            Self::Appservice,
            Self::UserDir,
            Self::Background,
        ]
        .into_iter()
        .chain(Stream::ALL.into_iter().map(Self::Writer))
    }

    /// The key in `[workers]`.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::Room => "room",
            Self::Sync => "sync",
            Self::ClientReader => "client_reader",
            Self::FederationReader => "federation_reader",
            Self::FederationSender => "federation_sender",
            Self::Pusher => "pusher",
            Self::MediaRepository => "media_repository",
            Self::Appservice => "appservice",
            Self::UserDir => "user_dir",
            Self::Background => "background",
            Self::Writer(stream) => stream.key(),
        }
    }

    /// What it does.
    pub const fn about(self) -> &'static str {
        match self {
            Self::Generic => "Serves any request that is not bound to one process.",
            Self::Room => "Serves requests about one room.",
            Self::Sync => "Serves /sync and its relatives.",
            Self::ClientReader => "Serves requests of clients that are neither about a room nor a sync.",
            Self::FederationReader => "Serves requests of other servers.",
            Self::FederationSender => "Sends to other servers.",
            Self::Pusher => "Sends push notifications.",
            Self::MediaRepository => "Serves uploads, downloads and thumbnails.",
            Self::Appservice => "Notifies bridges and bots.",
            Self::UserDir => "Maintains and searches the user directory.",
            Self::Background => "Cleans up and counts.",
            Self::Writer(Stream::Events) => "Writes messages and the state of rooms.",
            Self::Writer(_) => "Writes the stream of this name.",
        }
    }

    /// How many of this kind there may be.
    ///
    /// Appservice, user directory and background work are each named by a single string in homeserver.yaml.
    pub const fn max(self) -> u16 {
        match self {
            Self::Appservice | Self::UserDir | Self::Background => 1,
            Self::Writer(stream) if stream.single_writer() => 1,
            Self::Generic
            | Self::Room
            | Self::Sync
            | Self::ClientReader
            | Self::FederationReader
            | Self::FederationSender
            | Self::Pusher
            | Self::MediaRepository
            | Self::Writer(_) => 200,
        }
    }

    /// What its client-side listener offers; empty for a worker that no client talks to.
    pub const fn resources(self) -> &'static [Resource] {
        match self {
            Self::Generic | Self::Room => &[Resource::Client, Resource::Federation],
            Self::Sync | Self::ClientReader | Self::UserDir => &[Resource::Client],
            Self::FederationReader => &[Resource::Federation],
            // The media servlets under /_matrix/client and /_matrix/federation are mounted by those resources.
            Self::MediaRepository => &[Resource::Client, Resource::Federation, Resource::Media],
            // An events writer is reached by replication only.
            Self::FederationSender
            | Self::Pusher
            | Self::Appservice
            | Self::Background
            | Self::Writer(Stream::Events) => &[],
            // Quarantining is served where media is, by a process that may write the stream.
            Self::Writer(Stream::QuarantinedMediaChanges) => &[Resource::Client, Resource::Media],
            Self::Writer(_) => &[Resource::Client],
        }
    }

    /// The name of its nth unit, counted from 1; it depends on nothing else, so that no change renames a unit.
    pub fn unit_name(self, index: u16) -> String {
        format!("{}-{index}", self.key().replace('_', "-"))
    }
}
