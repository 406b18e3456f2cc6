//! `synvisor migrate`: from another Synapse to this one, step by step, and back.

use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;

use crate::host::holding::Reach;
use crate::host::old;
use crate::host::secrets;
use crate::host::toml;
use crate::host::toml::Usable;
use crate::host::venv;
use crate::host::venv::Venv;
use crate::moving::steps::Command;
use crate::moving::steps::Data;
use crate::moving::steps::Journal;
use crate::moving::steps::Step;
use crate::sys::fs;
use crate::sys::users;

use super::Exit;
use super::config;
use super::media::Place;
use super::output;
use super::output::fail;

mod again;
mod back;
mod look;
mod reading;
mod steps;

/// What starts this server where nobody says something else: the service, as its own user.
const SERVICE_START: &str = "systemctl enable --now synvisor";
/// And what stops it, now and for the next boot.
const SERVICE_STOP: &str = "systemctl disable --now synvisor";

#[derive(Debug, clap::Args)]
pub(super) struct MigrateArguments {
    /// The homeserver.yaml of the old server; its database, media and name are read from it, and relative paths start at its
    /// directory.
    #[arg(long, value_name = "FILE", required_unless_present = "back")]
    from: Option<PathBuf>,
    /// The old server is this unit of systemd. Its workers are found by themselves: units that run Synapse too, and depend on
    /// it or are ordered with it. Others may be named as well.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["old_container", "old_stop"])]
    old_unit: Vec<String>,
    /// The old server is this container of Docker; once for each.
    #[arg(long, value_name = "NAME", conflicts_with = "old_stop")]
    old_container: Vec<String>,
    /// The old server stops by this, given to a shell, and returns when it has stopped.
    #[arg(long, value_name = "COMMAND", requires = "old_start")]
    old_stop: Option<String>,
    /// And starts by this.
    #[arg(long, value_name = "COMMAND", requires = "old_stop")]
    old_start: Option<String>,
    /// Where its media really are, if not where its homeserver.yaml says, as for a container.
    #[arg(long, value_name = "DIR")]
    old_media: Option<PathBuf>,
    /// Where its SQLite database really is, likewise.
    #[arg(long, value_name = "FILE")]
    old_sqlite: Option<PathBuf>,
    /// What starts this one, if not `systemctl enable --now synvisor`.
    #[arg(long, value_name = "COMMAND", requires = "new_stop")]
    new_start: Option<String>,
    /// What stops it again, if not `systemctl disable --now synvisor`.
    #[arg(long, value_name = "COMMAND", requires = "new_start")]
    new_stop: Option<String>,
    /// Leave out media that other servers have.
    #[arg(long)]
    skip_remote: bool,
    /// Take the steps that are left.
    #[arg(long, conflicts_with = "back")]
    go: bool,
    /// Stop this one, and have the old one serve again.
    #[arg(long)]
    back: bool,
    /// Even if that loses what was written since.
    #[arg(long, requires = "back")]
    anyway: bool,
}

pub(super) fn migrate(path: &Path, credentials: Option<&OsString>, arguments: &MigrateArguments) -> Exit {
    let done = Move::of(path, credentials, arguments).and_then(|usable| {
        let place = Place::of(path, &usable.parsed.config)?;
        let reach = Reach::of(place.config, &usable.secrets, place.users.synapse.as_ref());
        let venv = venv::inspect(place.config, place.users.synapse.as_ref()).map_err(|why| fail(&why))?;
        let this = Move { path, usable: &usable, place: &place, reach, venv, arguments };
        if arguments.back { this.back() } else { this.forth() }
    });
    done.unwrap_or_else(|exit| exit)
}

/// A move, and everything that has to be known for it.
struct Move<'a> {
    path: &'a Path,
    usable: &'a Usable,
    place: &'a Place<'a>,
    reach: Reach<'a>,
    venv: Venv,
    arguments: &'a MigrateArguments,
}

impl Move<'_> {
    /// The configuration, with the secrets that are made and not the user's.
    fn of(path: &Path, credentials: Option<&OsString>, arguments: &MigrateArguments) -> Result<Usable, Exit> {
        let usable = toml::usable(path, credentials).map_err(|unusable| config::refuse(&unusable))?;
        if arguments.go {
            let place = Place::of(path, &usable.parsed.config)?;
            place.make()?;
            let complete = || {
                secrets::complete(&place.layout.secrets(), &place.config.secrets, None)
                    .map_err(|error| error.to_string())
            };
            users::as_user(place.users.synapse.as_ref(), complete).map_err(|why| fail(&why))?;
        }
        Ok(usable)
    }

    fn forth(&self) -> Result<Exit, Exit> {
        let held = old::journal(&self.place.layout).map_err(|why| fail(&why))?;
        let mut journal = match held {
            Some(mut journal) => {
                self.is_of(&journal)?;
                output::line(format!("taking up the move from {}", journal.from.display()));
                self.take_up(&mut journal)?;
                journal
            }
            None => self.begin()?,
        };
        let left: Vec<Step> = journal.left().collect();
        if left.is_empty() {
            output::line("the move is done");
            return Ok(Exit::Done);
        }
        output::line(format!("from {} to {}:", journal.from.display(), self.place.layout.state.display()));
        for step in Step::ALL {
            let mark = if journal.has(step) { "done" } else { "" };
            output::line(format!("  {mark:4}  {}", self.describe(step, &journal)));
        }
        if !self.arguments.go {
            // Where everything that it takes is there already.
            if fs::list(&self.place.layout.secrets()).is_ok_and(|made| !made.is_empty()) {
                self.may_start(&journal)?;
            }
            let until = match journal.data {
                Data::Shared => "",
                Data::Sqlite(_) => "until clients have written, ",
            };
            output::line(format!(
                "\nNothing was done. Take these steps with --go; {until}--back undoes them."
            ));
            return Ok(Exit::Done);
        }
        output::line("");
        if !journal.has(Step::Stop) {
            self.may_start(&journal)?;
        }
        let mut skipped = 0;
        for step in left {
            skipped += self.take(step, &mut journal)?;
            journal.done.push(step);
            self.keep(&journal)?;
        }
        self.report(&journal);
        if skipped > 0 {
            return Err(fail(&format!("{skipped} media could not be brought; they are named above")));
        }
        Ok(Exit::Done)
    }

    fn describe(&self, step: Step, journal: &Journal) -> String {
        let shell = |command: &Command| command.join(" ");
        let media = journal.media.display();
        match step {
            Step::Before => format!("bring the media of {media}, while the old server serves"),
            Step::Retire => match (&*journal.old.drop_ins(), &*journal.old.retire()) {
                ([(path, _), more @ ..], _) => format!(
                    "keep the old server from being started again: {}{}",
                    path.display(),
                    if more.is_empty() { String::new() } else { format!(", and {} more", more.len()) }
                ),
                ([], [command, ..]) => {
                    format!("keep the old server from being started again: {}", shell(command))
                }
                ([], []) => "see yourself to it that nobody starts the old server again".to_owned(),
            },
            Step::Stop => {
                let followers = journal.old.followers();
                let also = match followers {
                    [] => String::new(),
                    followers => format!("; with it stop {}", followers.join(", ")),
                };
                format!("stop the old server: {}{also}", shell(&journal.old.stop()))
            }
            Step::Rest => "bring the media that came meanwhile".to_owned(),
            Step::Database => match &journal.data {
                Data::Shared => format!("go on with {}", self.reach.shown()),
                Data::Sqlite(file) => format!("port {} to {}", file.display(), self.reach.shown()),
            },
            Step::Start => format!("start this one: {}", journal.new_start),
            Step::Check => "look whether it serves, with the old media and the old signing key".to_owned(),
        }
    }

    fn keep(&self, journal: &Journal) -> Result<(), Exit> {
        old::keep(&self.place.layout, journal).map_err(|why| fail(&why))
    }

    fn report(&self, journal: &Journal) {
        if let Some(away) = journal.away() {
            output::line(format!("\nWithout a server: {}.{} s.", away / 1_000, away % 1_000 / 100));
        }
        let listen: Vec<String> =
            self.place.config.listen.iter().map(|listen| listen.address.to_string()).collect();
        output::line(format!(
            "It listens on {}. If your web server in front leads elsewhere, change that: synvisor front SERVER prints how.\n\
             The old server has its files still. To return to it: synvisor migrate --back",
            listen.join(", ")
        ));
        let followers = journal.old.followers();
        if !followers.is_empty() {
            output::line(format!(
                "These have stopped with the old server. When they know where this one is: systemctl start {}",
                followers.join(" ")
            ));
        }
    }
}
