//! PostgreSQL and Redis: asked until they are ready, and those that are not ours for as long as we run, since nobody tells
//! us of their end.
//!
//! Synapse's processes reconnect by themselves and are left alone; what has to start waits.

use std::time::Duration;

use crate::plan::Deployment;
use crate::supervise::Input;
use crate::supervise::Life;
use crate::topology::Role;
use crate::topology::Unit;
use crate::topology::UnitName;

use super::Driver;
use super::probe;

/// Between two looks at a service that answered: one connection. Few enough a minute that the core, which starts again
/// at once what ends ten times a minute, never lets one that comes and goes wait.
pub(super) const INTERVAL: Duration = Duration::from_secs(7);

const fn is_external(role: Role) -> bool {
    matches!(role, Role::Postgres { embedded: false } | Role::Redis { embedded: false })
}

impl Driver {
    pub(super) fn is_external(&self, name: &UnitName) -> bool {
        self.running.topology.unit(name).is_some_and(|unit| is_external(unit.role))
    }

    /// A service that is not ours and is not there at this moment.
    pub(super) fn service_gone(&self) -> Option<UnitName> {
        let units = self.core.status().into_iter().filter(|unit| unit.wanted && unit.state != "ready");
        units.map(|unit| unit.name).find(|name| self.is_external(name))
    }

    /// One that has never been there. One that was and went is waited for without a limit.
    pub(super) fn missing_service(&self) -> Option<UnitName> {
        let units = self.core.status().into_iter().filter(|unit| unit.state != "ready" && unit.restarts == 0);
        units.map(|unit| unit.name).find(|name| self.is_external(name))
    }

    pub(super) fn give_up_service(&mut self) {
        let Some(name) = self.missing_service() else { return };
        let trouble = self.troubles.get(&name).cloned().unwrap_or_else(|| format!("{name} does not answer"));
        self.give_up(trouble);
    }

    /// Synapse says when to ask; the others are asked from the start.
    pub(super) fn await_ready(&mut self, unit: &Unit, life: Life) {
        match unit.role {
            Role::Main | Role::Worker(_) => {}
            Role::ForkServer => self.connect_fork_server(life),
            Role::Router => self.connect_router(life),
            Role::Postgres { .. } | Role::Redis { .. } => {
                let Some(service) = self.service(unit.role) else { return };
                let task = tokio::spawn(probe::service(life.clone(), service, self.news.clone()));
                self.watch(&life, task);
            }
        }
    }

    fn service(&self, role: Role) -> Option<probe::Service> {
        let config = self.running.config.clone();
        let (which, source) = match role {
            Role::Postgres { .. } => (probe::Which::Postgres, config.database.password()),
            Role::Redis { .. } => (probe::Which::Redis, config.redis.password()),
            Role::ForkServer | Role::Router | Role::Main | Role::Worker(_) => return None,
        };
        let password = source.map(|source| self.running.secrets.get(source).to_owned());
        Some(probe::Service { which, config, password })
    }

    /// Looks from now on whether a service that is not ours is still there, first after `pause`.
    pub(super) fn look_after_service(&mut self, life: &Life, pause: Duration) {
        let role =
            self.running.topology.unit(&life.unit).map(|unit| unit.role).filter(|role| is_external(*role));
        // One that was embedded when it started has a process whose end is heard of.
        let ours = self.pids.of(life).is_some() || self.core.ready(&life.unit).as_ref() != Some(life);
        let Some(service) = role.filter(|_| !ours).and_then(|role| self.service(role)) else { return };
        let task = tokio::spawn(probe::absence(life.clone(), service, pause, INTERVAL, self.news.clone()));
        self.watch(life, task);
    }

    /// The same for all of them, at once: somebody has failed for want of one, or they are other ones now.
    pub(super) fn look_after_services(&mut self) {
        for status in self.core.status() {
            let life = Life { unit: status.name, incarnation: status.incarnation };
            if !self.is_external(&life.unit) {
                continue;
            }
            if status.state == "ready" {
                self.look_after_service(&life, Duration::ZERO);
            } else if let (true, Some(unit)) = (status.state == "starting", self.unit(&life.unit).cloned()) {
                self.await_ready(&unit, life);
            }
        }
    }

    /// Why a service is not ready. Of one that went it was said already, and of one that is ours its log says more.
    pub(super) fn trouble(&mut self, life: Life, text: String) {
        let known = self.core.status().into_iter().any(|unit| unit.name == life.unit && unit.restarts > 0);
        if self.pids.of(&life).is_none() && !known {
            tracing::warn!("{text}");
        }
        self.troubles.insert(life.unit, text);
    }

    /// A service that was there is away. To the core it ends, and begins again as something that is not READY.
    pub(super) fn service_away(&mut self, life: Life, why: String) {
        if self.core.ready(&life.unit).as_ref() != Some(&life) {
            return;
        }
        tracing::warn!("{} is away: {why}", life.unit);
        self.troubles.insert(life.unit.clone(), why.clone());
        self.input(Input::StartFailed(life, why));
    }

    /// Why a change cannot be made now that restarts somebody: who goes down would stay down until a service is back.
    pub(super) fn cannot_come_up(&self, target: &Deployment) -> Option<String> {
        let (is, was) = (&target.config, &self.running.config);
        // A change that leads to another one may be the remedy.
        let same = is.database == was.database && is.redis == was.redis;
        let gone = self.service_gone().filter(|_| same && self.started)?;
        let why = self.troubles.get(&gone).and_then(|why| why.lines().next()).unwrap_or("it does not answer");
        Some(format!("{gone} is away, and nobody could start: {why}\n  reload again when it is back"))
    }
}
