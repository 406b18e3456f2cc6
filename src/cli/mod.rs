//! The command line: verbs, flags, exit codes.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::CommandFactory;
use clap::Parser;
use clap::Subcommand;

use crate::host::builder::Means;
use crate::observe;
use crate::render::front::Server;
use crate::run::After;
use crate::run::ForTests;
use crate::run::Launch;
use crate::topology::UnitName;
use crate::wire::OrderRequest;

mod administration;
mod answers;
mod ask;
mod backup;
mod commands;
mod config;
mod daemon;
mod doctor;
mod documents;
mod front;
mod import;
mod init;
mod media;
mod migrate;
mod migration;
mod output;
mod progress;
mod registration_tokens;
mod restore;
mod routes;
mod upgrade;
mod users;

/// What a command ends with, from sysexits.h where it has a word for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Done = 0,
    Failed = 1,
    /// A plan that is not empty.
    Changes = 3,
    Usage = 64,
    NotRunning = 69,
    Busy = 75,
    NotPermitted = 77,
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// For `--help` and the manual page.
const AFTER_HELP: &str = "\
From nothing to a homeserver:
  sudo synvisor init
  sudo systemctl enable --now synvisor
  sudo synvisor user add alice --admin

After an edit of the configuration:
  synvisor check                   what is wrong with it
  synvisor plan                    what it would change, and whom it restarts
  sudo systemctl reload synvisor   the same as `synvisor reload`; undone if anything does not come up

Files:
  /etc/synvisor/synvisor.toml      the configuration; /usr/share/synvisor has its JSON schema
  /var/lib/synvisor                secrets, signing key, media, logs, virtualenvs, generations
  /run/synvisor                    sockets

Exit status:
  0   done
  1   failed, and the last lines say why
  3   of `plan`: it would change something
  64  wrong usage
  69  the daemon does not run
  75  something else is under way
  77  not permitted
  78  the configuration cannot be used
";

/// Runs a whole Matrix Synapse homeserver, main process and workers, from one TOML file.
#[derive(Debug, Parser)]
#[command(name = "synvisor", version, max_term_width = 100, after_long_help = AFTER_HELP)]
struct Arguments {
    /// The configuration file.
    #[arg(long, global = true, value_name = "FILE", default_value = "/etc/synvisor/synvisor.toml")]
    config: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the homeserver in the foreground until SIGTERM or Ctrl-C.
    Supervise {
        /// Leave a mechanism out, to see in a test that it matters.
        #[arg(long, hide = true, value_parser = ["router", "child", "pool", "forkserver", "bootstrap", "copies", "watch"])]
        without: Vec<String>,
        /// Die after so many moments of a change, to see in a test that the next start mends it.
        #[arg(long, hide = true)]
        milestones: Option<u64>,
        /// A descriptor that the synvisor in whose place this one comes has left open.
        #[arg(long, hide = true)]
        inherit: Vec<i32>,
        /// Only say whether this synvisor could take over what that one offers.
        #[arg(long, hide = true, value_name = "FILE")]
        upgrade_check: Option<PathBuf>,
    },
    /// Have the synvisor that is installed now take the place of the one that runs, while the homeserver serves on: nothing of
    /// Synapse is restarted.
    SelfUpgrade,
    /// Set up a homeserver: ask what has to be known, write the configuration, make database, secrets and the virtualenv with
    /// Synapse, and say what comes next. Keeps whatever is there; a second run does what is missing.
    Init {
        #[command(flatten)]
        answers: answers::Answers,
        #[command(flatten)]
        means: MeansArguments,
    },
    /// Write a TOML file, the files of its secrets and a report from the configuration of another installation: files of
    /// Synapse's own, variables of matrix-docker-ansible-deploy, or the environment of Synapse's Docker image. Changes nothing
    /// of it, and overwrites nothing.
    #[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
    Import {
        #[command(flatten)]
        arguments: Option<import::ImportArguments>,
        #[command(subcommand)]
        verb: Option<media::ImportVerb>,
    },
    /// Have another version of Synapse take the place of the one that runs. It is made beside that one and looked at first: its
    /// routes, the database's schema, the configuration. Requests wait meanwhile; what does not come up is undone.
    Upgrade {
        /// The newest one that there is, if none is said. An older one is taken up alike.
        #[arg(conflicts_with = "rollback")]
        version: Option<String>,
        /// Return to the version before.
        #[arg(long)]
        rollback: bool,
        /// Go on where there is no way back, or where Synapse answers something that the routing table does not know.
        #[arg(long)]
        anyway: bool,
        #[command(flatten)]
        means: MeansArguments,
    },
    /// Move from another Synapse to this one: print the steps, or with --go take them, each of which can be taken up again where
    /// it was broken off. Seconds pass without a server, and there is a way back.
    Migrate(migrate::MigrateArguments),
    /// Save configuration, secrets, signing key and database, and a list of the media, in a new directory, while the homeserver
    /// serves.
    Backup(backup::BackupArguments),
    /// Have a backup again, in a system that has nothing yet. Overwrites nothing; a second run does what is missing.
    Restore {
        /// The directory of the backup.
        backup: PathBuf,
        #[command(flatten)]
        means: MeansArguments,
    },
    /// Look for what goes wrong in practice, on this machine and as others see it, and say what to do. Exits with 1 if something
    /// is wrong.
    Doctor {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// Ask nothing by way of the public address.
        #[arg(long)]
        offline: bool,
    },
    /// Show every unit and how it is.
    Status {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Start units and wait until they are ready.
    Start(Units),
    /// Stop units and wait until they are down.
    Stop(Units),
    /// Restart units, one after the other, and wait until they are ready again.
    Restart {
        #[command(flatten)]
        units: Units,
        /// Restart all of them together: quicker, and requests wait longer.
        #[arg(long)]
        at_once: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Say what the configuration on disk would change, unit by unit and in which order, and why; changes nothing. Exits
    /// with 3 if it would change something.
    Plan {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Read the configuration again and carry out what `plan` shows, then wait until it is done. What fails is undone.
    Reload,
    /// Go back to an earlier configuration and wait until that is done. The file on disk stays as it is.
    Rollback {
        /// Its number, as `generations` shows it; without one, the last that was applied before what runs.
        generation: Option<u64>,
    },
    /// List the configurations that were applied, or were to be: when, by whom, what changed, what became of it.
    Generations {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print what a unit wrote.
    Logs {
        /// Go on printing as it writes.
        #[arg(short, long)]
        follow: bool,
        /// How many of its last lines to begin with.
        #[arg(short = 'n', long, default_value_t = 100)]
        lines: usize,
        unit: String,
    },
    /// Print what every thread of a process of Synapse is doing at this moment: the stack of its Python calls. It goes to
    /// the unit's log too, and disturbs nothing.
    Dump { unit: String },
    /// Say which unit answers a request, by which rule and why; needs no daemon.
    Route {
        /// GET, PUT, POST, ….
        method: String,
        /// Path, with its query if it matters: '/_matrix/client/v3/sync?since=1'.
        #[arg(value_name = "PATH")]
        target: String,
        /// The user who asks: says which of several processes it is.
        #[arg(long, value_name = "@USER:SERVER", conflicts_with = "token_file")]
        user: Option<String>,
        /// A file with the access token that the request has; a token itself would be seen by every user of the machine.
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
    },
    /// Print the whole routing table for the present units; needs no daemon.
    Routes {
        /// Compare the table with what the installed Synapse answers.
        #[arg(long)]
        verify: bool,
    },
    /// Look for mistakes in the configuration; needs no daemon, virtualenv or database.
    Check {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Look at the configuration as it takes effect.
    Config {
        #[command(subcommand)]
        verb: ConfigVerb,
    },
    /// Print a configuration for the web server in front of synvisor, from its own; needs no daemon.
    Front {
        #[arg(value_parser = front::servers())]
        server: Server,
        /// Have other servers come by port 8448 of server_name, so that nobody has to tell them where to go.
        #[arg(long)]
        federation_port: bool,
        /// An address by which it is to be reached as well, like one that other servers remember from an old installation.
        #[arg(long, value_name = "HOST:PORT", value_parser = front::address)]
        also: Vec<(String, u16)>,
    },
    /// Add users, change them, list them; for root and synvisor's own user.
    User {
        #[command(subcommand)]
        verb: users::UserVerb,
    },
    /// Make, list and delete tokens for registration; for root and synvisor's own user.
    RegisterToken {
        #[command(subcommand)]
        verb: registration_tokens::TokenVerb,
    },
    /// Print the JSON schema of the configuration, for editors.
    Schema,
    /// Print what a shell needs to complete a command line of synvisor.
    Completions { shell: clap_complete::Shell },
    /// Write the manual pages to a directory; for packages.
    #[command(hide = true)]
    Man { directory: PathBuf },
    /// Print synvisor's version, and that of the daemon where one runs.
    Version,
    /// End what a supervisor that died has left; systemd runs it when the service is down.
    AfterStop,
    /// The process that routes requests; started by `supervise`.
    #[command(hide = true)]
    Router(daemon::RouterArguments),
}

#[derive(Debug, Subcommand)]
enum ConfigVerb {
    /// Print every key with its value and where the value is from; secrets are masked.
    Show {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// How a virtualenv is made.
#[derive(Debug, clap::Args)]
struct MeansArguments {
    /// The Python to make it with; the system's own, or the newest, if none is said.
    #[arg(long, value_name = "PROGRAM")]
    python: Option<PathBuf>,
    /// Download nothing: everything is in this directory.
    #[arg(long, value_name = "DIR")]
    wheels: Option<PathBuf>,
    /// Install exactly what this file of requirements says, with hashes.
    #[arg(long, value_name = "FILE")]
    lock: Option<PathBuf>,
}

impl MeansArguments {
    fn means(self) -> Means {
        let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        Means {
            python: self.python,
            wheels: self.wheels.map(absolute),
            lock: self.lock.map(absolute),
            ..Means::of(std::env::vars_os())
        }
    }
}

/// Which units an order is for.
#[derive(Debug, clap::Args)]
struct Units {
    /// Names as `status` shows them.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    units: Vec<String>,
    /// Main and every worker.
    #[arg(long)]
    all: bool,
}

/// Runs what the command line asks for.
#[expect(clippy::disallowed_methods, reason = "the command line is where the environment is read")]
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            // clap counts help and version as errors too, with 0.
            return if error.exit_code() == 0 { Exit::Done } else { Exit::Usage }.into();
        }
    };
    let path = arguments.config;
    let exit = match arguments.verb {
        Verb::Supervise { upgrade_check: Some(offers), .. } => {
            daemon::upgrade_check(&path, std::env::var_os("CREDENTIALS_DIRECTORY").as_ref(), &offers)
        }
        Verb::Supervise { without, milestones, inherit, upgrade_check: None } => {
            observe::start(
                std::env::var("SYNVISOR_LOG").ok().as_deref(),
                std::env::var("JOURNAL_STREAM").is_ok(),
            );
            let tests = ForTests { without, milestones };
            let launch = match launch() {
                Ok(launch) => launch,
                Err(error) => {
                    output::problem(format!("synvisor: where it is installed is not known: {error}"));
                    return Exit::Failed.into();
                }
            };
            daemon::supervise(path, std::env::var_os("CREDENTIALS_DIRECTORY"), &inherit, launch, tests)
        }
        Verb::AfterStop => {
            observe::start(None, std::env::var("JOURNAL_STREAM").is_ok());
            let result = std::env::var("SERVICE_RESULT").unwrap_or_else(|_| "success".to_owned());
            let credentials = std::env::var_os("CREDENTIALS_DIRECTORY");
            daemon::after_stop(&path, credentials.as_ref(), After::result(&result))
        }
        Verb::Router(router) => {
            observe::start(None, false);
            daemon::router(router)
        }
        Verb::Init { answers, means } => init::init(&path, &answers, &means.means()),
        Verb::Import { verb: Some(verb), arguments: _ } => media::run(&path, &verb),
        Verb::Import { verb: None, arguments: Some(arguments) } => import::import(&arguments),
        // The parser asks for either.
        Verb::Import { verb: None, arguments: None } => Exit::Usage,
        Verb::Upgrade { version, rollback, anyway, means } => {
            upgrade::upgrade(&path, &upgrade::Wish { version, rollback, anyway }, &means.means())
        }
        Verb::Migrate(arguments) => {
            migrate::migrate(&path, std::env::var_os("CREDENTIALS_DIRECTORY").as_ref(), &arguments)
        }
        Verb::Backup(arguments) => {
            backup::backup(&path, std::env::var_os("CREDENTIALS_DIRECTORY").as_ref(), &arguments)
        }
        Verb::Restore { backup, means } => restore::restore(&path, &backup, &means.means()),
        Verb::Doctor { json, offline } => {
            doctor::doctor(&path, json, offline, Means::of(std::env::vars_os()))
        }
        Verb::Status { json } => commands::status(&path, json),
        Verb::Start(units) => commands::order(&path, "start", units.into()),
        Verb::Stop(units) => commands::order(&path, "stop", units.into()),
        Verb::Restart { units, at_once, json } => {
            commands::restart(&path, OrderRequest { at_once, progress: true, ..units.into() }, json)
        }
        Verb::Plan { json } => commands::plan(&path, json),
        Verb::SelfUpgrade => commands::self_upgrade(&path),
        Verb::Reload => commands::reload(&path),
        Verb::Rollback { generation } => commands::rollback(&path, generation),
        Verb::Generations { json } => commands::generations(&path, json),
        Verb::Logs { follow, lines, unit } => commands::logs(&path, &UnitName::new(unit), lines, follow),
        Verb::Dump { unit } => commands::dump(&path, UnitName::new(unit)),
        Verb::Route { method, target, user, token_file } => {
            routes::explain(&path, &method, &target, user.as_deref(), token_file.as_deref())
        }
        Verb::Routes { verify: false } => routes::list(&path),
        Verb::Routes { verify: true } => routes::verify(&path),
        Verb::Check { json } => config::check(&path, json),
        Verb::Config { verb: ConfigVerb::Show { json } } => config::show(&path, json),
        Verb::Front { server, federation_port, also } => front::print(&path, server, federation_port, &also),
        Verb::User { verb } => users::run(&path, std::env::var_os("CREDENTIALS_DIRECTORY").as_ref(), verb),
        Verb::RegisterToken { verb } => {
            registration_tokens::run(&path, std::env::var_os("CREDENTIALS_DIRECTORY").as_ref(), verb)
        }
        Verb::Schema => config::schema(),
        Verb::Completions { shell } => documents::completions(Arguments::command(), shell),
        Verb::Man { directory } => documents::man(Arguments::command(), &directory),
        Verb::Version => commands::version(&path),
    };
    exit.into()
}

/// How this program was started, without what was kept for it alone.
fn launch() -> std::io::Result<Launch> {
    let own = |argument: &OsString| argument.as_encoded_bytes().starts_with(b"--inherit=");
    let kept = |(name, _): &(OsString, OsString)| name.as_encoded_bytes().starts_with(b"LISTEN_");
    // A name that is a link leads to another program after an upgrade.
    let named = std::env::args_os().next().map(PathBuf::from).filter(|program| program.is_absolute());
    Ok(Launch {
        program: named.map_or_else(std::env::current_exe, Ok)?,
        arguments: std::env::args_os().skip(1).filter(|argument| !own(argument)).collect(),
        environment: std::env::vars_os().filter(|variable| !kept(variable)).collect(),
        upgraded: std::env::args_os().any(|argument| own(&argument)),
    })
}

impl From<Units> for OrderRequest {
    fn from(units: Units) -> Self {
        Self {
            units: units.units.into_iter().map(UnitName::new).collect(),
            all: units.all,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_one() {
        // Mutation: a group of arguments that is called like its verb: seen red.
        Arguments::command().debug_assert();
    }
}
