//! The head of a response.

use super::Field;
use super::Fields;
use super::Length;
use super::fields;

/// The head of a process's answer.
#[derive(Clone, Copy, Debug)]
pub struct ResponseHead<'f, 'b> {
    pub status: u16,
    pub reason: &'b str,
    pub fields: &'f [Field<'b>],
    pub body: Length,
    /// Whether the connection can have another request afterwards.
    pub persists: bool,
    /// Whether a field is named in Connection beside the usual ones, so that it must not be passed on.
    pub names_others: bool,
}

/// It is no response of HTTP/1, or its length cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadResponse;

impl<'f, 'b> ResponseHead<'f, 'b> {
    /// Reads the head of the answer to a request with or without the method HEAD, and how many bytes it has; `None` while
    /// its end is missing.
    ///
    /// # Errors
    /// When it must not be passed on.
    pub fn parse(
        bytes: &'b [u8],
        room: &'f mut Fields<'b>,
        to_head: bool,
    ) -> Result<Option<(Self, usize)>, BadResponse> {
        let mut response = httparse::Response::new(&mut []);
        let parsed =
            httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, bytes, room);
        let length = match parsed {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(BadResponse),
        };
        let (Some(status), Some(version)) = (response.code, response.version) else {
            return Err(BadResponse);
        };
        let mut head = Self {
            status,
            reason: response.reason.unwrap_or_default(),
            fields: response.headers,
            body: Length::UntilClose,
            persists: version == 1,
            names_others: false,
        };
        head.understand(to_head)?;
        Ok(Some((head, length)))
    }

    fn understand(&mut self, to_head: bool) -> Result<(), BadResponse> {
        let (mut length, mut chunked) = (None, false);
        let mut connection = fields::Connection::default();
        for field in self.fields {
            let (name, value) = (field.name, field.value);
            match name.len() {
                10 if name.eq_ignore_ascii_case("connection") => {
                    connection.read(value);
                }
                14 if name.eq_ignore_ascii_case("content-length") => {
                    let known = fields::number(value).ok_or(BadResponse)?;
                    if length.replace(known).is_some_and(|other| other != known) {
                        return Err(BadResponse);
                    }
                }
                17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                    if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                        return Err(BadResponse);
                    }
                    chunked = true;
                }
                _ => {}
            }
        }
        self.body = match (length, chunked) {
            _ if to_head || self.is_bodiless() => Length::Known(0),
            (Some(_), true) => return Err(BadResponse),
            (None, true) => Length::Chunked,
            (Some(length), false) => Length::Known(length),
            (None, false) => Length::UntilClose,
        };
        self.persists &= self.body != Length::UntilClose && !connection.closes;
        self.names_others = connection.names_others;
        Ok(())
    }

    /// Whether its status says that no body follows (RFC 9112, section 6.3).
    #[must_use]
    pub const fn is_bodiless(&self) -> bool {
        self.status < 200 || self.status == 204 || self.status == 304
    }

    /// Whether another response to the same request follows.
    #[must_use]
    pub const fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }
}
