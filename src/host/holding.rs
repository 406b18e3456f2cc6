//! What a PostgreSQL database holds: nothing, the whole of a Synapse, or a part that we were filling it with.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::json;

use crate::config::Config;
use crate::config::secret::SecretValues;
use crate::render;
use crate::sys::users::User;

use super::python;

/// What a database says of itself, to who comes as Synapse.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Holding {
    /// Major version of the server.
    pub server: u32,
    encoding: String,
    collate: String,
    ctype: String,
    owner: String,
    user: String,
    tables: u64,
    /// Tables that Synapse could not change.
    foreign: u64,
    /// Version of Synapse's schema.
    pub schema: Option<i64>,
    /// Which schema a Synapse must know at least to use it.
    pub oldest_code: i64,
    /// How many connections each role has to it, ours and those of PostgreSQL's own programs left out.
    pub clients: BTreeMap<String, u64>,
    /// The newest uploads of this homeserver's users, by their ids.
    pub media: Vec<String>,
    /// Somebody was filling it and did not come to an end.
    pub unfinished: bool,
    /// The id of one user.
    someone: Option<String>,
    /// How much of what clients make there is.
    pub counts: BTreeMap<String, u64>,
}

/// What is to be done before one looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Look,
    /// Notes that what comes is a part.
    Begin,
    /// Notes that it is whole.
    End,
    /// Throws a part away.
    Clear,
}

/// A database as Synapse reaches it.
#[derive(Clone, Debug)]
pub struct Reach<'a> {
    pub venv: &'a Path,
    pub connection: serde_json::Value,
    pub user: Option<&'a User>,
}

impl<'a> Reach<'a> {
    pub fn of(config: &'a Config, secrets: &SecretValues, user: Option<&'a User>) -> Self {
        let connection = serde_json::to_value(render::connection(config, secrets)).unwrap_or_default();
        Self { venv: &config.python.venv, connection, user }
    }

    /// Looks at it, having done this.
    ///
    /// # Errors
    /// What PostgreSQL or Python said.
    pub fn look(&self, act: Act) -> Result<Holding, String> {
        let act = match act {
            Act::Look => "look",
            Act::Begin => "begin",
            Act::End => "end",
            Act::Clear => "clear",
        };
        let mut command = python::command(self.venv, self.user);
        // libpq would go by the caller's.
        command.env_clear();
        let asked = json!({ "connection": self.connection, "act": act });
        python::ask(command, include_str!("holding.py"), &asked)
            .map_err(|why| format!("{} of PostgreSQL does not answer: {why}", self.shown()))
    }

    /// As whom one comes to it.
    pub fn user(&self) -> Option<&str> {
        self.connection.get("user")?.as_str()
    }

    /// Its name.
    pub fn shown(&self) -> String {
        let of = |key: &str| self.connection.get(key).and_then(serde_json::Value::as_str).unwrap_or_default();
        format!("the database {} at {}", of("dbname"), of("host"))
    }
}

impl Holding {
    pub const fn is_empty(&self) -> bool {
        self.tables == 0
    }

    /// How many connections somebody has to the data of a homeserver as the same user, who then is another Synapse.
    pub fn in_use(&self) -> Option<u64> {
        self.schema.and_then(|_| self.clients.get(&self.user).copied())
    }

    /// Whether a Synapse can keep its data in it.
    ///
    /// # Errors
    /// It cannot, why, and what to do (`synapse/storage/engines/postgres.py` refuses it too).
    pub fn suits(&self) -> Result<(), String> {
        let Self { encoding, collate, ctype, owner, user, foreign, .. } = self;
        if (encoding.as_str(), collate.as_str(), ctype.as_str()) != ("UTF8", "C", "C") {
            return Err(format!(
                "it has encoding {encoding}, collation {collate} and character type {ctype}, and Synapse takes none but UTF8, C \
                 and C\n  dump it, and restore it into one that has"
            ));
        }
        if *foreign > 0 {
            return Err(format!(
                "{foreign} of its tables belong to others than {user}, and Synapse changes its tables\n  \
                 as an administrator: REASSIGN OWNED BY \"{owner}\" TO \"{user}\"; or name that owner: [database] user"
            ));
        }
        Ok(())
    }

    /// Whether it is the database of this homeserver.
    pub fn is_of(&self, server_name: &str) -> bool {
        self.someone
            .as_ref()
            .is_none_or(|user| user.split_once(':').is_some_and(|(_, name)| name == server_name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding() -> Holding {
        Holding {
            server: 15,
            encoding: "UTF8".into(),
            collate: "C".into(),
            ctype: "C".into(),
            owner: "postgres".into(),
            user: "synvisor".into(),
            tables: 3,
            foreign: 0,
            schema: Some(92),
            oldest_code: 89,
            clients: BTreeMap::new(),
            media: Vec::new(),
            unfinished: false,
            someone: Some("@a:example.com:8448".into()),
            counts: BTreeMap::new(),
        }
    }

    #[test]
    fn a_database_that_synapse_would_refuse_is_refused_before() {
        // Mutation: the character type not looked at: seen red.
        holding().suits().unwrap();
        let other = Holding { ctype: "en_US.UTF-8".into(), ..holding() };
        assert!(other.suits().unwrap_err().contains("character type en_US.UTF-8"));
        assert!(Holding { foreign: 2, ..holding() }.suits().unwrap_err().contains("REASSIGN OWNED"));
    }

    #[test]
    fn who_comes_as_the_same_user_to_what_a_homeserver_holds_is_another_one() {
        // Mutations, each seen red: an empty database; other roles.
        let clients: BTreeMap<String, u64> = [("synvisor".into(), 5), ("exporter".into(), 1)].into();
        assert_eq!(Holding { clients: clients.clone(), ..holding() }.in_use(), Some(5));
        assert_eq!(Holding { clients: clients.clone(), schema: None, ..holding() }.in_use(), None);
        assert_eq!(Holding { clients, user: "other".into(), ..holding() }.in_use(), None);
    }

    #[test]
    fn a_database_is_known_by_its_users() {
        // Mutation: the name cut at the last colon: seen red.
        assert!(holding().is_of("example.com:8448"));
        assert!(!holding().is_of("example.com"));
        assert!(Holding { someone: None, ..holding() }.is_of("example.com"));
    }
}
