//! What files hold, summed up, so that a changed one is noticed.

use std::path::Path;

use sha2::Digest as _;
use sha2::Sha256;

use crate::sys::fs;
use crate::sys::fs::FsError;

/// Files and directories that are looked at; directories of templates have some thirty.
const MOST_ENTRIES: usize = 1_000;

/// Bytes of one file that count; certificates and templates have some thousand.
const MOST_BYTES: u64 = 1024 * 1024;

/// SHA-256 of a file, or of a directory's files with their names; of what cannot be read, the reason why.
pub fn of(path: &Path) -> String {
    let mut hash = Sha256::new();
    match add(path, &mut hash, &mut 0) {
        Ok(()) => hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
        Err(error) => error.kind().to_string(),
    }
}

fn add(path: &Path, hash: &mut Sha256, entries: &mut usize) -> Result<(), FsError> {
    *entries += 1;
    // A directory that is linked into itself ends here.
    if *entries > MOST_ENTRIES {
        return Ok(());
    }
    if path.is_dir() {
        let mut inside = fs::list(path)?;
        inside.sort();
        for entry in inside {
            let name = entry.file_name().unwrap_or_default().as_encoded_bytes();
            hash.update([name, b"\0"].concat());
            add(&entry, hash, entries)?;
        }
        return Ok(());
    }
    let bytes = fs::read_start(path, MOST_BYTES)?;
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_file_has_another_digest_wherever_it_lies() {
        // Mutations, each seen red: names left out; lengths left out; directories not gone into.
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let write =
            |name: &str, text: &str| assert!(fs::replace(&path(name), text.as_bytes(), 0o600, None).unwrap());
        std::fs::create_dir(path("below")).unwrap();
        write("a", "one");
        write("below/b", "two");
        let (file, all) = (of(&path("a")), of(dir.path()));
        assert_eq!((of(&path("a")), of(dir.path())), (file.clone(), all.clone()));
        write("a", "another");
        assert_ne!(of(&path("a")), file);
        write("a", "one");
        write("below/b", "three");
        assert_ne!(of(dir.path()), all);
        write("below/b", "two");
        assert_eq!(of(dir.path()), all);
        std::fs::rename(path("a"), path("a2")).unwrap();
        assert_ne!(of(dir.path()), all, "a name counts");
        assert_eq!(of(&path("a")), "entity not found");
        write("below/c", "d");
        let two = of(&path("below"));
        std::fs::remove_file(path("below/c")).unwrap();
        write("below/b", "twoc\0d");
        assert_ne!(of(&path("below")), two, "the end of a file counts");
    }
}
