//! Locks on single bytes of a file (fcntl(2), F_SETLK), of which the kernel says who holds them: by one a process can be
//! told from every other also by somebody who may not look at it in /proc.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use nix::fcntl::FcntlArg;
use nix::fcntl::fcntl;

/// Takes the byte for as long as this process lives and closes no descriptor of the file.
///
/// # Errors
/// Somebody else holds it, or the file is not open for writing.
pub fn take(file: &impl AsFd, byte: u64) -> io::Result<()> {
    Ok(fcntl(file, FcntlArg::F_SETLK(&lock(byte)?)).map(drop)?)
}

/// Who holds the byte; none if nobody does, or there is no such file.
pub fn holder(path: &Path, byte: u64) -> Option<i32> {
    let file = File::open(path).ok()?;
    let mut wanted = lock(byte).ok()?;
    fcntl(&file, FcntlArg::F_GETLK(&mut wanted)).ok()?;
    (i32::from(wanted.l_type) != libc::F_UNLCK).then_some(wanted.l_pid)
}

fn lock(byte: u64) -> io::Result<libc::flock> {
    Ok(libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: byte.try_into().map_err(io::Error::other)?,
        l_len: 1,
        l_pid: 0,
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::Child;
    use std::process::Command;
    use std::process::Stdio;

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a process that is not started as synvisor does")]
    fn python(program: &str) -> Child {
        let mut python = Command::new("python3");
        python.args(["-c", program]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn who_holds_a_byte_is_known_until_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        File::create(&path).unwrap();
        assert_eq!(holder(&path, 3), None);
        let program = format!(
            "import fcntl, sys; f = open('{}', 'r+'); fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 3); \
             print('done', flush=True); sys.stdin.read()",
            path.display()
        );
        let mut other = python(&program);
        other.stdout.as_mut().unwrap().read_exact(&mut [0; 4]).unwrap();
        assert_eq!(holder(&path, 3), Some(other.id().cast_signed()));
        assert_eq!(holder(&path, 4), None);
        let ours = File::options().write(true).open(&path).unwrap();
        take(&ours, 3).unwrap_err();
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(holder(&path, 3), None);
        take(&ours, 3).unwrap();
    }
}
