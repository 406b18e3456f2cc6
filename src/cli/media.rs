//! `synvisor import media`: the media store of another Synapse, taken over.

use std::path::Path;
use std::path::PathBuf;

use crate::config::Config;
use crate::host::import;
use crate::host::import::Note;
use crate::host::layout::Layout;
use crate::host::layout::Users;
use crate::host::media as store;
use crate::host::toml;
use crate::host::transfer;
use crate::host::transfer::Job;
use crate::host::transfer::Outcome;
use crate::moving::media;
use crate::moving::media::Terms;
use crate::moving::media::Way;
use crate::moving::pace;
use crate::sys::fs;
use crate::sys::lock;
use crate::sys::pidfd;
use crate::sys::users;

use super::Exit;
use super::commands;
use super::config;
use super::output;
use super::output::fact;
use super::output::fail;
use super::progress::Progress;

#[derive(Debug, clap::Subcommand)]
pub(super) enum ImportVerb {
    /// Bring the media store of another Synapse here. While that runs, this brings what there is; when it has stopped, the same
    /// with --finish brings the rest. On one file system files are cloned or linked, which takes seconds, and else copied.
    Media(MediaArguments),
}

#[derive(Debug, clap::Args)]
pub(super) struct MediaArguments {
    /// What media_store_path in the old homeserver.yaml names.
    source: PathBuf,
    #[command(flatten)]
    wish: Wish,
}

/// How media are to be brought.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Wish {
    /// The old server has stopped: bring what is missing, remove what it has deleted since, give everything its owner.
    #[arg(long)]
    pub(super) finish: bool,
    /// One way for all files, in the place of the cheapest for each. `adopt` leaves the store where it is; that and `rename`
    /// want --finish, since the old server loses its media.
    #[arg(long, value_name = "WAY", value_parser = ["reflink", "hard-link", "copy", "rename", "adopt"])]
    pub(super) how: Option<String>,
    /// Compare files that are there by their contents, not by size and time alone.
    #[arg(long)]
    pub(super) verify: bool,
    /// Leave out what other servers have, and Synapse fetches again.
    #[arg(long)]
    pub(super) skip_remote: bool,
}

impl Wish {
    fn adopts(&self) -> bool {
        self.how.as_deref() == Some("adopt")
    }

    fn ways(&self) -> &'static [Way] {
        match self.how.as_deref() {
            Some("reflink") => &[Way::Reflink],
            Some("hard-link") => &[Way::HardLink],
            Some("copy") => &[Way::Copy],
            Some("rename") => &[Way::Rename],
            _ => &Way::BY_ITSELF,
        }
    }

    fn folders(&self) -> Vec<&'static str> {
        let remote: &[&str] = if self.skip_remote { &[] } else { &media::REMOTE };
        media::OWN.iter().chain(remote).copied().collect()
    }
}

/// Where a homeserver is, or will be.
pub(super) struct Place<'a> {
    pub(super) path: &'a Path,
    pub(super) config: &'a Config,
    pub(super) layout: Layout,
    pub(super) users: Users,
}

impl<'a> Place<'a> {
    /// # Errors
    /// There are no such users; that was said.
    pub(super) fn of(path: &'a Path, config: &'a Config) -> Result<Self, Exit> {
        let users = Users::of(config).map_err(|why| fail(&why))?;
        Ok(Self { path, config, layout: Layout::of(config), users })
    }

    /// Makes the directories of the state.
    ///
    /// # Errors
    /// Of the file system; that was said.
    pub(super) fn make(&self) -> Result<(), Exit> {
        let user = self.users.synapse.as_ref();
        fs::directory(&self.layout.state, 0o750, user).map_err(|error| fail(&error.to_string()))?;
        let below = || self.layout.make_state(None).map_err(|error| error.to_string());
        users::as_user(user, below).map_err(|why| fail(&why))
    }
}

pub(super) fn run(path: &Path, verb: &ImportVerb) -> Exit {
    let ImportVerb::Media(MediaArguments { source, wish }) = verb;
    let loaded = match toml::load(path, None) {
        Ok(loaded) => loaded,
        Err(unusable) => return config::refuse(&unusable),
    };
    let done = Place::of(path, &loaded.parsed.config).and_then(|place| {
        place.make()?;
        bring(&place, source, wish)
    });
    match done {
        Ok(0) => {
            if !wish.finish {
                output::line(format!(
                    "\nThe old server may go on. When it has stopped:\n  synvisor import media {} --finish",
                    source.display()
                ));
            }
            Exit::Done
        }
        Ok(_) => Exit::Failed,
        Err(exit) => exit,
    }
}

/// Brings media, and says what was done; returns how many files could not be brought, each of which was named.
///
/// # Errors
/// It cannot begin, or there is no room; that was said.
pub(super) fn bring(place: &Place<'_>, source: &Path, wish: &Wish) -> Result<usize, Exit> {
    let stolen = wish.adopts() || wish.how.as_deref() == Some("rename");
    if stolen && !wish.finish {
        let way = wish.how.as_deref().unwrap_or_default();
        output::problem(format!(
            "--how {way} takes the media from the old server\n  stop it, then add --finish; or leave --how out"
        ));
        return Err(Exit::Usage);
    }
    let folders = wish.folders();
    let (layout, owner) = (&place.layout, place.users.synapse.as_ref());
    let (from, to) = import::real(source, &layout.media(), &folders).map_err(|why| fail(&why))?;
    let _lock = lock(place)?;
    if wish.adopts() {
        return adopt(place, &from, &folders);
    }
    if from == to {
        return Err(fail(&format!(
            "{} is the media store of this homeserver already\n  name that of the old server",
            to.display()
        )));
    }
    import::is_owned(&to, owner).map_err(|why| fail(&why))?;
    let empty = !folders.iter().any(|folder| to.join(folder).exists());
    let mut note = Note::of(layout, &from, empty).map_err(|why| fail(&why))?;
    note.moved |= wish.how.as_deref() == Some("rename");
    // What the new server has received is in no old store.
    let ours = note.ours && !note.finished && !commands::is_running(place.path)?;
    let mut job = Job {
        source: &from,
        destination: &to,
        folders: &folders,
        ways: wish.ways(),
        terms: Terms { ours, removes: ours && !note.moved, compare: wish.verify || note.is_doubtful() },
        last: wish.finish,
        owner,
        dry: false,
        since: None,
    };
    let copies =
        job.ways.contains(&Way::Copy) && (job.ways.len() == 1 || !import::share_a_device(&from, &to));
    let whole = if copies && !note.whole { Some(look(&mut job)?) } else { None };
    note.unsettled = pidfd::boot();
    note.write(layout, owner).map_err(|why| fail(&why))?;
    // The machine's clock may be ahead of what file systems write.
    job.since = if ours && !note.moved && !note.returned { fs::modified(&layout.media_note()) } else { None };
    let mut progress = Progress::start("media".to_owned());
    let done = transfer::carry_out(&job, &mut |done| progress.measure(done, whole));
    let seconds = progress.end();
    let done = done.map_err(|why| fail(&format!("{why}\n  then the same again: it goes on from here")))?;
    note.whole = true;
    note.unsettled = None;
    note.finished |= wish.finish && done.skipped.is_empty();
    note.returned &= !note.finished;
    note.write(layout, owner).map_err(|why| fail(&why))?;
    fact("media", &said(&done, seconds));
    if let Some(how) = store::admit(layout, &to).map_err(|why| fail(&why))? {
        fact("", &how);
    }
    Ok(name(&done))
}

/// Counts what there is to copy, and whether there is room for it.
fn look(job: &mut Job<'_>) -> Result<pace::Amount, Exit> {
    let mut progress = Progress::start("media         looking".to_owned());
    job.dry = true;
    let found = transfer::carry_out(job, &mut |seen| progress.say(&format!("{} files", seen.files)));
    job.dry = false;
    progress.end();
    let found = found.map_err(|why| fail(&why))?;
    let space = fs::space(job.destination).map_err(|error| fail(&error.to_string()))?;
    let entries = found.amount.files + found.directories;
    let lacks = if found.amount.bytes > space.free {
        format!("{} free, and {} are to come", pace::size(space.free), pace::size(found.amount.bytes))
    } else if space.files > 0 && entries > space.free_files {
        format!("room for {} files and directories, and {entries} are to come", space.free_files)
    } else {
        return Ok(found.amount);
    };
    Err(fail(&format!(
        "nothing was copied: the file system of {} has {lacks}\n  make room, have the media elsewhere (synvisor init --media \
         DIR), or leave out what other servers have: --skip-remote",
        job.destination.display()
    )))
}

/// Leaves the store where it is.
fn adopt(place: &Place<'_>, store: &Path, folders: &[&'static str]) -> Result<usize, Exit> {
    let (layout, owner) = (&place.layout, place.users.synapse.as_ref());
    let link = layout.media();
    store::is_seen(layout, store).map_err(|why| fail(&why))?;
    let free = match fs::link_target(&link) {
        Some(target) => target == store,
        None => fs::list(&link).is_ok_and(|held| held.is_empty()),
    };
    if !free {
        return Err(fail(&format!(
            "{} is not empty, and {} would take its place\n  bring the files into it: leave --how adopt out",
            link.display(),
            store.display()
        )));
    }
    let job = Job { last: true, owner, ..Job::new(store, store, folders, &[]) };
    let progress = Progress::start("media         setting owners".to_owned());
    let done = transfer::carry_out(&job, &mut |_| {});
    let seconds = progress.end();
    let done = done.map_err(|why| fail(&why))?;
    fs::directory(store, 0o700, owner).map_err(|error| fail(&error.to_string()))?;
    let enter = || {
        fs::readable(store).map_err(|error| {
            format!("{error}\n  let every user pass the directories above it: chmod o+x, one by one")
        })?;
        match fs::link_target(&link) {
            Some(_) => Ok(()),
            None => fs::link(&link, store).map_err(|error| error.to_string()),
        }
    };
    users::as_user(owner, enter).map_err(|why| fail(&why))?;
    fact("media", &format!("{} files stay in {} ({seconds} s)", done.held, store.display()));
    if let Some(how) = store::admit(layout, store).map_err(|why| fail(&why))? {
        fact("", &how);
    }
    Ok(name(&done))
}

/// Two at a time would take each other's unfinished files for left ones.
fn lock(place: &Place<'_>) -> Result<lock::Lock, Exit> {
    let path = place.layout.media_lock();
    match lock::take(&path, lock::Kind::Exclusive, true, place.users.synapse.as_ref()) {
        Ok(Some(lock)) => Ok(lock),
        Ok(None) => Err(fail("there is no lock")),
        Err(lock::LockError::Held(pid)) => {
            let who = pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
            output::problem(format!("another import of media runs{who}\n  wait until it is done"));
            Err(Exit::Busy)
        }
        Err(lock::LockError::Fs(error)) => Err(fail(&error.to_string())),
    }
}

fn said(done: &Outcome, seconds: u64) -> String {
    let brought: Vec<String> =
        done.brought.iter().map(|(way, files)| format!("{files} files {}", way.done())).collect();
    let mut text = match brought.len() {
        0 => "nothing new".to_owned(),
        _ => format!("{}, {}", brought.join(", "), pace::size(done.amount.bytes)),
    };
    text.push_str(&format!(" in {seconds} s; {} were there", done.held));
    if done.unchanged > 0 {
        text.push_str(&format!(", and nothing has changed in {} directories", done.unchanged));
    }
    if done.removed > 0 {
        text.push_str(&format!("; {} removed, which the old server has deleted", done.removed));
    }
    text
}

/// Names what was left out.
pub(super) fn name(done: &Outcome) -> usize {
    for skipped in &done.skipped {
        output::problem(format!("skipped: {skipped}"));
    }
    match done.skipped.len() {
        0 => {}
        count => output::problem(format!(
            "{count} could not be brought, and everything else was\n  mend what stands above, then the same again"
        )),
    }
    done.skipped.len()
}
