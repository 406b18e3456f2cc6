//! Locks on files, which a process gives to its children (flock(2)).

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Read;
use std::io::Seek;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::Flock;
use nix::fcntl::FlockArg;

use super::fs::FsError;
use super::fs::at;
use super::users::User;

/// A lock that this process holds as long as it lives.
#[derive(Debug)]
pub struct Lock {
    file: Flock<File>,
}

impl Lock {
    /// Writes our pid into it, for whoever fails to get it.
    pub fn sign(&mut self) -> Result<(), FsError> {
        let mut write = || -> io::Result<()> {
            self.file.set_len(0)?;
            self.file.rewind()?;
            write!(self.file, "{}", std::process::id())
        };
        write().map_err(at("write", Path::new("the lock of the supervisor")))
    }
}

/// A child that inherits the descriptor holds the lock too, for as long as it lives.
impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// How many may hold a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One, whose pid the file then says.
    Exclusive,
    /// Any number.
    Shared,
}

/// Why a lock was not had.
#[derive(Debug)]
pub enum LockError {
    /// Another process holds it; its pid, if it wrote one.
    Held(Option<u32>),
    Fs(FsError),
}

/// Takes the lock at `path`; with `create` false a missing file is no lock.
pub fn take(path: &Path, kind: Kind, create: bool, owner: Option<&User>) -> Result<Option<Lock>, LockError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(create).truncate(false).mode(0o644).custom_flags(libc::O_NOFOLLOW);
    let file = match options.open(path) {
        Ok(file) => file,
        Err(error) if !create && error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(LockError::Fs(at("open", path)(error))),
    };
    let how = match kind {
        Kind::Exclusive => FlockArg::LockExclusiveNonblock,
        Kind::Shared => FlockArg::LockSharedNonblock,
    };
    let mut file = match Flock::lock(file, how) {
        Ok(file) => file,
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            return Err(LockError::Held(pid.trim().parse().ok()));
        }
        Err((_, errno)) => return Err(LockError::Fs(at("lock", path)(errno.into()))),
    };
    let mut write = || -> io::Result<()> {
        if let Some(user) = owner {
            std::os::unix::fs::fchown(&*file, Some(user.uid), Some(user.gid))?;
        }
        file.set_len(0)?;
        if kind == Kind::Exclusive {
            // Only for people to read: on a full disk it is held all the same.
            let _ = write!(file, "{}", std::process::id());
        }
        Ok(())
    };
    if create {
        write().map_err(|error| LockError::Fs(at("write", path)(error)))?;
    }
    Ok(Some(Lock { file }))
}

#[cfg(test)]
mod tests {
    use super::super::process;
    use super::*;

    #[test]
    fn a_lock_is_held_once_and_names_its_holder() {
        // Mutations, each seen red: shared ones taken as exclusive; a pid written into shared ones.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let own = std::process::id();
        assert!(take(&path, Kind::Exclusive, false, None).unwrap().is_none());
        let held = take(&path, Kind::Exclusive, true, None).unwrap();
        for kind in [Kind::Exclusive, Kind::Shared] {
            let second = take(&path, kind, true, None);
            assert!(matches!(second, Err(LockError::Held(Some(pid))) if pid == own));
        }
        assert_eq!(process::holders(&path), [own.cast_signed()]);
        drop(held);
        assert_eq!(process::holders(&path), [0; 0]);
        let many = [Kind::Shared; 2].map(|kind| take(&path, kind, true, None).unwrap().unwrap());
        assert!(matches!(take(&path, Kind::Exclusive, true, None), Err(LockError::Held(None))));
        drop(many);
        assert!(take(&path, Kind::Exclusive, false, None).unwrap().is_some());
    }
}
