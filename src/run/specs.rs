//! What the core is told of a configuration.

use crate::config::Config;
use crate::supervise::Policy;
use crate::supervise::Spec;
use crate::supervise::When;
use crate::topology::Role;
use crate::topology::Topology;
use crate::topology::Unit;
use crate::topology::UnitName;

use super::spawn::Surroundings;

/// What the core must know of each unit.
pub(super) fn specs(topology: &Topology, around: &Surroundings) -> Vec<Spec> {
    let services: Vec<(UnitName, When)> = topology
        .units
        .iter()
        .filter(|unit| matches!(unit.role, Role::Postgres { .. } | Role::Redis { .. }))
        .map(|unit| (unit.name.clone(), When::ReadyNow))
        .collect();
    let mut synapse = services;
    synapse.push((UnitName::fork_server(), When::Settled));
    let spec = |unit: &Unit| {
        let needs = match unit.role {
            Role::Postgres { .. } | Role::Redis { .. } | Role::ForkServer | Role::Router => Vec::new(),
            Role::Main => synapse.clone(),
            Role::Worker(_) => {
                let mut needs = synapse.clone();
                needs.push((UnitName::main(), When::ReadyOnce));
                needs
            }
        };
        Spec {
            name: unit.name.clone(),
            needs,
            stage: stage(unit.role),
            routed: unit.client_socket.is_some(),
            inherits: unit.role.is_synapse(),
            overlaps: unit.role == Role::Router,
        }
    };
    let left_out = |unit: &&Unit| unit.role == Role::ForkServer && around.lacks("forkserver");
    topology.units.iter().filter(|unit| !left_out(unit)).map(spec).collect()
}

/// In which order units stop: higher stages first.
pub(super) const fn stage(role: Role) -> u8 {
    match role {
        Role::Postgres { .. } | Role::Redis { .. } | Role::ForkServer => 0,
        Role::Main => 1,
        Role::Worker(_) => 2,
        Role::Router => 3,
    }
}
/// How long a router that was replaced may finish, in milliseconds: clients let a long-poll last 30 s, few of them two
/// minutes.
pub(super) const RETIRE_TIMEOUT: u64 = 180_000;

pub(super) fn policy(config: &Config) -> Policy {
    Policy {
        drain_timeout: config.supervisor.drain_timeout,
        stop_timeout: config.supervisor.stop_timeout,
        retire_timeout: RETIRE_TIMEOUT,
    }
}
