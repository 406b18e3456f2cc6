//! What Prometheus is told: how long requests took, whom they waited for, what became of them.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::mem;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::PoisonError;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use prometheus_client::registry::Unit;

use crate::certificate::Certificate;
use crate::topology::UnitName;
use crate::wire::Counts;

use super::trace::Trace;

/// Where metrics are found, on a listener that says so.
pub(super) const PATH: &str = "/_synvisor/metrics";
/// What they are (OpenMetrics 1.0).
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Seconds. Most answers take milliseconds, a long-poll half a minute, and an upload may take longer.
const BUCKETS: [f64; 13] = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Place {
    class: &'static str,
    unit: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    class: &'static str,
    unit: String,
    status: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Of {
    unit: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct OfCertificate {
    listen: String,
    /// The first name that it is for.
    name: String,
}

type Histograms = Family<Place, Histogram, fn() -> Histogram>;

fn histogram() -> Histogram {
    Histogram::new(BUCKETS)
}

/// All of them.
pub(super) struct Metrics {
    registry: Registry,
    requests: Family<Outcome, Counter>,
    duration: Histograms,
    upstream: Histograms,
    parking: Histograms,
    in_flight: Family<Of, Gauge>,
    waiting: Family<Of, Gauge>,
    parked: Family<Of, Counter>,
    replayed: Family<Of, Counter>,
    taken_back: Family<Of, Counter>,
    cut: Family<Of, Counter>,
    /// Clients that are connected.
    pub(super) connections: Gauge,
    pub(super) accepted: Counter,
    /// What was no request, or took too long to become one.
    refused: Counter,
    expiry: Family<OfCertificate, Gauge>,
    /// Of which certificates that is told.
    certificates: Mutex<BTreeSet<OfCertificate>>,
}

/// What is counted for one kind of request at one process; found once and kept.
#[derive(Clone)]
struct Kept {
    outcomes: [Counter; STATUSES.len()],
    duration: Histogram,
    upstream: Histogram,
}

/// What is counted for one process.
pub(super) struct UnitMetrics {
    pub(super) in_flight: Gauge,
    kinds: BTreeMap<&'static str, Kept>,
}

/// The classes of status codes; the first is of clients that left before there was one.
const STATUSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

impl Metrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("synvisor_router");
        let histograms = || Family::new_with_constructor(histogram as fn() -> Histogram);
        let metrics = Self {
            requests: Family::default(),
            duration: histograms(),
            upstream: histograms(),
            parking: histograms(),
            in_flight: Family::default(),
            waiting: Family::default(),
            parked: Family::default(),
            replayed: Family::default(),
            taken_back: Family::default(),
            cut: Family::default(),
            connections: Gauge::default(),
            accepted: Counter::default(),
            refused: Counter::default(),
            expiry: Family::default(),
            certificates: Mutex::default(),
            registry: Registry::default(),
        };
        registry.register(
            "requests",
            "Requests that are over, by the class of their status; none: the client left before there was one",
            metrics.requests.clone(),
        );
        for (name, help, family) in [
            ("request_duration", "From the head of a request to the end of its answer", &metrics.duration),
            (
                "upstream_duration",
                "From the moment when a process was asked to the head of its answer, for the last one that was asked",
                &metrics.upstream,
            ),
            ("parked_duration", "How long requests waited that had to", &metrics.parking),
        ] {
            registry.register_with_unit(name, help, Unit::Seconds, family.clone());
        }
        registry.register("in_flight", "Requests that a process has", metrics.in_flight.clone());
        registry.register("queue_depth", "Requests that wait for a process", metrics.waiting.clone());
        for (name, help, family) in [
            ("parked", "Requests that waited because a process was away", &metrics.parked),
            ("replayed", "Requests that had been sent and were sent again", &metrics.replayed),
            (
                "taken_back",
                "Long-polls that another process took over at a planned stop",
                &metrics.taken_back,
            ),
            ("cut", "Requests whose process ended before the end of its answer", &metrics.cut),
        ] {
            registry.register(name, help, family.clone());
        }
        registry.register("connections", "Clients that are connected", metrics.connections.clone());
        registry.register("connections_accepted", "Clients that have come", metrics.accepted.clone());
        let refused = "Heads that were refused: no HTTP, ambiguous, too large or too slow";
        registry.register("heads_refused", refused, metrics.refused.clone());
        let expiry = "The end of a certificate's validity, since 1970-01-01 UTC";
        registry.register_with_unit(
            "certificate_expiry_timestamp",
            expiry,
            Unit::Seconds,
            metrics.expiry.clone(),
        );
        Self { registry, ..metrics }
    }

    /// The certificates of the listeners are these now.
    pub(super) fn certify<'c>(&self, held: impl Iterator<Item = (SocketAddr, &'c Certificate)>) {
        let mut told = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
        let before = mem::take(&mut *told);
        for (address, certificate) in held {
            let name = certificate.names.first().cloned().unwrap_or_default();
            let of = OfCertificate { listen: address.to_string(), name };
            self.expiry.get_or_create(&of).set(certificate.until.cast_signed());
            told.insert(of);
        }
        for gone in before.difference(&told) {
            self.expiry.remove(gone);
        }
    }

    /// A head was refused.
    pub(super) fn refuse(&self) {
        self.refused.inc();
    }

    /// What is counted for a process of this unit.
    pub(super) fn of_unit(&self, unit: &UnitName) -> UnitMetrics {
        let of = Of { unit: unit.to_string() };
        UnitMetrics { in_flight: self.in_flight.get_or_create_owned(&of), kinds: BTreeMap::new() }
    }

    /// A request waits for a unit, or does not any more.
    pub(super) fn waits(&self, unit: &UnitName, more: i64) {
        self.waiting.get_or_create(&Of { unit: unit.to_string() }).inc_by(more);
    }

    /// What came to the counts of a unit.
    pub(super) fn count(&self, unit: &UnitName, came: Counts) {
        let of = Of { unit: unit.to_string() };
        for (family, count) in [
            (&self.parked, came.parked),
            (&self.replayed, came.replayed),
            (&self.taken_back, came.taken_back),
            (&self.cut, came.cut),
        ] {
            family.get_or_create(&of).inc_by(count);
        }
    }

    fn kept(&self, class: &'static str, unit: &str) -> Kept {
        let place = Place { class, unit: unit.to_owned() };
        let outcome = |status| {
            let outcome = Outcome { class, unit: unit.to_owned(), status };
            self.requests.get_or_create_owned(&outcome)
        };
        Kept {
            outcomes: STATUSES.map(outcome),
            duration: self.duration.get_or_create_owned(&place),
            upstream: self.upstream.get_or_create_owned(&place),
        }
    }

    /// A request is over.
    pub(super) fn record(&self, trace: &Trace) {
        match &trace.unit {
            Some(upstream) => {
                let mut unit = upstream.metrics.borrow_mut();
                let kinds = &mut unit.kinds;
                kinds
                    .entry(trace.class)
                    .or_insert_with(|| self.kept(trace.class, upstream.unit.as_str()))
                    .record(trace);
            }
            None => self.kept(trace.class, "").record(trace),
        }
        if !trace.parked.is_zero() {
            let unit = trace.unit.as_ref().map(|upstream| upstream.unit.to_string()).unwrap_or_default();
            let place = Place { class: trace.class, unit };
            self.parking.get_or_create(&place).observe(trace.parked.as_secs_f64());
        }
    }

    /// All of it as text.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

impl Kept {
    fn record(&self, trace: &Trace) {
        let class = usize::from(trace.status / 100).min(STATUSES.len() - 1);
        if let Some(outcome) = self.outcomes.get(class) {
            outcome.inc();
        }
        self.duration.observe(trace.duration().as_secs_f64());
        if let Some(upstream) = trace.upstream {
            self.upstream.observe(upstream.as_secs_f64());
        }
    }
}
