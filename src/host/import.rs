//! What is noted of a media store that moves in, so that another run knows what the one before it has done.

use std::path::Path;
use std::path::PathBuf;

use serde::Deserialize;
use serde::Serialize;

use crate::sys::fs;
use crate::sys::handle::Handle;
use crate::sys::pidfd;
use crate::sys::users;
use crate::sys::users::User;

use super::layout::Layout;

/// The state of a move, in the state directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The old store.
    pub source: PathBuf,
    /// The new one was empty when it began: whatever is in it is from the old one.
    pub ours: bool,
    /// Files were moved out of the old store: what is missing there says nothing any more.
    pub moved: bool,
    /// Everything has been there once.
    pub whole: bool,
    /// The old server had stopped, and it is done.
    pub finished: bool,
    /// The old server has had its files back, so that the times of directories say nothing of whose they are.
    #[serde(default)]
    pub returned: bool,
    /// The run of the machine in which files were brought that may not be on the disk yet.
    pub unsettled: Option<String>,
}

impl Note {
    /// That of a store, or a new one. What is there by now is `ours` only if there is nothing.
    ///
    /// # Errors
    /// Another store is on its way, or the note cannot be read.
    pub fn of(layout: &Layout, source: &Path, empty: bool) -> Result<Self, String> {
        let path = layout.media_note();
        let held = match fs::read_itself(&path) {
            Ok(text) => Some(
                serde_json::from_str::<Self>(&text)
                    .map_err(|error| format!("{}: {error}\n  remove it to begin anew", path.display()))?,
            ),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error.to_string()),
        };
        match held {
            Some(note) if note.source == source => Ok(note),
            Some(note) if !note.finished => Err(format!(
                "the media of {} are on their way, and this is another store\n  finish that one first: synvisor import media {} \
                 --finish; or, if it is given up, remove {}",
                note.source.display(),
                note.source.display(),
                path.display()
            )),
            Some(_) | None => Ok(Self {
                source: source.to_owned(),
                ours: empty,
                moved: false,
                whole: false,
                finished: false,
                returned: false,
                unsettled: None,
            }),
        }
    }

    /// Whether files of a run that the machine broke off may lack what they seem to have.
    pub fn is_doubtful(&self) -> bool {
        self.unsettled.is_some() && self.unsettled != pidfd::boot()
    }

    /// # Errors
    /// Of the file system.
    pub fn write(&self, layout: &Layout, owner: Option<&User>) -> Result<(), String> {
        let text = serde_json::to_vec_pretty(self).unwrap_or_default();
        let write = || fs::replace(&layout.media_note(), &text, 0o600, None);
        users::as_user(owner, || write().map(drop).map_err(|error| error.to_string()))
    }
}

/// Where a media store really is, and that none lies in the other.
///
/// # Errors
/// It is no media store, or they overlap.
pub fn real(source: &Path, destination: &Path, folders: &[&str]) -> Result<(PathBuf, PathBuf), String> {
    let find = |path: &Path| path.canonicalize().map_err(|error| fs::at("find", path)(error).to_string());
    let (from, to) = (find(source)?, find(destination)?);
    let is_there = |name: &&&str| from.join(name).symlink_metadata().is_ok_and(|found| found.is_dir());
    if !folders.iter().any(|name| is_there(&name)) {
        let below = fs::list(&from).unwrap_or_default();
        let meant = below.into_iter().find(|path| path.join("local_content").is_dir());
        let remedy = meant.map_or_else(
            || {
                "name what media_store_path in its homeserver.yaml names, and mount it if it is not"
                    .to_owned()
            },
            |path| format!("did you mean {}?", path.display()),
        );
        return Err(format!(
            "{} is no media store of Synapse: it has none of {}\n  {remedy}",
            from.display(),
            folders.join(", ")
        ));
    }
    if from != to && (from.starts_with(&to) || to.starts_with(&from)) {
        return Err(format!(
            "one of {} and {} lies in the other\n  have the new store elsewhere: synvisor init --media DIR",
            from.display(),
            to.display()
        ));
    }
    Ok((from, to))
}

/// Whose a store is: user and group.
///
/// # Errors
/// It cannot be looked at.
pub fn whose(store: &Path) -> Result<(u32, u32), String> {
    use std::os::unix::fs::MetadataExt;
    let found = store.metadata().map_err(|error| fs::at("look at", store)(error).to_string())?;
    Ok((found.uid(), found.gid()))
}

/// Whether both stores lie on one file system.
pub fn share_a_device(one: &Path, other: &Path) -> bool {
    let device = |path| Some(Handle::open(path).ok()?.itself().ok()?.seen.identity.0);
    device(one).is_some_and(|found| Some(found) == device(other))
}

/// That root writes nowhere but in a directory of Synapse's user, wherever the link to it leads by now.
///
/// # Errors
/// It belongs to somebody else.
pub fn is_owned(destination: &Path, owner: Option<&User>) -> Result<(), String> {
    let Some(owner) = owner else { return Ok(()) };
    let held = fs::owner_and_mode(destination).map_err(|error| error.to_string())?.0;
    if held == owner.uid {
        return Ok(());
    }
    let name = users::name_of(held).unwrap_or_else(|| held.to_string());
    Err(format!(
        "{} belongs to {name}, and a media store belongs to {}\n  chown {} {}",
        destination.display(),
        owner.name,
        owner.name,
        destination.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(dir: &Path) -> Layout {
        Layout { state: dir.to_owned(), run: dir.to_owned() }
    }

    #[test]
    fn one_store_moves_at_a_time_and_what_was_there_is_not_ours() {
        // Mutation: a finished one in the way of the next: seen red.
        let dir = tempfile::tempdir().unwrap();
        let layout = layout(dir.path());
        let mut note = Note::of(&layout, Path::new("/a"), true).unwrap();
        assert!(note.ours && !note.whole);
        note.write(&layout, None).unwrap();
        assert_eq!(Note::of(&layout, Path::new("/a"), false).unwrap(), note);
        Note::of(&layout, Path::new("/b"), true).unwrap_err();
        note.finished = true;
        note.write(&layout, None).unwrap();
        assert!(!Note::of(&layout, Path::new("/b"), false).unwrap().ours);
    }

    #[test]
    fn files_of_a_run_that_the_machine_broke_off_are_doubtful() {
        // Mutation: the run of the machine not compared: seen red.
        let note = |unsettled| Note {
            source: "/a".into(),
            ours: true,
            moved: false,
            whole: false,
            finished: false,
            returned: false,
            unsettled,
        };
        assert!(!note(None).is_doubtful());
        assert!(!note(pidfd::boot()).is_doubtful());
        assert!(note(Some("another".to_owned())).is_doubtful());
    }

    #[test]
    fn stores_in_each_other_and_what_is_none_are_refused() {
        // Mutation: one direction of the two left out: seen red.
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
            dir.path().join(name)
        };
        path("old/local_content");
        path("old/new/local_content");
        let real = |from: &str, to: &str| real(&path(from), &path(to), &["local_content"]);
        real("old", "elsewhere").unwrap();
        real("old", "old").unwrap();
        assert!(real("old", "old/new").unwrap_err().contains("lies in the other"));
        assert!(real("old/new", "old").unwrap_err().contains("lies in the other"));
        let none = real(".", "elsewhere").unwrap_err();
        assert!(none.contains("no media store") && none.contains("old?"), "{none}");
    }
}
