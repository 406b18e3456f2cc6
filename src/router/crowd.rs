//! Who is connected: how many there may be, and how many of one address.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::net::Ipv6Addr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::sys::descriptors;

/// What the router needs itself: standard streams, sockets, the runtime, and some for connections that end.
const OWN_DESCRIPTORS: u64 = 32;
/// Between two looks at a limit that was reached.
const LIMIT_LOOK: Duration = Duration::from_secs(1);
/// What goes on for long is said this often.
const COMPLAINT: Duration = Duration::from_secs(60);

/// Something that happens again and again and is said now and then.
#[derive(Default)]
pub(super) struct Complaint(Option<Instant>);

impl Complaint {
    pub(super) fn say(&mut self, what: impl FnOnce() -> String) {
        if self.0.is_none_or(|said| said.elapsed() >= COMPLAINT) {
            tracing::warn!("{}", what());
            self.0 = Some(Instant::now());
        }
    }
}

/// Everybody who is in, on whichever thread.
#[derive(Default)]
pub(super) struct Everybody {
    count: AtomicUsize,
    /// What is said when there is no room for more.
    complaint: Mutex<Complaint>,
}

/// Those of one thread.
pub(super) struct Crowd {
    all: Arc<Everybody>,
    /// How many connections each address has.
    of: RefCell<BTreeMap<IpAddr, usize>>,
    /// Told when somebody has left.
    left: Notify,
}

impl Crowd {
    pub(super) fn new(all: Arc<Everybody>) -> Rc<Self> {
        Rc::new(Self { all, of: RefCell::default(), left: Notify::new() })
    }

    /// Somebody more who is in, if there is room.
    pub(super) fn enter(self: &Rc<Self>) -> Option<In> {
        ((self.all.count.load(Ordering::Relaxed) as u64) < most_in(descriptors::limit()))
            .then(|| In::to(self))
    }

    /// Waits until one more may be let in; who is not waits in the kernel.
    pub(super) async fn room(&self) {
        loop {
            let left = self.left.notified();
            tokio::pin!(left);
            // From here on nothing is missed.
            left.as_mut().enable();
            let limit = descriptors::limit();
            let inside = self.all.count.load(Ordering::Relaxed);
            if (inside as u64) < most_in(limit) {
                return;
            }
            self.all.complaint.lock().unwrap_or_else(PoisonError::into_inner).say(|| {
                format!(
                    "{inside} clients are connected, all that {limit} descriptors allow; others wait until one leaves\n  \
                     raise LimitNOFILE= of the service"
                )
            });
            // The limit itself may change, and who leaves may have been another thread's.
            let _ = tokio::time::timeout(LIMIT_LOOK, left).await;
        }
    }
}

/// Somebody who is in, until it is dropped.
pub(super) struct In(Rc<Crowd>);

impl In {
    pub(super) fn to(crowd: &Rc<Crowd>) -> Self {
        crowd.all.count.fetch_add(1, Ordering::Relaxed);
        Self(Rc::clone(crowd))
    }
}

/// A connection of an address, as long as it is counted.
pub(super) struct Place {
    crowd: Rc<Crowd>,
    address: IpAddr,
}

impl Place {
    /// None if the address has as many as it may.
    pub(super) fn take(crowd: &Rc<Crowd>, address: IpAddr, most: u64) -> Option<Self> {
        let address = household(address);
        let mut of = crowd.of.borrow_mut();
        let count = of.entry(address).or_default();
        if *count as u64 >= most {
            return None;
        }
        *count += 1;
        Some(Self { crowd: Rc::clone(crowd), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut of = self.crowd.of.borrow_mut();
        if let Some(count) = of.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                of.remove(&self.address);
            }
        }
    }
}

/// Whoever has one address of IPv6 has all of its network of 64 bits.
fn household(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let [one, two, three, four, ..] = address.segments();
            Ipv6Addr::new(one, two, three, four, 0, 0, 0, 0).into()
        }
    }
}

impl Drop for In {
    fn drop(&mut self) {
        self.0.all.count.fetch_sub(1, Ordering::Relaxed);
        self.0.left.notify_waiters();
    }
}

/// How many may be in under a limit of descriptors: each may need another one for its connection to a process, and who is
/// in must get it.
const fn most_in(limit: u64) -> u64 {
    let most = limit.saturating_sub(OWN_DESCRIPTORS) / 2;
    if most == 0 { 1 } else { most }
}

/// The share of all connections that one address may have, as many users share one, and nobody is to have all of them;
/// each of the threads counts its own.
pub(super) fn most_of_one(threads: usize) -> u64 {
    most_in(descriptors::limit()).div_ceil(4 * threads as u64)
}

/// A connection, as long as it is counted.
pub(super) struct Connected(Gauge);

impl Connected {
    pub(super) fn new(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_has_all_connections_and_a_network_counts_as_one() {
        // Mutations, each seen red: no bound; each address of a network by itself; a place that is never given back.
        let crowd = Crowd::new(Arc::default());
        let take = |address: &str| Place::take(&crowd, address.parse().unwrap(), 2);
        let held = [take("198.51.100.7"), take("198.51.100.7"), take("2001:db8::1"), take("2001:db8::2")];
        assert!(held.iter().all(Option::is_some));
        assert!(take("198.51.100.7").is_none());
        assert!(take("2001:db8::ffff:3").is_none());
        assert!(take("198.51.100.8").is_some() && take("2001:db8:0:1::1").is_some());
        drop(held);
        assert!(take("198.51.100.7").is_some());
        assert!(crowd.of.borrow().is_empty(), "nobody is kept who has left");
    }
}
