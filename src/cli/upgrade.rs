//! `synvisor upgrade`: another version of Synapse, made beside the one that runs, looked at from all sides, then taken up
//! by a reload.

use std::path::Path;

use hyper::Method;

use crate::config::Config;
use crate::config::edit;
use crate::config::effective::Effective;
use crate::config::effective::Origin;
use crate::config::recipe::Recipe;
use crate::host::builder::Builder;
use crate::host::builder::Means;
use crate::host::layout::Layout;
use crate::host::layout::Users;
use crate::host::schema;
use crate::host::toml;
use crate::host::toml::Usable;
use crate::host::venv;
use crate::host::venvs;
use crate::render;
use crate::sys::fs;
use crate::topology::UnitName;
use crate::wire::Answer;
use crate::wire::PlanReport;

use super::Exit;
use super::commands;
use super::config;
use super::output;
use super::output::fact;
use super::output::fail;
use super::progress::Progress;

/// Virtualenvs that are kept: what runs, what ran before, and one more.
const KEPT: usize = 3;

/// What to upgrade to, and how.
#[derive(Debug, Default)]
pub(super) struct Wish {
    pub(super) version: Option<String>,
    /// Back to the version before this one.
    pub(super) rollback: bool,
    /// Though the way back is cut off, or something is not as it should be.
    pub(super) anyway: bool,
}

/// Why it ends early: what was to be said is said.
type Step<T> = Result<T, Exit>;

pub(super) fn upgrade(path: &Path, wish: &Wish, means: &Means) -> Exit {
    match carry_out(path, wish, means) {
        Ok(exit) | Err(exit) => exit,
    }
}

fn carry_out(path: &Path, wish: &Wish, means: &Means) -> Step<Exit> {
    let now = toml::usable(path, None).map_err(|unusable| config::refuse(&unusable))?;
    let old = &now.parsed.config;
    if old.python.recipe.is_none() && now.parsed.effective.iter().any(is_own_venv) {
        return Err(fail(&format!(
            "{} names a virtualenv of your own ([python] venv), and synvisor changes none that it has not made\n  \
             put `synapse = \"VERSION\"` in the place of venv: `synvisor upgrade` then makes one",
            path.display()
        )));
    }
    let running = settled(path)?;
    let users = Users::of(old).map_err(|why| fail(&why))?;
    let builder = Builder::new(old, users.synapse.as_ref(), means).map_err(|why| fail(&why))?;
    let version = match &wish.version {
        Some(version) => version.clone(),
        None if wish.rollback => {
            let before = venvs::before(&old.supervisor.state_dir, &old.python.venv);
            before.map_err(|error| fail(&error.to_string()))?.ok_or_else(|| {
                fail("there is no version before this one\n  name it: synvisor upgrade VERSION")
            })?
        }
        None => builder.newest().map_err(|why| fail(&why))?,
    };
    let new = with_version(path, &now, &version)?;
    let target = &new.parsed.config;
    let Some(recipe) = &target.python.recipe else {
        return Err(fail("the configuration names no version of Synapse"));
    };
    let was = venv::synapse_version(&old.python.venv);
    output::line(match &was {
        Some(was) => format!("Synapse {was} → {version}"),
        None => format!("Synapse {version}"),
    });
    make(&builder, recipe, &old.supervisor.state_dir)?;
    venv::inspect(target, users.synapse.as_ref()).map_err(|why| fail(&why))?;
    if now.text == new.text && target.python.venv == old.python.venv && was.is_some() {
        output::line(format!("Synapse {version} is what {} says already", path.display()));
        return Ok(Exit::Done);
    }
    routes(target, &users, wish)?;
    let newest = database(&now, target, &users, wish, was.as_deref())?;
    if running && let Some(newest) = newest {
        ahead(target, &users, newest);
    }
    take_up(path, &now, &new, running)?;
    let stay = [old.python.venv.clone(), target.python.venv.clone()];
    match venvs::prune(&old.supervisor.state_dir, KEPT, &stay) {
        Ok(gone) => gone.iter().for_each(|venv| fact("removed", &venv.display().to_string())),
        Err(why) => output::problem(format!("old virtualenvs stay: {why}")),
    }
    Ok(Exit::Done)
}

/// Whether a daemon runs; then the TOML must be what it runs, or an upgrade would bring other changes along.
fn settled(path: &Path) -> Step<bool> {
    if !commands::is_running(path)? {
        return Ok(false);
    }
    match commands::ask::<PlanReport>(path, Method::GET, "/v1/plan", &())? {
        PlanReport::Planned { empty: true, .. } => Ok(true),
        PlanReport::Planned { empty: false, .. } => Err(fail(&format!(
            "{} differs from what runs, and an upgrade would bring that along\n  \
             apply it first (synvisor reload), or take it back; `synvisor plan` says what it is",
            path.display()
        ))),
        PlanReport::Busy { message } => {
            output::problem(message);
            Err(Exit::Busy)
        }
        PlanReport::Refused { message } | PlanReport::Unusable { message } => Err(fail(&message)),
    }
}

/// The configuration with another version in it, checked as the file will be.
fn with_version(path: &Path, now: &Usable, version: &str) -> Step<Usable> {
    let text = edit::set(&now.text, "python", "synapse", version).map_err(|why| fail(&why))?;
    config::usable(path, text)
}

/// Makes a virtualenv, unless it is there, and says how far it is.
pub(super) fn make(builder: &Builder<'_>, recipe: &Recipe, state: &Path) -> Step<()> {
    let place = recipe.venv(state);
    let mut progress = Progress::start(format!("virtualenv    making {}", place.display()));
    let made = builder.make(recipe, &mut |line| progress.say(line));
    let seconds = progress.end();
    match made {
        Ok(true) => fact("virtualenv", &format!("{} (made in {seconds} s)", place.display())),
        Ok(false) => fact("virtualenv", &format!("{} (it is there)", place.display())),
        Err(why) => return Err(fail(&why)),
    }
    Ok(())
}

/// Whether requests would go to a process that fails them. What another version has or lacks beside that goes to main.
fn routes(target: &Config, users: &Users, wish: &Wish) -> Step<()> {
    let why = match super::routes::compared(target, users) {
        Ok((count, findings)) => {
            let failing: Vec<_> = findings.iter().filter(|finding| finding.fails()).collect();
            if failing.is_empty() {
                let others = match findings.len() {
                    0 => String::new(),
                    others => format!(", {others} not by a rule of their own"),
                };
                fact("routes", &format!("all {count} endpoints go where they are answered{others}"));
                return Ok(());
            }
            failing.iter().for_each(output::problem);
            format!("{} of what it answers goes to a process that does not answer it", failing.len())
        }
        Err(why) => why,
    };
    if wish.anyway {
        fact("routes", &why);
        return Ok(());
    }
    Err(fail(&format!(
        "nothing was changed: {why}\n  look for a newer synvisor, or go on with --anyway: what is listed above may fail"
    )))
}

/// Whether the new Synapse can use the database, and whether there is a way back then; returns the schema that the database
/// can be migrated to while the old Synapse still serves.
fn database(
    now: &Usable,
    target: &Config,
    users: &Users,
    wish: &Wish,
    was: Option<&str>,
) -> Step<Option<i64>> {
    let user = users.synapse.as_ref();
    let settings = render::connection(&now.parsed.config, &now.secrets);
    let connection = serde_json::to_value(settings).unwrap_or_default();
    let new = match schema::ask(&target.python.venv, Some(&connection), user) {
        Ok(new) => new,
        Err(why) if wish.anyway => {
            fact("database", &format!("was not asked: {why}"));
            return Ok(None);
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
        return Ok(None);
    };
    if !new.can_use(found) {
        return Err(fail(&format!(
            "nothing was changed: the database has schema {} and asks for a Synapse that knows {}; this one knows {}\n  \
             a newer version is needed, or a backup of the database from before it was migrated",
            found.version, found.oldest_code, new.newest
        )));
    }
    let Some(was) = was else { return Ok(None) };
    let old = schema::ask(&now.parsed.config.python.venv, None, user)
        .map_err(|why| fail(&format!("the Synapse that runs does not say what it can use: {why}")))?;
    let schema = if new.migrates() {
        format!("schema {} → {}", found.version, new.newest)
    } else {
        format!("schema {} stays", found.version)
    };
    if new.leaves_usable_for(&old) {
        fact("database", &format!("{schema}: rollback to {was} is possible"));
        return Ok(new.migrates().then_some(new.newest));
    }
    fact("database", &format!("{schema}: rollback to {was} is NOT possible"));
    if wish.anyway {
        return Ok(None);
    }
    Err(fail(&format!(
        "nothing was changed: after this there is no way back to {was}, which knows schemas up to {} while the database would \
         ask for {}\n  make a backup of the database, then: synvisor upgrade {} --anyway",
        old.newest,
        new.oldest_code.max(found.oldest_code),
        venv::synapse_version(&target.python.venv).unwrap_or_default()
    )))
}

/// Migrates while the old Synapse still serves: nobody has to wait for it then.
fn ahead(target: &Config, users: &Users, newest: i64) {
    let file = Layout::of(target).config_file(&UnitName::main());
    let progress = Progress::start("migration     the schema, while the old Synapse serves".to_owned());
    let done = schema::migrate(&target.python.venv, &file, users.synapse.as_ref());
    let seconds = progress.end();
    match done {
        Ok(()) => fact("migration", &format!("schema {newest} while the old Synapse serves ({seconds} s)")),
        Err(why) => fact("migration", &format!("is left to the new main process: {why}")),
    }
}

/// Writes the TOML and has the daemon take it up; what the daemon undoes is undone in the file.
fn take_up(path: &Path, now: &Usable, new: &Usable, running: bool) -> Step<()> {
    config::rewrite(path, &new.text)?;
    if !running {
        output::line(format!("{} is changed; it counts from the next start", path.display()));
        return Ok(());
    }
    match commands::ask::<Answer>(path, Method::POST, "/v1/reload", &()) {
        Ok(answer) => {
            output::line(answer.message);
            Ok(())
        }
        Err(exit) => {
            // Somebody may have edited it meanwhile.
            if fs::read(path).is_ok_and(|text| text == new.text) {
                config::rewrite(path, &now.text)?;
                output::problem(format!("{} is as it was", path.display()));
            }
            Err(exit)
        }
    }
}

fn is_own_venv(held: &Effective) -> bool {
    held.table == "[python]" && held.key == "venv" && matches!(held.origin, Origin::At(_))
}
