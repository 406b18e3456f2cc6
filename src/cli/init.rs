//! `synvisor init`: from nothing to a homeserver that can be started. What is there already is kept.

use std::path::Path;

use crate::config::Config;
use crate::config::Database;
use crate::config::Redis;
use crate::config::edit;
use crate::host::builder::Builder;
use crate::host::builder::Means;
use crate::host::database;
use crate::host::holding::Act;
use crate::host::holding::Reach;
use crate::host::layout::Layout;
use crate::host::layout::Users;
use crate::host::media;
use crate::host::provision;
use crate::host::secrets;
use crate::host::toml::Usable;
use crate::host::venv;
use crate::sys::fs;
use crate::sys::users;
use crate::sys::users::User;

use super::Exit;
use super::answers::Answers;
use super::answers::settle;
use super::commands;
use super::config;
use super::output;
use super::output::fact;
use super::output::fail;
use super::upgrade;

/// The file with every key, as the packages install it.
pub(super) const TEMPLATE: &str = include_str!("../../config/synvisor.toml");

pub(super) fn init(path: &Path, answers: &Answers, means: &Means) -> Exit {
    match carry_out(path, answers, means) {
        Ok(()) => Exit::Done,
        Err(exit) => exit,
    }
}

fn carry_out(path: &Path, answers: &Answers, means: &Means) -> Result<(), Exit> {
    let path = &std::path::absolute(path).map_err(|error| fail(&error.to_string()))?;
    let (before, text) = match fs::read(path) {
        Ok(text) => (Some(text.clone()), text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => (None, TEMPLATE.to_owned()),
        Err(error) => {
            output::problem(format!("{error}\n  use root, or whoever may read and write it"));
            return Err(Exit::NotPermitted);
        }
    };
    let checked = config::usable(path, text)?;
    let text = settle(path, &checked, answers)?;
    let chosen = config::usable(path, text)?;
    let config = &chosen.parsed.config;
    let users = Users::of(config).map_err(|why| fail(&why))?;
    if users.synapse.is_none()
        && users::own_name() != config.supervisor.user
        && config.supervisor.state_dir == Path::new("/var/lib/synvisor")
    {
        output::problem(
            "only root can set up the service\n  use sudo, or directories of your own in [supervisor]",
        );
        return Err(Exit::NotPermitted);
    }
    let builder = Builder::new(config, users.synapse.as_ref(), means).map_err(|why| fail(&why))?;
    // Nobody has to answer once more if there is no network now.
    match &before {
        Some(text) if *text == chosen.text => {}
        Some(_) => config::rewrite(path, &chosen.text)?,
        None => write_new(path, &chosen.text)?,
    }
    let text = with_version(&builder, &chosen, answers)?;
    let ready = config::usable(path, text)?;
    if ready.text != chosen.text {
        config::rewrite(path, &ready.text)?;
    }
    fact("configuration", &path.display().to_string());
    let config = &ready.parsed.config;
    let layout = Layout::of(config);
    if let Some(media) = &answers.media {
        let said = media::place(&layout, media, users.synapse.as_ref()).map_err(|why| fail(&why))?;
        fact("media", &said);
    }
    let user = users.synapse.as_ref();
    fs::directory(&layout.state, 0o750, user).map_err(|error| fail(&error.to_string()))?;
    let complete = || {
        layout.make_state(None).map_err(|error| error.to_string())?;
        secrets::complete(&layout.secrets(), &config.secrets, None).map_err(|error| error.to_string())
    };
    let made = users::as_user(user, complete).map_err(|why| fail(&why))?;
    let shown = layout.secrets().display().to_string();
    fact("secrets", &if made.is_empty() { format!("{shown} (they are there)") } else { shown });
    if let Some(recipe) = &config.python.recipe {
        upgrade::make(&builder, recipe, &config.supervisor.state_dir)?;
    }
    let held = venv::inspect(config, users.synapse.as_ref()).map_err(|why| fail(&why))?;
    if config.python.recipe.is_none() {
        let version = held.synapse.unwrap_or_default();
        fact("virtualenv", &format!("{} (yours, Synapse {version})", config.python.venv.display()));
    }
    services(&ready, user)?;
    let running = commands::is_running(path)?;
    output::line(if running {
        "\nWhat runs takes this up by: synvisor reload".to_owned()
    } else if let Some(count) = in_use(&ready, user) {
        format!(
            "\nAnother Synapse serves with this database ({count} connections). It gives way by:\n  \
             synvisor migrate --from HOMESERVER_YAML --old-unit UNIT    # or --old-container, --old-stop and --old-start"
        )
    } else {
        next(path, config)
    });
    Ok(())
}

/// How many connections another Synapse has to the database.
fn in_use(ready: &Usable, user: Option<&User>) -> Option<u64> {
    let config = &ready.parsed.config;
    let reach = Reach::of(config, &ready.secrets, user);
    if config.database.is_embedded() { None } else { reach.look(Act::Look).ok()?.in_use() }
}

/// The text with a version of Synapse in it, unless it has one or names a virtualenv that is there.
fn with_version(builder: &Builder<'_>, chosen: &Usable, answers: &Answers) -> Result<String, Exit> {
    let python = &chosen.parsed.config.python;
    let own = python.recipe.is_none() && venv::synapse_version(&python.venv).is_some();
    if python.recipe.is_some() && answers.synapse.is_none() || own {
        return Ok(chosen.text.clone());
    }
    if let (Some(recipe), Some(asked)) = (&python.recipe, &answers.synapse)
        && recipe.version != *asked
    {
        return Err(fail(&format!(
            "Synapse {} is set up\n  another version is taken up by: synvisor upgrade {asked}",
            recipe.version
        )));
    }
    let version = match &answers.synapse {
        Some(version) => version.clone(),
        None => builder.newest().map_err(|why| fail(&why))?,
    };
    edit::set(&chosen.text, "python", "synapse", &version).map_err(|why| fail(&why))
}

/// PostgreSQL and Redis: made where that can be, asked where they are there.
fn services(ready: &Usable, user: Option<&User>) -> Result<(), Exit> {
    let config = &ready.parsed.config;
    match &config.database {
        Database::Embedded => fact("PostgreSQL", "embedded: it is made at the first start"),
        Database::External(external) => {
            let statements = || {
                let statements = provision::sql(external).join("\n    ");
                format!(
                    "  as its administrator (sudo -u postgres psql), where they do not exist:\n    {statements}"
                )
            };
            let unready = |why: String| {
                fact("PostgreSQL", "is not ready:");
                output::problem(why);
                fail(&statements())
            };
            let made = if provision::may(external) { provision::provision(external) } else { Ok(Vec::new()) };
            let made = made.map_err(unready)?;
            let password = external.password.as_ref().map(|source| ready.secrets.get(source));
            let reach = || {
                commands::block_on(database::reach_postgres(config, password))
                    .map_err(|error| error.to_string())
                    .and_then(|reached| reached)
            };
            // As whom Synapse comes.
            users::as_user(user, reach).map_err(unready)?;
            let made = match made.len() {
                0 => "they are there".to_owned(),
                _ => format!("{} made", made.join(" and ")),
            };
            fact("PostgreSQL", &format!("role {}, database {} ({made})", external.user, external.name));
        }
    }
    if crate::topology::Topology::of(config).has_workers() {
        match &config.redis {
            Redis::Embedded => fact("Redis", "embedded"),
            Redis::External(external) => {
                let password = external.password.as_ref().map(|source| ready.secrets.get(source));
                match commands::block_on(database::reach_redis(config, password)) {
                    Ok(Ok(())) => fact("Redis", "it answers"),
                    Ok(Err(why)) => {
                        return Err(fail(&format!("{why}\n  or install it: apt-get install redis-server")));
                    }
                    Err(error) => return Err(fail(&error.to_string())),
                }
            }
        }
    }
    Ok(())
}

fn next(path: &Path, config: &Config) -> String {
    let start = if path == Path::new("/etc/synvisor/synvisor.toml") {
        "systemctl enable --now synvisor".to_owned()
    } else {
        format!("synvisor supervise --config {}", path.display())
    };
    format!(
        "\n{} can be started:\n  {start}\nthen a user:\n  synvisor user add alice --admin\n\
         and your web server in front:\n  synvisor front caddy    # or nginx, haproxy, apache, traefik",
        config.server_name
    )
}

/// Writes the file as the packages install it: the service reads it by its group.
pub(super) fn write_new(path: &Path, text: &str) -> Result<(), Exit> {
    let group = users::group("synvisor").filter(|_| users::own_uid() == 0);
    let owner = group.map(|gid| User { name: "root".to_owned(), uid: 0, gid });
    let made = path.parent().map_or(Ok(()), fs::make_directory);
    made.and_then(|()| fs::replace(path, text.as_bytes(), 0o640, owner.as_ref()).map(|_| ()))
        .map_err(|error| config::not_writable(&error))
}
