//! Whatever a client sends as chunks: however it is cut, the same body comes of it, or none.
#![no_main]

use libfuzzer_sys::fuzz_target;
use synvisor::http1::BadChunk;
use synvisor::http1::Decoder;
use synvisor::http1::Step;

/// The body, whether its end was seen, and how many bytes were used.
fn read(bytes: &[u8], portion: usize) -> Result<(Vec<u8>, bool, usize), BadChunk> {
    let mut decoder = Decoder::default();
    let (mut body, mut at) = (Vec::new(), 0);
    while at < bytes.len() && !decoder.is_over() {
        let end = bytes.len().min(at + portion);
        match decoder.step(&bytes[at..end])? {
            Step::Skip(count) => {
                assert!(count > 0);
                at += count;
            }
            Step::Data(count) => {
                assert!(count > 0);
                body.extend(&bytes[at..at + count]);
                at += count;
            }
            Step::End => break,
        }
    }
    Ok((body, decoder.is_over(), at))
}

fuzz_target!(|bytes: &[u8]| {
    let whole = read(bytes, usize::MAX >> 1);
    for portion in [1, 7] {
        assert_eq!(read(bytes, portion), whole);
    }
    if let Ok((body, true, used)) = whole {
        let again = format!("{:x}\r\n", body.len()).into_bytes();
        let again = if body.is_empty() { b"0\r\n\r\n".to_vec() } else { [&again, body.as_slice(), b"\r\n0\r\n\r\n"].concat() };
        assert_eq!(read(&again, 3).unwrap().0, body);
        assert!(used <= bytes.len());
    }
});
