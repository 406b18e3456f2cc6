//! Answers that the router makes itself: Matrix errors that browsers may read.

use http_body_util::BodyExt;
use http_body_util::Full;
use hyper::HeaderMap;
use hyper::Response;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::header;
use hyper::header::HeaderName;
use hyper::header::HeaderValue;

use super::body::Body;
use super::headers::Client;

/// What Synapse sends with every answer (`synapse/http/server.py`, `set_cors_headers`).
const CORS: [(HeaderName, &str); 3] = [
    (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
    (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST, PUT, DELETE, OPTIONS"),
    (header::ACCESS_CONTROL_ALLOW_HEADERS, "X-Requested-With, Content-Type, Authorization, Date"),
];

/// Clients wait this long before they ask again, in seconds.
const RETRY_AFTER: u64 = 2;

/// Why the router answers in Synapse's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The request target is none that a homeserver has.
    BadTarget,
    NotForClients,
    AdminClosed,
    /// Nobody who could answer came back in time, or too many wait for it already.
    Busy,
    /// The process ended while it had the request.
    Broken,
    /// The process did not answer.
    TooSlow,
}

impl Refusal {
    const fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::BadTarget => {
                (StatusCode::BAD_REQUEST, "M_UNRECOGNIZED", "The request target must be a path")
            }
            Self::NotForClients => (StatusCode::NOT_FOUND, "M_UNRECOGNIZED", "Unrecognized request"),
            Self::AdminClosed => {
                (StatusCode::FORBIDDEN, "M_FORBIDDEN", "The admin API is not served on this listener")
            }
            Self::Busy => (
                StatusCode::TOO_MANY_REQUESTS,
                "M_LIMIT_EXCEEDED",
                "This part of the homeserver is restarting",
            ),
            Self::Broken => (
                StatusCode::BAD_GATEWAY,
                "M_UNKNOWN",
                "The homeserver process that had this request ended before it answered",
            ),
            Self::TooSlow => {
                (StatusCode::GATEWAY_TIMEOUT, "M_UNKNOWN", "The homeserver process did not answer in time")
            }
        }
    }

    pub(super) fn response(self) -> Response<Body> {
        let (status, code, text) = self.parts();
        let retry = match self {
            Self::Busy => format!(",\"retry_after_ms\":{}", RETRY_AFTER * 1_000),
            Self::BadTarget | Self::NotForClients | Self::AdminClosed | Self::Broken | Self::TooSlow => {
                String::new()
            }
        };
        let json = format!("{{\"errcode\":\"{code}\",\"error\":\"{text}\"{retry}}}");
        let mut response = Response::new(full(json));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self == Self::Busy {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER));
        }
        allow_origins(headers);
        response
    }
}

/// `/health` of the whole homeserver, with the address that the client is taken to have, and how many addresses of
/// X-Forwarded-For were believed for it: who puts a web server in front sees by them whether that is believed, and says
/// whom it asks for.
pub(super) fn health(main_is_up: bool, client: Client) -> Response<Body> {
    let (status, text) =
        if main_is_up { (StatusCode::OK, "OK") } else { (StatusCode::SERVICE_UNAVAILABLE, "main is not up") };
    let mut response = Response::new(full(text.to_owned()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    if let Ok(address) = HeaderValue::from_str(&client.address.to_string()) {
        headers.insert(HeaderName::from_static("synvisor-client"), address);
    }
    headers.insert(HeaderName::from_static("synvisor-believed"), HeaderValue::from(client.believed));
    response
}

/// `OPTIONS *` asks about the server as a whole.
pub(super) fn options() -> Response<Body> {
    let mut response = Response::new(full(String::new()));
    *response.status_mut() = StatusCode::NO_CONTENT;
    allow_origins(response.headers_mut());
    response
}

fn allow_origins(headers: &mut HeaderMap) {
    for (name, value) in CORS {
        headers.insert(name, HeaderValue::from_static(value));
    }
}

fn full(text: String) -> Body {
    Body::Own(Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync())
}
