//! Several threads, each with connections of its own, that the supervisor knows as one router.
//!
//! None waits for another: what the supervisor says is said to each, and answered when each has answered. So the bounds of
//! parking hold for each, and who waits is overtaken by nobody on its own thread.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use tokio::sync::mpsc;

use crate::topology::UnitName;
use crate::wire::FromRouter;
use crate::wire::ToRouter;

/// What a thread is told.
#[derive(Debug)]
pub(super) enum Order {
    /// By the supervisor; the answer has the same number.
    Obey { number: u64, message: ToRouter, descriptors: Vec<OwnedFd> },
    /// Takes nobody any more, and ends.
    Stop,
}

/// What a thread answers, or why it could not obey.
pub(super) type Answer = (u64, io::Result<FromRouter>);

/// The threads, as the connection to the supervisor knows them.
pub(super) struct Team {
    threads: Vec<mpsc::UnboundedSender<Order>>,
    last: u64,
    awaited: BTreeMap<u64, Awaited>,
}

/// What some threads have answered and others have not.
struct Awaited {
    missing: usize,
    /// Who is drained, if that is what was asked for.
    drains: Option<UnitName>,
    said: Option<FromRouter>,
}

impl Team {
    pub(super) const fn new(threads: Vec<mpsc::UnboundedSender<Order>>) -> Self {
        Self { threads, last: 0, awaited: BTreeMap::new() }
    }

    /// Says to each what the supervisor says.
    ///
    /// # Errors
    /// When a descriptor cannot be copied; then nobody was told.
    pub(super) fn tell(&mut self, message: &ToRouter, descriptors: Vec<OwnedFd>) -> io::Result<()> {
        self.last += 1;
        let number = self.last;
        let copies = |_| descriptors.iter().map(OwnedFd::try_clone).collect::<io::Result<Vec<_>>>();
        let mut copies: Vec<Vec<OwnedFd>> = (1..self.threads.len()).map(copies).collect::<Result<_, _>>()?;
        copies.push(descriptors);
        for (thread, descriptors) in self.threads.iter().zip(copies) {
            // One that has ended has nobody to send there.
            let _ = thread.send(Order::Obey { number, message: message.clone(), descriptors });
        }
        let drains = match message {
            ToRouter::Drain { unit, .. } => Some(unit.clone()),
            // It was called off where it had not come to its end.
            ToRouter::Up { unit, .. } => {
                self.awaited.retain(|_, awaited| awaited.drains.as_ref() != Some(unit));
                return Ok(());
            }
            ToRouter::Down { .. } => return Ok(()),
            ToRouter::Table { .. } | ToRouter::Count { .. } | ToRouter::Retire { .. } => None,
        };
        self.awaited.insert(number, Awaited { missing: self.threads.len(), drains, said: None });
        Ok(())
    }

    /// A thread has answered; returns what all have, if it was the last.
    pub(super) fn hear(&mut self, number: u64, said: FromRouter) -> Option<FromRouter> {
        let awaited = self.awaited.get_mut(&number)?;
        awaited.missing -= 1;
        awaited.said = Some(match (awaited.said.take(), said) {
            (Some(FromRouter::Counts { counts: before, .. }), FromRouter::Counts { ticket, mut counts }) => {
                for (unit, before) in before {
                    let both = counts.get(&unit).copied().unwrap_or_default().and(before);
                    counts.insert(unit, both);
                }
                FromRouter::Counts { ticket, counts }
            }
            (_, said) => said,
        });
        if awaited.missing > 0 { None } else { self.awaited.remove(&number)?.said }
    }
}

#[cfg(test)]
mod tests {
    use crate::wire::Counts;
    use crate::wire::Incarnation;

    use super::*;

    /// A team of two, and what its threads are told.
    fn two() -> (Team, [mpsc::UnboundedReceiver<Order>; 2]) {
        let (one, first) = mpsc::unbounded_channel();
        let (other, second) = mpsc::unbounded_channel();
        (Team::new(vec![one, other]), [first, second])
    }

    fn unit() -> UnitName {
        UnitName::new("generic-1")
    }

    #[test]
    fn what_all_were_told_is_answered_by_the_last_of_them() {
        // Mutations, each seen red: the first answer passed on; counts of one thread taken for those of all.
        let (mut team, mut threads) = two();
        team.tell(&ToRouter::Count { ticket: 7 }, Vec::new()).unwrap();
        let numbers = threads.each_mut().map(|thread| match thread.try_recv().unwrap() {
            Order::Obey { number, .. } => number,
            Order::Stop => panic!("nobody is to stop"),
        });
        assert_eq!(numbers, [1, 1]);
        let counts = |parked| FromRouter::Counts {
            ticket: 7,
            counts: BTreeMap::from([(unit(), Counts { parked, longest_ms: parked, ..Counts::default() })]),
        };
        assert_eq!(team.hear(1, counts(2)), None);
        let both = Counts { parked: 5, longest_ms: 3, ..Counts::default() };
        let expected = FromRouter::Counts { ticket: 7, counts: BTreeMap::from([(unit(), both)]) };
        assert_eq!(team.hear(1, counts(3)), Some(expected));
        assert_eq!(team.hear(1, counts(3)), None);
    }

    #[test]
    fn an_answer_to_a_drain_that_was_called_off_is_none_to_the_next() {
        // Mutation: what was awaited kept when the unit is up again: seen red.
        let (mut team, _threads) = two();
        let drain = ToRouter::Drain { unit: unit(), incarnation: Incarnation(1) };
        let drained = || FromRouter::Drained { unit: unit(), incarnation: Incarnation(1) };
        team.tell(&drain, Vec::new()).unwrap();
        assert_eq!(team.hear(1, drained()), None);
        team.tell(&ToRouter::Up { unit: unit(), incarnation: Incarnation(1) }, Vec::new()).unwrap();
        team.tell(&drain, Vec::new()).unwrap();
        assert_eq!(team.hear(1, drained()), None, "that one came late");
        assert_eq!(team.hear(3, drained()), None);
        assert_eq!(team.hear(3, drained()), Some(drained()));
    }
}
