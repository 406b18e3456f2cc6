//! What a backup says of itself, and what of it a system can take without losing anything.

use serde::Deserialize;
use serde::Serialize;

/// What this synvisor writes, and can read.
pub const FORMAT: u32 = 1;

/// What stands in `manifest.json`, which is written last: a backup without one is not complete.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub format: u32,
    /// Tells one backup from all others.
    pub id: String,
    /// Seconds since 1970.
    pub made: u64,
    pub server_name: String,
    pub synvisor: String,
    /// Version of Synapse, where it is known.
    pub synapse: Option<String>,
    /// Of the database.
    pub schema: i64,
    /// Major version of the PostgreSQL.
    pub postgres: u32,
    /// Files that the configuration names, in the order of those in `files/`.
    pub files: Vec<String>,
    pub media: Media,
}

/// The media of a backup.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Media {
    pub files: u64,
    pub bytes: u64,
    /// Whether they are in it, and not listed alone.
    pub included: bool,
}

/// What becomes of a file of the backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// There is none.
    Write,
    /// It is there already.
    Same,
    /// Another one is there, which stays.
    Other,
}

/// Restoring overwrites nothing.
pub fn fate(held: Option<&[u8]>, saved: &[u8]) -> Fate {
    match held {
        None => Fate::Write,
        Some(held) if held == saved => Fate::Same,
        Some(_) => Fate::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_overwritten() {
        // Mutation: another one written over: seen red.
        assert_eq!(fate(None, b"a"), Fate::Write);
        assert_eq!(fate(Some(b"a"), b"a"), Fate::Same);
        assert_eq!(fate(Some(b"b"), b"a"), Fate::Other);
        assert_eq!(fate(Some(b""), b"a"), Fate::Other);
    }
}
