//! Whether two files hold the same, byte by byte.

use std::fs::File;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Seek;

/// Whether a file that was just written holds what it was written from, as the disk has it; `again` is it, opened to be read.
///
/// # Errors
/// Of the file system.
pub fn is_written(from: &File, to: &File, again: File) -> io::Result<bool> {
    to.sync_data()?;
    // Otherwise it would be read from memory.
    nix::fcntl::posix_fadvise(to, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    let mut from = from.try_clone()?;
    from.rewind()?;
    same_bytes(from, again)
}

/// # Errors
/// Of the file system.
pub fn same_bytes(one: File, other: File) -> io::Result<bool> {
    let (mut one, mut other) = (BufReader::new(one), BufReader::new(other));
    loop {
        let (left, right) = (one.fill_buf()?, other.fill_buf()?);
        let length = left.len().min(right.len());
        if length == 0 {
            return Ok(left.is_empty() && right.is_empty());
        }
        if left.get(..length) != right.get(..length) {
            return Ok(false);
        }
        one.consume(length);
        other.consume(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fs;

    #[test]
    fn files_differ_in_any_byte_and_in_their_ends() {
        // Mutation: the shorter one taken for the whole: seen red.
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            fs::replace(&path, bytes, 0o600, None).unwrap();
            File::open(path).unwrap()
        };
        let long = vec![7; 100_000];
        let mut other = long.clone();
        other[99_999] = 8;
        assert!(same_bytes(open("a", &long), open("b", &long)).unwrap());
        assert!(!same_bytes(open("a", &long), open("c", &other)).unwrap());
        assert!(!same_bytes(open("a", &long), open("d", &long[1..])).unwrap());
        assert!(!same_bytes(open("d", &long[1..]), open("a", &long)).unwrap());
    }
}
