//! `access_log` of `[router]`.

use serde::Deserialize;
use serde::Serialize;

/// In which form a line for each request is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessLog {
    #[default]
    Off,
    /// The Common Log Format, and more behind it.
    Common,
    Json,
}

impl AccessLog {
    pub(super) const ALL: [Self; 3] = [Self::Off, Self::Common, Self::Json];

    /// As it is written in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Common => "common",
            Self::Json => "json",
        }
    }
}
