//! Making child processes: what happens between fork and exec.
#![expect(unsafe_code, reason = "fork, exec and what must happen between them have no safe interface")]

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::os::fd::RawFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::wait::waitpid;
use nix::unistd::ForkResult;
use nix::unistd::Pid;

use super::users::User;

/// A program to run and the surroundings it runs in.
#[derive(Debug)]
pub struct Command<'a> {
    /// Absolute path of the program, then its arguments.
    pub argv: Vec<String>,
    /// What the process calls itself, if not by its program's path.
    pub name: Option<&'a str>,
    /// The whole environment; nothing is inherited.
    pub environment: Vec<(String, String)>,
    pub directory: &'a Path,
    /// Where stdout and stderr go.
    pub output: &'a File,
    /// Descriptors that it finds at 3, 4, …; it gets no others.
    pub descriptors: Vec<BorrowedFd<'a>>,
    /// The user to become; with none the child stays what we are.
    pub user: Option<&'a User>,
    /// How much it lets other processes go first: 0 to 19.
    pub nice: u16,
    /// Permission bits that new files of it do not get.
    pub umask: u32,
}

/// A process that exists and waits for the word to begin: until then it can be noted, so that whoever comes after us
/// knows of it. Dropped, or with this process gone, it ends by itself.
#[derive(Debug)]
pub struct Waiting {
    pid: i32,
    program: String,
    go: OwnedFd,
    errors: File,
}

/// More listeners than this in one process are refused rather than allocated for after fork.
const MOST_DESCRIPTORS: usize = 256;

/// Makes a process in a session of its own that waits for the word to begin.
///
/// # Errors
/// When there can be no more processes or descriptors.
pub fn spawn(command: &Command<'_>) -> io::Result<Waiting> {
    let prepared = Prepared::of(command)?;
    let (errors, report) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    let (waits, go) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
    // Out of the way of the numbers that the child's own descriptors will take.
    let above = i32::try_from(MOST_DESCRIPTORS + 3).map_err(io::Error::other)?;
    let report = duplicate_above(report, above)?;
    // SAFETY: the child calls nothing but async-signal-safe functions on memory that was prepared before the fork.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => {
            wait_for_word(waits.as_raw_fd(), go.as_raw_fd());
            let (step, errno) = prepared.exec();
            prepared.fail(report.as_raw_fd(), step, errno)
        }
        ForkResult::Parent { child } => {
            let program = command.argv.first().cloned().unwrap_or_default();
            Ok(Waiting { pid: child.as_raw(), program, go, errors: File::from(errors) })
        }
    }
}

/// Leaves a process in a session of its own behind that goes on in our place; says whether it is that one. To be called
/// while there is one thread.
///
/// # Errors
/// When there can be no more processes.
pub fn leave_behind() -> io::Result<bool> {
    // SAFETY: no other thread can hold anything that the child would wait for.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Child => {
            nix::unistd::setsid()?;
            Ok(true)
        }
        ForkResult::Parent { .. } => Ok(false),
    }
}

/// In the child: returns when the parent says so, and ends the process if the parent is gone.
fn wait_for_word(waits: RawFd, go: RawFd) {
    let mut byte = 0_u8;
    // SAFETY: plain system calls on descriptors that the child owns.
    unsafe {
        // Our own copy would keep the pipe open for ever.
        libc::close(go);
        loop {
            match libc::read(waits, (&raw mut byte).cast(), 1) {
                1 => return,
                -1 if Errno::last() == Errno::EINTR => {}
                _ => libc::_exit(127),
            }
        }
    }
}

impl Waiting {
    pub const fn pid(&self) -> i32 {
        self.pid
    }

    /// Lets it begin.
    ///
    /// # Errors
    /// What made exec, or a step before it, fail, with the step's name; then the process has been reaped.
    pub fn begin(self) -> io::Result<()> {
        let Self { pid, program, go, mut errors } = self;
        nix::unistd::write(&go, b"g")?;
        let mut told = Vec::new();
        // The pipe closes when exec succeeds.
        errors.read_to_end(&mut told)?;
        let [step, a, b, c, d, ..] = told[..] else {
            return if told.is_empty() {
                Ok(())
            } else {
                Err(io::Error::other("the child died before exec"))
            };
        };
        let _ = waitpid(Pid::from_raw(pid), None);
        let error = io::Error::from_raw_os_error(i32::from_ne_bytes([a, b, c, d]));
        let step = STEPS.get(usize::from(step)).copied().unwrap_or("start");
        Err(io::Error::new(error.kind(), format!("cannot {step} for {program}: {error}")))
    }
}

fn duplicate_above(descriptor: OwnedFd, lowest: RawFd) -> io::Result<OwnedFd> {
    let number = nix::fcntl::fcntl(&descriptor, nix::fcntl::FcntlArg::F_DUPFD_CLOEXEC(lowest))?;
    // SAFETY: the kernel has just given us this number.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// What can fail between fork and exec; the child reports an index into it.
const STEPS: [&str; 7] = [
    "arrange descriptors",
    "forbid core dumps",
    "change user",
    "change directory",
    "drop capabilities",
    "exec",
    "set its priority",
];

struct Prepared {
    program: CString,
    _argv: Vec<CString>,
    argv_pointers: Vec<*const libc::c_char>,
    environment_pointers: Vec<*const libc::c_char>,
    _environment: Vec<CString>,
    directory: CString,
    null: File,
    output: RawFd,
    descriptors: Vec<RawFd>,
    user: Option<(u32, u32)>,
    umask: u32,
    nice: i32,
}

impl Prepared {
    fn of(command: &Command<'_>) -> io::Result<Self> {
        let text = |text: String| CString::new(text).map_err(io::Error::other);
        let mut argv = command.argv.iter().cloned().map(text).collect::<io::Result<Vec<_>>>()?;
        let Some(first) = argv.first_mut() else { return Err(io::Error::other("no program to run")) };
        let program = first.clone();
        if let Some(name) = command.name {
            *first = CString::new(name)?;
        }
        let pairs = command.environment.iter().map(|(name, value)| format!("{name}={value}"));
        let environment = pairs.map(text).collect::<io::Result<Vec<_>>>()?;
        let pointers = |held: &[CString]| -> Vec<*const libc::c_char> {
            held.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
        };
        Ok(Self {
            argv_pointers: pointers(&argv),
            environment_pointers: pointers(&environment),
            program,
            _argv: argv,
            _environment: environment,
            directory: CString::new(command.directory.as_os_str().as_encoded_bytes())?,
            null: File::open("/dev/null")?,
            output: command.output.as_raw_fd(),
            descriptors: command.descriptors.iter().map(AsRawFd::as_raw_fd).collect(),
            user: command.user.map(|user| (user.uid, user.gid)),
            umask: command.umask,
            nice: command.nice.into(),
        })
    }

    /// Runs in the child, between fork and exec; returns only when a step failed.
    fn exec(&self) -> (u8, i32) {
        // SAFETY: plain system calls on descriptors that we own and pointers that live until exec.
        unsafe {
            libc::setsid();
            for signal in 1..=64 {
                // Rust ignores SIGPIPE, and an ignored signal stays ignored over exec.
                libc::signal(signal, libc::SIG_DFL);
            }
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());

            let Ok(count) = i32::try_from(self.descriptors.len()) else { return (0, libc::EMFILE) };
            if !self.arrange(count) {
                return (0, Errno::last_raw());
            }
            // What is left open closes at exec, the report's descriptor among them.
            let first = libc::c_uint::try_from(3 + count).unwrap_or(3);
            libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);

            let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
            if libc::setrlimit(libc::RLIMIT_CORE, &raw const none) < 0 {
                return (1, Errno::last_raw());
            }
            if let Some((uid, gid)) = self.user
                && (libc::setgroups(1, &raw const gid) < 0 || libc::setgid(gid) < 0 || libc::setuid(uid) < 0)
            {
                return (2, Errno::last_raw());
            }
            // Less nice than the supervisor is nobody without a privilege.
            if libc::getpriority(libc::PRIO_PROCESS, 0) < self.nice
                && libc::setpriority(libc::PRIO_PROCESS, 0, self.nice) < 0
            {
                return (6, Errno::last_raw());
            }
            if libc::chdir(self.directory.as_ptr()) < 0 {
                return (3, Errno::last_raw());
            }
            let all = libc::PR_CAP_AMBIENT_CLEAR_ALL;
            if libc::prctl(libc::PR_CAP_AMBIENT, all, 0, 0, 0) < 0 {
                return (4, Errno::last_raw());
            }
            libc::umask(self.umask);
            libc::execve(
                self.program.as_ptr(),
                self.argv_pointers.as_ptr(),
                self.environment_pointers.as_ptr(),
            );
            (5, Errno::last_raw())
        }
    }

    /// Puts descriptors at their numbers: first all out of the way, then each into place.
    ///
    /// # Safety
    /// For the child after fork only.
    unsafe fn arrange(&self, count: i32) -> bool {
        let mut aside = [-1; MOST_DESCRIPTORS];
        let Some(aside) = aside.get_mut(..self.descriptors.len() + 2) else { return false };
        let sources =
            [self.null.as_raw_fd(), self.output].into_iter().chain(self.descriptors.iter().copied());
        for (slot, source) in aside.iter_mut().zip(sources) {
            // SAFETY: duplicates a descriptor that the parent holds open.
            *slot = unsafe { libc::fcntl(source, libc::F_DUPFD_CLOEXEC, 3 + count) };
            if *slot < 0 {
                return false;
            }
        }
        let [null, output, rest @ ..] = aside else { return false };
        let standard = [(*null, 0), (*output, 1), (*output, 2)];
        let ours = rest.iter().copied().zip(3..);
        // SAFETY: dup2 onto numbers that nothing of the child needs.
        standard.into_iter().chain(ours).all(|(from, to)| unsafe { libc::dup2(from, to) } >= 0)
    }

    /// Tells the parent and ends the child.
    fn fail(&self, report: RawFd, step: u8, errno: i32) -> ! {
        let [a, b, c, d] = errno.to_ne_bytes();
        let told = [step, a, b, c, d];
        // SAFETY: writes a local buffer and leaves without running anything of the parent's.
        unsafe {
            libc::write(report, told.as_ptr().cast(), told.len());
            libc::_exit(127)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use crate::supervise::Exit;

    use super::super::process::ended;
    use super::*;

    fn run(script: &str, descriptors: Vec<BorrowedFd<'_>>) -> (Exit, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let output = super::super::fs::append(&path, None).unwrap();
        let waiting = spawn(&Command {
            argv: vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()],
            name: None,
            environment: vec![("GREETING".to_owned(), "hello".to_owned())],
            directory: dir.path(),
            output: &output,
            descriptors,
            user: None,
            nice: 0,
            umask: 0o027,
        })
        .unwrap();
        let pid = waiting.pid();
        waiting.begin().unwrap();
        let exit = ended(waitpid(Pid::from_raw(pid), None).unwrap()).unwrap().1;
        (exit, super::super::fs::read(&path).unwrap())
    }

    /// A program that is given nothing and prints to nobody.
    fn bare(program: &str, arguments: &[&str]) -> Waiting {
        spawn(&Command {
            argv: std::iter::once(&program).chain(arguments).map(|part| (*part).to_owned()).collect(),
            name: None,
            environment: vec![],
            directory: Path::new("/"),
            output: &File::open("/dev/null").unwrap(),
            descriptors: vec![],
            user: None,
            nice: 0,
            umask: 0o077,
        })
        .unwrap()
    }

    #[test]
    fn a_child_gets_its_descriptors_and_no_others() {
        // Mutation: close_range left out and one descriptor opened without CLOEXEC: seen red.
        let stray = File::open("/dev/null").unwrap();
        // Above the numbers that the child's own descriptors take, and open over exec.
        nix::fcntl::fcntl(&stray, nix::fcntl::FcntlArg::F_DUPFD(50)).unwrap();
        let (one, two) = (File::open("/dev/zero").unwrap(), File::open("/dev/null").unwrap());
        // Builtins only: a shell that forks has descriptors of its own meanwhile.
        let script = "for fd in /proc/$$/fd/*; do if [ -e $fd ]; then echo ${fd##*/}; fi; done; \
                      for fd in 0 3 4; do readlink /proc/$$/fd/$fd; done";
        let (exit, text) = run(script, vec![one.as_fd(), two.as_fd()]);
        assert_eq!(exit, Exit::Code(0));
        assert_eq!(text, "0\n1\n2\n3\n4\n/dev/null\n/dev/zero\n/dev/null\n");
    }

    #[test]
    fn a_child_gets_our_environment_umask_and_limits_but_not_our_ignored_signals() {
        // Mutations: signals not reset, RLIMIT_CORE untouched, environment inherited: each seen red.
        // Builtins only for the masks: a shell that forks blocks signals meanwhile.
        let script = "env | grep -v -e ^PWD= -e ^_= -e ^SHLVL= -e ^OLDPWD=; umask; ulimit -Hc; \
                      while read -r name value; do case $name in SigBlk:|SigIgn:) echo $value;; esac; done \
                      </proc/$$/status; exit 3";
        let (exit, text) = run(script, vec![]);
        assert_eq!(exit, Exit::Code(3));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..3], ["GREETING=hello", "0027", "0"]);
        let mask = |line: &str| u64::from_str_radix(line, 16).unwrap();
        assert_eq!(mask(lines[3]), 0, "blocked");
        // glibc keeps signals 32 and 33 to itself: what we inherit there we cannot reset.
        assert_eq!(mask(lines[4]) & !(3 << 31), 0, "ignored");
    }

    #[test]
    fn what_cannot_be_started_says_why_at_once() {
        let error = bare("/nowhere/python", &[]).begin().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("cannot exec for /nowhere/python"), "{error}");
    }

    #[test]
    fn a_process_begins_only_when_it_is_told_to() {
        // Mutations: exec without the word: seen red; its own copy of our end of the pipe kept: it never ends, nor does the test.
        let dir = tempfile::tempdir().unwrap();
        let begun = dir.path().join("begun");
        let waiting = || bare("/bin/touch", &[begun.to_str().unwrap()]);
        let exit = |pid| ended(waitpid(Pid::from_raw(pid), None).unwrap()).unwrap().1;
        let one = waiting();
        let pid = one.pid();
        drop(one);
        assert_eq!(exit(pid), Exit::Code(127));
        assert!(!begun.exists());
        let another = waiting();
        let pid = another.pid();
        another.begin().unwrap();
        assert_eq!(exit(pid), Exit::Code(0));
        assert!(begun.exists());
    }

    #[test]
    fn the_end_by_a_signal_is_told_apart() {
        assert_eq!(run("kill -9 $$", vec![]).0, Exit::Signal(9));
    }
}
