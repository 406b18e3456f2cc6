//! Brings the files of one media store into another, by as many threads as a disk has use for.
//!
//! A file is found under its name when it is complete, and not before; so it does not matter when we are killed. Directories
//! are opened one from the other, so that root follows no link of whoever owns either store.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::ffi::CString;
use std::io;
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
use crate::moving::media::Terms;
use crate::moving::media::Way;
use crate::moving::pace::Amount;
use crate::sys::fs;
use crate::sys::handle::Entry;
use crate::sys::handle::Found;
use crate::sys::handle::Handle;
use crate::sys::users::User;

mod files;

/// Between two looks of who asks how far it is.
const LOOK: Duration = Duration::from_millis(100);

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
    /// When it begins, by the clock of the file system, where whatever the new store holds is from this old one. A directory
    /// whose files are all links then gets the time of its counterpart, if that was not changed since: as long as both times
    /// are the same, nothing was added there or deleted, and the next pass need not look into it.
    pub since: Option<(i64, i64)>,
}

impl<'a> Job<'a> {
    /// One that adds what is missing, of whoever does it, and takes nothing from the source.
    pub fn new(
        source: &'a Path,
        destination: &'a Path,
        folders: &'a [&'static str],
        ways: &'a [Way],
    ) -> Self {
        let terms = Terms::default();
        Self { source, destination, folders, ways, terms, last: false, owner: None, dry: false, since: None }
    }
}

/// What was done.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// How many files by which way.
    pub brought: Vec<(Way, u64)>,
    pub amount: Amount,
    pub held: u64,
    /// Directories in which nothing has changed.
    pub unchanged: u64,
    pub removed: u64,
    /// Directories that were made, or would be.
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
        unchanged: counts.unchanged.into_inner(),
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
    unchanged: AtomicU64,
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
    one_device: bool,
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
        // Before the list, so that what comes meanwhile makes it another time.
        let before = source.itself().map(|found| found.seen);
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
        let mut linked = true;
        let device = |handle: &Handle| handle.itself().ok().map(|found| found.seen.identity.0);
        let one_device = destination.as_deref().is_some_and(|other| device(other) == device(&source));
        for (name, entry) in &entries {
            let path = || task.path.join(std::ffi::OsStr::from_bytes(name.to_bytes()));
            match entry.kind.map_or_else(|| Ok(source.look(name)?.seen.kind), Ok::<Kind, io::Error>) {
                Ok(Kind::Directory) if self.is_unchanged(&source, destination.as_deref(), name) => {
                    one_more(&self.counts.unchanged);
                }
                Ok(Kind::Directory) => below.push(Task {
                    source: Arc::clone(&source),
                    destination: destination.clone(),
                    name: name.clone(),
                    path: path(),
                }),
                Ok(Kind::File) if name.as_c_str() == UNFINISHED => {}
                Ok(Kind::File) => match &destination {
                    Some(destination) => {
                        let pair = Pair { source: &source, destination, path: &path(), one_device };
                        linked &= self.file(&pair, name, entry, held.get(name));
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
            if let (Ok(before), Some(since)) = (before, self.job.since)
                && linked
                && before.modified < since
            {
                self.settle(&task.path, destination.date(before.modified));
            }
        }
        below
    }

    /// Whether nothing was added to a directory, or deleted from it, since all its files were linked.
    fn is_unchanged(&self, source: &Handle, destination: Option<&Handle>, name: &CStr) -> bool {
        let both = || Some((source.look(name).ok()?, destination?.look(name).ok()?));
        // Of one that has others in it the time says nothing of those.
        let same = |(one, other): (Found, Found)| {
            one.names == 2
                && other.seen.kind == Kind::Directory
                && one.seen.modified == other.seen.modified
                && !self.is_strange(other.uid)
        };
        self.job.since.is_some() && !self.job.terms.compare && !self.job.dry && both().is_some_and(same)
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
        if self.job.last && self.is_strange(handle.itself()?.uid) {
            handle.give(self.job.owner)?;
        }
        let held = handle.entries()?;
        Ok(Some((handle, held)))
    }

    fn would_bring(&self, source: &Handle, name: &CStr) {
        if let Ok(found) = source.look(name) {
            one_more(&self.counts.copied);
            self.counts.bytes.fetch_add(found.seen.size, Relaxed);
        }
    }

    /// Whether somebody has a file who should not.
    fn is_strange(&self, uid: u32) -> bool {
        self.job.owner.is_some_and(|owner| owner.uid != uid)
    }

    fn remove(&self, destination: &Handle, name: &CStr, entry: &Entry) -> io::Result<()> {
        let kind = entry.kind.map_or_else(|| Ok(destination.look(name)?.seen.kind), Ok::<Kind, io::Error>)?;
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
    fn settle(&self, path: &Path, done: io::Result<()>) {
        match done {
            // Deleted meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) if is_fatal(&error) => self.fail(path, error),
            Err(error) => self.skip(path, &error.to_string()),
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

fn is_fatal(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::ReadOnlyFilesystem
    ) || matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}
