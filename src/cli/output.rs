//! Printing: the only place that writes to standard output and error.
//!
//! Whoever reads may leave early (`synvisor schema | head`); then there is nobody to tell.

use std::fmt::Display;
use std::io;
use std::io::Write;

use unicode_width::UnicodeWidthStr;

use crate::admin::Account;
use crate::admin::RegistrationToken;
use crate::wire::Generation;
use crate::wire::GenerationResult;
use crate::wire::OverallState;
use crate::wire::StatusReport;
use crate::wire::UnitReport;
use crate::wire::UnitSummary;

use super::Exit;

/// A result, on standard output.
pub(super) fn line(text: impl Display) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// A problem, on standard error.
pub(super) fn problem(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// One of the things that a longer command has done or found.
pub(super) fn fact(what: &str, text: &str) {
    line(format!("  {what:13}  {text}"));
}

/// Says why a command ends without having done what it was to do.
pub(super) fn fail(why: &str) -> Exit {
    problem(why);
    Exit::Failed
}

/// Problems as they were printed; nothing if there are none.
pub(super) fn problems(printed: &str) {
    let _ = write!(io::stderr(), "{printed}");
}

/// Bytes as they are; false when nobody reads them any more.
pub(super) fn raw(bytes: &[u8]) -> bool {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).is_ok()
}

/// The table of `status`.
pub(super) fn status(report: &StatusReport) -> String {
    let state = match report.state {
        OverallState::Starting => "starting",
        OverallState::Ready if report.units.iter().any(|unit| unit.state == "down") => {
            "ready, but for what was stopped by order"
        }
        OverallState::Ready => "ready",
        OverallState::Degraded => "degraded: some units are not ready",
        OverallState::Stopping => "stopping",
    };
    let mut text = format!(
        "synvisor {} (pid {}), {state}, listening on {}\n",
        report.version,
        report.pid,
        report.listen.join(", ")
    );
    for note in &report.notes {
        text.push_str(&format!("note: {note}\n"));
    }
    text.push('\n');
    let longest =
        |cell: fn(&UnitReport) -> &str| report.units.iter().map(|unit| cell(unit).len()).max().unwrap_or(0);
    let (name, role) = (longest(|unit| unit.name.as_str()).max(4), longest(|unit| &unit.role).max(4));
    text.push_str(&format!(
        "{:name$}  {:role$}  {:9}  {:>7}  {:>8}  {:>8}\n",
        "UNIT", "ROLE", "STATE", "PID", "SINCE", "RESTARTS"
    ));
    for unit in &report.units {
        let pid = unit.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        text.push_str(&format!(
            "{:name$}  {:role$}  {:9}  {pid:>7}  {:>8}  {:>8}",
            unit.name,
            unit.role,
            unit.state,
            span(unit.since_ms),
            unit.restarts
        ));
        if let Some(reason) = &unit.reason {
            let first = reason.lines().next().unwrap_or_default();
            text.push_str(&format!("  {first}"));
        }
        text.push('\n');
    }
    text
}

/// What stands above [`summary`].
pub(super) fn summary_head() -> String {
    format!(
        "{:22}  {:>8}  {:>8}  {:>8}  {:>6}  {:>8}  {:>10}  {:>4}",
        "RESTARTED", "STOP", "START", "GAP", "PARKED", "REPLAYED", "TAKEN BACK", "CUT"
    )
}

/// What a restart did to one unit.
pub(super) fn summary(summary: &UnitSummary) -> String {
    let span = |span: Option<u64>| span.map_or_else(|| "-".to_owned(), |millis| format!("{millis} ms"));
    let counts = &summary.counts;
    let retired = match summary.retired {
        0 => String::new(),
        1 => "\n  the process before it still finishes what its clients wait for".to_owned(),
        several => format!("\n  {several} processes before it still finish what their clients wait for"),
    };
    format!(
        "{:22}  {:>8}  {:>8}  {:>8}  {:>6}  {:>8}  {:>10}  {:>4}{retired}",
        summary.unit,
        span(summary.stop_ms),
        span(summary.start_ms),
        span(summary.gap_ms),
        counts.parked,
        counts.replayed,
        counts.taken_back,
        counts.cut
    )
}

/// The list of `generations`, the newest first.
pub(super) fn generations(generations: &[Generation]) -> String {
    let mut text = String::new();
    for generation in generations.iter().rev() {
        let Generation { number, at, who, changes, rollback: _, result, why } = generation;
        let result = match result {
            GenerationResult::Applying => "being applied",
            GenerationResult::Applied => "applied",
            GenerationResult::RolledBack => "rolled back",
            GenerationResult::Failed => "failed",
        };
        text.push_str(&format!("{number:>4}  {}  {result:13}  {who}\n", moment(*at)));
        let why = why.iter().flat_map(|why| why.lines().map(str::trim_start));
        for line in changes.iter().map(String::as_str).chain(why) {
            text.push_str(&format!("      {line}\n"));
        }
    }
    text
}

/// The table of `user list`.
pub(super) fn users(users: &[Account]) -> String {
    let row = |user: &Account| {
        let state = match user {
            Account { erased: true, .. } => "erased",
            Account { deactivated: true, .. } => "deactivated",
            Account { locked: true, .. } => "locked",
            Account { is_guest: true, .. } => "guest",
            Account { .. } => "active",
        };
        let made = user.creation_ts.map_or_else(|| "-".to_owned(), |at| moment(at / 1_000));
        let role = if user.admin { "admin" } else { "user" };
        let shown = harmless(user.displayname.as_deref().unwrap_or_default());
        [harmless(&user.name), role.to_owned(), state.to_owned(), made, shown]
    };
    table(["USER", "ROLE", "STATE", "SINCE", "SHOWN AS"], users.iter().map(row).collect())
}

/// The table of `register-token list`.
pub(super) fn registration_tokens(tokens: &[RegistrationToken], shown: bool) -> String {
    let row = |token: &RegistrationToken| {
        let allowed = token.uses_allowed.map_or_else(|| "any".to_owned(), |uses| uses.to_string());
        let expires = token.expiry_time.map_or_else(|| "never".to_owned(), |at| moment(at / 1_000));
        let secret = if shown { token.token.clone() } else { String::new() };
        [token.name(), allowed, token.completed.to_string(), token.pending.to_string(), expires, secret]
    };
    let last = if shown { "TOKEN" } else { "" };
    table(["NAME", "USES", "DONE", "PENDING", "EXPIRES", last], tokens.iter().map(row).collect())
}

/// Columns as wide as what is in them.
fn table<const N: usize>(head: [&str; N], rows: Vec<[String; N]>) -> String {
    let rows: Vec<[String; N]> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let widest = rows.iter().map(|row| row[column].width()).max().unwrap_or(0);
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', widest - cell.width() + 2));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// What somebody else has written, without signs that would steer a terminal or turn the line around.
fn harmless(text: &str) -> String {
    let steers = |sign: char| {
        sign.is_control()
            || matches!(sign, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|sign| if steers(sign) { '\u{fffd}' } else { sign }).collect()
}

/// Seconds since 1970 as date and time.
fn moment(at: u64) -> String {
    let at = i64::try_from(at).ok().and_then(|at| jiff::Timestamp::from_second(at).ok()).unwrap_or_default();
    at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// Milliseconds as a person says them.
fn span(millis: u64) -> String {
    let seconds = millis / 1_000;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::UnitName;
    use crate::wire::Incarnation;

    #[test]
    fn status_is_a_table_that_says_why() {
        let unit = |name: &str, state: &str, pid, reason: Option<&str>| UnitReport {
            name: UnitName::new(name),
            role: name.to_owned(),
            state: state.to_owned(),
            pid,
            incarnation: Incarnation(1),
            restarts: 0,
            since_ms: 61_000,
            reason: reason.map(str::to_owned),
            made: None,
        };
        let report = StatusReport {
            version: "1".to_owned(),
            takeovers: 0,
            pid: 7,
            state: OverallState::Degraded,
            listen: vec!["127.0.0.1:8008".to_owned()],
            certificates: Vec::new(),
            notes: vec!["a note".to_owned()],
            units: vec![
                unit("main", "ready", Some(12), None),
                unit("generic-1", "backoff", None, Some("exit status 1")),
            ],
        };
        let expected = "\
synvisor 1 (pid 7), degraded: some units are not ready, listening on 127.0.0.1:8008
note: a note

UNIT       ROLE       STATE          PID     SINCE  RESTARTS
main       main       ready           12     1 min         0
generic-1  generic-1  backoff          -     1 min         0  exit status 1
";
        assert_eq!(status(&report), expected);
    }
    #[test]
    fn users_are_a_table_that_no_display_name_breaks() {
        // Mutation: signs that turn a line around let through: seen red.
        let user = |name: &str, displayname: Option<&str>| Account {
            name: name.to_owned(),
            displayname: displayname.map(str::to_owned),
            admin: displayname.is_none(),
            deactivated: displayname.is_none(),
            erased: false,
            locked: false,
            is_guest: false,
            user_type: None,
            creation_ts: Some(1_700_000_000_000),
        };
        let expected = "\
USER      ROLE   STATE        SINCE                    SHOWN AS
@a:b.c    user   active       2023-11-14 22:13:20 UTC  Al\u{fffd}[2Jice \u{fffd}x
@bc:d.ef  admin  deactivated  2023-11-14 22:13:20 UTC
@\u{4f60}:b.c   user   active       2023-11-14 22:13:20 UTC  you
";
        let all = [
            user("@a:b.c", Some("Al\u{1b}[2Jice \u{202e}x")),
            user("@bc:d.ef", None),
            user("@\u{4f60}:b.c", Some("you")),
        ];
        assert_eq!(users(&all), expected);
    }
}
