//! The virtualenvs that synvisor has made for a homeserver, one for each recipe.

use std::path::Path;
use std::path::PathBuf;

use crate::config::recipe::Recipe;
use crate::sys::fs;
use crate::sys::fs::FsError;

use super::venv;

/// The version of Synapse in the newest virtualenv but the one of now.
///
/// # Errors
/// Of the file system.
pub fn before(state: &Path, now: &Path) -> Result<Option<String>, FsError> {
    Ok(made(state)?.into_iter().find(|(path, _)| path != now).map(|(_, version)| version))
}

/// Removes all virtualenvs but the newest few and those that are to stay; returns what went.
///
/// # Errors
/// Of the file system.
pub fn prune(state: &Path, keep: usize, stay: &[PathBuf]) -> Result<Vec<PathBuf>, FsError> {
    let old = made(state)?.into_iter().map(|(path, _)| path).filter(|path| !stay.contains(path));
    let old: Vec<PathBuf> = old.skip(keep.saturating_sub(stay.len())).collect();
    for path in &old {
        fs::remove_all(path)?;
    }
    Ok(old)
}

/// Those that are complete with the versions of Synapse in them, newest first.
fn made(state: &Path) -> Result<Vec<(PathBuf, String)>, FsError> {
    let mut made: Vec<_> = fs::list(&Recipe::home(state))?
        .into_iter()
        .filter_map(|path| {
            Some((fs::modified(&path.join("pyvenv.cfg"))?, venv::synapse_version(&path)?, path))
        })
        .collect();
    made.sort_unstable_by(|one, other| other.cmp(one));
    Ok(made.into_iter().map(|(_, version, path)| (path, version)).collect())
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;
    use std::time::SystemTime;

    use super::*;

    /// A virtualenv as far as it matters here, made on that day.
    fn virtualenv(state: &Path, version: &str, day: u64) -> PathBuf {
        let path = Recipe::home(state).join(version);
        let packages = path.join("lib/python3.13/site-packages");
        std::fs::create_dir_all(packages.join(format!("matrix_synapse-{version}.dist-info"))).unwrap();
        std::fs::create_dir_all(path.join("bin")).unwrap();
        File::create(path.join("bin/python")).unwrap();
        let made = SystemTime::UNIX_EPOCH + Duration::from_secs(day * 86_400);
        File::create(path.join("pyvenv.cfg")).unwrap().set_modified(made).unwrap();
        path
    }

    #[test]
    fn the_newest_few_and_those_in_use_stay() {
        // Mutations, each seen red: the oldest kept; those in use not counted; an unfinished one taken for the one before.
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path();
        let [now, newest, second, oldest] = [("1.150.0", 1), ("1.163.0", 9), ("1.162.0", 8), ("1.161.0", 7)]
            .map(|(version, day)| virtualenv(state, version, day));
        let unfinished = virtualenv(state, "1.164.0", 10);
        File::create(venv::unfinished_mark(&unfinished)).unwrap();
        assert_eq!(before(state, &now).unwrap().as_deref(), Some("1.163.0"));
        assert_eq!(before(state, &newest).unwrap().as_deref(), Some("1.162.0"));
        let gone = prune(state, 3, &[now.clone(), newest.clone()]).unwrap();
        assert_eq!(gone, std::slice::from_ref(&oldest));
        assert_eq!(
            [now, newest, second, unfinished, oldest].map(|path| path.exists()),
            [true, true, true, true, false]
        );
        assert!(prune(state, 3, &[]).unwrap().is_empty());
    }
}
