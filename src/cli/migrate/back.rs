//! The way back to the old server.

use crate::host::holding::Act;
use crate::host::import::Note;
use crate::host::old;
use crate::host::retire;
use crate::host::transfer;
use crate::host::transfer::Job;
use crate::moving::media;
use crate::moving::media::Way;
use crate::moving::steps::Back;
use crate::moving::steps::Data;
use crate::moving::steps::Journal;
use crate::moving::steps::Step;
use crate::moving::steps::back;
use crate::sys::fs;

use super::super::Exit;
use super::super::commands;
use super::super::output;
use super::super::output::fact;
use super::super::output::fail;
use super::Move;

impl Move<'_> {
    pub(super) fn back(&self) -> Result<Exit, Exit> {
        let layout = &self.place.layout;
        let Some(mut journal) = old::journal(layout).map_err(|why| fail(&why))? else {
            return Err(fail("no move has begun, so that there is nothing to return from"));
        };
        let started = journal.has(Step::Database) && commands::is_running(self.path)?;
        // While it still serves, so that nobody is away for a refusal.
        self.allowed(&journal)?;
        if started {
            let command = ["sh", "-c", &self.arguments.new_stop].map(str::to_owned).to_vec();
            old::run(&command).map_err(|why| fail(&why))?;
            fact("synvisor", "stopped");
            let embedded = self.embedded()?;
            let still = self.allowed(&journal);
            drop(embedded);
            if still.is_err() {
                // Somebody has written in that moment.
                self.start()?;
                return Err(Exit::Failed);
            }
        }
        self.return_media(&journal)?;
        // Before it is started, which what keeps it away would prevent.
        retire::release(&journal.old).map_err(|why| fail(&why))?;
        if journal.is_down() {
            old::run(&journal.old.start()).map_err(|why| fail(&why))?;
            fact("old server", "started");
        }
        if matches!(journal.data, Data::Sqlite(_)) && journal.has(Step::Database) {
            // What was ported is old from now on.
            let _embedded = self.embedded()?;
            self.reach.look(Act::Begin).map_err(|why| fail(&why))?;
        }
        journal.done.clear();
        fs::remove(&layout.migration()).map_err(|error| fail(&error.to_string()))?;
        output::line(
            "\nThe old server serves again. What was brought stays, so that another move is quicker.",
        );
        Ok(Exit::Done)
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
        // Both hold the same now, and another move goes on from there.
        let mut note = Note::of(&self.place.layout, &journal.media, false).map_err(|why| fail(&why))?;
        note.finished = false;
        note.write(&self.place.layout, self.place.users.synapse.as_ref()).map_err(|why| fail(&why))
    }
}
