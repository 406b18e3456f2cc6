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
use crate::sys::fs;

use super::super::Exit;
use super::super::commands;
use super::super::output;
use super::super::output::fact;
use super::super::output::fail;
use super::super::progress::Progress;
use super::Move;
use super::SERVICE_STOP;
use super::steps::GOODBYE;

/// How often one asks whether the old server has its database again: for two minutes.
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
        // While it still serves, so that nobody is away for a refusal.
        self.allowed(&journal)?;
        self.give_way(&mut journal)?;
        self.return_media(&journal)?;
        self.make_old(&journal)?;
        // What is left is done by whoever takes this up, and once.
        journal.returning = true;
        journal.forget(Step::Retire);
        self.keep(&journal)?;
        // Before it is started, which what keeps it away would prevent.
        retire::release(&journal.old).map_err(|why| fail(&format!("{why}\n  then --back again")))?;
        self.start_old(&journal)?;
        fs::remove(&layout.migration()).map_err(|error| fail(&error.to_string()))?;
        output::line(
            "\nThe old server serves again. What was brought stays, so that another move is quicker.",
        );
        Ok(Exit::Done)
    }

    /// Stops this server, and has it stay away at the next boot, unless somebody writes to it at the last moment.
    fn give_way(&self, journal: &mut Journal) -> Result<(), Exit> {
        journal.returning = true;
        self.keep(journal)?;
        if !self.stop_this()? {
            return Ok(());
        }
        let embedded = self.embedded()?;
        let still = self.allowed(journal);
        drop(embedded);
        if still.is_err() {
            journal.returning = false;
            self.keep(journal)?;
            self.start()?;
        }
        still
    }

    /// Stops this server; whether it ran.
    fn stop_this(&self) -> Result<bool, Exit> {
        let runs = commands::is_running(self.path)?;
        let by_systemd = self.arguments.new_stop == SERVICE_STOP && systemd::installed().is_some();
        if runs || by_systemd {
            let command = ["sh", "-c", &self.arguments.new_stop].map(str::to_owned).to_vec();
            old::run(&command).map_err(|why| fail(&why))?;
            fact("synvisor", "stopped");
        }
        Ok(runs)
    }

    /// Has what was brought count as old from now on.
    fn make_old(&self, journal: &Journal) -> Result<(), Exit> {
        if matches!(journal.data, Data::Sqlite(_)) && journal.has(Step::Database) {
            let _embedded = self.embedded()?;
            self.reach.look(Act::Begin).map_err(|why| fail(&why))?;
        }
        if !journal.has(Step::Rest) {
            return Ok(());
        }
        let mut note = Note::of(&self.place.layout, &journal.media, false).map_err(|why| fail(&why))?;
        note.finished = false;
        note.returned = true;
        note.write(&self.place.layout, self.place.users.synapse.as_ref()).map_err(|why| fail(&why))
    }

    fn start_old(&self, journal: &Journal) -> Result<(), Exit> {
        let starts = match journal.old {
            // What runs is left alone.
            Old::Units(_) | Old::Containers(_) => true,
            Old::Commands { .. } => journal.is_down() && self.still_there(journal)?.is_none(),
        };
        if starts {
            old::run(&journal.old.start()).map_err(|why| fail(&format!("{why}\n  then --back again")))?;
        }
        let mut progress = Progress::start("old server    starting".to_owned());
        let mut there = false;
        for _ in 0..GREETINGS {
            there = self.still_there(journal)?.is_some();
            if there {
                break;
            }
            std::thread::sleep(GOODBYE);
            progress.say("it has not opened its database yet");
        }
        progress.end();
        if !there {
            return Err(fail(
                "the old server was started, and does not open its database\n  its log says why; then --back again",
            ));
        }
        fact("old server", "started");
        for follower in journal.old.followers() {
            if let Err(why) =
                old::run(&["systemctl".to_owned(), "start".to_owned(), follower.clone()].to_vec())
            {
                output::problem(format!("{why}\n  it had stopped with the old server"));
            }
        }
        Ok(())
    }

    /// Takes back what counts on an old server that has stopped, if that has come back meanwhile and written.
    pub(super) fn expect_stopped(&self, journal: &mut Journal) -> Result<(), Exit> {
        if !journal.has(Step::Stop) || journal.has(Step::Start) {
            return Ok(());
        }
        let Some(who) = self.has_come_back(journal)? else { return Ok(()) };
        output::line(format!("the old server has come back ({who}), and has to stop again"));
        if !self.arguments.go {
            return Ok(());
        }
        if journal.has(Step::Database) {
            self.allowed(journal).inspect_err(|_| {
                output::problem("  or have the old server stop, and go on with this one: the same again");
            })?;
            self.stop_this()?;
        }
        self.make_old(journal)?;
        journal.forget(Step::Retire);
        journal.stopped = None;
        self.keep(journal)
    }

    /// Whether nothing is lost by a return.
    fn allowed(&self, journal: &Journal) -> Result<(), Exit> {
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
    fn return_media(&self, journal: &Journal) -> Result<(), Exit> {
        if !journal.has(Step::Rest) {
            return Ok(());
        }
        let owner = old::user(journal.owner.0, journal.owner.1);
        let folders: Vec<&str> = media::OWN.iter().chain(&media::REMOTE).copied().collect();
        let new = self.place.layout.media();
        let job = Job {
            last: true,
            owner: Some(&owner).filter(|_| self.place.users.synapse.is_some()),
            ..Job::new(&new, &journal.media, &folders, &Way::BY_ITSELF)
        };
        let done = transfer::carry_out(&job, &mut |_| {}).map_err(|why| fail(&why))?;
        fact("media", &format!("{} files of since then are in the old store too", done.amount.files));
        Ok(())
    }
}
