//! Whoever sent a request, as far as its way to a process is concerned.

use std::io;
use std::task::Context;
use std::task::Poll;

use tokio::time::Instant;

/// A client in the middle of a request.
pub(super) trait Asker {
    /// Waits for more of the request's body, which [`Self::body`] then shows; false at its end.
    ///
    /// # Errors
    /// When the client has left or sends what is no body; [`io::ErrorKind::FileTooLarge`] when it sends more than it may.
    fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>>;

    /// What has come of the body and was not taken yet.
    fn body(&self) -> &[u8];

    /// So much of it was taken.
    fn took(&mut self, count: usize);

    /// Whether a limit of time is reached; the task is woken when it may be.
    fn is_over(&mut self, context: &mut Context<'_>, limit: Instant) -> bool;

    /// Resolves when nobody waits for the answer any more.
    fn poll_left(&mut self, context: &mut Context<'_>) -> Poll<()>;
}
