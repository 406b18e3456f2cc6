//! Which known name a mistyped one most likely means.

/// `did you mean "generic"?`, or else the list of what is allowed.
pub(super) fn suggestion<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    match nearest(name, known.iter().copied()) {
        Some(nearest) => format!("did you mean \"{nearest}\"?"),
        None => format!("allowed: {}", known.join(", ")),
    }
}

/// The known name that a mistyped one most likely means.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |name: &str| name.to_lowercase().replace('-', "_");
    let name = plain(name);
    let known: Vec<&str> = known.into_iter().collect();
    let slip = known.iter().map(|other| (distance(&name, &plain(other)), *other)).min();
    // A third of the letters wrong is no longer a slip of the finger.
    slip.filter(|(letters, _)| *letters <= (name.chars().count() / 3).max(1)).map(|(_, other)| other).or_else(
        // Other tools' names for the same thing: `generic_workers_count`, `sender`.
        || {
            let length = |other: &&&str| other.len();
            let contained = known.iter().filter(|other| other.len() > 3 && name.contains(&plain(other)));
            let containing = known.iter().filter(|other| name.len() > 3 && plain(other).contains(&name));
            contained.max_by_key(length).or(containing.min_by_key(length)).copied()
        },
    )
}

/// Letters to add, drop, change or swap to get from one name to the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let change = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut least = change.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    least = least.min(rows[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_finds_its_name_and_nonsense_finds_none() {
        // Mutation: the limit on the distance taken away: seen red by `xyz`; the swap left out: seen red by `snedr`.
        let known = ["generic", "federation_sender", "pusher", "media_repository"];
        let found = |name| nearest(name, known);
        assert_eq!(found("genric"), Some("generic"));
        assert_eq!(found("federation_snedr"), Some("federation_sender"));
        assert_eq!(found("Media-Repository"), Some("media_repository"));
        assert_eq!(found("generic_workers_count"), Some("generic"));
        assert_eq!(found("sender"), Some("federation_sender"));
        assert_eq!(
            nearest("signing_key", ["signing_key_required", "signing_key_file"]),
            Some("signing_key_file")
        );
        assert_eq!(found("xyz"), None);
        assert_eq!(nearest("ab", ["ba"]), Some("ba"));
    }
}
