//! PostgreSQL and Redis.

use crate::config;
use crate::config::Config;
use crate::topology::Role;
use crate::topology::Topology;

use super::Facts;
use super::Finding;
use super::facts::Database;

/// The oldest PostgreSQL with which Synapse 1.163 starts (`synapse/storage/engines/postgres.py`).
const OLDEST_POSTGRES: i64 = 140_000;

pub(super) fn examine(config: &Config, facts: &Facts) -> Vec<Finding> {
    let mut findings = match &facts.database {
        Ok(database) => vec![
            Finding::fine("database", "answers"),
            collation(database),
            connections(config, database),
            version(database),
        ],
        Err(trouble) => vec![Finding::trouble(
            "database",
            trouble,
            "is it running, and are the keys of [database] right?",
        )],
    };
    if Topology::of(config).has_workers() {
        findings.push(match &facts.redis {
            Ok(()) => Finding::fine("redis", "answers"),
            Err(trouble) => {
                Finding::trouble("redis", trouble, "is it running, and are the keys of [redis] right?")
            }
        });
    }
    findings
}

fn collation(database: &Database) -> Finding {
    let Database { encoding, collate, ctype, .. } = database;
    // Synapse compares the names (1.163: `synapse/storage/engines/postgres.py`): POSIX, which is the same, is refused.
    if encoding == "UTF8" && collate == "C" && ctype == "C" {
        return Finding::fine("collation", format!("{encoding}, {collate}"));
    }
    Finding::error(
        "collation",
        format!("the database has encoding {encoding}, collation {collate} and character type {ctype}"),
        "dump it and restore it into one that was made with ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0: \
         otherwise an upgrade of the system's C library breaks indexes without a word",
    )
}

fn connections(config: &Config, database: &Database) -> Finding {
    let topology = Topology::of(config);
    let wanted: i64 = topology
        .synapse()
        .map(|unit| {
            let kind = match unit.role {
                Role::Worker(kind) => Some(kind),
                Role::Main | Role::Router | Role::ForkServer | Role::Postgres { .. } | Role::Redis { .. } => {
                    None
                }
            };
            i64::from(config.units.of(unit.name.as_str(), kind).pool().1)
        })
        .sum();
    let there = database.max_connections - database.reserved - database.others;
    let processes = topology.synapse().count();
    let sum = format!("{processes} processes open up to {wanted} connections");
    if wanted <= there {
        return Finding::fine("connections", format!("{sum}, and PostgreSQL has room for {there}"));
    }
    let remedy = if matches!(config.database, config::Database::Embedded) {
        "lower cp_max in [units.all]".to_owned()
    } else {
        let most = wanted + database.reserved + database.others;
        format!(
            "set max_connections = {most} or more in postgresql.conf and restart PostgreSQL, or lower cp_max in [units.all]"
        )
    };
    Finding::error("connections", format!("{sum}, and PostgreSQL has room for {there} of them"), remedy)
}

fn version(database: &Database) -> Finding {
    let shown = format!("PostgreSQL {}", database.version / 10_000);
    if database.version >= OLDEST_POSTGRES {
        return Finding::fine("postgresql", shown);
    }
    Finding::error(
        "postgresql",
        format!(
            "{shown} is older than {}, and Synapse 1.163 does not start with it",
            OLDEST_POSTGRES / 10_000
        ),
        "upgrade it: pg_upgradecluster on Debian",
    )
}
