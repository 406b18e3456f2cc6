//! Each step of a move.

use std::path::Path;
use std::time::Duration;

use hyper::Method;

use crate::host::holding::Act;
use crate::host::holding::Holding;
use crate::host::old;
use crate::host::old::Settings;
use crate::host::old::Store;
use crate::host::port;
use crate::host::port::Port;
use crate::host::postgres::Embedded;
use crate::host::retire;
use crate::moving::steps::Data;
use crate::moving::steps::Journal;
use crate::moving::steps::Step;
use crate::moving::steps::shell;
use crate::sys::clock;
use crate::sys::fs;
use crate::sys::process;
use crate::sys::users;
use crate::wire::OverallState;
use crate::wire::StatusReport;

use super::super::Exit;
use super::super::commands;
use super::super::media;
use super::super::media::Wish;
use super::super::output;
use super::super::output::fact;
use super::super::output::fail;
use super::super::progress::Progress;
use super::Move;
use super::SERVICE_START;

/// How often, and with which pause, one asks whether everything is ready: for ten minutes.
const ATTEMPTS: u32 = 6_000;
const PAUSE: Duration = Duration::from_millis(100);
/// The same for whether the old server has let go of its database: for half a minute.
pub(super) const GOODBYES: u32 = 60;
pub(super) const GOODBYE: Duration = Duration::from_millis(500);

/// What the service has written to the journal last.
fn last_words() -> String {
    let command =
        ["journalctl", "--unit=synvisor", "--identifier=synvisor", "--lines=8", "--output=cat", "--no-pager"];
    let said = old::output(&command.map(str::to_owned)).unwrap_or_default();
    said.lines().map(|line| format!("\n    {line}")).collect()
}

impl Move<'_> {
    pub(super) fn take(&self, step: Step, journal: &mut Journal) -> Result<usize, Exit> {
        match step {
            Step::Before => {
                let skipped = self.bring(journal, false)?;
                if skipped > 0 {
                    return Err(fail("the old server was not stopped"));
                }
                self.keep(journal)?;
            }
            Step::Retire => retire::retire(&journal.old).map_err(|why| {
                fail(&format!("{why}\n  the old server was not stopped; then the same again, or --back"))
            })?,
            Step::Stop => self.stop(journal)?,
            Step::Rest => return self.bring(journal, true),
            Step::Database => self.database(journal)?,
            Step::Start => {
                if let Some(who) = self.has_come_back(journal)? {
                    return Err(fail(&format!(
                        "the old server has come back: {who}\n  the same again stops it"
                    )));
                }
                self.start(journal)?;
            }
            Step::Check => self.check(journal)?,
        }
        Ok(0)
    }

    fn bring(&self, journal: &Journal, finish: bool) -> Result<usize, Exit> {
        let wish = Wish { finish, skip_remote: self.arguments.skip_remote, ..Wish::default() };
        media::bring(self.place, &journal.media, &wish)
    }

    fn stop(&self, journal: &mut Journal) -> Result<(), Exit> {
        // Noted before: who takes this up must know that it may be down.
        journal.stopped.get_or_insert_with(|| clock::now().0);
        self.keep(journal)?;
        old::run(&journal.old.stop()).map_err(|why| fail(&format!("{why}\n  then the same again")))?;
        for _ in 0..GOODBYES {
            if self.still_there(journal)?.is_none() {
                fact("old server", "stopped");
                return Ok(());
            }
            std::thread::sleep(GOODBYE);
        }
        let who = self.still_there(journal)?.unwrap_or_default();
        Err(fail(&format!(
            "the old server was told to stop, and its database is still in use: {who}\n  stop its workers too, then the same again; or return to the old server: --back"
        )))
    }

    /// As whom the old server comes to PostgreSQL, where its homeserver.yaml says so.
    fn role(&self, journal: &Journal) -> Result<Option<String>, Exit> {
        let settings = Settings::read(&journal.from).map_err(|why| fail(&why))?;
        match settings.store(journal.from.parent().unwrap_or(Path::new("/"))) {
            Ok(Store::Postgres { user, .. }) => Ok(user),
            Ok(Store::Sqlite(_)) | Err(_) => Ok(None),
        }
    }

    /// Whether one can see who has the old database.
    pub(super) fn sees(&self, journal: &Journal) -> Result<bool, Exit> {
        match journal.data {
            // What other users have open is root's to see.
            Data::Sqlite(_) => Ok([0, journal.owner.0].contains(&users::own_uid())),
            Data::Shared => Ok(self.role(journal)?.is_some()),
        }
    }

    /// Who has the old database still; none if nobody has, as far as one sees.
    pub(super) fn still_there(&self, journal: &Journal) -> Result<Option<String>, Exit> {
        match &journal.data {
            Data::Sqlite(file) => {
                let pids = process::holders(file);
                let shown = pids.iter().map(|pid| format!("pid {pid}")).collect::<Vec<_>>().join(", ");
                Ok((!pids.is_empty()).then_some(shown))
            }
            Data::Shared => {
                let Some(role) = self.role(journal)? else { return Ok(None) };
                let holding = self.reach.look(Act::Look).map_err(|why| fail(&why))?;
                Ok(holding.clients.get(&role).map(|count| format!("{count} connections of {role}")))
            }
        }
    }

    /// Who has the old database though the old server had stopped; none if nobody has, or this server.
    pub(super) fn has_come_back(&self, journal: &Journal) -> Result<Option<String>, Exit> {
        let who = self.still_there(journal)?;
        let same = journal.data == Data::Shared && self.role(journal)?.as_deref() == self.reach.user();
        // Asked last: it may come up meanwhile.
        let ours = who.is_some() && same && commands::is_running(self.path)?;
        Ok(who.filter(|_| !ours))
    }

    fn database(&self, journal: &mut Journal) -> Result<(), Exit> {
        let holding = match &journal.data {
            // What it can be used with was looked at before anybody had to wait for it.
            Data::Shared => self.reach.look(Act::Look).map_err(|why| fail(&why))?,
            Data::Sqlite(file) => {
                let holding = self.port(file)?;
                journal.ported = port::state(file);
                holding
            }
        };
        fact("database", &self.reach.shown());
        journal.counts = holding.counts;
        journal.oldest_code = holding.oldest_code;
        Ok(())
    }

    fn port(&self, file: &Path) -> Result<Holding, Exit> {
        let place = self.place;
        let user = place.users.synapse.as_ref();
        let _embedded = self.embedded()?;
        let mut holding = self.reach.look(Act::Look).map_err(|why| fail(&why))?;
        self.may_fill(&holding)?;
        if holding.unfinished {
            // The old server may have written since.
            holding = self.reach.look(Act::Clear).map_err(|why| fail(&why))?;
        }
        if !holding.is_empty() {
            return Err(fail(&format!("{} could not be emptied", self.reach.shown())));
        }
        self.reach.look(Act::Begin).map_err(|why| fail(&why))?;
        let port = Port {
            database: file,
            config: place.config,
            secrets: &self.usable.secrets,
            layout: &place.layout,
            user,
        };
        let mut progress = Progress::start("database".to_owned());
        let done = port.carry_out(&mut |line| progress.say(line));
        progress.end();
        done.map_err(|why| {
            fail(&format!("the database could not be ported:\n{why}\n  then the same again, or --back"))
        })?;
        self.reach.look(Act::End).map_err(|why| fail(&why))
    }

    /// The embedded server, where there is one and nobody runs it.
    pub(super) fn embedded(&self) -> Result<Option<Embedded>, Exit> {
        let place = self.place;
        if !place.config.database.is_embedded() || commands::is_running(self.path)? {
            return Ok(None);
        }
        place.layout.make_for_services(&place.users).map_err(|error| fail(&error.to_string()))?;
        let user = place.users.synapse.as_ref();
        Embedded::start(place.config, &place.layout, &self.venv, user).map(Some).map_err(|why| fail(&why))
    }

    pub(super) fn start(&self, journal: &Journal) -> Result<(), Exit> {
        if !commands::is_running(self.path)? {
            old::run(&shell(&journal.new_start)).map_err(|why| {
                let said = if journal.new_start == SERVICE_START { last_words() } else { String::new() };
                fail(&format!(
                    "{why}{said}\n  mend that, then the same again; or return to the old server: --back"
                ))
            })?;
        }
        let mut progress = Progress::start("synvisor      starting".to_owned());
        for _ in 0..ATTEMPTS {
            if commands::is_running(self.path)? {
                let report: StatusReport = commands::ask(self.path, Method::GET, "/v1/status", &())?;
                if report.state == OverallState::Ready {
                    let seconds = progress.end();
                    fact("synvisor", &format!("serves ({seconds} s)"));
                    return Ok(());
                }
                let not = report.units.iter().filter(|unit| unit.state != "ready").count();
                progress.say(&format!("{not} of {} units are not ready", report.units.len()));
            }
            std::thread::sleep(PAUSE);
        }
        progress.end();
        Err(fail(
            "it does not get ready\n  synvisor status says why; then the same again, or return to the old server: --back",
        ))
    }

    /// Whether it serves what the old one has served.
    fn check(&self, journal: &mut Journal) -> Result<(), Exit> {
        let wrong =
            |what: String| fail(&format!("{what}\n  mend that, then the same again; or return: --back"));
        let listen = self.place.config.listen.first().ok_or_else(|| fail("there is no [[listen]]"))?;
        let (status, _) = old::get(listen.address, "/_matrix/client/versions").map_err(wrong)?;
        if status != 200 {
            return Err(wrong(format!("{} answers clients with {status}", listen.address)));
        }
        journal.served.get_or_insert_with(|| clock::now().0);
        let key = self.signing_key().unwrap_or_default();
        let id = key.split_whitespace().nth(1).unwrap_or_default().to_owned();
        let (_, keys) = old::get(listen.address, "/_matrix/key/v2/server").map_err(wrong)?;
        if !keys.contains(&format!("\"ed25519:{id}\"")) {
            return Err(wrong(format!(
                "{} shows other servers another signing key than {id}",
                listen.address
            )));
        }
        let holding = self.reach.look(Act::Look).map_err(|why| fail(&why))?;
        let store = self.place.layout.media();
        let file = |id: &String| match (id.get(..2), id.get(2..4), id.get(4..)) {
            (Some(one), Some(two), Some(rest)) => store.join("local_content").join(one).join(two).join(rest),
            _ => store.join("local_content"),
        };
        let readable = |id: &&String| fs::readable(&file(id)).is_ok();
        let look = || Ok(holding.media.iter().filter(|id| !readable(id)).collect::<Vec<_>>());
        let missing = users::as_user(self.place.users.synapse.as_ref(), look).map_err(|why| fail(&why))?;
        if let Some(first) = missing.first() {
            // No reason to return: it may have been missing before.
            output::problem(format!(
                "{} of the newest {} uploads have no file that synvisor can read, {} for one\n  \
                 were they elsewhere, with a storage provider? if not: synvisor import media {} --finish",
                missing.len(),
                holding.media.len(),
                file(first).display(),
                journal.media.display()
            ));
        }
        fact("checks", "it answers, with the old signing key");
        Ok(())
    }
}
