//! What becomes of the database when another Synapse takes it up, and whether there is a way back.

use crate::config::Config;
use crate::host::layout::Layout;
use crate::host::layout::Users;
use crate::host::schema;
use crate::host::schema::Schema;
use crate::host::toml::Usable;
use crate::render;
use crate::topology::Topology;
use crate::topology::UnitName;
use crate::wire::Migration;

use super::Exit;
use super::output::fact;
use super::output::fail;
use super::progress::Progress;

/// From the Synapse of now to another one.
pub(super) struct Crossing<'a> {
    pub(super) now: &'a Usable,
    pub(super) target: &'a Config,
    pub(super) users: &'a Users,
}

/// What was found out about it.
pub(super) enum Outlook {
    /// Nobody knows.
    Dark,
    /// Nothing happens to the database.
    Calm,
    /// The old Synapse can go on with what the new one makes of the database, which is this schema.
    Reversible(i64),
    /// It cannot.
    OneWay,
}

impl Crossing<'_> {
    /// Whether the new Synapse can use the database, and whether there is a way back then; `was` is the version of now.
    pub(super) fn look(&self, was: Option<&str>, anyway: bool) -> Result<Outlook, Exit> {
        let new = match self.ask() {
            Ok(new) => new,
            Err(why) if anyway => {
                fact("database", &format!("was not asked: {why}"));
                return Ok(Outlook::Dark);
            }
            Err(why) => {
                return Err(fail(&format!(
                    "nothing was changed: the database does not say which schema it has: {why}\n  \
                     let it run meanwhile, or go on without knowing whether there is a way back: --anyway"
                )));
            }
        };
        let Some(found) = new.database else {
            fact("database", "has no tables yet");
            return Ok(Outlook::Calm);
        };
        if !new.can_use(found) {
            return Err(fail(&format!(
                "nothing was changed: the database has schema {} and asks for a Synapse that knows {}; this one knows {}\n  \
                 a newer version is needed, or a backup of the database from before it was migrated",
                found.version, found.oldest_code, new.newest
            )));
        }
        let Some(was) = was else { return Ok(Outlook::Dark) };
        let old = self
            .ask_old()
            .map_err(|why| fail(&format!("the Synapse that runs does not say what it can use: {why}")))?;
        let schema = if new.migrates() {
            format!("schema {} → {}", found.version, new.newest)
        } else {
            format!("schema {} stays", found.version)
        };
        if new.leaves_usable_for(&old) {
            fact("database", &format!("{schema}: rollback to {was} is possible"));
            return Ok(if new.may_migrate() { Outlook::Reversible(new.newest) } else { Outlook::Calm });
        }
        fact("database", &format!("{schema}: rollback to {was} is NOT possible"));
        if anyway {
            return Ok(Outlook::OneWay);
        }
        Err(fail(&format!(
            "nothing was changed: after this there is no way back to {was}, which knows schemas up to {} while the database \
             would ask for {}\n  make a backup of the database, then the same with --anyway",
            old.newest,
            new.oldest_code.max(found.oldest_code),
        )))
    }

    /// Migrates while the old Synapse still serves, where it can go on then: nobody has to wait for it. Returns what is left
    /// to the new main process.
    pub(super) fn ahead(&self, outlook: Outlook) -> Migration {
        let newest = match outlook {
            Outlook::Dark => return Migration::Unknown,
            Outlook::Calm => return Migration::None,
            Outlook::OneWay => return Migration::OneWay,
            Outlook::Reversible(newest) => newest,
        };
        let main = UnitName::main();
        let topology = Topology::of(self.target);
        let environment =
            topology.unit(&main).map(|unit| render::unit_settings(self.target, unit).environment);
        let file = Layout::of(self.target).config_file(&main);
        let progress = Progress::start("migration     the schema, while the old Synapse serves".to_owned());
        let done = schema::migrate(
            &self.target.python.venv,
            &file,
            &environment.unwrap_or_default(),
            self.users.synapse.as_ref(),
        );
        let seconds = progress.end();
        match done {
            Ok(()) => {
                fact("migration", &format!("schema {newest} while the old Synapse serves ({seconds} s)"));
                Migration::None
            }
            Err(why) => {
                fact("migration", &format!("is left to the new main process: {why}"));
                Migration::Unknown
            }
        }
    }

    /// Whether the old Synapse cannot use the database any more, as far as anybody can tell.
    pub(super) fn is_done(&self) -> bool {
        match (self.ask(), self.ask_old()) {
            (Ok(Schema { database: Some(found), .. }), Ok(old)) => !old.can_use(found),
            _ => true,
        }
    }

    fn ask(&self) -> Result<Schema, String> {
        let settings = render::connection(&self.now.parsed.config, &self.now.secrets);
        let connection = serde_json::to_value(settings).unwrap_or_default();
        schema::ask(&self.target.python.venv, Some(&connection), self.users.synapse.as_ref())
    }

    fn ask_old(&self) -> Result<Schema, String> {
        schema::ask(&self.now.parsed.config.python.venv, None, self.users.synapse.as_ref())
    }
}
