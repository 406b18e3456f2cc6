//! The whole vocabulary between the supervisor's core and the shell that obeys it.

use std::fmt;

use crate::topology::UnitName;
use crate::wire::Incarnation;

/// Milliseconds of a clock that never goes back (CLOCK_BOOTTIME in the shell).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub u64);

impl Time {
    /// This moment plus `millis` milliseconds.
    pub const fn after(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// Milliseconds since `earlier`, 0 if it is later.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// One process among those that its unit had and will have; pids are recycled, this is not.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Life {
    pub unit: UnitName,
    pub incarnation: Incarnation,
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.unit, self.incarnation.0)
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Code(i32),
    Signal(i32),
    /// Only its parent learned how, and that was an earlier supervisor.
    Unknown,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "killed by signal {signal}"),
            Self::Unknown => f.write_str("it ended, and how is not known"),
        }
    }
}

/// What must hold of another unit before this one starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// It is READY at this moment.
    ReadyNow,
    /// It has been READY at least once: a worker needs main's schema, not main's company.
    ReadyOnce,
    /// It is READY, or will not be soon: its help is welcome, and there is another way without it.
    Settled,
}

/// What the core must know of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    pub name: UnitName,
    pub needs: Vec<(UnitName, When)>,
    /// When several units stop together, higher stages go down first.
    pub stage: u8,
    /// Whether requests are routed to it, so that it is drained before it stops.
    pub routed: bool,
    /// Whether its listening sockets are held for it while it is away.
    pub inherits: bool,
    /// Whether a process that is replaced finishes beside its successor, which starts at once: two of them do no harm.
    pub overlaps: bool,
}

/// Names an order, so that its answer finds who gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// What an administrator may order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Start,
    Stop,
    /// One after the other, each once the last is READY again, or all in one batch.
    Restart {
        at_once: bool,
    },
}

/// What changes in one go: who is concerned goes down together, and nobody comes up before all of them are down.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Who ends for good.
    pub leave: Vec<UnitName>,
    /// Who is new; each of them stands in a stage too.
    pub enter: Vec<Spec>,
    /// Who comes up again, each stage once the one before is READY. A unit that was stopped by order stays down.
    pub stages: Vec<Vec<UnitName>>,
}

/// What an earlier supervisor knew of a unit, and what of it is still so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub spec: Spec,
    /// That of its last process: the next one must not be taken for it.
    pub incarnation: Incarnation,
    /// Whether that process was READY; none if there is none any more.
    pub alive: Option<bool>,
    /// Whether it was told to end.
    pub ending: bool,
    /// Whether a process shall run: not where an administrator stopped it.
    pub wanted: bool,
    /// Whether it is configured no more.
    pub leaving: bool,
    /// Processes that had made room for others and still live.
    pub retired: Vec<Incarnation>,
}

/// Shell to core.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// What is there already; before anything else.
    Adopt(Vec<Kept>),
    /// The units to begin with.
    Desire(Vec<Spec>),
    /// Takes the place of a change that is not done.
    Change(Ticket, Change),
    Order(Ticket, Verb, Vec<UnitName>),
    /// The process has said that it is ready and every check agreed.
    Ready(Life),
    /// The process has ended; `detail` is what it left in its log.
    Exited {
        life: Life,
        exit: Exit,
        detail: Option<String>,
    },
    /// The process could not be started; or a service that is not ours, and was READY, cannot be reached any more.
    StartFailed(Life, String),
    /// No request is in flight to it any more.
    Drained(Life),
    /// The process lives and does not answer any more, with what is known of why.
    Stuck(Life, String),
    /// Stop everything, then finish.
    Shutdown,
}

/// A signal that ends a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Terminate,
    Kill,
}

/// The answer to an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    Failed(String),
}

/// Core to shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    Start(Life),
    Signal(Life, Ending),
    /// Its successor takes over: it takes nothing new, finishes what it has, and ends by itself.
    Retire(Life),
    /// Requests may go to it.
    Admit(Life),
    /// It takes no requests: they wait in the router.
    Withdraw(UnitName),
    /// Send it nothing new and say when nothing is in flight.
    Drain(Life),
    /// Close and remove its sockets: who calls it shall be refused at once rather than wait for nobody.
    Unlisten(UnitName),
    /// What an order wants of this unit has come about.
    Reached(Ticket, UnitName),
    Reply(Ticket, Outcome),
    /// Nobody is left of whom a change takes down: what they share may be replaced before the first comes up.
    AllDown(Ticket),
    /// The unit is gone for good; what is kept of it may be dropped.
    Forget(UnitName),
    /// Everything is down after [`Input::Shutdown`].
    Finished,
}
