//! Who waits for which pool, who is next, and how many go at once: decisions, made without a clock or a socket.

use std::collections::BTreeMap;

/// So many of a pool's waiting requests are with a process at once; the next goes when one of them is answered, or with
/// the next group. A process that has just come up has cold caches and a short backlog, and its answers say best how much
/// it can take; a turn of time goes on as well, since long-polls are not answered for a long time.
pub(super) const GROUP: usize = 16;

/// No place is left.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

/// A request that was let go; to be given back when it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) pool: usize,
    group: u64,
}

struct Queue<T> {
    /// By arrival: the order is kept by a request that must wait again.
    waiting: BTreeMap<u64, T>,
    under_way: usize,
    group: u64,
    /// Whether the end of the group has been asked for.
    timed: bool,
    /// Everyone in the pool refused a moment ago.
    held: bool,
}

/// The queues of all pools.
pub(super) struct Queues<T> {
    pools: Vec<Queue<T>>,
    most: usize,
    /// The last number that was given to a request or a group.
    last: u64,
}

impl<T> Queues<T> {
    /// `most` may wait in each pool: a slow one leaves the places of the others alone.
    pub(super) const fn new(most: usize) -> Self {
        Self { pools: Vec::new(), most, last: 0 }
    }

    /// A number that is higher than all before it.
    pub(super) const fn number(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// Whether somebody waits, whom a new request must not overtake.
    pub(super) fn is_waited_for(&self, pool: usize) -> bool {
        self.pools.get(pool).is_some_and(|queue| !queue.waiting.is_empty())
    }

    /// Puts a request into its place.
    pub(super) fn add(&mut self, pool: usize, arrival: u64, waiter: T) -> Result<(), Full> {
        let queue = self.pools.get_mut(pool).ok_or(Full)?;
        if queue.waiting.len() >= self.most {
            return Err(Full);
        }
        queue.waiting.insert(arrival, waiter);
        Ok(())
    }

    /// Takes out a request that waits no more, wherever it is now.
    pub(super) fn remove(&mut self, arrival: u64) {
        for queue in &mut self.pools {
            queue.waiting.remove(&arrival);
        }
    }

    /// Who may go now, if the pool is served.
    pub(super) fn next(&mut self, pool: usize) -> Option<(T, Ticket)> {
        let queue = self.pools.get_mut(pool).filter(|queue| !queue.held && queue.under_way < GROUP)?;
        let (_, waiter) = queue.waiting.pop_first()?;
        queue.under_way += 1;
        Some((waiter, Ticket { pool, group: queue.group }))
    }

    /// One that was let go is answered.
    pub(super) fn give_back(&mut self, ticket: Ticket) {
        if let Some(queue) = self.current(ticket) {
            queue.under_way = queue.under_way.saturating_sub(1);
        }
    }

    /// The group whose end must be waited for, since others wait for it; asked once for each.
    pub(super) fn unfinished(&mut self, pool: usize) -> Option<Ticket> {
        let queue = self.pools.get_mut(pool)?;
        let due = !queue.timed && !queue.waiting.is_empty() && queue.under_way > 0;
        due.then(|| {
            queue.timed = true;
            Ticket { pool, group: queue.group }
        })
    }

    /// A group has had its time: the next may go, whoever of it is not answered yet.
    pub(super) fn finish(&mut self, ticket: Ticket) {
        let group = self.number();
        if let Some(queue) = self.current(ticket) {
            (queue.group, queue.under_way, queue.timed) = (group, 0, false);
        }
    }

    /// Nobody of the pool goes until [`Self::let_go`]; false if it was so already.
    pub(super) fn hold(&mut self, pool: usize) -> bool {
        self.pools.get_mut(pool).is_some_and(|queue| !std::mem::replace(&mut queue.held, true))
    }

    pub(super) fn let_go(&mut self, pool: usize) {
        if let Some(queue) = self.pools.get_mut(pool) {
            queue.held = false;
        }
    }

    fn current(&mut self, ticket: Ticket) -> Option<&mut Queue<T>> {
        self.pools.get_mut(ticket.pool).filter(|queue| queue.group == ticket.group)
    }

    /// Everybody who waits.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &T> {
        self.pools.iter().flat_map(|queue| queue.waiting.values())
    }

    /// A new table: whoever waits goes on in the pool that is now theirs, in the order of arrival.
    pub(super) fn rehome(&mut self, pools: usize, pool_of: impl Fn(&T) -> Option<usize>) {
        let old = std::mem::take(&mut self.pools);
        for _ in 0..pools {
            let group = self.number();
            let queue = Queue { waiting: BTreeMap::new(), under_way: 0, group, timed: false, held: false };
            self.pools.push(queue);
        }
        for (arrival, waiter) in old.into_iter().flat_map(|queue| queue.waiting) {
            if let Some(queue) = pool_of(&waiter).and_then(|pool| self.pools.get_mut(pool)) {
                queue.waiting.insert(arrival, waiter);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queues(most: usize) -> Queues<&'static str> {
        let mut queues = Queues::new(most);
        queues.rehome(2, |_| None);
        queues
    }

    fn names(queues: &mut Queues<&'static str>, pool: usize) -> Vec<&'static str> {
        std::iter::from_fn(|| queues.next(pool)).map(|(name, _)| name).collect()
    }

    #[test]
    fn the_first_come_goes_first_and_keeps_its_turn() {
        // Mutation: the last come first: seen red.
        let mut queues = queues(10);
        let [one, two, three] = ["one", "two", "three"].map(|name| {
            let arrival = queues.number();
            queues.add(0, arrival, name).unwrap();
            arrival
        });
        let (name, _) = queues.next(0).unwrap();
        assert_eq!(name, "one");
        // It must wait again, and is still before those that came later.
        queues.add(0, one, name).unwrap();
        queues.remove(two);
        assert_eq!(names(&mut queues, 0), ["one", "three"]);
        queues.remove(three);
        assert!(!queues.is_waited_for(0));
    }

    #[test]
    fn a_pool_has_its_own_places() {
        // Mutation: places counted over all pools: seen red.
        let mut queues = queues(1);
        assert_eq!(queues.add(0, 1, "one"), Ok(()));
        assert_eq!(queues.add(0, 2, "two"), Err(Full));
        assert_eq!(queues.add(1, 3, "three"), Ok(()));
        assert_eq!(queues.add(2, 4, "of no pool"), Err(Full));
    }

    #[test]
    fn they_go_in_groups_as_answers_come_back_or_time_passes() {
        // Mutations, each seen red: no bound; an answer of an old group counted; the end of a group without effect.
        let mut queues = queues(100);
        for arrival in 0..GROUP as u64 * 3 {
            queues.add(0, arrival, "x").unwrap();
        }
        let first: Vec<Ticket> = std::iter::from_fn(|| queues.next(0)).map(|(_, ticket)| ticket).collect();
        assert_eq!(first.len(), GROUP);
        queues.give_back(first[0]);
        assert_eq!(names(&mut queues, 0).len(), 1);
        let group = queues.unfinished(0).unwrap();
        assert_eq!(queues.unfinished(0), None, "asked for already");
        queues.finish(group);
        assert_eq!(names(&mut queues, 0).len(), GROUP);
        queues.give_back(first[1]);
        assert_eq!(names(&mut queues, 0).len(), 0, "it was of the group before");
        queues.finish(group);
        assert_eq!(names(&mut queues, 0).len(), 0, "that group is over");
    }

    #[test]
    fn nobody_goes_while_the_pool_is_held() {
        // Mutation: `held` ignored: seen red.
        let mut queues = queues(10);
        queues.add(0, 1, "x").unwrap();
        assert!(queues.hold(0));
        assert!(!queues.hold(0), "one is enough to end it");
        assert!(queues.next(0).is_none());
        queues.let_go(0);
        assert!(queues.next(0).is_some());
    }

    #[test]
    fn a_new_table_keeps_the_order_across_pools() {
        // Mutation: the tickets of the old table taken for those of the new: seen red.
        let mut queues = queues(10);
        queues.add(1, 1, "first").unwrap();
        queues.add(0, 2, "second").unwrap();
        queues.add(0, 3, "third").unwrap();
        let (_, ticket) = queues.next(0).unwrap();
        queues.rehome(1, |_| Some(0));
        queues.next(0).unwrap();
        queues.give_back(ticket);
        assert_eq!(queues.pools[0].under_way, 1);
        assert_eq!(names(&mut queues, 0), ["third"]);
    }
}
