//! Processes that are not our children: known by a descriptor (pidfd_open(2)), which no later process of the same number
//! is ever mistaken for.
#![expect(unsafe_code, reason = "the system calls have no safe interface")]

use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::supervise::Exit;

use super::fs;

/// How a process ended is known once its parent has noticed: so often it is asked for, with a pause between.
const ATTEMPTS: u32 = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// A process, whatever becomes of its number.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    descriptor: OwnedFd,
}

/// `struct pidfd_info` in its first version (`include/uapi/linux/pidfd.h`, Linux 6.13).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Info {
    mask: u64,
    cgroup: u64,
    numbers: [u32; 11],
    exit_code: i32,
}

/// `PIDFD_GET_INFO`, `_IOWR(0xff, 11, struct pidfd_info)`.
const GET_INFO: libc::c_ulong = 0xc040_ff0b;
/// `PIDFD_INFO_EXIT`, since Linux 6.15.
const WANTS_EXIT: u64 = 1 << 3;

impl Process {
    /// The process that has this number now. The caller knows that it is the one that is meant: a child that was not
    /// reaped, or one that is looked at afterwards.
    pub fn open(pid: i32) -> io::Result<Self> {
        // SAFETY: takes numbers only; the kernel gives a descriptor that is ours, with CLOEXEC.
        let number = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        Ok(Self { pid, descriptor: owned(number)? })
    }

    /// The process that had this number and started then, if it is there still; `started` is [`started`]'s word.
    pub fn identify(pid: i32, then: u64) -> Option<Self> {
        let process = Self::open(pid).ok()?;
        // Looked at after it was opened: what has this number now cannot have begun at that moment.
        (started(pid) == Some(then)).then_some(process)
    }

    /// The process behind a descriptor that was kept since it had this number.
    pub const fn of(pid: i32, descriptor: OwnedFd) -> Self {
        Self { pid, descriptor }
    }

    /// Whether it is there no more; its number may be another one's by now.
    pub fn has_ended(&self) -> bool {
        let path = PathBuf::from(format!("/proc/self/fdinfo/{}", self.descriptor.as_raw_fd()));
        let text = fs::read(&path).unwrap_or_default();
        text.lines().any(|line| line.split_whitespace().eq(["Pid:", "-1"]))
    }

    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// # Errors
    /// ESRCH when it has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let (descriptor, nothing) = (self.descriptor.as_raw_fd(), std::ptr::null::<libc::siginfo_t>());
        // SAFETY: takes numbers only, but for the information, which there is none of.
        let done =
            unsafe { libc::syscall(libc::SYS_pidfd_send_signal, descriptor, signal as i32, nothing, 0) };
        Ok(Errno::result(done).map(drop)?)
    }

    /// Waits until it has ended, and says how, where the kernel can tell whoever is not its parent.
    ///
    /// # Errors
    /// When the descriptor cannot be waited for.
    pub async fn ended(&self) -> io::Result<Exit> {
        // SAFETY: the descriptor is ours, and stays open for as long as `self` is borrowed.
        let descriptor = unsafe { AsyncFd::register_with_interest(self.as_fd(), Interest::READABLE) }?;
        descriptor.readable().await?.retain_ready();
        for _ in 0..ATTEMPTS {
            match self.exit() {
                Ok(Some(exit)) => return Ok(exit),
                Ok(None) => tokio::time::sleep(PAUSE).await,
                Err(_) => break,
            }
        }
        Ok(Exit::Unknown)
    }

    /// How it ended; none as long as its parent has not noticed.
    fn exit(&self) -> io::Result<Option<Exit>> {
        let mut info = Info { mask: WANTS_EXIT, ..Info::default() };
        // SAFETY: the kernel writes at most the size that stands in the request, which is that of Info.
        let done = unsafe { libc::ioctl(self.descriptor.as_raw_fd(), GET_INFO, &raw mut info) };
        Errno::result(done)?;
        if info.mask & WANTS_EXIT == 0 {
            return Ok(None);
        }
        let status = ExitStatus::from_raw(info.exit_code);
        Ok(status.code().map(Exit::Code).or_else(|| status.signal().map(Exit::Signal)))
    }

    /// Every socket that it listens at, as descriptors of our own. What the kernel does not let us see is left out.
    pub fn listeners(&self) -> Vec<OwnedFd> {
        let Ok(entries) = fs::list(&PathBuf::from(format!("/proc/{}/fd", self.pid))) else {
            return Vec::new();
        };
        let number = |path: PathBuf| path.file_name()?.to_str()?.parse::<RawFd>().ok();
        let mut numbers: Vec<RawFd> = entries.into_iter().filter_map(number).collect();
        numbers.sort_unstable();
        let socket = |number: &RawFd| {
            std::fs::read_link(format!("/proc/{}/fd/{number}", self.pid))
                .is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
        };
        let copies = numbers.into_iter().filter(socket).filter_map(|number| self.copy(number).ok());
        copies.filter(super::socket::listens).collect()
    }

    fn copy(&self, number: RawFd) -> io::Result<OwnedFd> {
        // SAFETY: takes numbers only; the kernel gives a descriptor that is ours, with CLOEXEC.
        let copy = unsafe { libc::syscall(libc::SYS_pidfd_getfd, self.descriptor.as_raw_fd(), number, 0) };
        owned(copy)
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

fn owned(number: libc::c_long) -> io::Result<OwnedFd> {
    let number = Errno::result(number)?;
    let number = RawFd::try_from(number).map_err(io::Error::other)?;
    // SAFETY: the kernel has just given us this number.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// When a process began, in clock ticks since the machine was booted (proc_pid_stat(5)); none if there is none, or only
/// what its parent has not reaped.
pub fn started(pid: i32) -> Option<u64> {
    let stat = fs::read(&PathBuf::from(format!("/proc/{pid}/stat"))).ok()?;
    // Behind its name, which may hold anything, comes its state; the start is the 20th from there.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(started)
}

/// The user that a process runs as.
pub fn owner(pid: i32) -> Option<u32> {
    fs::owner_and_mode(&PathBuf::from(format!("/proc/{pid}"))).ok().map(|(owner, _)| owner)
}

/// Which of its runs the machine is in: numbers of processes and their starts mean nothing in another one.
pub fn boot() -> Option<String> {
    let path = PathBuf::from("/proc/sys/kernel/random/boot_id");
    fs::read(&path).ok().map(|text| text.trim().to_owned())
}

const _: () = assert!(size_of::<Info>() == 64);

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;
    use std::os::unix::net::UnixListener;
    use std::process::Command;
    use std::process::Stdio;

    use nix::sys::wait::Id;
    use nix::sys::wait::WaitPidFlag;
    use nix::sys::wait::waitid;
    use nix::unistd::Pid;

    use super::super::socket::Listening;
    use super::super::socket::listening;
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a process that is not started as synvisor does")]
    fn sleeper() -> std::process::Child {
        Command::new("/bin/sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap()
    }

    #[test]
    fn a_process_is_known_by_its_number_and_its_start() {
        // Mutations, each seen red: the start not compared; a zombie taken for a process.
        let mut child = sleeper();
        let pid = child.id().cast_signed();
        let then = started(pid).unwrap();
        assert!(Process::identify(pid, then + 1).is_none());
        let process = Process::identify(pid, then).unwrap();
        process.signal(Signal::SIGKILL).unwrap();
        let dead = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        waitid(Id::Pid(Pid::from_raw(pid)), dead).unwrap();
        assert!(Process::identify(pid, then).is_none(), "a zombie");
        child.wait().unwrap();
        assert!(Process::identify(pid, then).is_none());
        assert_eq!(process.signal(Signal::SIGTERM).unwrap_err().raw_os_error(), Some(libc::ESRCH));
        assert!(boot().unwrap().len() > 30);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_end_of_a_process_is_seen_and_how_it_came() {
        // Mutations, each seen red: not waited for; not asked how. Before Linux 6.15 nobody but the parent learns how.
        let mut child = sleeper();
        let process = Process::open(child.id().cast_signed()).unwrap();
        let mut ended = Box::pin(process.ended());
        // For longer than one that has ended is asked how.
        let longer = PAUSE * (4 * ATTEMPTS);
        assert!(tokio::time::timeout(longer, &mut ended).await.is_err(), "it lives");
        child.kill().unwrap();
        child.wait().unwrap();
        let exit = ended.await.unwrap();
        let release = fs::read(std::path::Path::new("/proc/sys/kernel/osrelease")).unwrap();
        let version: Vec<u32> = release.split('.').map_while(|part| part.parse().ok()).collect();
        let told = version >= vec![6, 15];
        assert_eq!(exit, if told { Exit::Signal(9) } else { Exit::Unknown });
    }

    #[test]
    fn listening_sockets_of_another_process_can_be_had() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let other = std::os::unix::net::UnixDatagram::unbound().unwrap();
        for descriptor in [listener.as_raw_fd(), other.as_raw_fd()] {
            // SAFETY: a flag of a descriptor that is open.
            assert!(unsafe { libc::fcntl(descriptor, libc::F_SETFD, 0) } >= 0);
        }
        let mut child = sleeper();
        for socket in [OwnedFd::from(listener), OwnedFd::from(other)] {
            // SAFETY: ours, and not used any more.
            unsafe { libc::close(socket.into_raw_fd()) };
        }
        let process = Process::open(child.id().cast_signed()).unwrap();
        let paths = process.listeners().into_iter().filter_map(|socket| match listening(socket).ok()? {
            Listening::Unix(path, _) => Some(path),
            Listening::Tcp(..) => None,
        });
        assert_eq!(paths.collect::<Vec<_>>(), [path]);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
