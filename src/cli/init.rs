//! `synvisor init`: from nothing to a homeserver that can be started. What is there already is kept.

use std::io::BufRead;
use std::io::IsTerminal;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use crate::config::Config;
use crate::config::Database;
use crate::config::Redis;
use crate::config::edit;
use crate::host::builder::Builder;
use crate::host::builder::Means;
use crate::host::database;
use crate::host::layout::Layout;
use crate::host::layout::Users;
use crate::host::machine::Machine;
use crate::host::media;
use crate::host::provision;
use crate::host::secrets;
use crate::host::toml::Usable;
use crate::host::venv;
use crate::sys::fs;
use crate::sys::users;
use crate::sys::users::User;

use super::Exit;
use super::commands;
use super::config;
use super::output;
use super::output::fact;
use super::output::fail;
use super::upgrade;

/// The file with every key, as the packages install it; who has not touched its name has not set up anything.
const TEMPLATE: &str = include_str!("../../config/synvisor.toml");
const UNNAMED: &str = "example.com";

/// Answers that were given in advance.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Answers {
    /// The domain in user ids, as in @alice:example.com; it can never change.
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
    /// Where clients reach the homeserver: https://matrix.example.com/, for instance.
    #[arg(long, value_name = "URL")]
    public_baseurl: Option<String>,
    /// How many workers to begin with: none, little-federation-helper, one-of-each or specialized-workers.
    #[arg(long)]
    preset: Option<String>,
    /// A PostgreSQL that is there (external), or one that synvisor runs (embedded).
    #[arg(long, value_name = "MODE", value_parser = ["external", "embedded"])]
    database: Option<String>,
    /// The same for Redis.
    #[arg(long, value_name = "MODE", value_parser = ["external", "embedded"])]
    redis: Option<String>,
    /// Where uploads lie, if not in the state directory.
    #[arg(long, value_name = "DIR")]
    media: Option<PathBuf>,
    /// The version of Synapse; the newest if none is said.
    #[arg(long, value_name = "VERSION")]
    synapse: Option<String>,
    /// Ask nothing: what is not said is as it is suggested.
    #[arg(long, short)]
    yes: bool,
}

pub(super) fn init(path: &Path, answers: &Answers, means: &Means) -> Exit {
    match carry_out(path, answers, means) {
        Ok(()) => Exit::Done,
        Err(exit) => exit,
    }
}

fn carry_out(path: &Path, answers: &Answers, means: &Means) -> Result<(), Exit> {
    let (before, text) = match fs::read(path) {
        Ok(text) => (Some(text.clone()), text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => (None, TEMPLATE.to_owned()),
        Err(error) => {
            output::problem(format!("{error}\n  use root, or whoever may read and write it"));
            return Err(Exit::NotPermitted);
        }
    };
    let checked = config::usable(path, text.clone())?;
    let fresh =
        checked.parsed.config.server_name == UNNAMED && answers.server_name.as_deref() != Some(UNNAMED);
    let text = if fresh || before.is_none() {
        questions(&text, answers)?
    } else {
        kept(path, &checked.parsed.config, answers)?;
        text
    };
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
    let text = with_version(&builder, &chosen, answers)?;
    let ready = config::usable(path, text)?;
    if before.as_deref() != Some(ready.text.as_str()) {
        match before {
            Some(_) => config::rewrite(path, &ready.text)?,
            None => write_new(path, &ready.text)?,
        }
    }
    fact("configuration", &path.display().to_string());
    let config = &ready.parsed.config;
    let layout = Layout::of(config);
    if let Some(media) = &answers.media {
        let said = media::place(&layout, media, users.synapse.as_ref()).map_err(|why| fail(&why))?;
        fact("media", &said);
    }
    layout.make_state(&users).map_err(|error| fail(&error.to_string()))?;
    let made = secrets::complete(&layout.secrets(), &config.secrets, users.synapse.as_ref());
    let made = made.map_err(|error| fail(&error.to_string()))?;
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
    services(&ready)?;
    output::line(next(path, config));
    Ok(())
}

/// Asks whatever was not answered in advance, and writes it down.
fn questions(text: &str, answers: &Answers) -> Result<String, Exit> {
    let ask = !answers.yes && std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    let machine = Machine::look();
    let answer = |given: &Option<String>, question: &str, suggested: &str| match given {
        Some(given) => Ok(given.clone()),
        None if ask => question_on_terminal(question, suggested),
        None => Ok(suggested.to_owned()),
    };
    let name = answer(&answers.server_name, "Domain in user ids (@alice:DOMAIN); it can never change", "")?;
    if name.is_empty() {
        output::problem("the homeserver needs a name\n  synvisor init --server-name example.com");
        return Err(Exit::Usage);
    }
    let url = answer(&answers.public_baseurl, "Where clients reach it", &format!("https://{name}/"))?;
    let preset = answer(&answers.preset, &format!("Workers ({})", machine.describe()), machine.preset())?;
    let database = answer(&answers.database, "PostgreSQL: external or embedded", machine.database())?;
    let redis = if preset == "none" && answers.redis.is_none() {
        None
    } else {
        Some(answer(&answers.redis, "Redis: external or embedded", machine.redis())?)
    };
    let mut keys = vec![
        ("", "server_name", name),
        ("", "public_baseurl", url),
        ("workers", "preset", preset),
        ("database", "mode", database.clone()),
    ];
    if database == "external" {
        // Debian's PostgreSQL lets each system user in under its own name.
        keys.push(("database", "user", "synvisor".to_owned()));
    }
    keys.extend(redis.map(|redis| ("redis", "mode", redis)));
    let set = |text: String, (table, key, value): (&str, &str, String)| edit::set(&text, table, key, &value);
    keys.into_iter().try_fold(text.to_owned(), set).map_err(|why| fail(&why))
}

fn question_on_terminal(question: &str, suggested: &str) -> Result<String, Exit> {
    let mut out = std::io::stderr();
    let shown = if suggested.is_empty() { String::new() } else { format!(" [{suggested}]") };
    let _ = write!(out, "{question}{shown}: ");
    let _ = out.flush();
    let mut line = String::new();
    match std::io::stdin().lock().read_line(&mut line) {
        Ok(0) | Err(_) => {
            output::problem("\nnothing was changed");
            Err(Exit::Failed)
        }
        Ok(_) if line.trim().is_empty() => Ok(suggested.to_owned()),
        Ok(_) => Ok(line.trim().to_owned()),
    }
}

/// What is set up already is never overwritten: an answer that says something else is refused.
fn kept(path: &Path, config: &Config, answers: &Answers) -> Result<(), Exit> {
    let said = [
        ("--server-name", &answers.server_name, config.server_name.clone()),
        ("--public-baseurl", &answers.public_baseurl, config.public_baseurl.clone()),
    ];
    for (flag, given, held) in said {
        if let Some(given) =
            given.as_ref().filter(|given| given.trim_end_matches('/') != held.trim_end_matches('/'))
        {
            return Err(fail(&format!(
                "{} says {held}, and {flag} says {given}: what is set up is not overwritten\n  \
                 leave {flag} out, or edit the file",
                path.display()
            )));
        }
    }
    if answers.preset.is_some() || answers.database.is_some() || answers.redis.is_some() {
        output::problem(format!(
            "{} is set up already: --preset, --database and --redis change nothing",
            path.display()
        ));
    }
    Ok(())
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
fn services(ready: &Usable) -> Result<(), Exit> {
    let config = &ready.parsed.config;
    match &config.database {
        Database::Embedded => fact("PostgreSQL", "embedded: it is made at the first start"),
        Database::External(external) if provision::may(external) => {
            let made = provision::provision(external).map_err(|why| fail(&format!("PostgreSQL: {why}")))?;
            let made = if made.is_empty() {
                "they are there".to_owned()
            } else {
                format!("{} made", made.join(" and "))
            };
            fact("PostgreSQL", &format!("role {}, database {} ({made})", external.user, external.name));
        }
        Database::External(external) => {
            let password = external.password.as_ref().map(|source| ready.secrets.get(source));
            match commands::block_on(database::reach_postgres(config, password)) {
                Ok(Ok(())) => {
                    fact("PostgreSQL", &format!("role {}, database {}", external.user, external.name))
                }
                Ok(Err(why)) => {
                    fact("PostgreSQL", "is not ready:");
                    output::problem(why);
                    output::problem(format!(
                        "  as its administrator (sudo -u postgres psql), where they do not exist:\n    {}",
                        provision::sql(external).join("\n    ")
                    ));
                    return Err(Exit::Failed);
                }
                Err(error) => return Err(fail(&error.to_string())),
            }
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
fn write_new(path: &Path, text: &str) -> Result<(), Exit> {
    let group = users::group("synvisor").filter(|_| users::own_uid() == 0);
    let owner = group.map(|gid| User { name: "root".to_owned(), uid: 0, gid });
    let made = path.parent().map_or(Ok(()), fs::make_directory);
    made.and_then(|()| fs::replace(path, text.as_bytes(), 0o640, owner.as_ref()).map(|_| ()))
        .map_err(|error| config::not_writable(&error))
}
