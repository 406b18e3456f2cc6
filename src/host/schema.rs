//! Which schemas of the database a Synapse can use, and which one a database has (Synapse's
//! `docs/development/database_schema.md`).

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;

use serde::Deserialize;

use crate::sys::users::User;

use super::python;

/// What the Synapse of a virtualenv says of schemas.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Schema {
    /// The version that it migrates a database to.
    pub newest: i64,
    /// Once it has: which schema a Synapse must know at least to use the database.
    pub oldest_code: i64,
    /// Of the database; none of one that has no tables yet, or that was not asked.
    pub database: Option<Found>,
}

/// What a database says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Found {
    pub version: i64,
    /// Which schema a Synapse must know at least to use it.
    pub oldest_code: i64,
}

impl Schema {
    /// Whether this Synapse can use the database as it is, or migrate it.
    pub fn can_use(&self, found: Found) -> bool {
        self.newest >= found.oldest_code
    }

    /// Whether another Synapse can still use the database when this one has migrated it.
    pub fn leaves_usable_for(&self, other: &Self) -> bool {
        // Who is newer than the database has done nothing to it that an older one would not.
        let after = self.database.map_or(0, |found| found.oldest_code).max(self.oldest_code);
        other.newest >= after
    }

    /// Whether this Synapse may have something to do to the database: some versions bring changes without another number.
    pub fn may_migrate(&self) -> bool {
        self.database.is_some_and(|found| found.version <= self.newest)
    }

    /// Whether this Synapse would change the schema.
    pub fn migrates(&self) -> bool {
        self.database.is_some_and(|found| found.version < self.newest)
    }
}

/// Asks a Synapse, and with `connection` (what psycopg2 connects with, JSON) the database, as user `user`.
///
/// # Errors
/// What Python said.
pub fn ask(
    venv: &Path,
    connection: Option<&serde_json::Value>,
    user: Option<&User>,
) -> Result<Schema, String> {
    let mut command = python::command(venv, user);
    // libpq would go by the caller's.
    command.env_clear();
    python::ask(command, include_str!("schema.py"), connection.unwrap_or(&serde_json::Value::Null))
}

/// Has the Synapse of a virtualenv migrate the database that a rendered configuration names, as its main process would
/// when it starts, with `environment` for the modules that it names.
///
/// # Errors
/// What Python said last.
pub fn migrate(
    venv: &Path,
    file: &Path,
    environment: &BTreeMap<String, String>,
    user: Option<&User>,
) -> Result<(), String> {
    let done = python::command(venv, user)
        .env_clear()
        .envs(environment)
        .args(["-m", "synapse._scripts.update_synapse_database", "--database-config"])
        .arg(file)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    if done.status.success() { Ok(()) } else { Err(python::last_line(&done.stderr)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(newest: i64, oldest_code: i64, database: Option<(i64, i64)>) -> Schema {
        let database = database.map(|(version, oldest_code)| Found { version, oldest_code });
        Schema { newest, oldest_code, database }
    }

    #[test]
    fn a_way_back_is_there_as_long_as_the_old_one_knows_what_the_database_asks_for() {
        // Mutation: what the database asks for already not looked at: seen red.
        let new = schema(94, 89, Some((92, 85)));
        assert!(new.migrates());
        assert!(new.leaves_usable_for(&schema(89, 80, None)));
        assert!(!new.leaves_usable_for(&schema(88, 80, None)));
        // Downwards nothing is migrated, and what the database asks for stays.
        let old = schema(92, 85, Some((94, 89)));
        assert!(!old.migrates());
        assert!(old.can_use(Found { version: 94, oldest_code: 92 }));
        assert!(!old.can_use(Found { version: 94, oldest_code: 93 }));
        assert!(!old.leaves_usable_for(&schema(88, 80, None)));
    }
}
