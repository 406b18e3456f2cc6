//! The units' logs on our own standard output, and their size.
//!
//! On a thread of its own: neither a slow disk nor a stopped terminal may hold up supervision.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Seek;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use nix::sys::inotify::AddWatchFlags;
use nix::sys::inotify::InitFlags;
use nix::sys::inotify::Inotify;

/// A log that has grown beyond this is moved aside: 32 MiB, some days of a busy worker at INFO.
const LONGEST: u64 = 32 * 1024 * 1024;

/// What a log that could not be moved aside grows by until that is tried again, in bytes.
const AGAIN: u64 = 1024 * 1024;

/// Follows every log in a directory and prints its lines as `UNIT | line`.
///
/// # Errors
/// When the kernel gives no inotify watch (`fs.inotify.max_user_instances`).
pub(super) fn follow(logs: PathBuf) -> io::Result<()> {
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
    inotify.add_watch(&logs, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE)?;
    let mut followed = Followed::default();
    // What was written before us is not printed again.
    for entry in std::fs::read_dir(&logs)? {
        let path = entry?.path();
        if let Some(unit) = unit_of(&path) {
            followed.offsets.insert(unit.to_owned(), path.metadata()?.len());
        }
    }
    std::thread::Builder::new().name("output".to_owned()).spawn(move || {
        while let Ok(events) = inotify.read_events() {
            for name in events.into_iter().filter_map(|event| event.name) {
                let path = logs.join(name);
                if let Some(unit) = unit_of(&path) {
                    // A log that cannot be read now is read at its next change.
                    let _ = followed.print(unit, &path);
                }
            }
        }
    })?;
    Ok(())
}

fn unit_of(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()?.strip_suffix(".log")
}

#[derive(Debug, Default)]
struct Followed {
    /// How far each unit's log has been printed.
    offsets: BTreeMap<String, u64>,
    /// The beginning of a line whose end has not been written yet.
    partial: BTreeMap<String, Vec<u8>>,
    /// By how much the logs that could not be moved aside may be longer before that is tried again.
    unrotated: BTreeMap<String, u64>,
}

impl Followed {
    fn print(&mut self, unit: &str, path: &Path) -> io::Result<()> {
        let mut file = File::open(path)?;
        let offset = self.offsets.entry(unit.to_owned()).or_default();
        let length = file.metadata()?.len();
        if length < *offset {
            *offset = 0;
        }
        file.seek(io::SeekFrom::Start(*offset))?;
        let mut text = self.partial.remove(unit).unwrap_or_default();
        *offset += file.take(length - *offset).read_to_end(&mut text)? as u64;
        let end = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let rest = text.split_off(end);
        let mut out = io::stdout().lock();
        for line in text.split_inclusive(|byte| *byte == b'\n') {
            write!(out, "{unit:<24} | ")?;
            out.write_all(line)?;
        }
        out.flush()?;
        self.partial.insert(unit.to_owned(), rest);
        if *offset > LONGEST + self.unrotated.get(unit).copied().unwrap_or_default() {
            // Where there is no room for the copy it is tried again when the log has grown by something.
            if let Err(error) = rotate(path) {
                self.unrotated.insert(unit.to_owned(), *offset - LONGEST + AGAIN);
                return Err(error);
            }
            self.unrotated.remove(unit);
            *offset = 0;
        }
        Ok(())
    }
}

/// Keeps one old copy and starts the log anew; its writers append, so they go on at the new start.
fn rotate(path: &Path) -> io::Result<()> {
    let aside = path.with_extension("log.1");
    std::fs::copy(path, &aside).inspect_err(|_| drop(std::fs::remove_file(&aside)))?;
    File::options().write(true).open(path)?.set_len(0)
}
