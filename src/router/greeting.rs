//! How a connection begins before its first request, and ends after its last.

use std::io;
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// From a connection's beginning until its client has said who it is, and agreed on a key.
pub(super) const LIMIT: Duration = Duration::from_secs(10);
/// How long a client is waited for that has had its last answer: it closes the connection itself.
pub(super) const LINGER: Duration = Duration::from_secs(2);
/// Between two looks at a beginning that came in pieces.
const PEEK_AGAIN: Duration = Duration::from_millis(10);

/// # Errors
/// Its own, or it took too long.
pub(super) async fn within<T>(
    give_up: Instant,
    greeting: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    let silent =
        |_| io::Error::new(io::ErrorKind::TimedOut, format!("it took more than {} s", LIMIT.as_secs()));
    tokio::time::timeout_at(give_up, greeting).await.map_err(silent)?
}

/// Whether what comes is HTTP/2 with prior knowledge, whose first word is no method of HTTP/1 (RFC 9113, section 3.4).
pub(super) async fn speaks_http2(stream: &TcpStream) -> io::Result<bool> {
    const PREFACE: &[u8] = b"PRI ";
    let judge = |bytes: &[u8]| {
        let same = bytes.iter().zip(PREFACE).take_while(|(one, other)| one == other).count();
        (same == PREFACE.len() || same < bytes.len()).then_some(same == PREFACE.len())
    };
    peek(stream, &mut [0; PREFACE.len()], judge).await
}

/// Looks at what has come until `judge` has made up its mind, and takes nothing of it.
///
/// # Errors
/// The connection has ended before.
pub(super) async fn peek<T>(
    stream: &TcpStream,
    bytes: &mut [u8],
    judge: impl Fn(&[u8]) -> Option<T>,
) -> io::Result<T> {
    loop {
        let count = stream.peek(bytes).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(judgement) = judge(&bytes[..count]) {
            return Ok(judgement);
        }
        // The kernel tells that there is something, which we know, and not that there is more.
        tokio::time::sleep(PEEK_AGAIN).await;
    }
}

/// Waits for the end of what a client sends, since who still sends to a closed connection may lose the answer that it
/// was sent before.
pub(super) async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let rest = async {
        stream.shutdown().await?;
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = tokio::time::timeout(LINGER, rest).await;
}
