//! A request on its way out, as often as it has to go.

use std::io::Write as _;
use std::net::IpAddr;
use std::ops::Range;

use tokio::time::Instant;

use crate::http1;
use crate::http1::Length;
use crate::route;

use super::client::Client;
use super::park;

/// More of a request's body is not kept, so that it cannot be sent again once it was sent.
const KEPT: usize = 64 * 1024;

pub(super) struct Outgoing {
    /// As it is written, to its empty line.
    head: Vec<u8>,
    /// Where the request target stands in it.
    target: Range<usize>,
    /// Whether the method is HEAD, whose answers have no body.
    pub(super) is_head: bool,
    /// Whether the length of its body is not known.
    pub(super) chunked: bool,
    /// What was read of the body, while that is all of it and may have to go again.
    kept: Option<Vec<u8>>,
    pub(super) arrived: Instant,
    /// By how many milliseconds its time-out was lowered.
    lowered: u64,
}

impl Outgoing {
    /// One without fields yet. `again` if it may have to go again after it was sent.
    pub(super) fn new(method: &str, target: &str, body: Length, again: bool, arrived: Instant) -> Self {
        let mut head = Vec::with_capacity(1024);
        head.extend_from_slice(method.as_bytes());
        head.push(b' ');
        let start = head.len();
        head.extend_from_slice(target.as_bytes());
        let target = start..head.len();
        head.extend_from_slice(b" HTTP/1.1\r\n");
        Self {
            head,
            target,
            is_head: method == "HEAD",
            chunked: body == Length::Chunked,
            kept: again.then(Vec::new),
            arrived,
            lowered: 0,
        }
    }

    /// Adds a field of the client's, unless it is about its connection, or ours to write.
    pub(super) fn field(&mut self, name: &str, value: &[u8]) {
        if !http1::is_hop_by_hop(name) && !is_ours(name) {
            self.write(name.as_bytes(), value);
        }
    }

    /// Adds what the router alone says, and ends the head.
    pub(super) fn finish(&mut self, client: Client) {
        if self.chunked {
            self.write(b"Transfer-Encoding", b"chunked");
        }
        self.write(b"X-Forwarded-Proto", if client.https { b"https" } else { b"http" });
        // Writing to a vector does not fail.
        let _ = match client.address {
            IpAddr::V4(address) => write!(self.head, "X-Forwarded-For: {address}\r\n\r\n"),
            IpAddr::V6(address) => write!(self.head, "X-Forwarded-For: {address}\r\n\r\n"),
        };
    }

    fn write(&mut self, name: &[u8], value: &[u8]) {
        for part in [name, b": ", value, b"\r\n"] {
            self.head.extend_from_slice(part);
        }
    }

    pub(super) fn head(&self) -> &[u8] {
        &self.head
    }

    /// What was kept of its body.
    pub(super) fn kept(&self) -> &[u8] {
        self.kept.as_deref().unwrap_or_default()
    }

    /// Whether another attempt would find all of it.
    pub(super) fn is_whole(&self) -> bool {
        self.kept.is_some()
    }

    /// These bytes of the body leave the client.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        match &mut self.kept {
            Some(kept) if kept.len() + bytes.len() <= KEPT => kept.extend_from_slice(bytes),
            Some(_) | None => self.kept = None,
        }
    }

    /// Lets a long-poll wait no longer than the client asked for, the time since it came included.
    pub(super) fn lower_timeout(&mut self) {
        let target = self.head.get(self.target.clone()).unwrap_or_default();
        let Ok(target) = std::str::from_utf8(target) else { return };
        let Some((path, query)) = target.split_once('?') else { return };
        let passed = park::milliseconds(self.arrived);
        if let Some(query) = route::with_time_left(query, passed.saturating_sub(self.lowered)) {
            self.lowered = passed;
            let lowered = format!("{path}?{query}");
            let end = self.target.start + lowered.len();
            self.head.splice(self.target.clone(), lowered.into_bytes());
            self.target.end = end;
        }
    }
}

/// What a client cannot say for us: how it is known, and where its body begins.
fn is_ours(name: &str) -> bool {
    const OURS: [&str; 5] =
        ["expect", "forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];
    OURS.iter().any(|other| other.len() == name.len() && other.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn time_that_has_passed_is_taken_off_once() {
        // Mutation: all of it taken off again with each attempt: seen red.
        let arrived = Instant::now().checked_sub(Duration::from_secs(10)).unwrap();
        let target = "/_matrix/client/v3/sync?since=1&timeout=30000";
        let mut outgoing = Outgoing::new("GET", target, Length::Known(0), true, arrived);
        outgoing.lower_timeout();
        outgoing.lower_timeout();
        let head = std::str::from_utf8(outgoing.head()).unwrap();
        let timeout = head.split_once("timeout=").unwrap().1.split_once(' ').unwrap().0;
        let timeout: u64 = timeout.parse().unwrap();
        assert!((15_000..=20_000).contains(&timeout), "{head}");
        assert!(head.ends_with(" HTTP/1.1\r\n"), "{head}");
    }
}
