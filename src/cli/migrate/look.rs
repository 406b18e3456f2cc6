//! Whether two servers fit, seen while the old one serves; nothing is changed.

use std::net::TcpListener;
use std::path::Path;
use std::path::PathBuf;

use crate::config::Database;
use crate::host::holding::Act;
use crate::host::holding::Holding;
use crate::host::old::Settings;
use crate::host::old::Store;
use crate::host::port::Sqlite;
use crate::host::retire;
use crate::host::schema;
use crate::host::secrets;
use crate::host::toml::Document;
use crate::host::toml::Unusable;
use crate::moving::media;
use crate::moving::steps::Data;
use crate::moving::steps::Journal;
use crate::moving::steps::Old;
use crate::sys::fs;

use super::super::Exit;
use super::super::commands;
use super::super::config;
use super::super::output;
use super::super::output::fail;
use super::Move;
use super::SERVICE_START;
use super::SERVICE_STOP;

impl Move<'_> {
    /// Looks at both sides while the old server serves; nothing is changed.
    pub(super) fn begin(&self) -> Result<Journal, Exit> {
        let arguments = self.arguments;
        let Some(from) = &arguments.from else {
            return Err(fail("no move has begun\n  synvisor migrate --from HOMESERVER_YAML …"));
        };
        if commands::is_running(self.path)? {
            return Err(fail(
                "synvisor runs already, and a move begins with the old server alone\n  systemctl stop synvisor",
            ));
        }
        let from = from.canonicalize().map_err(|error| fail(&fs::at("find", from)(error).to_string()))?;
        let base = from.parent().unwrap_or(Path::new("/"));
        let settings = Settings::read(&from).map_err(|why| fail(&why))?;
        let config = self.place.config;
        if settings.server_name != config.server_name {
            return Err(fail(&format!(
                "{} is of {}, and {} of {}: a homeserver keeps its name for good\n  name the files of one",
                from.display(),
                settings.server_name,
                self.path.display(),
                config.server_name
            )));
        }
        self.same_key(&settings, base)?;
        self.name_taken(&settings);
        let old = self.old()?;
        let media = arguments.old_media.clone().unwrap_or_else(|| settings.media(base));
        let folders = media::folders();
        let media = media.canonicalize().map_err(|error| {
            fail(&format!(
                "{}\n  where are the media of the old server, seen from here? --old-media DIR",
                fs::at("find", &media)(error)
            ))
        })?;
        let data = match settings.store(base).map_err(|why| fail(&why))? {
            Store::Sqlite(file) => {
                let file = arguments.old_sqlite.clone().unwrap_or(file);
                self.may_port(&file)?;
                Data::Sqlite(file)
            }
            Store::Postgres { user, name } => {
                self.may_share(user.as_deref(), name.as_deref())?;
                Data::Shared
            }
        };
        let to = self.place.layout.media();
        if to.exists() {
            crate::host::import::real(&media, &to, &folders).map_err(|why| fail(&why))?;
        }
        let owner = crate::host::import::whose(&media).map_err(|why| fail(&why))?;
        Ok(Journal {
            from,
            old,
            data,
            media,
            owner,
            done: Vec::new(),
            returning: false,
            new_start: arguments.new_start.clone().unwrap_or_else(|| SERVICE_START.to_owned()),
            new_stop: arguments.new_stop.clone().unwrap_or_else(|| SERVICE_STOP.to_owned()),
            ported: Vec::new(),
            stopped: None,
            served: None,
            counts: std::collections::BTreeMap::new(),
            oldest_code: 0,
        })
    }

    /// What this server would not start with is said before the old one stops.
    pub(super) fn may_start(&self, journal: &Journal) -> Result<(), Exit> {
        let Self { usable, place, .. } = self;
        let service = place.users.synapse.as_ref().filter(|_| journal.new_start == SERVICE_START);
        let closed = service.map_or(Ok(Vec::new()), |user| secrets::closed_to(user, &usable.parsed.files));
        let mut problems = closed.map_err(|why| fail(&why))?;
        if problems.is_empty() {
            problems = self.objections().map_err(|why| fail(&why))?;
        }
        if problems.is_empty() {
            return Ok(());
        }
        let document = Document { name: self.path.display().to_string(), text: usable.text.clone() };
        Err(config::refuse(&Unusable::Problems(document, problems)))
    }

    /// Names addresses that somebody has who may not be the old server: with them this one could not start.
    fn name_taken(&self, settings: &Settings) {
        let others =
            self.place.config.listen.iter().filter(|listen| !settings.has_port(listen.address.port()));
        for address in others.map(|listen| listen.address) {
            if let Err(error) = TcpListener::bind(address) {
                output::problem(format!(
                    "synvisor cannot have {address} of [[listen]] now: {error}\n  \
                     unless what has it stops with the old server, have it stop first, or write another address"
                ));
            }
        }
    }

    /// Other servers know the old signing key, and would take another one for somebody else's.
    fn same_key(&self, settings: &Settings, base: &Path) -> Result<(), Exit> {
        let Some(old) = settings.signing_key(base) else {
            return Ok(());
        };
        match self.signing_key() {
            Some(new) if new.trim() == old.trim() => Ok(()),
            Some(_) | None => Err(fail(&format!(
                "the signing key of the old server is another one than that of {}: other servers would not believe it\n  \
                 name the old file: [secrets] signing_key_file",
                self.path.display()
            ))),
        }
    }

    pub(super) fn signing_key(&self) -> Option<String> {
        let secret = crate::config::secret::Secret::SigningKey;
        match self.place.config.secrets.files.get(&secret) {
            Some(source) => Some(self.usable.secrets.get(source).to_owned()),
            None => fs::read_itself(&secret.path(&self.place.layout.state)).ok(),
        }
    }

    fn old(&self) -> Result<Old, Exit> {
        let arguments = self.arguments;
        if !arguments.old_unit.is_empty() {
            return retire::units(&arguments.old_unit).map_err(|why| fail(&why));
        }
        if !arguments.old_container.is_empty() {
            return retire::containers(&arguments.old_container).map_err(|why| fail(&why));
        }
        match (&arguments.old_stop, &arguments.old_start) {
            (Some(stop), Some(start)) => Ok(Old::Commands { stop: stop.clone(), start: start.clone() }),
            _ => {
                output::problem(
                    "how does the old server stop?\n  --old-unit NAME, --old-container NAME, or --old-stop and --old-start",
                );
                Err(Exit::Usage)
            }
        }
    }

    /// Whether the old file can be ported, and there is a place for it.
    fn may_port(&self, file: &Path) -> Result<(), Exit> {
        let newest = self.newest()?;
        let found = Sqlite::look(&self.venv_path(), file)
            .map_err(|why| fail(&format!("{why}\n  where is it, seen from here? --old-sqlite FILE")))?;
        found
            .suits(newest, &self.place.config.server_name)
            .map_err(|why| fail(&format!("{} cannot be ported: {why}", file.display())))?;
        if let Database::External(_) = self.place.config.database {
            let holding = self
                .reach
                .look(Act::Look)
                .map_err(|why| fail(&format!("{why}\n  synvisor init makes the database, where it may")))?;
            self.may_fill(&holding)?;
        }
        Ok(())
    }

    pub(super) fn may_fill(&self, holding: &Holding) -> Result<(), Exit> {
        if !holding.is_empty() && !holding.unfinished {
            return Err(fail(&format!(
                "{} is not empty, and what is in it is not overwritten\n  name an empty one in [database]",
                self.reach.shown()
            )));
        }
        holding.suits().map_err(|why| fail(&format!("{}: {why}", self.reach.shown())))
    }

    /// Whether this Synapse can go on with the database `name` of the old one, which comes to it as `user`.
    fn may_share(&self, user: Option<&str>, name: Option<&str>) -> Result<(), Exit> {
        let shown = self.reach.shown();
        if let (Some(theirs), Database::External(ours)) = (name, &self.place.config.database)
            && ours.name != theirs
        {
            return Err(fail(&format!(
                "the database of the old server is {theirs}, and [database] names {}: in a copy of its database whatever it \
                 still writes would be missing\n  name the very database of the old server",
                ours.name
            )));
        }
        let holding = self.reach.look(Act::Look).map_err(|why| fail(&why))?;
        let Some(found) = holding.schema else {
            return Err(fail(&format!(
                "{shown} holds no homeserver, and the old one has its data in a PostgreSQL\n  \
                 name the very database of the old server in [database]"
            )));
        };
        if !holding.is_of(&self.place.config.server_name) {
            return Err(fail(&format!(
                "{shown} is that of another homeserver\n  name the right one in [database]"
            )));
        }
        holding.suits().map_err(|why| fail(&format!("{shown}: {why}")))?;
        // Synapse keeps its connections as long as it runs. What it writes from now on would be missing in a copy.
        let serves = user.map_or(!holding.clients.is_empty(), |user| holding.clients.contains_key(user));
        if !serves {
            return Err(fail(&format!(
                "the old server has no connection to {shown}: it does not run, or this is a copy of its database, in which \
                 whatever it still writes would be missing\n  \
                 start the old server, and name its very database in [database]; one that has stopped for good and whose \
                 data are there already needs no more than `synvisor import media` and a start, when nobody can start it again \
                 (systemctl disable)"
            )));
        }
        let newest = self.newest()?;
        if newest < holding.oldest_code {
            return Err(fail(&format!(
                "{shown} has schema {found} and asks for a Synapse that knows {}; this one knows {newest}\n  \
                 name a newer one in [python] synapse, then: synvisor init",
                holding.oldest_code
            )));
        }
        Ok(())
    }

    fn newest(&self) -> Result<i64, Exit> {
        let user = self.place.users.synapse.as_ref();
        schema::ask(&self.venv_path(), None, user).map(|schema| schema.newest).map_err(|why| fail(&why))
    }

    pub(super) fn venv_path(&self) -> PathBuf {
        self.place.config.python.venv.clone()
    }
}
