//! Answers that the router makes itself: Matrix errors that browsers may read.

use std::fmt::Write as _;

use super::client::Client;
use super::metrics;

/// What Synapse sends with every answer (`synapse/http/server.py`, `set_cors_headers`).
const CORS: &str = "Access-Control-Allow-Origin: *\r\n\
    Access-Control-Allow-Methods: GET, HEAD, POST, PUT, DELETE, OPTIONS\r\n\
    Access-Control-Allow-Headers: X-Requested-With, Content-Type, Authorization, Date\r\n\
    Access-Control-Expose-Headers: Synapse-Trace-Id, Server\r\n";

/// Clients wait this long before they ask again, in seconds.
const RETRY_AFTER: u64 = 2;

/// Why the router answers in Synapse's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The request is none of HTTP, or could be read in more than one way.
    BadRequest,
    /// The request target is none that a homeserver has.
    BadTarget,
    BadVersion,
    /// The head has more than Synapse would take.
    HeadTooLarge,
    /// It expects what nobody here does.
    BadExpectation,
    /// The client did not send in time what it had begun.
    TooSlowClient,
    /// The body has more bytes than this endpoint takes.
    TooLarge,
    NotForClients,
    AdminClosed,
    /// Nobody who could answer came back in time, or too many wait for it already.
    Busy,
    /// The process ended while it had the request.
    Broken,
    /// The process did not answer.
    TooSlow,
}

/// An answer of the router's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Own {
    pub(super) status: u16,
    /// What it has beside its length, a line each.
    pub(super) fields: String,
    pub(super) body: String,
}

impl Refusal {
    const fn parts(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::BadRequest => (400, "M_UNKNOWN", "This is no request of HTTP, or an ambiguous one"),
            Self::BadTarget => (400, "M_UNRECOGNIZED", "The request target must be a path"),
            Self::BadVersion => (505, "M_UNKNOWN", "HTTP/1.0, HTTP/1.1 and HTTP/2 are spoken here"),
            Self::HeadTooLarge => (431, "M_TOO_LARGE", "The head of the request is too large"),
            Self::BadExpectation => (417, "M_UNKNOWN", "Nothing but 100-continue can be expected"),
            Self::TooSlowClient => (408, "M_UNKNOWN", "The request did not arrive in time"),
            Self::TooLarge => (413, "M_TOO_LARGE", "The body of the request is too large"),
            Self::NotForClients => (404, "M_UNRECOGNIZED", "Unrecognized request"),
            Self::AdminClosed => (403, "M_FORBIDDEN", "The admin API is not served on this listener"),
            Self::Busy => (429, "M_LIMIT_EXCEEDED", "This part of the homeserver is restarting"),
            Self::Broken => {
                (502, "M_UNKNOWN", "The homeserver process that had this request ended before it answered")
            }
            Self::TooSlow => (504, "M_UNKNOWN", "The homeserver process did not answer in time"),
        }
    }

    pub(super) fn answer(self) -> Own {
        let (status, code, text) = self.parts();
        let mut body = format!("{{\"errcode\":\"{code}\",\"error\":\"{text}\"");
        let mut fields = format!("Content-Type: application/json\r\n{CORS}");
        if self == Self::Busy {
            // Writing to a string does not fail.
            let _ = write!(body, ",\"retry_after_ms\":{}", RETRY_AFTER * 1_000);
            let _ = write!(fields, "Retry-After: {RETRY_AFTER}\r\n");
        }
        body.push('}');
        Own { status, fields, body }
    }
}

/// `/health` of the whole homeserver, with the address that the client is taken to have, and how many addresses of
/// X-Forwarded-For were believed for it: who puts a web server in front sees by them whether that is believed, and says
/// whom it asks for.
pub(super) fn health(main_is_up: bool, client: Client) -> Own {
    let (status, body) = if main_is_up { (200, "OK") } else { (503, "main is not up") };
    let fields = format!("Synvisor-Client: {}\r\nSynvisor-Believed: {}\r\n", client.address, client.believed);
    Own { status, fields, body: body.to_owned() }
}

/// What Prometheus gets.
pub(super) fn metrics(text: String) -> Own {
    Own { status: 200, fields: format!("Content-Type: {}\r\n", metrics::CONTENT_TYPE), body: text }
}

/// What a browser asks before a request of another site's page. Synapse answers all of them alike
/// (`synapse/http/server.py`, `OptionsResource`); that holds for a day, so that browsers ask less.
pub(super) fn preflight() -> Own {
    Own { status: 204, fields: format!("{CORS}Access-Control-Max-Age: 86400\r\n"), body: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_busy_says_when_to_come_back() {
        // Mutation: Retry-After with every refusal: seen red.
        let busy = Refusal::Busy.answer();
        assert!(busy.fields.contains("Retry-After: 2\r\n"));
        assert!(busy.body.ends_with(",\"retry_after_ms\":2000}"));
        let broken = Refusal::Broken.answer();
        assert!(!broken.fields.contains("Retry-After") && !broken.body.contains("retry"));
        for body in [busy.body, broken.body] {
            assert!(serde_json::from_str::<serde_json::Value>(&body).unwrap()["errcode"].is_string());
        }
    }
}
