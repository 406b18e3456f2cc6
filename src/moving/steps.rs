//! The way from an old server to this one: which steps there are, which are left, and whether there is a way back.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use super::units::Family;

/// A step, in the order in which they are done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Media are brought while the old server runs.
    Before,
    /// The old server is kept from coming back by itself, before it stops: whoever starts it would have two on one database.
    Retire,
    /// The old server stops.
    Stop,
    /// Media that came meanwhile are brought.
    Rest,
    Database,
    /// synvisor starts.
    Start,
    Check,
}

impl Step {
    pub const ALL: [Self; 7] =
        [Self::Before, Self::Retire, Self::Stop, Self::Rest, Self::Database, Self::Start, Self::Check];
}

/// How the old server is stopped and started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Old {
    /// Units of systemd.
    Units(Family),
    /// Docker's.
    Containers(Vec<Container>),
    /// What a shell is given.
    Commands { stop: String, start: String },
}

/// A container of Docker's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    pub name: String,
    /// When Docker starts it by itself, in the words of `docker update --restart`.
    pub restart: String,
}

/// A command and its arguments.
pub type Command = Vec<String>;

fn command(words: &[&str], names: &[String]) -> Command {
    words.iter().map(|word| (*word).to_owned()).chain(names.iter().cloned()).collect()
}

/// What a shell is given.
pub fn shell(text: &str) -> Command {
    command(&["sh", "-c", text], &[])
}

impl Old {
    pub fn stop(&self) -> Command {
        match self {
            Self::Units(units) => command(&["systemctl", "stop"], &units.synapse),
            // Its ten seconds are short for a Synapse that writes.
            Self::Containers(all) => command(&["docker", "stop", "--time", "60"], &names(all)),
            Self::Commands { stop, .. } => shell(stop),
        }
    }

    pub fn start(&self) -> Command {
        match self {
            Self::Units(units) => command(&["systemctl", "start"], &units.running),
            Self::Containers(all) => command(&["docker", "start"], &names(all)),
            Self::Commands { start, .. } => shell(start),
        }
    }

    /// Files that keep it from being started: a unit that is disabled is started by whoever wants it, and one that lies in
    /// `/etc` cannot be masked.
    pub fn drop_ins(&self) -> Vec<(PathBuf, String)> {
        let Self::Units(units) = self else { return Vec::new() };
        let drop_in = |unit: &String| {
            let path = PathBuf::from(format!("/etc/systemd/system/{unit}.d/synvisor.conf"));
            // The file itself, so that `systemctl status` names it.
            let text = format!(
                "# synvisor serves in its place, and two would ruin the database that they share.\n\
                 # `synvisor migrate --back` removes this file.\n\
                 [Unit]\nConditionPathExists=!{}\n",
                path.display()
            );
            (path, text)
        };
        units.synapse.iter().map(drop_in).collect()
    }

    /// What has to be said for it not to come back by itself, when the drop-ins are there.
    pub fn retire(&self) -> Vec<Command> {
        match self {
            Self::Units(_) => vec![reload()],
            Self::Containers(all) => vec![command(&["docker", "update", "--restart=no"], &names(all))],
            Self::Commands { .. } => Vec::new(),
        }
    }

    /// What has to be said for it to come back as before, when the drop-ins are gone.
    pub fn release(&self) -> Vec<Command> {
        match self {
            Self::Units(_) => vec![reload()],
            Self::Containers(all) => {
                let each = |one: &Container| {
                    let restart = format!("--restart={}", one.restart);
                    command(&["docker", "update", &restart], std::slice::from_ref(&one.name))
                };
                all.iter().map(each).collect()
            }
            Self::Commands { .. } => Vec::new(),
        }
    }

    /// As it is called, and was.
    pub fn names(&self) -> Vec<String> {
        match self {
            Self::Units(units) => units.named.iter().chain(&units.synapse).cloned().collect(),
            Self::Containers(all) => names(all),
            Self::Commands { stop, start } => vec![stop.clone(), start.clone()],
        }
    }

    /// What starts each of those who have stopped with it.
    pub fn start_followers(&self) -> Vec<Command> {
        let start = |unit: &String| command(&["systemctl", "start"], std::slice::from_ref(unit));
        self.followers().iter().map(start).collect()
    }

    /// Whoever stops with it and is no part of it, like bridges.
    pub fn followers(&self) -> &[String] {
        match self {
            Self::Units(units) => &units.followers,
            Self::Containers(_) | Self::Commands { .. } => &[],
        }
    }
}

fn reload() -> Command {
    command(&["systemctl", "daemon-reload"], &[])
}

fn names(containers: &[Container]) -> Vec<String> {
    containers.iter().map(|container| container.name.clone()).collect()
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
    /// A return to the old server has begun, and what was done is not what it was.
    pub returning: bool,
    /// What starts this server, and what stops it.
    pub new_start: String,
    pub new_stop: String,
    /// Size and time of the files of the old SQLite when they were ported.
    pub ported: Vec<(u64, (i64, i64))>,
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

    /// Forgets a step and those after it.
    pub fn forget(&mut self, step: Step) {
        self.done.retain(|done| *done < step);
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

    fn units(synapse: &[&str]) -> Old {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let running = owned(&synapse[..1]);
        Old::Units(Family {
            named: owned(&["alias.service"]),
            synapse: owned(synapse),
            running,
            followers: owned(&["bridge.service"]),
        })
    }

    fn journal(data: Data, done: &[Step]) -> Journal {
        Journal {
            from: "/old/homeserver.yaml".into(),
            old: units(&["matrix-synapse.service"]),
            data,
            media: "/old/media_store".into(),
            owner: (991, 991),
            done: done.to_vec(),
            returning: false,
            new_start: String::new(),
            new_stop: String::new(),
            ported: Vec::new(),
            stopped: None,
            served: None,
            counts: [("events".to_owned(), 7)].into(),
            oldest_code: 89,
        }
    }

    #[test]
    fn what_was_done_is_not_done_again() {
        // Mutation: what was done not left out: seen red.
        let begun = journal(Data::Shared, &[Step::Before, Step::Retire, Step::Stop]);
        let left: Vec<Step> = begun.left().collect();
        assert_eq!(left, [Step::Rest, Step::Database, Step::Start, Step::Check]);
        let mut ended = journal(Data::Shared, &Step::ALL);
        assert_eq!(ended.left().count(), 0);
        ended.forget(Step::Stop);
        assert_eq!(ended.done, [Step::Before, Step::Retire]);
    }

    #[test]
    fn there_is_a_way_back_until_something_would_be_lost() {
        // Mutation: counts hardly compared: seen red.
        let counts = |events| BTreeMap::from([("events".to_owned(), events)]);
        let ported = [Step::Before, Step::Retire, Step::Stop, Step::Rest, Step::Database, Step::Start];
        let sqlite = journal(Data::Sqlite("/old/homeserver.db".into()), &ported);
        assert_eq!(back(&sqlite, &counts(7), 92), Back::Free);
        assert_eq!(back(&sqlite, &counts(9), 92), Back::Loses("2 events".to_owned()));
        let shared = journal(Data::Shared, &ported);
        assert_eq!(back(&shared, &counts(9), 89), Back::Free);
        assert_eq!(back(&shared, &counts(9), 90), Back::Migrated);
        let before = journal(Data::Shared, &ported[..4]);
        assert_eq!(back(&before, &counts(9), 90), Back::Free);
    }

    fn said(commands: &[Command]) -> Vec<String> {
        commands.iter().map(|words| words.join(" ")).collect()
    }

    #[test]
    fn each_kind_of_server_is_stopped_and_started_in_its_words() {
        // Mutation: those stopped that run, and no others: seen red.
        let old = units(&["a.service", "b.service"]);
        assert_eq!(said(&[old.stop()]), ["systemctl stop a.service b.service"]);
        assert_eq!(said(&[old.start()]), ["systemctl start a.service"]);
        assert_eq!(said(&old.start_followers()), ["systemctl start bridge.service"]);
        assert_eq!(old.names(), ["alias.service", "a.service", "b.service"]);
        let [(path, text), _] = &*old.drop_ins() else { unreachable!("two units") };
        assert_eq!(path, &PathBuf::from("/etc/systemd/system/a.service.d/synvisor.conf"));
        assert!(
            text.ends_with("[Unit]\nConditionPathExists=!/etc/systemd/system/a.service.d/synvisor.conf\n")
        );
        let own = Old::Commands { stop: "kill 7".to_owned(), start: "run".to_owned() };
        assert_eq!(own.stop(), ["sh", "-c", "kill 7"]);
        assert_eq!((own.retire().len(), own.drop_ins().len()), (0, 0));
    }

    #[test]
    fn a_container_is_restarted_as_before_when_it_comes_back() {
        // Mutation: unless-stopped, whatever it was: seen red.
        let container =
            |name: &str, restart: &str| Container { name: name.to_owned(), restart: restart.to_owned() };
        let old = Old::Containers(vec![container("a", "always"), container("b", "on-failure:5")]);
        assert_eq!(said(&[old.stop()]), ["docker stop --time 60 a b"]);
        assert_eq!(said(&old.retire()), ["docker update --restart=no a b"]);
        assert_eq!(
            said(&old.release()),
            ["docker update --restart=always a", "docker update --restart=on-failure:5 b"]
        );
    }
}
