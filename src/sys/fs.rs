//! Files and directories, with the path in every error.

use std::fs::DirBuilder;
use std::fs::File;
use std::fs::OpenOptions;
use std::fs::Permissions;
use std::io;
use std::io::Read;
use std::io::Seek;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;

use nix::fcntl::FcntlArg;
use nix::fcntl::SealFlag;
use nix::fcntl::fcntl;
use nix::sys::memfd::MFdFlags;
use nix::sys::memfd::memfd_create;
use nix::unistd::UnlinkatFlags;
use nix::unistd::unlinkat;

use super::descriptors;
use super::users::User;

/// An error of the file system and where it happened.
#[derive(Debug)]
pub struct FsError {
    doing: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl std::fmt::Display for FsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot {} {}: {}", self.doing, self.path.display(), self.source)?;
        let directory = self.path.parent().unwrap_or(&self.path).display();
        let kind = self.source.kind();
        if matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return write!(f, "\n  make room on its file system: df -h {directory}");
        }
        if kind == io::ErrorKind::ReadOnlyFilesystem {
            return write!(
                f,
                "\n  dmesg says why it became read-only; then: mount -o remount,rw $(findmnt -no TARGET -T {directory})"
            );
        }
        if descriptors::are_used_up(&self.source) {
            return write!(f, "\n  raise LimitNOFILE= of the service: it is {}", descriptors::limit());
        }
        Ok(())
    }
}

impl std::error::Error for FsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl FsError {
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }
}

/// Makes an error of what the system says: what was to be done, and where.
pub fn at<'a>(doing: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> FsError + 'a {
    move |source| FsError { doing, path: path.to_owned(), source }
}

/// Whether we may read a file or a directory.
pub fn readable(path: &Path) -> Result<(), FsError> {
    File::open(path).map(drop).map_err(at("read", path))
}

/// The owner of a file and its permission bits.
pub fn owner_and_mode(path: &Path) -> Result<(u32, u32), FsError> {
    let metadata = path.metadata().map_err(at("look at", path))?;
    Ok((metadata.uid(), metadata.mode() & 0o7777))
}

/// Reads a text file.
pub fn read(path: &Path) -> Result<String, FsError> {
    let mut text = String::new();
    File::open(path).and_then(|mut file| file.read_to_string(&mut text)).map_err(at("read", path))?;
    Ok(text)
}

/// The first bytes of a file, at most `most`.
pub fn read_start(path: &Path, most: u64) -> Result<Vec<u8>, FsError> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes)).map_err(at("read", path))?;
    Ok(bytes)
}

/// Whether a file has these bytes and this mode.
pub fn holds(path: &Path, bytes: &[u8], mode: u32) -> bool {
    let same = |file: &mut File| -> io::Result<bool> {
        let mut held = Vec::new();
        file.read_to_end(&mut held)?;
        Ok(held == bytes && file.metadata()?.permissions().mode() & 0o7777 == mode)
    };
    File::open(path).and_then(|mut file| same(&mut file)).unwrap_or(false)
}

/// Replaces a file as a whole: a reader sees the old content or the new, and a crash leaves one of them.
///
/// Does nothing and returns false when the file already holds these bytes with this mode.
pub fn replace(path: &Path, bytes: &[u8], mode: u32, owner: Option<&User>) -> Result<bool, FsError> {
    if holds(path, bytes, mode) {
        return Ok(false);
    }
    Replacement::new(path, bytes, mode, owner)?.commit()?;
    Ok(true)
}

/// Replaces a file that somebody else keeps: its owner, its mode, and a link that leads to it stay.
pub fn rewrite(path: &Path, bytes: &[u8]) -> Result<(), FsError> {
    let real = path.canonicalize().map_err(at("find", path))?;
    let metadata = real.metadata().map_err(at("look at", path))?;
    let owner = User { name: String::new(), uid: metadata.uid(), gid: metadata.gid() };
    let ours = metadata.uid() == nix::unistd::geteuid().as_raw()
        && metadata.gid() == nix::unistd::getegid().as_raw();
    Replacement::new(&real, bytes, metadata.mode() & 0o7777, Some(&owner).filter(|_| !ours))?.commit()
}

/// What a file system has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that an ordinary user may still write, and all of it.
    pub free: u64,
    pub size: u64,
    /// Files that may still be made, of all; 0 where they are not counted.
    pub free_files: u64,
    pub files: u64,
}

/// What the file system has room for that a path lies on.
pub fn space(path: &Path) -> Result<Space, FsError> {
    let found = nix::sys::statvfs::statvfs(path).map_err(|errno| at("look at", path)(errno.into()))?;
    let size = found.fragment_size();
    Ok(Space {
        free: found.blocks_available() * size,
        size: found.blocks() * size,
        free_files: found.files_available(),
        files: found.files(),
    })
}

/// When a file was written last, in seconds and nanoseconds, to put files in order; none of one that is not there.
pub fn modified(path: &Path) -> Option<(i64, i64)> {
    let metadata = path.metadata().ok()?;
    Some((metadata.mtime(), metadata.mtime_nsec()))
}

/// A file that is to take the place of another one, all of it on the disk already; dropped, it leaves nothing.
#[derive(Debug)]
pub struct Replacement {
    path: PathBuf,
    /// None once it has its place.
    temporary: Option<PathBuf>,
}

impl Replacement {
    /// # Errors
    /// Of the file system; then nothing is left of it.
    pub fn new(path: &Path, bytes: &[u8], mode: u32, owner: Option<&User>) -> Result<Self, FsError> {
        let write = || -> io::Result<Self> {
            let (this, file) = beside(path, bytes, mode)?;
            if let Some(user) = owner {
                std::os::unix::fs::fchown(&file, Some(user.uid), Some(user.gid))?;
            }
            file.sync_all()?;
            Ok(this)
        };
        write().map_err(at("write", path))
    }

    /// Takes its place.
    ///
    /// # Errors
    /// Of the file system.
    pub fn commit(mut self) -> Result<(), FsError> {
        let path = self.path.clone();
        let mut take = || -> io::Result<()> {
            self.rename()?;
            File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
        };
        take().map_err(at("write", &path))
    }

    fn rename(&mut self) -> io::Result<()> {
        if let Some(temporary) = &self.temporary {
            std::fs::rename(temporary, &self.path)?;
        }
        self.temporary = None;
        Ok(())
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // On a full disk its part of the content would take the last of the room.
            let _ = std::fs::remove_file(temporary);
        }
    }
}

/// The same for a file of our own that need not outlive the machine's run: nothing waits for the disk.
pub fn replace_fleeting(path: &Path, bytes: &[u8]) -> Result<(), FsError> {
    let write = || beside(path, bytes, 0o600)?.0.rename();
    write().map_err(at("write", path))
}

/// A new file that is to take the place of the one at `path`.
fn beside(path: &Path, bytes: &[u8], mode: u32) -> io::Result<(Replacement, File)> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let _ = std::fs::remove_file(&temporary);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    let this = Replacement { path: path.to_owned(), temporary: Some(temporary) };
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    Ok((this, file))
}

/// Whether there is a socket; none where we may not look.
pub fn is_socket(path: &Path) -> Option<bool> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) => Some(metadata.file_type().is_socket()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(false),
        Err(_) => None,
    }
}

/// Makes a directory, and those above it, unless it exists; in either case gives it this mode and owner.
///
/// One that is a symbolic link is refused where it would get an owner: that owner could lead us anywhere by it.
pub fn directory(path: &Path, mode: u32, owner: Option<&User>) -> Result<(), FsError> {
    let make = || -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o755).create(path)?;
        let no_link = if owner.is_some() { libc::O_NOFOLLOW } else { 0 };
        let directory = OpenOptions::new().read(true).custom_flags(no_link | libc::O_DIRECTORY).open(path)?;
        if let Some(user) = owner {
            std::os::unix::fs::fchown(&directory, Some(user.uid), Some(user.gid))?;
        }
        directory.set_permissions(Permissions::from_mode(mode))
    };
    make().map_err(at("make the directory", path))
}

/// Makes a directory, and those above it, unless it exists; one that does stays as it is.
pub fn make_directory(path: &Path) -> Result<(), FsError> {
    DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(at("make the directory", path))
}

/// Where a symbolic link leads; none of what is no link.
pub fn link_target(path: &Path) -> Option<PathBuf> {
    std::fs::read_link(path).ok()
}

/// Makes a symbolic link, in the place of an empty directory if one is there.
pub fn link(path: &Path, target: &Path) -> Result<(), FsError> {
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at("replace", path)(error)),
        Ok(()) | Err(_) => {}
    }
    std::os::unix::fs::symlink(target, path).map_err(at("make the link", path))
}

/// What is in a directory.
pub fn list(path: &Path) -> Result<Vec<PathBuf>, FsError> {
    let entries = || std::fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    entries().map_err(at("list", path))
}

/// Removes a file; one that does not exist is fine.
pub fn remove(path: &Path) -> Result<(), FsError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("remove", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes a directory, if it is empty.
pub fn remove_empty(path: &Path) {
    let _ = std::fs::remove_dir(path);
}

/// Removes a directory with all that is in it, and no link is followed; one that does not exist is fine.
pub fn remove_all(path: &Path) -> Result<(), FsError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at("remove", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes the files of a directory, which must not be a symbolic link.
pub fn clear(path: &Path) -> Result<(), FsError> {
    clear_of(path, |_| true)
}

/// Removes those files of a directory whose name this says; it must not be a symbolic link.
pub fn clear_of(path: &Path, which: impl Fn(&str) -> bool) -> Result<(), FsError> {
    let clear = || -> io::Result<()> {
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let directory = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        // By way of what was opened, whatever lies at the path by now.
        for entry in std::fs::read_dir(format!("/proc/self/fd/{}", directory.as_raw_fd()))? {
            let name = entry?.file_name();
            if which(&name.to_string_lossy()) {
                unlinkat(&directory, name.as_os_str(), UnlinkatFlags::NoRemoveDir)?;
            }
        }
        Ok(())
    };
    clear().map_err(at("clear", path))
}

/// Opens a log file to append to; the descriptor goes to a child.
pub fn append(path: &Path, owner: Option<&User>) -> Result<File, FsError> {
    let open = || -> io::Result<File> {
        let mut options = OpenOptions::new();
        // The directory may belong to the user whom the file is then given to.
        let file = options.append(true).create(true).mode(0o640).custom_flags(libc::O_NOFOLLOW).open(path)?;
        if let Some(user) = owner {
            std::os::unix::fs::fchown(&file, Some(user.uid), Some(user.gid))?;
        }
        Ok(file)
    };
    open().map_err(at("open", path))
}

/// A file in memory that has no name: nobody comes to it who was not given its descriptor.
pub fn nameless(name: &str) -> io::Result<File> {
    Ok(memfd_create(name, MFdFlags::MFD_CLOEXEC)?.into())
}

/// A file without a name that holds this and never anything else (memfd_create(2), F_SEAL_WRITE of fcntl(2)).
pub fn sealed(name: &str, bytes: &[u8]) -> io::Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create(name, flags)?);
    file.write_all(bytes)?;
    let seals =
        SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file)
}

/// What a file holds from its beginning, at most `most` bytes, wherever its writer stands.
pub fn contents(file: &File, most: u64) -> io::Result<String> {
    let mut held = vec![0; usize::try_from(file.metadata()?.len().min(most)).unwrap_or_default()];
    let read = file.read_at(&mut held, 0)?;
    held.truncate(read);
    Ok(String::from_utf8_lossy(&held).into_owned())
}

/// Reads a text file at this very path: a link there, which another user may have put in its place, is an error.
pub fn read_itself(path: &Path) -> Result<String, FsError> {
    let mut text = String::new();
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .and_then(|mut file| file.read_to_string(&mut text))
        .map_err(at("read", path))?;
    Ok(text)
}

/// Reads a text file that nobody but our own user may have written.
pub fn read_own(path: &Path) -> Result<String, FsError> {
    let read = || -> io::Result<String> {
        let mut file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
        if file.metadata()?.uid() != nix::unistd::geteuid().as_raw() {
            return Err(io::Error::other("it belongs to somebody else"));
        }
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        Ok(text)
    };
    read().map_err(at("read", path))
}

/// The last `bytes` bytes of a file, from the start of a line, as text.
pub fn tail(path: &Path, bytes: u64) -> Result<String, FsError> {
    let read = || -> io::Result<String> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(io::SeekFrom::Start(length.saturating_sub(bytes)))?;
        let mut held = Vec::new();
        file.take(bytes).read_to_end(&mut held)?;
        let text = String::from_utf8_lossy(&held).into_owned();
        Ok(match text.split_once('\n') {
            Some((_, rest)) if length > bytes => rest.to_owned(),
            _ => text,
        })
    };
    read().map_err(at("read", path))
}

/// The length of a file, in bytes.
///
/// # Errors
/// Of the file system, with the path.
pub fn length(path: &Path) -> Result<u64, FsError> {
    std::fs::metadata(path).map(|metadata| metadata.len()).map_err(at("read", path))
}

#[cfg(test)]
mod tests {
    use super::super::lock;
    use super::*;

    #[test]
    fn replace_writes_once_with_the_mode_asked_for() {
        // Mutation: the comparison of modes dropped: seen red.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        assert!(replace(&path, b"one", 0o600, None).unwrap());
        assert!(!replace(&path, b"one", 0o600, None).unwrap());
        assert!(replace(&path, b"one", 0o640, None).unwrap());
        assert!(replace(&path, b"two", 0o640, None).unwrap());
        assert_eq!(read(&path).unwrap(), "two");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn tail_starts_at_a_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        replace(&path, b"first line\nsecond\nthird\n", 0o600, None).unwrap();
        assert_eq!(tail(&path, 15).unwrap(), "second\nthird\n");
        assert_eq!(tail(&path, 100).unwrap(), "first line\nsecond\nthird\n");
    }

    #[test]
    fn links_are_not_followed_where_an_owner_could_have_put_them() {
        // Mutation: O_NOFOLLOW left out of each of the five: seen red.
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        let me = User {
            uid: nix::unistd::getuid().as_raw(),
            gid: nix::unistd::getgid().as_raw(),
            name: "me".into(),
        };
        std::fs::create_dir(&target).unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        directory(&link, 0o700, Some(&me)).unwrap_err();
        let kept = target.join("kept");
        replace(&kept, b"", 0o600, None).unwrap();
        clear(&link).unwrap_err();
        assert!(kept.exists());
        let second = dir.path().join("second");
        std::os::unix::fs::symlink(&kept, &second).unwrap();
        assert_eq!(read_itself(&kept).unwrap(), "");
        read_itself(&second).unwrap_err();
        clear(&target).unwrap();
        assert!(!kept.exists());
        std::fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(target.join("file"), &link).unwrap();
        append(&link, Some(&me)).unwrap_err();
        let taken = lock::take(&link, lock::Kind::Shared, true, Some(&me));
        assert!(matches!(taken, Err(lock::LockError::Fs(_))));
        assert_eq!(std::fs::read_dir(&target).unwrap().count(), 0, "nothing was made through the link");
    }
}
