//! HTTP/1 messages as bytes: what a head says, how a body is framed, and what must not be passed on (RFC 9110, RFC 9112).
//!
//! A message that two readers could understand differently is refused, even where the RFC would let it pass: a web server
//! in front of us, and Synapse behind us, must see the same requests as we do.

mod chunked;
mod fields;
mod request;
mod response;

pub use chunked::BadChunk;
pub use chunked::Decoder;
pub use chunked::Step;
pub use fields::find;
pub use fields::is_hop_by_hop;
pub use fields::is_named;
pub use fields::is_token;
pub use request::BadRequest;
pub use request::RequestHead;
pub use response::BadResponse;
pub use response::ResponseHead;

/// Synapse's own limit (`synapse/http/site.py`).
pub const MOST_FIELDS: usize = 500;

/// How long a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So many bytes, 0 for none.
    Known(u64),
    Chunked,
    /// As long as the connection lasts: of responses alone.
    UntilClose,
}

/// A field: its name as it was written, and its value without white space around it.
pub type Field<'b> = httparse::Header<'b>;

/// Room for the fields of one head.
pub type Fields<'b> = [std::mem::MaybeUninit<Field<'b>>; MOST_FIELDS];

/// Empty room.
#[must_use]
pub const fn room<'b>() -> Fields<'b> {
    [const { std::mem::MaybeUninit::uninit() }; MOST_FIELDS]
}
