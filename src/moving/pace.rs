//! How far something is, how fast it goes, and how long it will take, in words.

/// Files, and bytes in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    pub files: u64,
    pub bytes: u64,
}

/// Signs of the bar.
const BAR: u64 = 10;

/// Before so many milliseconds nobody can tell how long it will take.
const SETTLED: u64 = 2_000;

/// A line on work that has gone on for some milliseconds; `whole` is all that there is to do, where that is known.
pub fn shown(done: Amount, whole: Option<Amount>, millis: u64) -> String {
    let rate = done.bytes.saturating_mul(1_000) / millis.max(1);
    let moved = match whole {
        Some(whole) => format!("{} of {}", size(done.bytes), size(whole.bytes)),
        None => size(done.bytes),
    };
    let Some(whole) = whole else {
        return format!("{} files, {moved}, {}/s", done.files, size(rate));
    };
    // Small files cost as files, large ones as bytes.
    let share = share(done.files, whole.files).min(share(done.bytes, whole.bytes));
    let filled = usize::try_from(share * BAR / 1_000).unwrap_or_default();
    let empty = usize::try_from(BAR).unwrap_or_default().saturating_sub(filled);
    let left = match share {
        0 => String::new(),
        _ if millis < SETTLED => String::new(),
        share => format!(", {} left", span(millis * (1_000 - share) / share / 1_000)),
    };
    format!("{}{} {:2} % {moved}, {}/s{left}", "#".repeat(filled), ".".repeat(empty), share / 10, size(rate))
}

/// In thousandths.
fn share(done: u64, whole: u64) -> u64 {
    let exact = u128::from(done) * 1_000 / u128::from(whole.max(1));
    if whole == 0 { 1_000 } else { u64::try_from(exact).unwrap_or(1_000).min(1_000) }
}

/// Bytes as a person says them.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut tenths = u128::from(bytes) * 10;
    while tenths >= 10_240 && unit + 1 < UNITS.len() {
        tenths /= 1_024;
        unit += 1;
    }
    let name = UNITS.get(unit).unwrap_or(&"B");
    if unit == 0 || tenths >= 100 {
        return format!("{} {name}", tenths / 10);
    }
    format!("{}.{} {name}", tenths / 10, tenths % 10)
}

fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_two_digits_that_count() {
        let sizes = [0, 1023, 1024, 10_239, 1_234_567, 85 << 30, u64::MAX];
        let said = ["0 B", "1023 B", "1.0 KiB", "9.9 KiB", "1.1 MiB", "85 GiB", "16777215 TiB"];
        assert_eq!(sizes.map(size), said);
    }

    #[test]
    fn what_is_left_goes_by_the_slower_of_files_and_bytes() {
        // Mutation: bytes alone counted: seen red.
        let whole = Amount { files: 1_000, bytes: 10 << 20 };
        let done = Amount { files: 250, bytes: 5 << 20 };
        let line = shown(done, Some(whole), 20_000);
        assert_eq!(line, "##........ 25 % 5.0 MiB of 10 MiB, 256 KiB/s, 1 min left");
        assert_eq!(shown(done, Some(whole), 1_000), "##........ 25 % 5.0 MiB of 10 MiB, 5.0 MiB/s");
        assert_eq!(shown(done, None, 1_000), "250 files, 5.0 MiB, 5.0 MiB/s");
        let nothing = Amount::default();
        assert_eq!(shown(nothing, Some(nothing), 0), "########## 100 % 0 B of 0 B, 0 B/s");
    }
}
