//! A body in chunks (RFC 9112, section 7.1).

/// More of a chunk's first line, or of the trailers, is not read: nobody needs extensions or trailers here.
const MOST_FRAMING: usize = 4 * 1024;

/// How far a body has been read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the number of bytes that a chunk has; whether there was a digit.
    Size {
        digits: u8,
        size: u64,
    },
    /// In the rest of that line, which is skipped.
    Extension {
        size: u64,
    },
    /// The carriage return of that line was read.
    SizeEnd {
        size: u64,
    },
    Data {
        left: u64,
    },
    /// Data has ended; whether its carriage return was read.
    DataEnd {
        returned: bool,
    },
    /// At the start of a line after the last chunk.
    Trailer,
    TrailerLine,
    /// The carriage return of such a line was read; whether the line is empty.
    TrailerEnd {
        last: bool,
    },
    End,
}

/// What to do with the bytes at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// These are framing, and nothing of the body.
    Skip(usize),
    /// These are of the body.
    Data(usize),
    /// The body is over, and nothing was taken.
    End,
}

/// It is not framed as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadChunk;

/// Reads a body portion by portion.
#[derive(Clone, Debug)]
pub struct Decoder {
    state: State,
    /// Bytes of the framing since the last data.
    framing: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { state: State::Size { digits: 0, size: 0 }, framing: 0 }
    }
}

impl Decoder {
    /// Looks at bytes that follow those of all steps before; at least one of them is taken unless the body is over.
    ///
    /// # Errors
    /// When they are no chunks.
    pub fn step(&mut self, bytes: &[u8]) -> Result<Step, BadChunk> {
        if let State::Data { left } = &mut self.state {
            let count = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= count as u64;
            if *left == 0 {
                self.state = State::DataEnd { returned: false };
            }
            self.framing = 0;
            return Ok(Step::Data(count));
        }
        let mut skipped = 0;
        for byte in bytes {
            if matches!(self.state, State::Data { .. } | State::End) {
                break;
            }
            self.state = self.state.after(*byte)?;
            skipped += 1;
        }
        if skipped == 0 && self.state == State::End {
            return Ok(Step::End);
        }
        self.framing += skipped;
        if self.framing > MOST_FRAMING { Err(BadChunk) } else { Ok(Step::Skip(skipped)) }
    }

    /// Whether the body is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.state == State::End
    }
}

impl State {
    /// What follows a byte that is none of data.
    fn after(self, byte: u8) -> Result<Self, BadChunk> {
        Ok(match (self, byte) {
            (Self::Size { digits, size }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).unwrap_or_default();
                // Sixteen digits are all that 64 bits hold.
                if digits == 16 {
                    return Err(BadChunk);
                }
                Self::Size { digits: digits + 1, size: size << 4 | u64::from(digit) }
            }
            (Self::Size { digits: 1.., size }, b'\r') => Self::SizeEnd { size },
            (Self::Size { digits: 1.., size }, b';' | b' ' | b'\t') => Self::Extension { size },
            (Self::Extension { size }, b'\r') => Self::SizeEnd { size },
            (Self::Extension { size }, b'\t' | b' '..=b'~' | 0x80..) => Self::Extension { size },
            (Self::SizeEnd { size: 0 }, b'\n') => Self::Trailer,
            (Self::SizeEnd { size }, b'\n') => Self::Data { left: size },
            (Self::DataEnd { returned: false }, b'\r') => Self::DataEnd { returned: true },
            (Self::DataEnd { returned: true }, b'\n') => Self::Size { digits: 0, size: 0 },
            (Self::Trailer, b'\r') => Self::TrailerEnd { last: true },
            (Self::Trailer | Self::TrailerLine, b'\t' | b' '..=b'~' | 0x80..) => Self::TrailerLine,
            (Self::TrailerLine, b'\r') => Self::TrailerEnd { last: false },
            (Self::TrailerEnd { last: false }, b'\n') => Self::Trailer,
            (Self::TrailerEnd { last: true }, b'\n') => Self::End,
            (
                Self::Size { .. }
                | Self::Extension { .. }
                | Self::SizeEnd { .. }
                | Self::Data { .. }
                | Self::DataEnd { .. }
                | Self::Trailer
                | Self::TrailerLine
                | Self::TrailerEnd { .. }
                | Self::End,
                _,
            ) => return Err(BadChunk),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The data of a body that comes in portions of this size, and what follows it.
    fn read(bytes: &[u8], portion: usize) -> Result<(Vec<u8>, Vec<u8>), BadChunk> {
        let mut decoder = Decoder::default();
        let (mut data, mut at) = (Vec::new(), 0);
        loop {
            let end = (at + portion).min(bytes.len());
            match decoder.step(&bytes[at..end])? {
                Step::Skip(0) | Step::Data(0) if end == bytes.len() => return Err(BadChunk),
                Step::Skip(count) => at += count,
                Step::Data(count) => {
                    data.extend(&bytes[at..at + count]);
                    at += count;
                }
                Step::End => return Ok((data, bytes[at..].to_vec())),
            }
            if decoder.is_over() {
                return Ok((data, bytes[at..].to_vec()));
            }
        }
    }

    #[test]
    fn however_it_is_cut_it_says_the_same() {
        let body = b"5;name=\"x\"\r\nhello\r\nA \r\n0123456789\r\n000\r\nTrailer: x\r\n\r\nGET /";
        for portion in 1..body.len() {
            let (data, rest) = read(body, portion).unwrap();
            assert_eq!(
                (data.as_slice(), rest.as_slice()),
                (&b"hello0123456789"[..], &b"GET /"[..]),
                "{portion}"
            );
        }
    }

    #[test]
    fn what_could_be_read_otherwise_is_refused() {
        // Mutations, each seen red: a bare line feed taken for the end of a line; a seventeenth digit; an empty size.
        for bad in [
            "5\nhello\r\n0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhelloo\r\n0\r\n\r\n",
            "\r\n\r\n",
            "-1\r\n\r\n",
            "+5\r\nhello\r\n0\r\n\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            " 5\r\nhello\r\n0\r\n\r\n",
            "10000000000000005\r\nhello\r\n0\r\n\r\n",
            "5;a\nhello\r\n0\r\n\r\n",
            "5;a\nb\r\nhello\r\n0\r\n\r\n",
            "5;\u{0}\r\nhello\r\n0\r\n\r\n",
            "0\r\n\n",
            "0\r\nTrailer: x\n\r\n",
            "0\r\n\rX",
            "g\r\n\r\n",
        ] {
            for portion in [1, 3, bad.len()] {
                assert!(read(bad.as_bytes(), portion).is_err(), "{bad:?}");
            }
        }
    }

    #[test]
    fn framing_is_bounded() {
        // Mutations, each seen red: no bound; data does not begin the count anew.
        let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(MOST_FRAMING));
        assert!(read(long.as_bytes(), 1_000).is_err());
        let trailers = format!("0\r\n{}\r\n", "a: b\r\n".repeat(MOST_FRAMING));
        assert!(read(trailers.as_bytes(), 1_000).is_err());
        let many = format!("{}0\r\n\r\n", "1\r\nx\r\n".repeat(MOST_FRAMING));
        assert_eq!(read(many.as_bytes(), 1_000).unwrap().0.len(), MOST_FRAMING);
    }
}
