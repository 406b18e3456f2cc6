//! A backup on the disk: a directory that is its owner's alone.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::BufWriter;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use sha2::Digest;
use sha2::Sha256;

use crate::moving::backup::FORMAT;
use crate::moving::backup::Manifest;
use crate::moving::pace::Amount;
use crate::sys::fs;

/// Where everything is in one.
#[derive(Clone, Debug)]
pub struct Archive(pub PathBuf);

impl Archive {
    pub fn manifest(&self) -> PathBuf {
        self.0.join("manifest.json")
    }
    pub fn toml(&self) -> PathBuf {
        self.0.join("synvisor.toml")
    }
    pub fn secret(&self, name: &str) -> PathBuf {
        self.0.join("secrets").join(name)
    }
    /// A file that the configuration names, by its number in the manifest.
    pub fn file(&self, number: usize) -> PathBuf {
        self.0.join("files").join(number.to_string())
    }
    pub fn database(&self) -> PathBuf {
        self.0.join("database")
    }
    pub fn media(&self) -> PathBuf {
        self.0.join("media")
    }
    pub fn media_list(&self) -> PathBuf {
        self.0.join("media.tsv")
    }

    /// Makes its directories; to be called as the user whose it is to be.
    ///
    /// # Errors
    /// It is there already, or cannot be made.
    pub fn make(&self) -> Result<(), String> {
        let shown = self.0.display();
        if fs::list(&self.0).is_ok_and(|held| !held.is_empty()) {
            return Err(format!(
                "{shown} is not empty, and a backup overwrites nothing\n  name a new directory"
            ));
        }
        for directory in [&self.0, &self.0.join("secrets"), &self.0.join("files")] {
            fs::directory(directory, 0o700, None).map_err(|error| {
                format!("{error}\n  name a directory in one that synvisor's user may write to, /var/backups/synvisor/DATE for instance")
            })?;
        }
        Ok(())
    }

    /// Keeps a file.
    ///
    /// # Errors
    /// Of the file system.
    pub fn keep(&self, place: &Path, bytes: &[u8]) -> Result<(), String> {
        fs::replace(place, bytes, 0o600, None).map(drop).map_err(|error| error.to_string())
    }

    /// Says that it is complete, once all of it is on the disk.
    ///
    /// # Errors
    /// Of the file system.
    pub fn complete(&self, manifest: &Manifest) -> Result<(), String> {
        let synced = || crate::sys::handle::Handle::open(&self.0)?.sync();
        synced().map_err(|error| fs::at("write", &self.0)(error).to_string())?;
        self.keep(&self.manifest(), &serde_json::to_vec_pretty(manifest).unwrap_or_default())
    }

    /// What it says of itself.
    ///
    /// # Errors
    /// It is no backup, not complete, or from another synvisor.
    pub fn read(&self) -> Result<Manifest, String> {
        let shown = self.0.display();
        let text = fs::read(&self.manifest()).map_err(|error| {
            format!("{shown} is no backup, or was not completed: {error}\n  name the directory of one")
        })?;
        let manifest: Manifest = serde_json::from_str(&text).map_err(|error| {
            format!("{}: {error}\n  is it a backup of synvisor?", self.manifest().display())
        })?;
        if manifest.format != FORMAT {
            return Err(format!(
                "{shown} has the format {}, and this synvisor reads {FORMAT}\n  use the synvisor that made it, {}",
                manifest.format, manifest.synvisor
            ));
        }
        Ok(manifest)
    }
}

/// Writes down every file below some folders of a media store: its name, its size, when it was written, and with `sums`
/// its SHA-256. No link is followed.
///
/// # Errors
/// Of the file system.
pub fn list_media(
    store: &Path,
    folders: &[&str],
    into: &Path,
    sums: bool,
    tell: &mut dyn FnMut(Amount),
) -> Result<Amount, String> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(into);
    let mut out = BufWriter::new(made.map_err(|error| fs::at("write", into)(error).to_string())?);
    let mut done = Amount::default();
    let mut directories: Vec<PathBuf> = folders.iter().map(|folder| store.join(folder)).collect();
    while let Some(directory) = directories.pop() {
        let entries = match std::fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(fs::at("list", &directory)(error).to_string()),
        };
        for entry in entries {
            let entry = entry.map_err(|error| fs::at("list", &directory)(error).to_string())?;
            let path = entry.path();
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                directories.push(path);
            } else if metadata.is_file() {
                let sum = if sums { Some(sum(&path)) } else { None };
                // Synapse may delete one at any moment.
                let Ok(sum) = sum.transpose() else { continue };
                let name = path.strip_prefix(store).unwrap_or(&path).as_os_str().as_bytes().to_vec();
                let (size, seconds, nanos) = (metadata.size(), metadata.mtime(), metadata.mtime_nsec());
                let mut line = || -> io::Result<()> {
                    out.write_all(&name)?;
                    writeln!(out, "\t{size}\t{seconds}.{nanos:09}\t{}", sum.as_deref().unwrap_or("-"))
                };
                line().map_err(|error| fs::at("write", into)(error).to_string())?;
                done.files += 1;
                done.bytes += size;
                tell(done);
            }
        }
    }
    out.flush().map_err(|error| fs::at("write", into)(error).to_string())?;
    Ok(done)
}

fn sum(path: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    let mut file = File::open(path)?;
    let mut piece = vec![0; 1 << 16];
    loop {
        let read = io::Read::read(&mut file, &mut piece)?;
        let Some(bytes) = piece.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        hash.update(bytes);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// How many of the files of such a list are in a media store, with the size that they had; and how many there are in it.
///
/// # Errors
/// The list cannot be read.
pub fn held_of(list: &Path, store: &Path) -> Result<(u64, u64), String> {
    let text = fs::read(list).map_err(|error| error.to_string())?;
    let (mut held, mut all) = (0, 0);
    for line in text.lines() {
        let mut fields = line.rsplitn(4, '\t');
        let (_, _, size, name) = (fields.next(), fields.next(), fields.next(), fields.next());
        let (Some(size), Some(name)) = (size, name) else { continue };
        all += 1;
        let found = std::fs::symlink_metadata(store.join(name));
        held += u64::from(found.is_ok_and(|found| found.is_file() && size.parse() == Ok(found.len())));
    }
    Ok((held, all))
}
