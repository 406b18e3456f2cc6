//! Brings the files of one media store into another, by as many threads as a disk has use for.
//!
//! A file is found under its name when it is complete, and not before; so it does not matter when we are killed. Directories
//! are opened one from the other, so that root follows no link of whoever owns either store.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::moving::media;
use crate::moving::media::Kind;
use crate::moving::media::Seen;
use crate::moving::media::Terms;
use crate::moving::media::Verdict;
use crate::moving::media::Way;
use crate::moving::pace::Amount;
use crate::sys::fs;
use crate::sys::handle;
use crate::sys::handle::Entry;
use crate::sys::handle::Handle;
use crate::sys::users::User;

use super::contents::is_written;
use super::contents::same_bytes;

/// Between two looks of who asks how far it is.
const LOOK: Duration = Duration::from_millis(100);

/// Bytes that are copied between two such looks can see them.
const PIECE: u64 = 8 << 20;

/// The name of the file that is being made.
const UNFINISHED: &CStr = c".synvisor-unfinished";

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Job<'a> {
    pub source: &'a Path,
    /// The same as `source` where only owners are to be set right.
    pub destination: &'a Path,
    /// Those of its folders that count.
    pub folders: &'a [&'static str],
    /// In the order in which they are tried for each file.
    pub ways: &'a [Way],
    pub terms: Terms,
    /// The old server has stopped: a file that both would have had gets its new owner.
    pub last: bool,
    /// Whose everything is in the new store; with none, whose we are.
    pub owner: Option<&'a User>,
    /// Only count what there would be to bring.
    pub dry: bool,
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// How many files by which way.
    pub brought: Vec<(Way, u64)>,
    pub amount: Amount,
    pub held: u64,
    pub removed: u64,
    pub directories: u64,
    /// What could not be brought, each with the reason.
    pub skipped: Vec<String>,
}

/// Carries it out, and says how far it is now and then.
///
/// # Errors
/// A store cannot be opened, or there is no room: what was brought stays, and the same again goes on from there.
pub fn carry_out(job: &Job<'_>, tell: &mut dyn FnMut(Amount)) -> Result<Outcome, String> {
    let open = |path| Handle::open(path).map_err(|error| fs::at("open", path)(error).to_string());
    let (source, destination) = (Arc::new(open(job.source)?), Arc::new(open(job.destination)?));
    let folder = |name: &&str| Task {
        source: Arc::clone(&source),
        destination: Some(Arc::clone(&destination)),
        name: CString::new(*name).unwrap_or_default(),
        path: PathBuf::from(name),
    };
    let tasks: Vec<Task> = job.folders.iter().map(folder).collect();
    let run = Run {
        job,
        queue: Mutex::new(Queue { open: tasks.len(), tasks }),
        changed: Condvar::new(),
        counts: Counts::default(),
        skipped: Mutex::new(Vec::new()),
        fatal: Mutex::new(None),
        broken: AtomicBool::new(false),
        without_clones: AtomicBool::new(false),
    };
    let threads = std::thread::available_parallelism().map_or(4, |cores| cores.get() * 2).clamp(4, 16);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| run.work());
        }
        while !run.is_over() {
            tell(run.counts.amount());
        }
    });
    if let Some(why) = run.fatal.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(why);
    }
    if !job.dry {
        // One wait for all of them: to wait for each would take milliseconds a file.
        destination.sync().map_err(|error| fs::at("write", job.destination)(error).to_string())?;
    }
    let mut skipped = run.skipped.into_inner().unwrap_or_else(PoisonError::into_inner);
    skipped.sort();
    let counts = run.counts;
    let ways = job.ways.iter().map(|way| (*way, counts.by(*way).load(Relaxed)));
    Ok(Outcome {
        brought: ways.filter(|(_, count)| *count > 0).collect(),
        amount: counts.amount(),
        held: counts.held.into_inner(),
        removed: counts.removed.into_inner(),
        directories: counts.directories.into_inner(),
        skipped,
    })
}

/// A directory to be gone through, which lies in both of these.
struct Task {
    source: Arc<Handle>,
    /// None where nothing is made and it is not there.
    destination: Option<Arc<Handle>>,
    name: CString,
    /// From the root of the store.
    path: PathBuf,
}

struct Queue {
    tasks: Vec<Task>,
    /// With those that are being worked on.
    open: usize,
}

#[derive(Default)]
struct Counts {
    cloned: AtomicU64,
    linked: AtomicU64,
    copied: AtomicU64,
    moved: AtomicU64,
    /// In files that were brought, and in the part of those that are being copied.
    bytes: AtomicU64,
    held: AtomicU64,
    removed: AtomicU64,
    directories: AtomicU64,
}

impl Counts {
    const fn by(&self, way: Way) -> &AtomicU64 {
        match way {
            Way::Reflink => &self.cloned,
            Way::HardLink => &self.linked,
            Way::Copy => &self.copied,
            Way::Rename => &self.moved,
        }
    }

    fn amount(&self) -> Amount {
        let all = [&self.cloned, &self.linked, &self.copied, &self.moved];
        Amount { files: all.iter().map(|count| count.load(Relaxed)).sum(), bytes: self.bytes.load(Relaxed) }
    }
}

fn one_more(count: &AtomicU64) {
    count.fetch_add(1, Relaxed);
}

struct Run<'a> {
    job: &'a Job<'a>,
    queue: Mutex<Queue>,
    /// Something is to be done, or nothing any more.
    changed: Condvar,
    counts: Counts,
    skipped: Mutex<Vec<String>>,
    /// Why nothing more is done.
    fatal: Mutex<Option<String>>,
    broken: AtomicBool,
    /// The file system has shown that it cannot clone.
    without_clones: AtomicBool,
}

/// One directory in both stores.
struct Pair<'a> {
    source: &'a Handle,
    destination: &'a Handle,
    path: &'a Path,
}

impl Run<'_> {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        let over = |queue: &mut Queue| queue.open > 0;
        let waited = self.changed.wait_timeout_while(self.queue(), LOOK, over);
        waited.unwrap_or_else(PoisonError::into_inner).0.open == 0
    }

    fn work(&self) {
        loop {
            let idle = |queue: &mut Queue| queue.open > 0 && queue.tasks.is_empty();
            let mut queue =
                self.changed.wait_while(self.queue(), idle).unwrap_or_else(PoisonError::into_inner);
            // The last first: so no more directories stay open than the store is deep.
            let Some(task) = queue.tasks.pop() else { return };
            drop(queue);
            let below = if self.broken.load(Relaxed) { Vec::new() } else { self.directory(&task) };
            let mut queue = self.queue();
            queue.open = queue.open + below.len() - 1;
            queue.tasks.extend(below);
            drop(queue);
            self.changed.notify_all();
        }
    }

    /// Does what is to be done in one directory, and returns those in it.
    fn directory(&self, task: &Task) -> Vec<Task> {
        let unread = |error: io::Error| {
            // Synapse has deleted it meanwhile.
            if error.kind() != io::ErrorKind::NotFound {
                self.skip(&task.path, &error.to_string());
            }
        };
        let source = match task.source.enter(&task.name) {
            Ok(source) => source,
            Err(error) => {
                unread(error);
                return Vec::new();
            }
        };
        let entries = match source.entries() {
            Ok(entries) => entries,
            Err(error) => {
                unread(error);
                return Vec::new();
            }
        };
        let (destination, held) = match self.counterpart(task) {
            Ok(Some((destination, held))) => (Some(destination), held),
            Ok(None) if self.job.dry => (None, BTreeMap::new()),
            Ok(None) => return Vec::new(),
            Err(error) => {
                self.fail(&task.path, error);
                return Vec::new();
            }
        };
        let (source, destination) = (Arc::new(source), destination.map(Arc::new));
        let mut below = Vec::new();
        for (name, entry) in &entries {
            let path = || task.path.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
            match entry.kind.map_or_else(|| Ok(source.look(name)?.0.kind), Ok::<Kind, io::Error>) {
                Ok(Kind::Directory) => below.push(Task {
                    source: Arc::clone(&source),
                    destination: destination.clone(),
                    name: name.clone(),
                    path: path(),
                }),
                Ok(Kind::File) if name.as_c_str() == UNFINISHED => {}
                Ok(Kind::File) => match &destination {
                    Some(destination) => {
                        let pair = Pair { source: &source, destination, path: &path() };
                        self.file(&pair, name, entry, held.get(name));
                    }
                    None => self.would_bring(&source, name),
                },
                Ok(Kind::Link) => {
                    self.skip(&path(), "it is a symbolic link, which is not followed: Synapse makes none");
                }
                Ok(Kind::Other) => self.skip(&path(), "it is neither a file nor a directory"),
                Err(error) => self.skip(&path(), &error.to_string()),
            }
            if self.broken.load(Relaxed) {
                return Vec::new();
            }
        }
        if let Some(destination) = destination.filter(|_| !self.job.dry) {
            let gone = held.iter().filter(|(name, _)| !entries.contains_key(*name));
            for (name, entry) in gone.filter(|(name, _)| media::goes(name.to_bytes(), self.job.terms)) {
                if let Err(error) = self.remove(&destination, name, entry) {
                    self.fail(&task.path, error);
                }
            }
        }
        below
    }

    /// The directory in the new store, made if need be, and what is in it; none if something else has its name.
    fn counterpart(&self, task: &Task) -> io::Result<Option<(Handle, BTreeMap<CString, Entry>)>> {
        let Some(parent) = &task.destination else {
            one_more(&self.counts.directories);
            return Ok(None);
        };
        if self.job.dry {
            return match parent.enter(&task.name) {
                Ok(handle) => handle.entries().map(|held| Some((handle, held))),
                Err(_) => {
                    one_more(&self.counts.directories);
                    Ok(None)
                }
            };
        }
        let (handle, made) = match parent.make(&task.name, self.job.owner) {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTDIR | libc::ELOOP)) => {
                self.skip(&task.path, "something that is no directory has its name in the new store");
                return Ok(None);
            }
            made => made?,
        };
        if made {
            one_more(&self.counts.directories);
            return Ok(Some((handle, BTreeMap::new())));
        }
        if self.job.last && self.is_strange(handle.itself()?.1) {
            handle.give(self.job.owner)?;
        }
        let held = handle.entries()?;
        Ok(Some((handle, held)))
    }

    fn would_bring(&self, source: &Handle, name: &CStr) {
        if let Ok((seen, _)) = source.look(name) {
            one_more(&self.counts.copied);
            self.counts.bytes.fetch_add(seen.size, Relaxed);
        }
    }

    /// Whether somebody has a file who should not.
    fn is_strange(&self, uid: u32) -> bool {
        self.job.owner.is_some_and(|owner| owner.uid != uid)
    }

    fn file(&self, pair: &Pair<'_>, name: &CStr, entry: &Entry, held: Option<&Entry>) {
        let looked = || -> io::Result<(Seen, Option<(Seen, u32)>)> {
            let seen = pair.source.look(name)?.0;
            Ok((seen, held.map(|_| pair.destination.look(name)).transpose()?))
        };
        // The number alone says it where both lie on one file system, and nothing else has to be known.
        if !self.job.last
            && held.is_some_and(|held| held.inode == entry.inode)
            && self.share_device(pair).is_ok_and(|shared| shared)
        {
            return one_more(&self.counts.held);
        }
        let (seen, held) = match looked() {
            Ok(looked) => looked,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return self.skip(pair.path, &error.to_string()),
        };
        let mut verdict = media::judge(&seen, held.as_ref().map(|(held, _)| held), self.job.terms);
        if verdict == Verdict::Compare {
            verdict =
                match pair.source.read(name).and_then(|one| same_bytes(one, pair.destination.read(name)?)) {
                    Ok(true) => Verdict::Held,
                    Ok(false) => media::differs(self.job.terms),
                    Err(error) => return self.skip(pair.path, &error.to_string()),
                };
        }
        match verdict {
            Verdict::Bring | Verdict::Replace if self.job.dry => self.would_bring(pair.source, name),
            Verdict::Bring => self.bring(pair, name, &seen, false),
            Verdict::Replace => self.bring(pair, name, &seen, true),
            Verdict::Held => {
                one_more(&self.counts.held);
                if self.job.last && held.is_some_and(|(_, uid)| self.is_strange(uid)) {
                    self.settle(pair, pair.destination.give_file(name, self.job.owner));
                }
            }
            Verdict::Taken => self.skip(pair.path, "another file has its name in the new store, and stays"),
            // It took the place of a file in this moment, and `Compare` was decided above.
            Verdict::Foreign | Verdict::Compare => self.skip(pair.path, "it is no file any more"),
        }
    }

    fn share_device(&self, pair: &Pair<'_>) -> io::Result<bool> {
        Ok(pair.source.itself()?.0.identity.0 == pair.destination.itself()?.0.identity.0)
    }

    fn bring(&self, pair: &Pair<'_>, name: &CStr, seen: &Seen, replace: bool) {
        for way in self.job.ways {
            if *way == Way::Reflink && self.without_clones.load(Relaxed) {
                continue;
            }
            let done = match way {
                Way::HardLink | Way::Rename => self.rename_or_link(*way, pair, name, seen, replace),
                Way::Reflink | Way::Copy => self.write(*way, pair, name, replace),
            };
            match done {
                Ok(()) => return one_more(self.counts.by(*way)),
                Err(error) if cannot(*way, &error) => {
                    if *way == Way::Reflink && error.raw_os_error() != Some(libc::EXDEV) {
                        self.without_clones.store(true, Relaxed);
                    }
                    if self.job.ways.len() == 1 {
                        let said = format!("it cannot be {} here: {error}", way.done());
                        return self.stop(pair.path, &said);
                    }
                }
                Err(error) => {
                    let _ = pair.destination.remove(UNFINISHED);
                    return self.settle(pair, Err(error));
                }
            }
        }
        self.skip(pair.path, "no way leads there");
    }

    fn rename_or_link(
        &self,
        way: Way,
        pair: &Pair<'_>,
        name: &CStr,
        seen: &Seen,
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
        if destination.look(place)?.0.identity != seen.identity {
            destination.remove(place)?;
            return Err(io::Error::other("it became another one meanwhile"));
        }
        // As long as the old server uses it too, it stays its own.
        if self.job.last {
            destination.give_file(place, self.job.owner)?;
        }
        if replace {
            destination.replace(name, UNFINISHED)?;
        }
        self.counts.bytes.fetch_add(seen.size, Relaxed);
        Ok(())
    }

    fn write(&self, way: Way, pair: &Pair<'_>, name: &CStr, replace: bool) -> io::Result<()> {
        let Pair { source, destination, path } = pair;
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

    fn remove(&self, destination: &Handle, name: &CStr, entry: &Entry) -> io::Result<()> {
        let kind = entry.kind.map_or_else(|| Ok(destination.look(name)?.0.kind), Ok::<Kind, io::Error>)?;
        let gone = if kind == Kind::Directory {
            destination.remove_below(name)?
        } else {
            destination.remove(name)?;
            u64::from(name != UNFINISHED)
        };
        self.counts.removed.fetch_add(gone, Relaxed);
        Ok(())
    }

    /// What goes wrong with one file is said at the end; what would go wrong with all of them ends it.
    fn settle(&self, pair: &Pair<'_>, done: io::Result<()>) {
        match done {
            // Deleted meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if is_fatal(&error) => self.fail(pair.path, error),
            Err(error) => self.skip(pair.path, &error.to_string()),
            Ok(()) => {}
        }
    }

    fn skip(&self, path: &Path, why: &str) {
        let text = format!("{}: {why}", path.display());
        self.skipped.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    fn fail(&self, path: &Path, error: io::Error) {
        let whole = self.job.destination.join(path);
        self.end(&fs::at("write", &whole)(error).to_string());
    }

    fn stop(&self, path: &Path, why: &str) {
        self.end(&format!("{}: {why}\n  leave --how out, and each file comes as it can", path.display()));
    }

    fn end(&self, why: &str) {
        self.broken.store(true, Relaxed);
        let mut fatal = self.fatal.lock().unwrap_or_else(PoisonError::into_inner);
        fatal.get_or_insert_with(|| why.to_owned());
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

fn is_fatal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::ReadOnlyFilesystem
    ) || matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}
