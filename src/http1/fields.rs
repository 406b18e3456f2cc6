//! The fields of a head.

use super::Field;

/// Fields that speak about one connection (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Whether a field must not be passed on, whatever Connection says.
#[must_use]
pub fn is_hop_by_hop(name: &str) -> bool {
    // Most names differ in their length already.
    HOP_BY_HOP.iter().any(|other| other.len() == name.len() && other.eq_ignore_ascii_case(name))
}

/// The values of a field, in the order of its lines.
pub fn find<'f, 'b>(
    fields: &'f [Field<'b>],
    name: &'static str,
) -> impl DoubleEndedIterator<Item = &'b [u8]> + use<'f, 'b> {
    fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
}

/// What a value of Connection says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Connection {
    pub(super) closes: bool,
    /// Whether it names fields that must not be passed on.
    pub(super) names_others: bool,
}

impl Connection {
    pub(super) fn read(&mut self, value: &[u8]) {
        for part in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if part.eq_ignore_ascii_case(b"close") {
                self.closes = true;
            } else if !part.eq_ignore_ascii_case(b"keep-alive") && !part.is_empty() {
                self.names_others = true;
            }
        }
    }
}

/// Whether the Connection fields name another one, which thus must not be passed on; Content-Length and Host frame and
/// address the message itself, whatever they say.
#[must_use]
pub fn is_named(fields: &[Field<'_>], name: &str) -> bool {
    let names = |value: &[u8]| {
        let mut parts = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        parts.any(|part| part.eq_ignore_ascii_case(name.as_bytes()))
    };
    !name.eq_ignore_ascii_case("content-length")
        && !name.eq_ignore_ascii_case("host")
        && find(fields, "connection").any(names)
}

/// Digits and nothing else: a sign, a list or white space in it could be read otherwise by somebody else.
pub(super) fn number(value: &[u8]) -> Option<u64> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| digits)?.parse().ok()
}

/// Whether it is a token (RFC 9110, section 5.6.2).
#[must_use]
pub fn is_token(bytes: &[u8]) -> bool {
    let sign = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    !bytes.is_empty() && bytes.iter().all(sign)
}
