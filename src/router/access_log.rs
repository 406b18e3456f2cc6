//! A line for each request, on standard output, for whoever wants them.

use std::cell::Cell;
use std::cell::RefCell;
use std::fmt::Write as _;
use std::io::Write as _;
use std::mem;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use serde_json::json;

use crate::config::AccessLog as Format;
use crate::sys::clock;

use super::state::State;
use super::trace::Trace;

/// So many bytes are written at once, if there are so many within [`LATEST`].
const PORTION: usize = 16 * 1024;
/// How late a line may be.
const LATEST: Duration = Duration::from_millis(500);

/// The log.
#[derive(Default)]
pub(super) struct AccessLog {
    format: Cell<Format>,
    lines: RefCell<Vec<u8>>,
}

/// What is known of a request when it comes.
pub(super) struct Line {
    client: IpAddr,
    method: String,
    target: String,
    protocol: &'static str,
}

impl Line {
    pub(super) fn new(client: IpAddr, method: &str, target: &str, protocol: &'static str) -> Self {
        Self { client, method: method.to_owned(), target: without_secrets(target), protocol }
    }
}

/// A target as it may be read by others: what proves who somebody is can stand in its query.
fn without_secrets(target: &str) -> String {
    let Some((path, query)) = target.split_once('?') else { return target.to_owned() };
    let mut shown = format!("{path}?");
    for (at, pair) in query.split('&').enumerate() {
        let separator = if at == 0 { "" } else { "&" };
        let name = pair.split('=').next().unwrap_or_default();
        let lower = name.to_ascii_lowercase();
        // A name that is percent-encoded may be any of them.
        let secret = ["token", "secret", "code", "password", "%"].iter().any(|word| lower.contains(word));
        // Writing to a string does not fail.
        let _ = if secret && pair.len() > name.len() {
            write!(shown, "{separator}{name}=<redacted>")
        } else {
            write!(shown, "{separator}{pair}")
        };
    }
    shown
}

impl AccessLog {
    pub(super) fn is_on(&self) -> bool {
        self.format.get() != Format::Off
    }

    pub(super) fn set(&self, format: Format) {
        self.format.set(format);
    }

    /// Adds the line of a request that is over.
    pub(super) fn write(&self, line: &Line, trace: &Trace) {
        let text = match self.format.get() {
            Format::Off => return,
            Format::Common => common(line, trace, clock::wall_ms()),
            Format::Json => as_json(line, trace, clock::wall_ms()),
        };
        let mut lines = self.lines.borrow_mut();
        lines.extend_from_slice(text.as_bytes());
        let full = lines.len() >= PORTION;
        drop(lines);
        if full {
            self.flush();
        }
    }

    /// Writes what there is.
    pub(super) fn flush(&self) {
        let lines = mem::take(&mut *self.lines.borrow_mut());
        if !lines.is_empty() {
            // A disk that is full must not keep anybody from an answer.
            let _ = std::io::stdout().write_all(&lines);
        }
    }
}

/// Writes what there is, again and again.
pub(super) async fn keep_up(state: Rc<State>) {
    loop {
        tokio::time::sleep(LATEST).await;
        state.access_log.flush();
    }
}

fn at(milliseconds: i64) -> jiff::Timestamp {
    jiff::Timestamp::from_millisecond(milliseconds).unwrap_or_default()
}

/// The Common Log Format of web servers, with what only we know behind it.
fn common(line: &Line, trace: &Trace, now: i64) -> String {
    let time = at(now).strftime("%d/%b/%Y:%H:%M:%S +0000");
    let Line { client, method, target, protocol } = line;
    let unit = trace.unit.as_ref().map_or("-", |upstream| upstream.unit.as_str());
    let mut text = format!(
        "{client} - - [{time}] \"{method} {target} {protocol}\" {} {} class={} unit={unit} attempts={} parked_ms={} total_ms={}",
        trace.status,
        trace.bytes,
        trace.class,
        trace.attempts,
        trace.parked.as_millis(),
        trace.duration().as_millis(),
    );
    if let Some(upstream) = trace.upstream {
        // Writing to a string does not fail.
        let _ = write!(text, " upstream_ms={}", upstream.as_millis());
    }
    text.push('\n');
    text
}

fn as_json(line: &Line, trace: &Trace, now: i64) -> String {
    let Line { client, method, target, protocol } = line;
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let value = json!({
        "time": at(now).to_string(),
        "client": client,
        "method": method,
        "target": target,
        "protocol": protocol,
        "status": trace.status,
        "bytes": trace.bytes,
        "class": trace.class,
        "unit": trace.unit.as_ref().map(|upstream| upstream.unit.as_str()),
        "attempts": trace.attempts,
        "parked_ms": milliseconds(trace.parked),
        "upstream_ms": trace.upstream.map(milliseconds),
        "total_ms": milliseconds(trace.duration()),
    });
    format!("{value}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proves_who_somebody_is_is_not_logged() {
        // Mutations, each seen red: the query left as it is; a name in capitals, or one that is percent-encoded, left.
        for (target, shown) in [
            ("/a", "/a"),
            ("/a?since=s1&timeout=0", "/a?since=s1&timeout=0"),
            ("/a?access_token=syt_x", "/a?access_token=<redacted>"),
            ("/a?b=1&loginToken=x&c", "/a?b=1&loginToken=<redacted>&c"),
            ("/a?Access_Token=x", "/a?Access_Token=<redacted>"),
            ("/a?access_%74oken=x", "/a?access_%74oken=<redacted>"),
            ("/a?client_secret=x&sid=2", "/a?client_secret=<redacted>&sid=2"),
        ] {
            assert_eq!(without_secrets(target), shown);
        }
    }
}
