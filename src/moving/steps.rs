//! The way from an old server to this one: which steps there are, which are left, and whether there is a way back.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

/// A step, in the order in which they are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Media are brought while the old server runs.
    Before,
    /// The old server stops.
    Stop,
    /// Media that came meanwhile are brought.
    Rest,
    Database,
    /// synvisor starts.
    Start,
    Check,
    /// The old server does not come back by itself.
    HandOver,
}

impl Step {
    pub const ALL: [Self; 7] =
        [Self::Before, Self::Stop, Self::Rest, Self::Database, Self::Start, Self::Check, Self::HandOver];
}

/// How the old server is stopped and started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Old {
    /// Units of systemd: Synapse's, and those of its workers.
    Units(Vec<String>),
    /// Docker's.
    Containers(Vec<String>),
    /// What a shell is given.
    Commands { stop: String, start: String },
}

/// A command and its arguments.
pub type Command = Vec<String>;

fn command(words: &[&str], names: &[String]) -> Command {
    words.iter().map(|word| (*word).to_owned()).chain(names.iter().cloned()).collect()
}

fn shell(text: &str) -> Command {
    command(&["sh", "-c", text], &[])
}

impl Old {
    pub fn stop(&self) -> Command {
        match self {
            Self::Units(names) => command(&["systemctl", "stop"], names),
            // Its ten seconds are short for a Synapse that writes.
            Self::Containers(names) => command(&["docker", "stop", "--time", "60"], names),
            Self::Commands { stop, .. } => shell(stop),
        }
    }

    pub fn start(&self) -> Command {
        match self {
            Self::Units(names) => command(&["systemctl", "start"], names),
            Self::Containers(names) => command(&["docker", "start"], names),
            Self::Commands { start, .. } => shell(start),
        }
    }

    /// What keeps it from coming back by itself, and what lets it again.
    pub fn retire(&self) -> Option<[Command; 2]> {
        match self {
            Self::Units(names) => {
                Some([command(&["systemctl", "disable"], names), command(&["systemctl", "enable"], names)])
            }
            Self::Containers(names) => Some([
                command(&["docker", "update", "--restart=no"], names),
                command(&["docker", "update", "--restart=unless-stopped"], names),
            ]),
            Self::Commands { .. } => None,
        }
    }
}

/// Where the data of the old server are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Data {
    /// In the PostgreSQL that this homeserver names too: they stay where they are.
    Shared,
    /// In a file of SQLite.
    Sqlite(PathBuf),
}

/// What was done so far, kept in the state directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// The old homeserver.yaml.
    pub from: PathBuf,
    pub old: Old,
    pub data: Data,
    pub media: PathBuf,
    /// Whose the old media store is: user and group.
    pub owner: (u32, u32),
    pub done: Vec<Step>,
    /// When the old server was stopped and this one served, in milliseconds of one run of the machine.
    pub stopped: Option<u64>,
    pub served: Option<u64>,
    /// How much of what clients make there was when this one started.
    pub counts: BTreeMap<String, u64>,
    /// Which schema a Synapse had to know to use the database then.
    pub oldest_code: i64,
}

impl Journal {
    /// What is to be done still, in order.
    pub fn left(&self) -> impl Iterator<Item = Step> {
        Step::ALL.into_iter().filter(|step| !self.has(*step))
    }

    pub fn has(&self, step: Step) -> bool {
        self.done.contains(&step)
    }

    /// Whether the old server was told to stop, whether or not it has.
    pub const fn is_down(&self) -> bool {
        self.stopped.is_some()
    }

    /// Milliseconds without a server.
    pub const fn away(&self) -> Option<u64> {
        match (self.stopped, self.served) {
            (Some(stopped), Some(served)) => Some(served.saturating_sub(stopped)),
            _ => None,
        }
    }
}

/// Whether the old server can go on with what there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Back {
    /// Nothing is lost.
    Free,
    /// This would be missing.
    Loses(String),
    /// The old Synapse cannot use the database any more.
    Migrated,
}

/// Judges the way back: `counts` is what clients have made by now, `oldest_code` what the database asks for now.
pub fn back(journal: &Journal, counts: &BTreeMap<String, u64>, oldest_code: i64) -> Back {
    if !journal.done.contains(&Step::Database) {
        return Back::Free;
    }
    match journal.data {
        // What was written is in the database that both have.
        Data::Shared if oldest_code > journal.oldest_code => Back::Migrated,
        Data::Shared => Back::Free,
        Data::Sqlite(_) => {
            let more = counts.iter().filter_map(|(name, now)| {
                let before = journal.counts.get(name).copied().unwrap_or_default();
                (*now > before).then(|| format!("{} {name}", now - before))
            });
            let more: Vec<String> = more.collect();
            if more.is_empty() { Back::Free } else { Back::Loses(more.join(", ")) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(data: Data, done: &[Step]) -> Journal {
        Journal {
            from: "/old/homeserver.yaml".into(),
            old: Old::Units(vec!["matrix-synapse.service".to_owned()]),
            data,
            media: "/old/media_store".into(),
            owner: (991, 991),
            done: done.to_vec(),
            stopped: None,
            served: None,
            counts: [("events".to_owned(), 7)].into(),
            oldest_code: 89,
        }
    }

    #[test]
    fn what_was_done_is_not_done_again() {
        // Mutation: what was done not left out: seen red.
        let begun = journal(Data::Shared, &[Step::Before, Step::Stop]);
        let left: Vec<Step> = begun.left().collect();
        assert_eq!(left, [Step::Rest, Step::Database, Step::Start, Step::Check, Step::HandOver]);
        assert_eq!(journal(Data::Shared, &Step::ALL).left().count(), 0);
    }

    #[test]
    fn there_is_a_way_back_until_something_would_be_lost() {
        // Mutation: counts hardly compared: seen red.
        let counts = |events| BTreeMap::from([("events".to_owned(), events)]);
        let ported = [Step::Before, Step::Stop, Step::Rest, Step::Database, Step::Start];
        let sqlite = journal(Data::Sqlite("/old/homeserver.db".into()), &ported);
        assert_eq!(back(&sqlite, &counts(7), 92), Back::Free);
        assert_eq!(back(&sqlite, &counts(9), 92), Back::Loses("2 events".to_owned()));
        let shared = journal(Data::Shared, &ported);
        assert_eq!(back(&shared, &counts(9), 89), Back::Free);
        assert_eq!(back(&shared, &counts(9), 90), Back::Migrated);
        let before = journal(Data::Shared, &ported[..3]);
        assert_eq!(back(&before, &counts(9), 90), Back::Free);
    }

    #[test]
    fn each_kind_of_server_is_stopped_in_its_words() {
        let joined = |old: &Old| old.stop().join(" ");
        let names = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(joined(&Old::Units(names.clone())), "systemctl stop a b");
        assert_eq!(joined(&Old::Containers(names)), "docker stop --time 60 a b");
        let own = Old::Commands { stop: "kill 7".to_owned(), start: "run".to_owned() };
        assert_eq!(own.stop(), ["sh", "-c", "kill 7"]);
        assert_eq!(own.retire(), None);
    }
}
