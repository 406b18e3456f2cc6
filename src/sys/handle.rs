//! Directories by what was opened rather than by path: whoever owns one on the way cannot lead us anywhere by a link that
//! takes its place meanwhile.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::dir::Dir;
use nix::dir::Type;
use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::fcntl::OFlag;
use nix::fcntl::RenameFlags;
use nix::sys::stat::FileStat;
use nix::sys::stat::Mode;
use nix::sys::stat::SFlag;
use nix::sys::time::TimeSpec;
use nix::unistd::UnlinkatFlags;

use crate::moving::media::Kind;
use crate::moving::media::Seen;

use super::users::User;

/// An open directory.
#[derive(Debug)]
pub struct Handle(OwnedFd);

/// What a directory says of an entry without a look at it.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// None where the file system does not say.
    pub kind: Option<Kind>,
    pub inode: u64,
}

/// What lies at a name, with what is said of it beside its contents.
#[derive(Clone, Copy, Debug)]
pub struct Found {
    pub seen: Seen,
    pub uid: u32,
    /// Whether every user may read it.
    pub open: bool,
    /// How many names it has; a directory without others in it has two, where the file system counts them.
    pub names: u64,
}

const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

impl Handle {
    /// A directory that somebody has named, wherever links lead.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(nix::fcntl::open(path, DIRECTORY, Mode::empty())?))
    }

    /// One in this one; a link is none.
    pub fn enter(&self, name: &CStr) -> io::Result<Self> {
        Ok(Self(nix::fcntl::openat(&self.0, name, DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty())?))
    }

    /// Makes one in this one, 0700, or enters it if it is there; says whether it was made.
    pub fn make(&self, name: &CStr, owner: Option<&User>) -> io::Result<(Self, bool)> {
        match self.enter(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                nix::sys::stat::mkdirat(&self.0, name, Mode::S_IRWXU)?;
                let made = self.enter(name)?;
                made.give(owner)?;
                Ok((made, true))
            }
            entered => Ok((entered?, false)),
        }
    }

    /// Every entry by its name.
    pub fn entries(&self) -> io::Result<BTreeMap<CString, Entry>> {
        let mut directory = Dir::from_fd(self.enter(c".")?.0)?;
        let mut entries = BTreeMap::new();
        for entry in directory.iter() {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let kind = entry.file_type().map(|kind| match kind {
                Type::File => Kind::File,
                Type::Directory => Kind::Directory,
                Type::Symlink => Kind::Link,
                Type::Fifo | Type::CharacterDevice | Type::BlockDevice | Type::Socket => Kind::Other,
            });
            entries.insert(name.to_owned(), Entry { kind, inode: entry.ino() });
        }
        Ok(entries)
    }

    /// What lies at a name.
    pub fn look(&self, name: &CStr) -> io::Result<Found> {
        Ok(found(&nix::sys::stat::fstatat(&self.0, name, AtFlags::AT_SYMLINK_NOFOLLOW)?))
    }

    /// The directory itself.
    pub fn itself(&self) -> io::Result<Found> {
        Ok(found(&nix::sys::stat::fstat(&self.0)?))
    }

    /// Says of the directory when it was changed last.
    pub fn date(&self, modified: (i64, i64)) -> io::Result<()> {
        date(&self.0, modified)
    }

    /// Opens a file to read it; a link is none, and nothing waits for a writer.
    pub fn read(&self, name: &CStr) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        Ok(nix::fcntl::openat(&self.0, name, flags, Mode::empty())?.into())
    }

    /// Makes a file that is not there yet, 0600.
    pub fn create(&self, name: &CStr) -> io::Result<File> {
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        Ok(nix::fcntl::openat(&self.0, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?.into())
    }

    /// Gives a file of another directory a name here too.
    pub fn link(&self, name: &CStr, from: &Self, its: &CStr) -> io::Result<()> {
        Ok(nix::unistd::linkat(&from.0, its, &self.0, name, AtFlags::empty())?)
    }

    /// Gives a file of a directory a name here in the place of its own; nothing is overwritten.
    pub fn take(&self, name: &CStr, from: &Self, its: &CStr) -> io::Result<()> {
        let never = RenameFlags::RENAME_NOREPLACE;
        match nix::fcntl::renameat2(&from.0, its, &self.0, name, never) {
            // Not every file system knows how not to.
            Err(Errno::EINVAL | Errno::ENOSYS) if self.look(name).is_err() => {
                Ok(nix::fcntl::renameat(&from.0, its, &self.0, name)?)
            }
            done => Ok(done?),
        }
    }

    /// Has one file of this directory take the place of another.
    pub fn replace(&self, name: &CStr, with: &CStr) -> io::Result<()> {
        Ok(nix::fcntl::renameat(&self.0, with, &self.0, name)?)
    }

    /// Removes a file; one that is not there is fine.
    pub fn remove(&self, name: &CStr) -> io::Result<()> {
        match nix::unistd::unlinkat(&self.0, name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::ENOENT) => Ok(()),
            done => Ok(done?),
        }
    }

    /// Removes a directory with whatever is in it; says how many files went.
    pub fn remove_below(&self, name: &CStr) -> io::Result<u64> {
        let below = self.enter(name)?;
        let mut gone = 0;
        for (inside, entry) in below.entries()? {
            let kind =
                entry.kind.map_or_else(|| Ok(below.look(&inside)?.seen.kind), Ok::<Kind, io::Error>)?;
            if kind == Kind::Directory {
                gone += below.remove_below(&inside)?;
            } else {
                below.remove(&inside)?;
                gone += 1;
            }
        }
        nix::unistd::unlinkat(&self.0, name, UnlinkatFlags::RemoveDir)?;
        Ok(gone)
    }

    /// Gives a file to a user; what is behind a link is not meant.
    pub fn give_file(&self, name: &CStr, owner: Option<&User>) -> io::Result<()> {
        let Some((uid, gid)) = owner.map(User::ids) else { return Ok(()) };
        let flag = AtFlags::AT_SYMLINK_NOFOLLOW;
        Ok(nix::unistd::fchownat(&self.0, name, Some(uid), Some(gid), flag)?)
    }

    /// Gives the directory itself to a user.
    pub fn give(&self, owner: Option<&User>) -> io::Result<()> {
        give(&self.0, owner)
    }

    /// Waits until whatever was written to its file system is on the disk.
    pub fn sync(&self) -> io::Result<()> {
        Ok(nix::unistd::syncfs(&self.0)?)
    }
}

impl AsFd for Handle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// A file as it is now.
pub fn seen_of(file: &File) -> io::Result<Seen> {
    Ok(seen(&nix::sys::stat::fstat(file)?))
}

/// Gives what is open to a user; with none it stays.
pub fn give(opened: impl AsFd, owner: Option<&User>) -> io::Result<()> {
    let Some(owner) = owner else { return Ok(()) };
    std::os::unix::fs::fchown(opened, Some(owner.uid), Some(owner.gid))
}

/// Says of a file when it was written last.
pub fn date(file: impl AsFd, modified: (i64, i64)) -> io::Result<()> {
    let time = TimeSpec::new(modified.0, modified.1);
    Ok(nix::sys::stat::futimens(file, &time, &time)?)
}

/// Has an empty file share the data of another one (FICLONE, ioctl_ficlone(2)).
///
/// # Errors
/// The file system cannot, or they lie on two.
#[expect(unsafe_code, reason = "nix has no safe form of this call")]
pub fn clone_data(from: &File, to: &File) -> io::Result<()> {
    // SAFETY: the call takes two descriptors, which live until it is over, and no memory.
    if unsafe { libc::ioctl(to.as_raw_fd(), libc::FICLONE, from.as_raw_fd()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn found(stat: &FileStat) -> Found {
    Found {
        seen: seen(stat),
        uid: stat.st_uid,
        open: stat.st_mode & Mode::S_IROTH.bits() != 0,
        names: stat.st_nlink,
    }
}

fn seen(stat: &FileStat) -> Seen {
    let kind = match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFREG => Kind::File,
        SFlag::S_IFDIR => Kind::Directory,
        SFlag::S_IFLNK => Kind::Link,
        _ => Kind::Other,
    };
    Seen {
        kind,
        size: stat.st_size.unsigned_abs(),
        modified: (stat.st_mtime, stat.st_mtime_nsec),
        identity: (stat.st_dev, stat.st_ino),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_link_is_entered_read_or_overwritten() {
        // Mutation: O_NOFOLLOW left out in `enter`: seen red.
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir_all(outside.join("kept")).unwrap();
        std::fs::create_dir_all(dir.path().join("root/below")).unwrap();
        let root = Handle::open(&dir.path().join("root")).unwrap();
        for name in ["root/link", "root/below/link"] {
            std::os::unix::fs::symlink(&outside, dir.path().join(name)).unwrap();
        }
        root.enter(c"link").unwrap_err();
        root.make(c"link", None).unwrap_err();
        root.read(c"link").unwrap_err();
        root.create(c"link").unwrap_err();
        assert_eq!(root.look(c"link").unwrap().seen.kind, Kind::Link);
        assert_eq!(root.remove_below(c"below").unwrap(), 1);
        assert!(outside.join("kept").exists());
        assert!(!dir.path().join("root/below").exists());
    }

    #[test]
    fn nothing_is_overwritten_by_what_takes_a_name() {
        // Mutation: RENAME_NOREPLACE left out: seen red.
        let dir = tempfile::tempdir().unwrap();
        let root = Handle::open(dir.path()).unwrap();
        for name in [c"a", c"b"] {
            drop(root.create(name).unwrap());
        }
        let before = root.look(c"b").unwrap().seen;
        assert_eq!(root.take(c"b", &root, c"a").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(root.look(c"b").unwrap().seen, before);
        root.take(c"c", &root, c"a").unwrap();
        assert_eq!(root.entries().unwrap().len(), 2);
    }
}
