//! The processes that there are: children of ours, and those that an earlier supervisor has started.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use nix::sys::signal::Signal;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::supervise::Exit;
use crate::supervise::Life;
use crate::sys::pidfd;
use crate::sys::pidfd::Process;

use super::News;

/// A process, by a descriptor that no other one is mistaken for.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) life: Life,
    pub(super) process: Arc<Process>,
    /// Clock ticks since the machine was booted.
    pub(super) started: u64,
    /// What waits for the end of one that is no child of ours.
    watch: Option<JoinHandle<()>>,
}

impl Drop for Known {
    fn drop(&mut self) {
        if let Some(watch) = &self.watch {
            watch.abort();
        }
    }
}

/// Living processes, by their numbers.
#[derive(Debug, Default)]
pub(super) struct Processes {
    known: BTreeMap<i32, Known>,
}

impl Processes {
    /// Takes note of a child that was not reaped.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub(super) fn insert(&mut self, pid: i32, life: Life) -> io::Result<&Known> {
        let process = Arc::new(Process::open(pid)?);
        let started = pidfd::started(pid).unwrap_or_default();
        self.known.remove(&pid);
        Ok(self.known.entry(pid).or_insert(Known { life, process, started, watch: None }))
    }

    /// Takes note of one that an earlier supervisor has started; its end is told as news, unless it is a child of ours.
    pub(super) fn adopt(
        &mut self,
        life: Life,
        process: Process,
        started: u64,
        news: &mpsc::UnboundedSender<News>,
    ) {
        let pid = process.pid();
        let process = Arc::new(process);
        let ours = crate::sys::process::parent(pid) == Some(std::process::id().cast_signed());
        let watch = (!ours).then(|| {
            let (process, news, life) = (Arc::clone(&process), news.clone(), life.clone());
            tokio::spawn(async move {
                let exit = process.ended().await.unwrap_or(Exit::Unknown);
                let _ = news.send(News::Ended(life, exit));
            })
        });
        self.known.insert(pid, Known { life, process, started, watch });
    }

    pub(super) fn get(&self, pid: i32) -> Option<&Life> {
        self.known.get(&pid).map(|known| &known.life)
    }

    pub(super) fn remove(&mut self, pid: i32) -> Option<Life> {
        self.known.remove(&pid).map(|known| known.life.clone())
    }

    pub(super) fn of(&self, life: &Life) -> Option<&Known> {
        self.known.values().find(|known| known.life == *life)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (i32, &Life)> {
        self.known.iter().map(|(pid, known)| (*pid, &known.life))
    }

    /// # Errors
    /// When it has ended.
    pub(super) fn signal(&self, life: &Life, signal: Signal) -> io::Result<()> {
        self.of(life)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
            .and_then(|known| known.process.signal(signal))
    }
}

impl Known {
    pub(super) fn pid(&self) -> i32 {
        self.process.pid()
    }
}
