//! What becomes of each file of a media store that moves in.
//!
//! Synapse never writes into a file of its media store again (`synapse/media/media_storage.py`, 1.163), so that old and new
//! server may share one: a hard link serves both, whatever the size, until the old one is given up. A clone of its extents
//! (FICLONE) costs as little and has an owner of its own. A rename would leave the old server without its media; it is for
//! who asks for it, once that has stopped.

/// What users of this homeserver have uploaded, and previews of links.
pub const OWN: [&str; 4] = ["local_content", "local_thumbnails", "url_cache", "url_cache_thumbnails"];

/// What can be had again from other servers: Synapse fetches it anew where the file is missing.
pub const REMOTE: [&str; 2] = ["remote_content", "remote_thumbnail"];

/// Every folder of a store.
pub fn folders() -> Vec<&'static str> {
    OWN.iter().chain(&REMOTE).copied().collect()
}

/// The name under which a file is made before it takes its own, so that no half file is ever found; Synapse asks for none
/// that begins with a dot.
pub const UNFINISHED: &str = ".synvisor-unfinished";

/// How a file comes to its new place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Another file that shares the data until one of them is changed.
    Reflink,
    /// The same file, with another name.
    HardLink,
    Copy,
    /// The file goes, with its name.
    Rename,
}

impl Way {
    /// From the cheapest one that leaves the old server what it has: a clone has an owner of its own; a hard link has not,
    /// and is the one that ext4 can; a copy is what is left across file systems.
    pub const BY_ITSELF: [Self; 3] = [Self::Reflink, Self::HardLink, Self::Copy];

    /// As it is said of files.
    pub const fn done(self) -> &'static str {
        match self {
            Self::Reflink => "cloned",
            Self::HardLink => "linked",
            Self::Copy => "copied",
            Self::Rename => "moved",
        }
    }
}

/// What lies at a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    File,
    Directory,
    /// A symbolic link, which is not followed: Synapse makes none, and this one may lead anywhere.
    Link,
    Other,
}

/// A file as it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub kind: Kind,
    pub size: u64,
    /// When it was written last: seconds and nanoseconds.
    pub modified: (i64, i64),
    /// Device and number: the same are the same file.
    pub identity: (u64, u64),
}

/// How one goes about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Whatever the new store holds is from this old one: what is another file there is an older form.
    pub ours: bool,
    /// What the old store has no more was deleted by its server, and goes.
    pub removes: bool,
    /// Files that look the same are held against each other, byte by byte.
    pub compare: bool,
}

/// What is to be done with a file of the old store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Bring,
    /// In the place of an older form.
    Replace,
    /// It is there.
    Held,
    /// It seems to be there: the contents decide between [`Verdict::Held`] and what [`differs`] says.
    Compare,
    /// Another file has its name, and is not ours to replace.
    Taken,
    /// No file at all.
    Foreign,
}

/// What is to be done with what lies in the old store, where this is held under its name in the new one.
pub fn judge(source: &Seen, held: Option<&Seen>, terms: Terms) -> Verdict {
    if source.kind != Kind::File {
        return Verdict::Foreign;
    }
    let Some(held) = held else { return Verdict::Bring };
    if held.identity == source.identity {
        return Verdict::Held;
    }
    if held.kind != Kind::File {
        return Verdict::Taken;
    }
    if held.size != source.size || !same_time(source.modified, held.modified) {
        return differs(terms);
    }
    if terms.compare { Verdict::Compare } else { Verdict::Held }
}

/// What is to be done with a file that is held in another form.
pub const fn differs(terms: Terms) -> Verdict {
    if terms.ours { Verdict::Replace } else { Verdict::Taken }
}

/// Whether a name that the new store has and the old one has not goes.
pub fn goes(name: &[u8], terms: Terms) -> bool {
    terms.removes || name == UNFINISHED.as_bytes()
}

/// Some file systems keep no fractions of seconds.
const fn same_time(source: (i64, i64), held: (i64, i64)) -> bool {
    source.0 == held.0 && (source.1 == held.1 || held.1 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Seen = Seen { kind: Kind::File, size: 5, modified: (7, 9), identity: (1, 1) };
    const OURS: Terms = Terms { ours: true, removes: true, compare: false };
    const THEIRS: Terms = Terms { ours: false, removes: false, compare: false };

    #[test]
    fn what_is_not_ours_is_neither_replaced_nor_removed() {
        // Mutation: `ours` ignored: seen red.
        let another = Seen { identity: (1, 2), size: 6, ..FILE };
        assert_eq!(judge(&FILE, Some(&another), OURS), Verdict::Replace);
        assert_eq!(judge(&FILE, Some(&another), THEIRS), Verdict::Taken);
        let directory = Seen { kind: Kind::Directory, ..another };
        assert_eq!(judge(&FILE, Some(&directory), OURS), Verdict::Taken);
        assert!(goes(b"a", OURS) && !goes(b"a", THEIRS) && goes(UNFINISHED.as_bytes(), THEIRS));
    }

    #[test]
    fn a_file_is_held_if_it_is_the_same_or_looks_so() {
        // Mutation: sizes not compared: seen red.
        let copy = Seen { identity: (2, 1), ..FILE };
        assert_eq!(judge(&FILE, None, OURS), Verdict::Bring);
        assert_eq!(judge(&FILE, Some(&copy), OURS), Verdict::Held);
        assert_eq!(judge(&FILE, Some(&Seen { modified: (7, 0), ..copy }), OURS), Verdict::Held);
        for other in
            [Seen { size: 4, ..copy }, Seen { modified: (8, 9), ..copy }, Seen { modified: (7, 8), ..copy }]
        {
            assert_eq!(judge(&FILE, Some(&other), OURS), Verdict::Replace);
        }
        // What is one file needs no second look.
        let careful = Terms { compare: true, ..OURS };
        assert_eq!(judge(&FILE, Some(&FILE), careful), Verdict::Held);
        assert_eq!(judge(&FILE, Some(&copy), careful), Verdict::Compare);
    }

    #[test]
    fn no_link_is_followed() {
        // Mutation: links taken for files: seen red.
        for kind in [Kind::Link, Kind::Other, Kind::Directory] {
            assert_eq!(judge(&Seen { kind, ..FILE }, None, OURS), Verdict::Foreign);
        }
    }
}
