//! What a person sees of work that takes a while: on a terminal one line that changes, elsewhere one now and then.

use std::io::IsTerminal;
use std::io::Write;
use std::time::Duration;
use std::time::Instant;

use crate::moving::pace;
use crate::moving::pace::Amount;

/// Between two lines where there is no terminal.
const PAUSE: Duration = Duration::from_secs(10);

/// Columns of a line that changes, which must not wrap.
const WIDTH: usize = 79;

/// Work that is under way.
pub(super) struct Progress {
    what: String,
    begun: Instant,
    last: Instant,
    terminal: bool,
}

impl Progress {
    /// Says on standard error what begins.
    #[expect(clippy::disallowed_methods, reason = "for a person to see; nothing is decided by it")]
    pub(super) fn start(what: String) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let now = Instant::now();
        let this = Self { what, begun: now, last: now, terminal };
        this.show("…");
        this
    }

    /// Says what is being done at this moment.
    pub(super) fn say(&mut self, doing: &str) {
        if doing.trim().is_empty() || !self.terminal && self.last.elapsed() < PAUSE {
            return;
        }
        self.last += self.last.elapsed();
        self.show(doing.trim());
    }

    /// Says how far it is.
    pub(super) fn measure(&mut self, done: Amount, whole: Option<Amount>) {
        let millis = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.say(&pace::shown(done, whole, millis));
    }

    fn show(&self, doing: &str) {
        let seconds = self.begun.elapsed().as_secs();
        let mut out = std::io::stderr();
        let text: String = format!("  {} ({seconds} s)  {doing}", self.what).chars().take(WIDTH).collect();
        let _ = if self.terminal { write!(out, "\r\x1b[K{text}") } else { writeln!(out, "{text}") };
        let _ = out.flush();
    }

    /// Takes the line away again; returns how many seconds it took.
    pub(super) fn end(self) -> u64 {
        if self.terminal {
            let mut out = std::io::stderr();
            let _ = write!(out, "\r\x1b[K");
            let _ = out.flush();
        }
        self.begun.elapsed().as_secs()
    }
}
