//! What the query of a request decides: whether a sync starts from nothing.

/// A condition of a rule on the query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    Any,
    /// `since` is absent, or `full_state` is true.
    InitialSync,
    /// `from` is absent.
    FirstEvents,
}

impl Condition {
    /// As the table has it.
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "-" => Some(Self::Any),
            "!since|full_state=true" => Some(Self::InitialSync),
            "!from" => Some(Self::FirstEvents),
            _ => None,
        }
    }

    /// As a person reads it.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Any => "",
            Self::InitialSync => "  without since, or with full_state=true",
            Self::FirstEvents => "  without from",
        }
    }

    /// The letters of queries that fit, as an expression.
    pub(super) const fn letters(self) -> &'static str {
        match self {
            Self::Any => "[abcd]",
            Self::InitialSync => "[bd]",
            Self::FirstEvents => "[cd]",
        }
    }
}

/// A letter for all that matters about a query: b if it is of an initial sync, c of first events, d both, a none.
pub(super) fn letter(query: &str) -> u8 {
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let (mut since, mut from, mut full) = (false, false, false);
    for (name, value) in &mut pairs {
        since |= name == "since";
        from |= name == "from";
        full |= name == "full_state" && value == "true";
    }
    b'a' + u8::from(!since || full) + 2 * u8::from(!from)
}
