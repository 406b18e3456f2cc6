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
use crate::host::database;
use crate::host::generations::Generations;
use crate::host::layout::Layout;
use crate::host::layout::Users;
use crate::host::toml;
use crate::host::toml::Usable;
use crate::host::venv;
use crate::host::venvs;
use crate::sys::fs;
use crate::sys::process;
use crate::sys::users;
use crate::wire::Answer;
use crate::wire::Generation;
use crate::wire::GenerationResult;
use crate::wire::Migration;
use crate::wire::PlanReport;
use crate::wire::ReloadRequest;

use super::Exit;
use super::commands;
use super::config;
use super::migration::Crossing;
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
             put `synapse = \"VERSION\"` in the place of venv, then: synvisor init, and synvisor reload",
            path.display()
        )));
    }
    let running = settled(path)?;
    let users = Users::of(old).map_err(|why| fail(&why))?;
    let builder = Builder::new(old, users.synapse.as_ref(), means).map_err(|why| fail(&why))?;
    let version = match &wish.version {
        Some(version) => version.clone(),
        None if wish.rollback => {
            let now = old.python.recipe.as_ref().map(|recipe| recipe.version.as_str());
            before(path, old, &users, now).ok_or_else(|| {
                fail("no version before this one is known\n  name it: synvisor upgrade VERSION")
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
    let held = venv::inspect(target, users.synapse.as_ref()).map_err(|why| fail(&why))?;
    if let Some(version) = held.postgres_version.filter(|_| target.database.is_embedded()) {
        database::fits(&version, &Layout::of(target))
            .map_err(|why| fail(&format!("nothing was changed: {why}")))?;
    }
    if now.text == new.text && target.python.venv == old.python.venv && was.is_some() {
        output::line(format!("Synapse {version} is what {} says already", path.display()));
        return Ok(Exit::Done);
    }
    routes(target, &users, wish)?;
    let crossing = Crossing { now: &now, target, users: &users };
    let outlook = crossing.look(was.as_deref(), wish.anyway)?;
    if running {
        settled(path)?;
    }
    if fs::read(path).map_err(|error| fail(&error.to_string()))? != now.text {
        return Err(fail(&format!(
            "nothing was changed: somebody has edited {} meanwhile\n  upgrade again",
            path.display()
        )));
    }
    let migration = if running { crossing.ahead(outlook) } else { Migration::Unknown };
    take_up(path, &new, &crossing, running.then_some(migration))?;
    let stay = [old.python.venv.clone(), target.python.venv.clone()];
    let programs = process::programs();
    let prune = || venvs::prune(&old.supervisor.state_dir, KEPT, &stay, &programs);
    match users::as_user(users.synapse.as_ref(), prune) {
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
        Ok(false) if builder.has_lock() => {
            fact(
                "virtualenv",
                &format!("{} (it is there, and was not held against --lock)", place.display()),
            );
        }
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

/// Writes the TOML and has the daemon, if one runs, take it up; what it undoes is undone in the file.
fn take_up(path: &Path, new: &Usable, crossing: &Crossing<'_>, migration: Option<Migration>) -> Step<()> {
    config::rewrite(path, &new.text)?;
    let shown = path.display();
    let Some(migration) = migration else {
        output::line(format!("{shown} is changed; it counts from the next start"));
        return Ok(());
    };
    let exit = match commands::ask::<Answer>(path, Method::POST, "/v1/reload", &ReloadRequest { migration }) {
        Ok(answer) => {
            output::line(answer.message);
            return Ok(());
        }
        Err(exit) => exit,
    };
    if migration == Migration::OneWay && crossing.is_done() {
        output::problem(format!(
            "the database is migrated, and {shown} stays as it is: the Synapse of before cannot use it any more\n  \
             mend the cause and reload again, or restore a backup of the database"
        ));
    } else if fs::read(path).is_ok_and(|text| text == new.text) && is_left(path) {
        // Nobody has edited it meanwhile.
        config::rewrite(path, &crossing.now.text)?;
        output::problem(format!("{shown} is as it was"));
    } else {
        output::problem(format!("{shown} was left as it is\n  synvisor status says what runs"));
    }
    Err(exit)
}

/// Whether a daemon runs that goes by something else than the TOML, and is done with it: one that took over from another in
/// the middle of a change may have carried it on.
fn is_left(path: &Path) -> bool {
    let plan = commands::ask::<PlanReport>(path, Method::GET, "/v1/plan", &());
    matches!(plan, Ok(PlanReport::Planned { empty: false, .. } | PlanReport::Refused { .. }))
}

/// The version that ran before this one, by the configurations that were applied.
fn before(path: &Path, config: &Config, users: &Users, now: Option<&str>) -> Option<String> {
    let directory = Layout::of(config).generations();
    let owner = fs::owner_and_mode(&directory).ok()?.0;
    let generations = Generations::new(directory);
    let base = path.parent().unwrap_or(Path::new("/"));
    let version = |generation: Generation| {
        let text = generations.text(generation.number).ok()?;
        Some(Config::parse(&text, base).ok()?.config.python.recipe?.version)
    };
    let find = || {
        let applied = |generation: &Generation| generation.result == GenerationResult::Applied;
        let all = generations.list().into_iter().rev().filter(applied);
        Ok(all.filter_map(version).find(|version| Some(version.as_str()) != now))
    };
    // What does not belong to who reads it is not read.
    users::as_user(users.synapse.as_ref().filter(|user| user.uid == owner), find).ok()?
}

fn is_own_venv(held: &Effective) -> bool {
    held.table == "[python]" && held.key == "venv" && matches!(held.origin, Origin::At(_))
}
