//! The way back to the old server.

use crate::host::holding::Act;
use crate::host::import::Note;
use crate::host::old;
use crate::host::retire;
use crate::host::systemd;
use crate::host::transfer;
use crate::host::transfer::Job;
use crate::moving::media;
use crate::moving::media::Way;
use crate::moving::steps::Back;
use crate::moving::steps::Data;
use crate::moving::steps::Journal;
use crate::moving::steps::Old;
use crate::moving::steps::Step;
use crate::moving::steps::back;
use crate::moving::steps::shell;
use crate::sys::fs;
use crate::sys::lock;
use crate::sys::lock::LockError;
use crate::sys::process;
use crate::sys::users;

use super::super::Exit;
use super::super::commands;
use super::super::media::name;
use super::super::output;
use super::super::output::fact;
use super::super::output::fail;
use super::super::progress::Progress;
use super::Move;
use super::SERVICE_STOP;
use super::steps::GOODBYE;
use super::steps::GOODBYES;

/// How often one asks whether the old server has its database again: for two minutes or some more.
const GREETINGS: u32 = 240;

impl Move<'_> {
    pub(super) fn back(&self) -> Result<Exit, Exit> {
        let layout = &self.place.layout;
        let Some(mut journal) = old::journal(layout).map_err(|why| fail(&why))? else {
            return Err(fail(
                "no move has begun, so that there is nothing to return from\n  units that one has kept away have a drop-in, \
                 /etc/systemd/system/UNIT.d/synvisor.conf: remove it, then systemctl daemon-reload",
            ));
        };
        self.is_of(&journal)?;
        // While it still serves, so that nobody is away for a refusal.
        self.allowed(&journal)?;
        self.give_way(&mut journal)?;
        self.return_media(&journal)?;
        self.make_old(&journal)?;
        // What is left is done by whoever takes this up, and once.
        journal.forget(Step::Retire);
        self.keep(&journal)?;
        // Before it is started, which what keeps it away would prevent.
        if let Err(why) = retire::release(&journal.old) {
            output::problem(format!("{why}\n  it may not come back by itself at the next boot"));
        }
        self.start_old(&mut journal)?;
        fs::remove(&layout.migration()).map_err(|error| fail(&error.to_string()))?;
        output::line(
            "\nThe old server serves again. What was brought stays, so that another move is quicker.",
        );
        Ok(Exit::Done)
    }

    /// Stops this server, and has it stay away at the next boot, unless somebody writes to it at the last moment.
    fn give_way(&self, journal: &mut Journal) -> Result<(), Exit> {
        let done = journal.done.clone();
        journal.returning = true;
        journal.forget(Step::Start);
        self.keep(journal)?;
        if !self.stop_this(journal)? {
            return Ok(());
        }
        let embedded = self.embedded()?;
        let still = self.allowed(journal);
        drop(embedded);
        if still.is_err() {
            journal.returning = false;
            self.keep(journal)?;
            self.start(journal)?;
            journal.done = done;
            self.keep(journal)?;
        }
        still
    }

    /// Stops this server; whether it ran.
    pub(super) fn stop_this(&self, journal: &Journal) -> Result<bool, Exit> {
        let layout = &self.place.layout;
        let runs = commands::is_running(self.path)?;
        if runs || journal.new_stop == SERVICE_STOP && systemd::installed().is_some() {
            old::run(&shell(&journal.new_stop))
                .map_err(|why| fail(&format!("{why}\n  then --back again")))?;
        }
        for _ in 0..GOODBYES {
            // Every process of ours holds it.
            if !matches!(
                lock::take(&layout.lock(), lock::Kind::Exclusive, false, None),
                Err(LockError::Held(_))
            ) {
                if runs {
                    fact("synvisor", "stopped");
                }
                if layout.state.is_dir() {
                    let mark = || fs::replace(&layout.returned_mark(), b"", 0o600, None);
                    let user = self.place.users.synapse.as_ref();
                    users::as_user(user, || mark().map(drop).map_err(|error| error.to_string()))
                        .map_err(|why| fail(&why))?;
                }
                return Ok(runs);
            }
            std::thread::sleep(GOODBYE);
        }
        let pids: Vec<String> = process::holders(&layout.lock()).iter().map(i32::to_string).collect();
        Err(fail(&format!(
            "synvisor was told to stop ({}), and processes of its run still: {}\n  end them, then --back again",
            journal.new_stop,
            pids.join(" ")
        )))
    }

    /// Has what was brought count as old from now on.
    pub(super) fn make_old(&self, journal: &Journal) -> Result<(), Exit> {
        if matches!(journal.data, Data::Sqlite(_)) && journal.has(Step::Database) {
            let _embedded = self.embedded()?;
            self.reach.look(Act::Begin).map_err(|why| fail(&why))?;
        }
        if !journal.has(Step::Stop) {
            return Ok(());
        }
        let mut note = Note::of(&self.place.layout, &journal.media, false).map_err(|why| fail(&why))?;
        note.finished = false;
        note.returned = true;
        note.write(&self.place.layout, self.place.users.synapse.as_ref()).map_err(|why| fail(&why))
    }

    fn start_old(&self, journal: &mut Journal) -> Result<(), Exit> {
        let sees = self.sees(journal)?;
        let starts = match journal.old {
            // What runs is left alone.
            Old::Units(_) | Old::Containers(_) => true,
            Old::Commands { .. } => journal.is_down() || sees && self.still_there(journal)?.is_none(),
        };
        let started = if starts { old::run(&journal.old.start()) } else { Ok(()) };
        if started.is_ok() {
            // Once is enough.
            journal.stopped = None;
            self.keep(journal)?;
        }
        let mut progress = Progress::start("old server    starting".to_owned());
        let mut there = false;
        for _ in 0..GREETINGS {
            there = sees && self.still_there(journal)?.is_some();
            if there || !sees || started.is_err() {
                break;
            }
            std::thread::sleep(GOODBYE);
            progress.say("it has not opened its database yet");
        }
        progress.end();
        match started {
            Err(why) if !there => {
                let remedy = "then --back again; or go on with this server: --go";
                return Err(fail(&format!("{why}\n  {remedy}")));
            }
            Err(why) => output::problem(format!("{why}\n  it serves all the same")),
            Ok(()) if !there && sees => {
                return Err(fail(
                    "the old server was started, and does not open its database: its log says why\n  \
                     then --back again; or go on with this server: --go",
                ));
            }
            Ok(()) => {}
        }
        fact(
            "old server",
            if sees { "started" } else { "started; whether it serves cannot be seen from here" },
        );
        for command in journal.old.start_followers() {
            if let Err(why) = old::run(&command) {
                output::problem(format!("{why}\n  it had stopped with the old server"));
            }
        }
        Ok(())
    }

    /// Whether nothing is lost by a return.
    pub(super) fn allowed(&self, journal: &Journal) -> Result<(), Exit> {
        if !journal.has(Step::Database) || self.arguments.anyway {
            return Ok(());
        }
        let _embedded = self.embedded()?;
        let holding = self.reach.look(Act::Look).map_err(|why| fail(&why))?;
        match back(journal, &holding.counts, holding.oldest_code) {
            Back::Free => Ok(()),
            Back::Loses(what) => Err(fail(&format!(
                "this server has been written to, and the old one would not have it: {what}\n  \
                 nothing was changed; return anyway with --anyway"
            ))),
            Back::Migrated => Err(fail(&format!(
                "the database asks for a Synapse that knows schema {}, and may be of no use to the old one\n  \
                 nothing was changed; if the old one is new enough, return with --anyway",
                holding.oldest_code
            ))),
        }
    }

    /// Has the old store hold what was uploaded since, and belong to whom it belonged.
    pub(super) fn return_media(&self, journal: &Journal) -> Result<(), Exit> {
        if !journal.has(Step::Stop) {
            return Ok(());
        }
        let owner = old::user(journal.owner.0, journal.owner.1);
        let folders = media::folders();
        let new = self.place.layout.media();
        let job = Job {
            last: true,
            owner: Some(&owner).filter(|_| self.place.users.synapse.is_some()),
            ..Job::new(&new, &journal.media, &folders, &Way::BY_ITSELF)
        };
        let done = transfer::carry_out(&job, &mut |_| {}).map_err(|why| fail(&why))?;
        if name(&done) > 0 && !self.arguments.anyway {
            return Err(fail(
                "the old store lacks these\n  then --back again; or without them: --back --anyway",
            ));
        }
        fact("media", &format!("{} files of since then are in the old store too", done.amount.files));
        Ok(())
    }
}
