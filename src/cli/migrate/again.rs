//! A move that was broken off, and has to find what is not as it left it.

use crate::host::holding::Act;
use crate::host::port;
use crate::host::transfer;
use crate::host::transfer::Job;
use crate::moving::media;
use crate::moving::steps::Data;
use crate::moving::steps::Journal;
use crate::moving::steps::Step;
use crate::moving::units::full_name;

use super::super::Exit;
use super::super::media::name;
use super::super::output;
use super::super::output::fail;
use super::MigrateArguments;
use super::Move;

impl Move<'_> {
    /// Whether what is asked for is the move that has begun.
    pub(super) fn is_of(&self, journal: &Journal) -> Result<(), Exit> {
        let MigrateArguments { from, old_unit, old_container, old_stop, old_start, .. } = self.arguments;
        let known = journal.old.names();
        let units = old_unit.iter().map(|name| full_name(name));
        let asked =
            units.chain(old_container.iter().cloned()).chain(old_stop.clone()).chain(old_start.clone());
        // One that is not to be found now, on a disk that is not mounted, says nothing.
        let other = from.iter().filter_map(|from| from.canonicalize().ok()).any(|from| from != journal.from);
        if other || asked.into_iter().any(|name| !known.contains(&name)) {
            return Err(fail(&format!(
                "a move from another server has begun: {}, {}\n  bring that to its end, or return from it: synvisor migrate --back",
                journal.from.display(),
                known.join(", ")
            )));
        }
        Ok(())
    }

    /// Takes back what does not hold any more: what a return that was broken off has changed, and what counts on an old server
    /// that has stopped, if it has come back and written.
    pub(super) fn take_up(&self, journal: &mut Journal) -> Result<(), Exit> {
        if journal.returning {
            output::line("a return to the old server was broken off");
        }
        let back =
            if journal.has(Step::Stop) && !journal.has(Step::Start) { self.wrote(journal)? } else { None };
        if let Some(who) = &back {
            output::line(format!("the old server has come back ({who}), and has to stop again"));
        }
        if !self.arguments.go {
            return Ok(());
        }
        if journal.returning {
            self.undo_return(journal)?;
        }
        if back.is_some() {
            self.begin_anew(journal)?;
        }
        Ok(())
    }

    /// Who has come back and may have written since the old server had stopped.
    fn wrote(&self, journal: &Journal) -> Result<Option<String>, Exit> {
        let who = self.has_come_back(journal)?;
        match &journal.data {
            Data::Sqlite(file) if who.is_none() && journal.has(Step::Database) => {
                Ok((port::state(file) != journal.ported).then(|| "and has gone again".to_owned()))
            }
            Data::Sqlite(_) | Data::Shared => Ok(who),
        }
    }

    /// Has this server have again what a return had begun to give away.
    fn undo_return(&self, journal: &mut Journal) -> Result<(), Exit> {
        if journal.has(Step::Stop) {
            let store = self.place.layout.media();
            let folders = media::folders();
            let owner = self.place.users.synapse.as_ref();
            let job = Job { last: true, owner, ..Job::new(&store, &store, &folders, &[]) };
            let done = transfer::carry_out(&job, &mut |_| {}).map_err(|why| fail(&why))?;
            name(&done);
        }
        if matches!(journal.data, Data::Sqlite(_)) && journal.has(Step::Database) {
            let _embedded = self.embedded()?;
            if self.reach.look(Act::Look).map_err(|why| fail(&why))?.unfinished {
                journal.forget(Step::Database);
            }
        }
        journal.returning = false;
        self.keep(journal)
    }

    /// Goes back to where the old server served.
    fn begin_anew(&self, journal: &mut Journal) -> Result<(), Exit> {
        if journal.has(Step::Database) {
            self.allowed(journal).inspect_err(|_| {
                output::problem(format!(
                    "  the old one has been written to as well, and that is not here; to go on with this one and without it: \
                     rm {}, then {}",
                    self.place.layout.migration().display(),
                    journal.new_start
                ));
            })?;
        }
        self.stop_this(journal)?;
        self.return_media(journal)?;
        self.make_old(journal)?;
        journal.forget(Step::Retire);
        journal.stopped = None;
        self.keep(journal)
    }
}
