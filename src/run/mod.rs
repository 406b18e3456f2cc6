//! The supervisor process: whatever happens becomes one input of the core, whatever the core wants is carried out.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::control::Command;
use crate::forkserver;
use crate::forkserver::Event;
use crate::host::generations::Generations;
use crate::plan::Deployment;
use crate::plan::Image;
use crate::supervise::Effect;
use crate::supervise::Exit;
use crate::supervise::Input;
use crate::supervise::Life;
use crate::supervise::Supervisor;
use crate::supervise::Time;
use crate::sys::clock;
use crate::sys::fs;
use crate::sys::notify::NotifySocket;
use crate::topology::Unit;
use crate::topology::UnitName;
use crate::wire::FromRouter;
use crate::wire::GenerationResult;
use crate::wire::ToRouter;

mod adopt;
mod after_stop;
mod alone;
mod apply;
mod births;
mod certificates;
mod children;
mod chosen;
mod keep;
mod link;
mod listeners;
mod liveness;
mod memory;
mod mend;
mod orders;
mod output;
mod planning;
mod probe;
mod processes;
mod reload;
mod report;
mod routers;
mod services;
mod signals;
mod sockets;
mod spawn;
mod specs;
mod start;
mod store;
mod timeline;
mod trial;
mod upgrade;
mod watchdog;

pub use after_stop::After;
pub use after_stop::after_stop;
pub use chosen::Chosen;
pub use chosen::choose;
pub use start::ForTests;
pub use start::StartError;
pub use start::supervise;
pub use upgrade::Launch;
pub use upgrade::check_offers;

use adopt::Survivors;
use births::Births;
use certificates::Faults;
use orders::Orders;
use processes::Processes;
use reload::Asked;
use reload::UnderWay;
use routers::Routers;
use sockets::Sockets;
use spawn::Surroundings;
use specs::policy;
use specs::specs;
use timeline::Timeline;
use upgrade::Upgrade;
use watchdog::Watchdog;

/// While the homeserver starts, systemd is told this often that it is still under way.
const STARTING_NOTICE: Duration = Duration::from_secs(10);

/// Between two looks at what nobody tells us of: the memory of processes, and whether our sockets are still there. Not
/// rarer than the clock takes for standing still.
const LOOK: Duration = Duration::from_secs(5);

/// What the supervisor's tasks tell its loop.
#[derive(Debug)]
pub(crate) enum News {
    /// Every check of readiness agreed.
    Ready(Life),
    /// It is not ready, and why.
    Trouble(Life, String),
    /// A service that is not ours, and was ready, cannot be reached, and why.
    Away(Life, String),
    /// It has answered nothing for too long: twice so many milliseconds.
    Silent(Life, u64),
    /// All that there is to know of one that is silent.
    Stuck(Life, String),
    /// It is to be asked for a sign of life.
    Ask(Life),
    Router(Life, FromRouter),
    RouterLost(Life),
    ForkServer(Life, Event),
    /// A process has ended that is no child of ours.
    Ended(Life, Exit),
}

/// How the supervisor ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to stop.
    Stopped,
    /// The start could not succeed: why.
    GaveUp(String),
}

struct Driver {
    core: Supervisor,
    /// The configuration that runs, as it was read.
    text: String,
    /// A text that differs from it, and what there is to say of that.
    looked_at: Option<(String, Option<String>)>,
    /// What the processes run with.
    running: Deployment,
    /// Units that the configuration has no more, until they are gone.
    leaving: BTreeMap<UnitName, Unit>,
    generations: Generations,
    /// The generation that runs; it counts as applied once the homeserver serves.
    generation: u64,
    /// The one that everything goes by which is not one process's own: another one only in the middle of a change.
    in_force: u64,
    /// Where a change was on its way to that an earlier supervisor did not finish.
    unfinished: Option<u64>,
    /// A change of the configuration.
    under_way: Option<UnderWay>,
    /// How often Synapse was asked to read files on trial.
    trials: u64,
    /// The TOML file, for reload.
    config_path: PathBuf,
    around: Surroundings,
    /// The directory of systemd's credentials, where there is one.
    credentials: Option<OsString>,
    notify: NotifySocket,
    news: mpsc::UnboundedSender<News>,
    pids: Processes,
    /// How often a supervisor took over from another one since the homeserver was started.
    takeovers: u64,
    /// An upgrade of synvisor itself.
    upgrade: Option<Upgrade>,
    /// What was kept last for the next supervisor.
    kept: String,
    /// Why what there is could not be kept.
    unkept: Option<String>,
    /// What serves the control socket, and where it brings what it is asked.
    serving: JoinHandle<()>,
    commands: mpsc::Sender<Command>,
    mending: mend::Mending,
    certificate_faults: Faults,
    /// What asks after the readiness of each unit.
    probes: BTreeMap<UnitName, JoinHandle<()>>,
    troubles: BTreeMap<UnitName, String>,
    notes: Vec<String>,
    routers: Routers,
    births: Births,
    /// The connection to a fork server that has not said hello yet.
    fork_server_calls: Option<forkserver::Link>,
    sockets: Sockets,
    timeline: Timeline,
    orders: Orders,
    tickets: u64,
    /// Whether main and router have both been READY.
    started: bool,
    /// Whether the homeserver has served since it was started, under whichever supervisor: there is something to go back to.
    served: bool,
    stopping: bool,
    finished: bool,
    /// Whether systemd has begun anew what was given up a moment ago, so that nobody waits to hear of it.
    unattended: bool,
    gave_up: Option<String>,
}

impl Driver {
    /// Runs until everything is down.
    async fn run(
        mut self,
        mut signals: signals::Signals,
        mut news: mpsc::UnboundedReceiver<News>,
        mut commands: mpsc::Receiver<Command>,
        survivors: Option<Survivors>,
        upgraded: bool,
    ) -> Ended {
        let begun = clock::now();
        let give_up = begun.after(self.running.config.supervisor.dependency_timeout);
        if let Some(survivors) = survivors {
            self.adopt(survivors, upgraded);
        }
        self.input(Input::Desire(specs(&self.running.topology, &self.around)));
        let mut starting = tokio::time::interval(STARTING_NOTICE);
        let mut look = tokio::time::interval(LOOK);
        let mut watchdog = Watchdog::from_environment();
        while !self.finished {
            let deadline = self.core.poll_timeout();
            let waiting = !self.stopping && !self.served && self.missing_service().is_some();
            let services_due = waiting.then_some(give_up);
            tokio::select! {
                readable = self.notify.readable() => {
                    if readable.is_ok() { self.hear(); }
                }
                signal = signals.next() => match signal {
                    signals::Received::Child => self.reap(),
                    signals::Received::Stop => self.stop(),
                    signals::Received::Reload => self.reload(Asked::new("reload by SIGHUP".to_owned(), None)),
                },
                Some(news) = news.recv() => self.learn(news),
                Some(command) = commands.recv() => self.command(command),
                () = until(deadline) => {
                    self.core.handle_timeout(clock::now());
                    self.obey();
                }
                () = until(services_due) => self.give_up_service(),
                () = until(self.births.overdue()) => self.fork_server_hangs(),
                () = until(self.change_overdue()) => self.change_hangs(),
                () = until(self.upgrade.as_ref().map(|upgrade| upgrade.deadline)) => self.check_hangs(),
                () = watchdog.due() => watchdog::feed(),
                _ = look.tick() => self.look_around(),
                _ = starting.tick(), if !self.started => {
                    let longer = u32::try_from((STARTING_NOTICE * 3).as_micros()).unwrap_or(u32::MAX);
                    let status = self.what_start_waits_for();
                    let _ = sd_notify::notify(&[
                        sd_notify::NotifyState::ExtendTimeoutUsec(longer),
                        sd_notify::NotifyState::Status(&status),
                    ]);
                }
            }
            self.keep();
        }
        self.gave_up.map_or(Ended::Stopped, Ended::GaveUp)
    }

    /// For `systemctl status`, while `systemctl start` waits.
    fn what_start_waits_for(&self) -> String {
        let needed = [UnitName::main(), UnitName::router()];
        let units = self.core.status();
        let missing = units.iter().find(|unit| needed.contains(&unit.name) && unit.state != "ready");
        let Some(unit) = missing else { return "starting".to_owned() };
        let service = self.service_gone().and_then(|service| self.troubles.get(&service));
        let why = service.or_else(|| self.troubles.get(&unit.name)).or(unit.reason.as_ref());
        let why = why.and_then(|why| why.lines().next()).map_or_else(String::new, |why| format!(": {why}"));
        format!("{} is {}{why}", unit.name, unit.state)
    }

    fn look_around(&mut self) {
        // It takes note that we run.
        clock::now();
        if !self.stopping {
            self.recycle();
            self.mend_sockets();
            if !self.around.lacks("watch") {
                self.look_at_certificates();
            }
        }
    }

    fn input(&mut self, input: Input) {
        self.core.handle(input, clock::now());
        self.obey();
    }

    fn learn(&mut self, news: News) {
        match news {
            News::Ready(life) => {
                self.troubles.remove(&life.unit);
                self.unwatch(&life);
                tracing::info!("{} is ready", life.unit);
                self.timeline.ready(&life.unit, clock::now());
                self.input(Input::Ready(life.clone()));
                self.keep_asking(&life);
                self.look_after_service(&life, services::INTERVAL);
            }
            News::Away(life, why) => self.service_away(life, why),
            News::Silent(life, limit) => self.silent(&life, limit),
            News::Stuck(life, reason) => self.stuck(life, reason),
            News::Trouble(life, text) => self.trouble(life, text),
            News::Ask(life) => self.routers.ask(&life),
            News::Router(life, message) => self.hear_router(life, message),
            News::RouterLost(life) => self.lost_router(life),
            News::ForkServer(life, event) => self.hear_fork_server(life, event),
            News::Ended(life, exit) => self.ended_elsewhere(&life, exit),
        }
        self.announce();
    }

    /// Tells systemd once that the homeserver serves: a failed worker does not fail the start.
    fn announce(&mut self) {
        let ready = |name: UnitName| self.core.ready(&name).is_some();
        if !self.started && ready(UnitName::main()) && ready(UnitName::router()) {
            (self.started, self.served) = (true, true);
            // One that takes its place at this moment is settled when that is done.
            if self.unfinished.is_none() && !matches!(self.under_way, Some(UnderWay::Applying(_))) {
                self.settle(self.generation, GenerationResult::Applied, None);
            }
            let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
            let addresses: Vec<String> =
                self.running.config.listen.iter().map(|listen| listen.address.to_string()).collect();
            tracing::info!("{} serves on {}", self.running.config.server_name, addresses.join(", "));
        }
    }

    /// Ends a start that cannot succeed.
    fn give_up(&mut self, why: String) {
        let shown: Vec<&str> = why.lines().take(2).map(str::trim).collect();
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Status(&shown.join(" "))]);
        self.gave_up = Some(why);
        self.stop();
    }

    fn stop(&mut self) {
        if self.stopping {
            return;
        }
        tracing::info!("stopping");
        self.stopping = true;
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        // Whoever comes after us must not take for a crash what was a stop.
        if let Err(error) = fs::replace_fleeting(&self.around.layout.stopping_mark(), b"") {
            tracing::warn!("{error}");
        }
        self.abandon();
        self.input(Input::Shutdown);
    }

    fn obey(&mut self) {
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::Start(life) => self.start(life),
                Effect::Signal(life, ending) => self.signal(&life, ending),
                Effect::Retire(life) => self.retire(&life),
                Effect::Admit(Life { unit, incarnation }) => self.tell(&ToRouter::Up { unit, incarnation }),
                Effect::Withdraw(unit) => self.tell(&ToRouter::Down { unit }),
                Effect::Drain(life) => self.drain(life),
                Effect::Reply(ticket, outcome) => {
                    self.reply(ticket, outcome.clone());
                    self.changed(ticket, outcome);
                }
                Effect::AllDown(ticket) => self.all_down(ticket),
                Effect::Forget(unit) => self.forget(&unit),
                Effect::Unlisten(unit) => self.sockets.release(&unit),
                Effect::Reached(ticket, unit) => {
                    self.wait_longer(ticket);
                    self.reached(ticket, unit);
                }
                Effect::Finished => self.finished = true,
            }
        }
    }

    fn watch(&mut self, life: &Life, task: JoinHandle<()>) {
        if let Some(old) = self.probes.insert(life.unit.clone(), task) {
            old.abort();
        }
    }

    fn unwatch(&mut self, life: &Life) {
        if let Some(task) = self.probes.remove(&life.unit) {
            task.abort();
        }
    }

    /// Drops what a unit that is no longer configured has left; its log stays.
    fn forget(&mut self, unit: &UnitName) {
        let layout = &self.around.layout;
        let config = layout.config_file(unit);
        let log_config = config.with_extension("log.yaml");
        for error in [fs::remove(&config), fs::remove(&log_config)].into_iter().filter_map(Result::err) {
            tracing::warn!("{error}");
        }
        self.sockets.release(unit);
        self.leaving.remove(unit);
    }

    /// A unit that is configured, or on its way out.
    fn unit(&self, name: &UnitName) -> Option<&Unit> {
        self.running.topology.unit(name).or_else(|| self.leaving.get(name))
    }

    fn image(&self, name: &UnitName) -> Option<&Image> {
        self.running.images.get(name)
    }
}

async fn until(time: Option<Time>) {
    match time {
        Some(time) => tokio::time::sleep(Duration::from_millis(time.since(clock::now()))).await,
        None => std::future::pending().await,
    }
}
