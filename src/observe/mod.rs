//! synvisor's own log lines, on standard error.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Starts logging at `level` (a filter of tracing-subscriber, by default `info`).
pub fn start(level: Option<&str>, in_journal: bool) {
    let filter = EnvFilter::builder().parse_lossy(level.unwrap_or("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    if in_journal {
        // The journal has a time of its own.
        builder.without_time().init();
    } else {
        builder.init();
    }
}
