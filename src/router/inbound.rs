//! A body that comes in portion by portion, in whichever way it is framed.

use std::io;

use crate::http1::Decoder;
use crate::http1::Length;
use crate::http1::Step;

use super::buffer::Buffer;

/// How far a body has been read from a buffer.
pub(super) struct Inbound {
    rest: Rest,
    /// How many bytes at the front of the buffer belong to it and are still to be used.
    portion: usize,
    /// Whether the framing is passed on with it.
    raw: bool,
}

enum Rest {
    Known(u64),
    Chunked(Decoder),
    UntilClose,
}

/// What a buffer has of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A portion is at its front.
    Portion,
    /// The body has ended, and whatever the buffer has is none of it.
    Over,
    /// More has to be read.
    Nothing,
}

impl Inbound {
    pub(super) fn new(length: Length) -> Self {
        let rest = match length {
            Length::Known(length) => Rest::Known(length),
            Length::Chunked => Rest::Chunked(Decoder::default()),
            Length::UntilClose => Rest::UntilClose,
        };
        Self { rest, portion: 0, raw: false }
    }

    /// One whose chunks are passed on as they come.
    pub(super) fn raw(mut self) -> Self {
        self.raw = true;
        self
    }

    /// How many bytes are left, if that is known.
    pub(super) fn left(&self) -> Option<u64> {
        match self.rest {
            Rest::Known(left) => Some(left + self.portion as u64),
            Rest::Chunked(_) | Rest::UntilClose => None,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.portion == 0 && self.is_read()
    }

    /// Whether its end has come, be it still in the buffer.
    pub(super) fn is_read(&self) -> bool {
        matches!(self.rest, Rest::Known(0))
    }

    /// The connection has ended: then the body has ended, if that is how its end is told.
    pub(super) fn closed(&mut self) -> io::Result<()> {
        match self.rest {
            Rest::UntilClose | Rest::Known(0) => {
                self.rest = Rest::Known(0);
                Ok(())
            }
            Rest::Known(_) | Rest::Chunked(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    pub(super) fn portion<'b>(&self, buffer: &'b Buffer) -> &'b [u8] {
        buffer.data().get(..self.portion).unwrap_or_default()
    }

    /// So much of the portion was used.
    pub(super) fn took(&mut self, buffer: &mut Buffer, count: usize) {
        buffer.consume(count);
        self.portion -= count;
    }

    /// Looks for a portion, if there is none already.
    ///
    /// # Errors
    /// When the body is not framed as it should be.
    pub(super) fn look(&mut self, buffer: &mut Buffer) -> io::Result<Found> {
        while self.portion == 0 {
            let data = buffer.data();
            match &mut self.rest {
                Rest::Known(0) => return Ok(Found::Over),
                _ if data.is_empty() => return Ok(Found::Nothing),
                Rest::Known(left) => {
                    self.portion = data.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    *left -= self.portion as u64;
                }
                Rest::UntilClose => self.portion = data.len(),
                Rest::Chunked(decoder) if self.raw => {
                    let mut at = 0;
                    while at < data.len() && !decoder.is_over() {
                        match step(decoder, data.get(at..).unwrap_or_default())? {
                            Step::Skip(count) | Step::Data(count) => at += count,
                            Step::End => break,
                        }
                    }
                    self.portion = at;
                    if decoder.is_over() {
                        self.rest = Rest::Known(0);
                    }
                }
                Rest::Chunked(decoder) => match step(decoder, data)? {
                    Step::Data(count) => self.portion = count,
                    Step::Skip(count) => {
                        let over = decoder.is_over();
                        buffer.consume(count);
                        if over {
                            self.rest = Rest::Known(0);
                        }
                    }
                    Step::End => self.rest = Rest::Known(0),
                },
            }
        }
        Ok(Found::Portion)
    }
}

fn step(decoder: &mut Decoder, data: &[u8]) -> io::Result<Step> {
    decoder.step(data).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "these are no chunks"))
}
