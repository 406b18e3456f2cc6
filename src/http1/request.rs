//! The head of a request.

use super::Field;
use super::Fields;
use super::Length;
use super::fields;

/// A head that says one thing only.
#[derive(Clone, Copy, Debug)]
pub struct RequestHead<'f, 'b> {
    pub method: &'b str,
    /// A path with its query, or `*`.
    pub target: &'b str,
    pub fields: &'f [Field<'b>],
    /// The value of the Authorization field.
    pub authorization: Option<&'b str>,
    /// The bytes of its body.
    pub body: Length,
    /// Whether its sender takes more than one answer on this connection.
    pub persists: bool,
    /// Whether its sender understands chunked answers.
    pub is_http_1_1: bool,
    /// Whether its sender waits for our word before it sends the body.
    pub expects_continue: bool,
    /// Whether a field is named in Connection beside the usual ones, so that it must not be passed on.
    pub names_others: bool,
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRequest {
    /// It is no request of HTTP/1, or could be read in more than one way.
    Syntax,
    /// The request target is none that a homeserver has.
    Target,
    /// Neither HTTP/1.1 nor HTTP/1.0.
    Version,
    /// It names no host, or several.
    Host,
    /// It says in more than one way, or in an odd one, how long its body is.
    Framing,
    /// It has too many fields.
    TooLarge,
    /// It expects something other than 100-continue.
    Expectation,
}

impl<'f, 'b> RequestHead<'f, 'b> {
    /// Reads a head, and how many bytes it has; `None` while its end is missing.
    ///
    /// # Errors
    /// When it must be refused, as early as that is seen.
    pub fn parse(bytes: &'b [u8], room: &'f mut Fields<'b>) -> Result<Option<(Self, usize)>, BadRequest> {
        let mut request = httparse::Request::new(&mut []);
        let parsed = request.parse_with_uninit_headers(bytes, room);
        let length = match parsed {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => return Err(BadRequest::TooLarge),
            Err(httparse::Error::Version) if names_version(bytes) => return Err(BadRequest::Version),
            Err(_) => return Err(BadRequest::Syntax),
        };
        let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version)
        else {
            return Err(BadRequest::Syntax);
        };
        if !ends_lines_alike(bytes.get(..length).unwrap_or_default()) {
            return Err(BadRequest::Syntax);
        }
        // Whoever reads a fragment, or letters that no URI has, may read them differently.
        let visible = target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        if !visible || !(target.starts_with('/') || target == "*" && method == "OPTIONS") {
            return Err(BadRequest::Target);
        }
        let head = Self {
            method,
            target,
            fields: request.headers,
            authorization: None,
            body: Length::Known(0),
            persists: version == 1,
            is_http_1_1: version == 1,
            expects_continue: false,
            names_others: false,
        };
        Ok(Some((head.understand()?, length)))
    }

    /// Takes from the fields what they say about the message itself.
    fn understand(mut self) -> Result<Self, BadRequest> {
        let (mut length, mut chunked, mut hosts) = (None, false, 0);
        let mut connection = fields::Connection::default();
        for field in self.fields {
            let (name, value) = (field.name, field.value);
            // By its length first: most fields are of no interest.
            match name.len() {
                4 if name.eq_ignore_ascii_case("host") => {
                    hosts += 1;
                    // Empty where the target has no authority, and never a list.
                    if value.iter().any(|byte| !byte.is_ascii_graphic() || b",@/\\?#".contains(byte)) {
                        return Err(BadRequest::Host);
                    }
                }
                6 if name.eq_ignore_ascii_case("expect") => {
                    if !value.eq_ignore_ascii_case(b"100-continue") {
                        return Err(BadRequest::Expectation);
                    }
                    self.expects_continue = self.is_http_1_1;
                }
                10 if name.eq_ignore_ascii_case("connection") => {
                    connection.read(value);
                }
                13 if name.eq_ignore_ascii_case("authorization") => {
                    self.authorization = std::str::from_utf8(value).ok();
                }
                14 if name.eq_ignore_ascii_case("content-length") => {
                    let known = fields::number(value).ok_or(BadRequest::Framing)?;
                    if length.replace(known).is_some() {
                        return Err(BadRequest::Framing);
                    }
                }
                17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                    if chunked || !self.is_http_1_1 || !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(BadRequest::Framing);
                    }
                    chunked = true;
                }
                _ => {}
            }
        }
        if hosts > 1 || hosts == 0 && self.is_http_1_1 {
            return Err(BadRequest::Host);
        }
        self.persists &= !connection.closes;
        self.names_others = connection.names_others;
        self.body = match (length, chunked) {
            (Some(_), true) => return Err(BadRequest::Framing),
            (None, true) => Length::Chunked,
            (length, false) => Length::Known(length.unwrap_or(0)),
        };
        Ok(self)
    }

    /// The path, without the query.
    #[must_use]
    pub fn path(&self) -> &'b str {
        self.target.split_once('?').map_or(self.target, |(path, _)| path)
    }

    /// The query, without its question mark.
    #[must_use]
    pub fn query(&self) -> &'b str {
        self.target.split_once('?').map_or("", |(_, query)| query)
    }
}

/// Whether the first line ends with a version of HTTP, whichever that is.
fn names_version(bytes: &[u8]) -> bool {
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii_end();
    let mut parts = line.split(|byte| *byte == b' ');
    let last = parts.next_back().and_then(|version| version.strip_prefix(b"HTTP/"));
    parts.count() == 2 && last.is_some_and(|version| matches!(version, [b'0'..=b'9', b'.', b'0'..=b'9']))
}

/// Whether every line ends as the RFC says; a bare line feed ends a line for some readers and not for others.
fn ends_lines_alike(head: &[u8]) -> bool {
    memchr::memchr_iter(b'\n', head).all(|at| at > 0 && head.get(at - 1) == Some(&b'\r'))
}
