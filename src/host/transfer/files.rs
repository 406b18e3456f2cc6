//! What is done with one file.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::io::Read;
use std::sync::atomic::Ordering::Relaxed;

use crate::moving::media;
use crate::moving::media::Kind;
use crate::moving::media::Verdict;
use crate::moving::media::Way;
use crate::sys::handle;
use crate::sys::handle::Entry;
use crate::sys::handle::Found;

use super::super::contents::is_written;
use super::super::contents::same_bytes;
use super::Pair;
use super::Run;
use super::UNFINISHED;
use super::one_more;

/// Bytes that are copied between two looks of who asks how far it is.
const PIECE: u64 = 8 << 20;

impl Run<'_> {
    /// Does what is to be done with a file; says whether both stores have one and the same now, with its right owner.
    pub(super) fn file(&self, pair: &Pair<'_>, name: &CStr, entry: &Entry, held: Option<&Entry>) -> bool {
        let looked = || -> io::Result<(Found, Option<Found>)> {
            let found = pair.source.look(name)?;
            // The number alone says it where both lie on one file system.
            let same = held.is_some_and(|held| held.inode == entry.inode && pair.one_device);
            let other =
                if same { Some(found) } else { held.map(|_| pair.destination.look(name)).transpose()? };
            Ok((found, other))
        };
        let (found, held) = match looked() {
            Ok(looked) => looked,
            Err(error) => {
                self.settle(pair.path, Err(error));
                return false;
            }
        };
        let seen = &found.seen;
        let mut verdict = media::judge(seen, held.as_ref().map(|held| &held.seen), self.job.terms);
        if verdict == Verdict::Compare {
            let same = || same_bytes(pair.source.read(name)?, pair.destination.read(name)?);
            verdict = match same() {
                Ok(true) => Verdict::Held,
                Ok(false) => media::differs(self.job.terms),
                Err(error) => {
                    self.settle(pair.path, Err(error));
                    return false;
                }
            };
        }
        match verdict {
            Verdict::Bring | Verdict::Replace if self.job.dry => self.would_bring(pair.source, name),
            Verdict::Bring => return self.bring(pair, name, &found, false),
            Verdict::Replace => return self.bring(pair, name, &found, true),
            Verdict::Held => {
                one_more(&self.counts.held);
                let Some(held) = held else { return false };
                let linked = held.seen.identity == seen.identity;
                if !self.is_strange(held.uid) {
                    return linked;
                }
                if self.may_give(&held) {
                    let given = pair.destination.give_file(name, self.job.owner);
                    let done = given.is_ok();
                    self.settle(pair.path, given);
                    return linked && done;
                }
            }
            Verdict::Taken => self.skip(pair.path, "another file has its name in the new store, and stays"),
            // It took the place of a file in this moment, and `Compare` was decided above.
            Verdict::Foreign | Verdict::Compare => self.skip(pair.path, "it is no file any more"),
        }
        false
    }

    /// Whether a file that both servers have may get its new owner: the old one reads it all the same, and no server writes to
    /// it again; what only its owner may read stays the old one's until that has stopped.
    const fn may_give(&self, found: &Found) -> bool {
        self.job.last || found.open
    }

    /// Says whether it is a link whose owner is the right one.
    fn bring(&self, pair: &Pair<'_>, name: &CStr, found: &Found, replace: bool) -> bool {
        for way in self.job.ways {
            if *way == Way::Reflink && self.without_clones.load(Relaxed) {
                continue;
            }
            let done = match way {
                Way::HardLink | Way::Rename => self.rename_or_link(*way, pair, name, found, replace),
                Way::Reflink | Way::Copy => self.write(*way, pair, name, replace),
            };
            match done {
                Ok(()) => {
                    one_more(self.counts.by(*way));
                    return *way == Way::HardLink && (self.may_give(found) || !self.is_strange(found.uid));
                }
                Err(error) if cannot(*way, &error) => {
                    if *way == Way::Reflink && error.raw_os_error() != Some(libc::EXDEV) {
                        self.without_clones.store(true, Relaxed);
                    }
                    if self.job.ways.len() == 1 {
                        let said = format!("it cannot be {} here: {error}", way.done());
                        self.stop(pair.path, &said);
                        return false;
                    }
                }
                Err(error) => {
                    let _ = pair.destination.remove(UNFINISHED);
                    self.settle(pair.path, Err(error));
                    return false;
                }
            }
        }
        self.skip(pair.path, "no way leads there");
        false
    }

    fn rename_or_link(
        &self,
        way: Way,
        pair: &Pair<'_>,
        name: &CStr,
        found: &Found,
        replace: bool,
    ) -> io::Result<()> {
        let Pair { source, destination, .. } = pair;
        let place = if replace { UNFINISHED } else { name };
        if replace {
            destination.remove(UNFINISHED)?;
        }
        match way {
            Way::Rename => destination.take(place, source, name)?,
            Way::HardLink | Way::Reflink | Way::Copy => destination.link(place, source, name)?,
        }
        // Whoever owns the old store may have put a link in its place meanwhile, which Synapse would follow.
        if destination.look(place)?.seen.identity != found.seen.identity {
            destination.remove(place)?;
            return Err(io::Error::other("it became another one meanwhile"));
        }
        if self.may_give(found) && self.is_strange(found.uid) {
            destination.give_file(place, self.job.owner)?;
        }
        if replace {
            destination.replace(name, UNFINISHED)?;
        }
        self.counts.bytes.fetch_add(found.seen.size, Relaxed);
        Ok(())
    }

    fn write(&self, way: Way, pair: &Pair<'_>, name: &CStr, replace: bool) -> io::Result<()> {
        let Pair { source, destination, path, .. } = pair;
        let from = source.read(name)?;
        let before = handle::seen_of(&from)?;
        if before.kind != Kind::File {
            return Err(io::Error::other("it is no file any more"));
        }
        destination.remove(UNFINISHED)?;
        let to = destination.create(UNFINISHED)?;
        let copied = if way == Way::Reflink {
            handle::clone_data(&from, &to).inspect_err(|_| drop(destination.remove(UNFINISHED)))?;
            self.counts.bytes.fetch_add(before.size, Relaxed);
            before.size
        } else {
            self.copy(&from, &to)?
        };
        // The time of before: who writes to it meanwhile is noticed by the next pass.
        handle::date(&to, before.modified)?;
        handle::give(&to, self.job.owner)?;
        if self.job.terms.compare
            && way == Way::Copy
            && !is_written(&from, &to, destination.read(UNFINISHED)?)?
        {
            return Err(io::Error::other("what was written is not what was read"));
        }
        if replace {
            destination.replace(name, UNFINISHED)?;
        } else {
            destination.take(name, destination, UNFINISHED)?;
        }
        let after = handle::seen_of(&from)?;
        if self.job.last && (after != before || copied != before.size) {
            self.skip(path, "it was written to while it was copied: does the old server still run?");
        }
        Ok(())
    }

    fn copy(&self, from: &File, to: &File) -> io::Result<u64> {
        let mut copied = 0;
        loop {
            // copy_file_range(2) or sendfile(2), by the standard library.
            let piece = io::copy(&mut from.take(PIECE), &mut &*to)?;
            copied += piece;
            self.counts.bytes.fetch_add(piece, Relaxed);
            if piece < PIECE {
                return Ok(copied);
            }
        }
    }
}

/// Whether an error says that this is no way for such a file, rather than that something is wrong.
fn cannot(way: Way, error: &io::Error) -> bool {
    let Some(number) = error.raw_os_error() else { return false };
    match way {
        // A file system that knows no clones says one of these (ioctl_ficlone(2)).
        Way::Reflink => {
            matches!(number, libc::EXDEV | libc::EOPNOTSUPP | libc::ENOTTY | libc::EINVAL | libc::ENOSYS)
        }
        // Of somebody else's file an ordinary user may not make one (fs.protected_hardlinks).
        Way::HardLink => matches!(number, libc::EXDEV | libc::EPERM | libc::EMLINK | libc::EOPNOTSUPP),
        Way::Rename => number == libc::EXDEV,
        Way::Copy => false,
    }
}
