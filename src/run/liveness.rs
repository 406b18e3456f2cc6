//! Whether READY processes of Synapse, and the router, still answer, and what the threads of Synapse are doing where they
//! do not.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncSeekExt;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use crate::config::nearest::nearest;
use crate::supervise::Input;
use crate::supervise::Life;
use crate::sys::clock;
use crate::sys::descriptors;
use crate::sys::fs;
use crate::sys::process;
use crate::topology::Role;
use crate::topology::Unit;
use crate::topology::UnitName;
use crate::wire::DumpReport;
use crate::wire::Made;

use super::Driver;
use super::News;
use super::probe;

/// Between two questions that were answered. Whoever is well answers in milliseconds.
const INTERVAL: Duration = Duration::from_secs(10);
/// Between two attempts at one question: a full backlog refuses as nobody does, and both may pass.
const AGAIN: Duration = Duration::from_millis(200);
/// So many questions in a row without an answer are too many.
const STRIKES: u32 = 2;
/// Milliseconds by which a timer of ours may be late before what it says counts for nothing: then we stood still ourselves.
const LATE: u64 = 1_000;

/// Python writes stacks within milliseconds. What has been written is complete when nothing came for this long.
const QUIET: Duration = Duration::from_millis(200);
/// A process that writes all the time, or nothing, is waited for this long.
const PATIENCE: Duration = Duration::from_secs(3);
/// What each stack begins with (CPython: `Python/traceback.c`, `write_thread_id`).
const MARK: &str = "(most recent call first):";
/// More than the most that Python writes: 100 threads of 100 frames. Bytes.
const MOST: u64 = 4 << 20;

/// Stacks that a process was asked to write to its log.
struct Stacks {
    log: PathBuf,
    /// How long the log was before.
    from: u64,
}

impl Driver {
    /// Has a process asked from now on whether it answers, if it is READY.
    pub(super) fn keep_asking(&mut self, life: &Life) {
        let limit = self.running.config.supervisor.health_timeout;
        if limit == 0 || self.core.ready(&life.unit).as_ref() != Some(life) {
            return;
        }
        let socket = self.unit(&life.unit).filter(|unit| unit.role.is_synapse());
        let socket = socket.and_then(|unit| unit.private_socket.clone());
        let (asked, news) = (life.clone(), self.news.clone());
        let task = if let Some(socket) = socket {
            tokio::spawn(async move {
                silence(INTERVAL, limit, || answer(&socket)).await;
                let _ = news.send(News::Silent(asked, limit));
            })
        } else if let Some(heard) = self.routers.heard(life) {
            tokio::spawn(async move {
                silence(INTERVAL, limit, || sign(&asked, &heard, &news)).await;
                let _ = news.send(News::Stuck(asked, no_answer("", limit)));
            })
        } else {
            return;
        };
        self.watch(life, task);
    }

    /// The same for every process, by the time limit of now.
    pub(super) fn keep_asking_all(&mut self) {
        let asked = |unit: &&Unit| unit.role.is_synapse() || unit.role == Role::Router;
        let units = self.running.topology.units.iter().filter(asked);
        for life in units.filter_map(|unit| self.core.ready(&unit.name)).collect::<Vec<_>>() {
            self.unwatch(&life);
            self.keep_asking(&life);
        }
    }

    /// Has a process that does not answer show what it is doing, as long as it lives.
    pub(super) fn silent(&mut self, life: &Life, limit: u64) {
        if self.core.ready(&life.unit).as_ref() != Some(life) {
            return;
        }
        let silence = no_answer(" to /health", limit);
        tracing::warn!("{} {silence}", life.unit);
        let (stuck, news, stacks) = (life.clone(), self.news.clone(), self.ask_for_stacks(life));
        let task = tokio::spawn(async move {
            let shown = match stacks {
                Ok((_, stacks)) => match stacks.written().await {
                    Some(_) => "what its threads were doing stands in its log".to_owned(),
                    None => "it wrote no stack of its threads to its log".to_owned(),
                },
                // What to do about it is done.
                Err(why) => format!("no stack of it: {}", why.lines().next().unwrap_or_default()),
            };
            let _ = news.send(News::Stuck(stuck, format!("{silence}; {shown}")));
        });
        self.watch(life, task);
    }

    /// Ends a process that does not answer, by way of the core, which starts it again.
    pub(super) fn stuck(&mut self, life: Life, reason: String) {
        let ready = self.core.ready(&life.unit).as_ref() == Some(&life);
        if ready {
            tracing::warn!("{} is restarted: {reason}", life.unit);
        }
        self.input(Input::Stuck(life.clone(), reason));
        if ready {
            // One that was stopped cannot follow SIGTERM; one that was not does not notice.
            let _ = self.pids.signal(&life, Signal::SIGCONT);
        }
    }

    /// What every thread of a process does at this moment; it is not disturbed.
    pub(super) fn dump(&self, unit: UnitName, reply: oneshot::Sender<Result<DumpReport, String>>) {
        let asked = self.runs(&unit).and_then(|life| {
            self.ask_for_stacks(&life).map_err(|why| format!("{unit} cannot be asked for its stacks: {why}"))
        });
        let (pid, stacks) = match asked {
            Ok(asked) => asked,
            Err(why) => return drop(reply.send(Err(why))),
        };
        tokio::spawn(async move {
            let report = stacks.written().await.map(|text| DumpReport { unit: unit.clone(), pid, text });
            let _ = reply.send(report.ok_or_else(|| match is_stopped(pid) {
                Some(why) => format!("{unit} wrote no stack: {why}"),
                None => format!(
                    "{unit} (pid {pid}) wrote no stack within {} s: it waits for something in the kernel, or for a CPU\n  \
                     for what, says ps -o stat,wchan {pid}; synvisor restart {unit} puts another in its place",
                    PATIENCE.as_secs()
                ),
            }));
        });
    }

    /// The process of a unit that can be asked for stacks, or why there is none.
    fn runs(&self, name: &UnitName) -> Result<Life, String> {
        let Some(unit) = self.unit(name) else {
            let names: Vec<&str> = self.running.topology.synapse().map(|unit| unit.name.as_str()).collect();
            let remedy = match nearest(name.as_str(), names.iter().copied()) {
                Some(nearest) => format!("did you mean {nearest}?"),
                None => format!("the processes of Synapse are {}", names.join(", ")),
            };
            return Err(format!("there is no unit {name}\n  {remedy}"));
        };
        if !unit.role.is_synapse() {
            return Err(format!(
                "{name} is no process of Synapse, and only those can show the stacks of their threads\n  \
                 what it wrote last: synvisor logs {name}"
            ));
        }
        let found = self.pids.iter().find(|(_, life)| life.unit == *name);
        found.map(|(_, life)| life.clone()).ok_or_else(|| {
            let known = self.core.status().into_iter().find(|status| status.name == *name);
            let state = known.map_or("down", |status| status.state);
            format!(
                "{name} has no process at this moment: it is {state}\n  start it with: synvisor start {name}"
            )
        })
    }

    /// Has a process write the stack of each of its threads to its log; to who cannot the signal would be deadly.
    fn ask_for_stacks(&self, life: &Life) -> Result<(i32, Stacks), String> {
        let Some(process) = self.pids.of(life) else { return Err("it has no process any more".to_owned()) };
        let pid = process.pid();
        if let Some(why) = is_stopped(pid) {
            return Err(why);
        }
        if !process::catches(pid, Signal::SIGUSR2) {
            let plain = self.births.made.get(&life.unit) == Some(&Made::Plain);
            return Err(if plain {
                format!(
                    "it was started plainly, without what writes them\n  a tool from outside can: py-spy dump --pid {pid}"
                )
            } else {
                "it has only begun to start\n  ask again in a second".to_owned()
            });
        }
        let log = self.around.layout.log(&life.unit);
        let from = fs::length(&log).map_err(|error| error.to_string())?;
        self.pids.signal(life, Signal::SIGUSR2).map_err(|error| error.to_string())?;
        Ok((pid, Stacks { log, from }))
    }
}

impl Stacks {
    /// What was written since, once it is complete; none if there is no stack in it.
    async fn written(self) -> Option<String> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut before = String::new();
        loop {
            tokio::time::sleep(QUIET).await;
            let late = tokio::time::Instant::now() >= deadline;
            let text = self.read().await.unwrap_or_default();
            if text.contains(MARK) && (text == before || late) {
                return Some(text);
            }
            if late {
                return None;
            }
            before = text;
        }
    }

    async fn read(&self) -> std::io::Result<String> {
        let mut file = tokio::fs::File::open(&self.log).await?;
        // One that was moved aside meanwhile begins anew.
        let from = if file.metadata().await?.len() < self.from { 0 } else { self.from };
        file.seek(std::io::SeekFrom::Start(from)).await?;
        let mut text = Vec::new();
        file.take(MOST).read_to_end(&mut text).await?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// That a process is stopped, if it is, and what to do.
fn is_stopped(pid: i32) -> Option<String> {
    let why = || format!("it is stopped, by SIGSTOP or a debugger\n  kill -CONT {pid} lets it go on");
    process::is_stopped(pid).then(why)
}

fn no_answer(to: &str, limit: u64) -> String {
    // As it is written in the TOML: "15s".
    let limit = Duration::from_millis(limit);
    format!("gave no answer{to} within {limit:?}, {STRIKES} times in a row")
}

/// Asks a process again and again, and ends when too many questions in a row have had no answer.
async fn silence<A: Future<Output = ()>>(interval: Duration, limit: u64, ask: impl Fn() -> A) {
    let mut strikes = 0;
    while strikes < STRIKES {
        if strikes == 0 {
            tokio::time::sleep(interval).await;
        }
        let asked = clock::now();
        let answer = tokio::time::timeout(Duration::from_millis(limit), ask()).await;
        strikes = counted(strikes, answer.is_ok(), clock::now().since(asked), limit);
    }
}

/// Whatever it says: who can refuse is not stuck. Nor is one whom we cannot ask for want of descriptors, or whose socket
/// was removed, which is seen elsewhere.
async fn answer(socket: &Path) {
    while let Err(error) = probe::get(socket, "/health").await {
        let ours = |error: &std::io::Error| {
            descriptors::are_used_up(error) || error.kind() == std::io::ErrorKind::NotFound
        };
        if error.downcast_ref::<std::io::Error>().is_some_and(ours) {
            return;
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Has a router say something, and waits until it has. One that we cannot ask for want of descriptors is not stuck.
async fn sign(router: &Life, heard: &Notify, news: &UnboundedSender<News>) {
    if !descriptors::left() {
        return;
    }
    let heard = heard.notified();
    tokio::pin!(heard);
    // From here on nothing is missed.
    heard.as_mut().enable();
    let _ = news.send(News::Ask(router.clone()));
    heard.await;
}

/// How many questions in a row had no answer, after one more that was waited on for so many milliseconds.
const fn counted(strikes: u32, answered: bool, waited: u64, limit: u64) -> u32 {
    if answered {
        0
    } else if waited > limit.saturating_add(LATE) || waited < limit {
        // We were stopped, or the machine slept: the process may have had no time at all. The next question tells.
        strikes
    } else {
        strikes + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixListener;

    #[test]
    fn a_question_that_we_slept_through_is_no_strike() {
        // Mutations, each seen red: `waited` not looked at; an answer that takes nothing back.
        assert_eq!(counted(0, false, 15_000, 15_000), 1);
        assert_eq!(counted(1, false, 15_900, 15_000), 2);
        assert_eq!(counted(0, false, 60_000, 15_000), 0);
        assert_eq!(counted(1, false, 60_000, 15_000), 1);
        assert_eq!(counted(1, true, 14_000, 15_000), 0);
        assert_eq!(counted(1, true, 60_000, 15_000), 0);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_takes_questions_and_answers_none_is_silent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("silent.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let mut asked = 0;
        let mut held = Vec::new();
        let silent = silence(Duration::ZERO, 50, || answer(&path));
        tokio::pin!(silent);
        loop {
            tokio::select! {
                () = &mut silent => break,
                Ok((stream, _)) = listener.accept() => {
                    asked += 1;
                    assert!(asked < 100, "it asks on and on");
                    held.push(stream);
                }
            }
        }
        assert!(asked >= STRIKES, "{asked}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_refusal_is_an_answer() {
        // Mutation: only 200 taken for an answer: seen red (it never ends).
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("refusing.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let refuse = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
            let refusal = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(refusal).await.unwrap();
        };
        tokio::join!(answer(&path), refuse);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_was_written_before_is_no_stack() {
        // Mutations, each seen red: `from` not looked at; text without a stack taken for one.
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        let stack = "Thread 0x01 (most recent call first):\n  File \"a.py\", line 1 in spin\n";
        fs::replace(&log, stack.as_bytes(), 0o600, None).unwrap();
        let asked = || Stacks { log: log.clone(), from: fs::length(&log).unwrap() };
        let talking = asked();
        fs::replace(&log, format!("{stack}of something else\n").as_bytes(), 0o600, None).unwrap();
        assert_eq!(talking.written().await, None);
        fs::replace(&log, stack.as_bytes(), 0o600, None).unwrap();
        let (again, anew) = (asked(), asked());
        fs::replace(&log, format!("{stack}and more\n{stack}").as_bytes(), 0o600, None).unwrap();
        assert_eq!(again.written().await.unwrap(), format!("and more\n{stack}"));
        let short = stack.replace("a.py", "");
        fs::replace(&log, short.as_bytes(), 0o600, None).unwrap();
        assert_eq!(anew.written().await.unwrap(), short);
    }
}
