//! The virtualenvs that synvisor has made for a homeserver, one for each recipe.

use std::path::Path;
use std::path::PathBuf;

use crate::config::recipe::Recipe;
use crate::sys::fs;
use crate::sys::fs::FsError;
use crate::sys::lock;

use super::venv;

/// Keeps every other synvisor from making or removing virtualenvs, until it is dropped.
///
/// # Errors
/// Somebody else does so.
pub fn lock(state: &Path) -> Result<lock::Lock, String> {
    match lock::take(&Recipe::home(state).join(".lock"), lock::Kind::Exclusive, true, None) {
        Ok(Some(lock)) => Ok(lock),
        Ok(None) => Err("the lock of the virtualenvs is gone\n  try again".to_owned()),
        Err(lock::LockError::Held(pid)) => {
            let who = pid.map_or_else(String::new, |pid| format!(" (pid {pid})"));
            Err(format!(
                "another synvisor{who} makes a virtualenv at this moment\n  try again when it is done"
            ))
        }
        Err(lock::LockError::Fs(error)) => Err(error.to_string()),
    }
}

/// Removes what was never completed, and all but the newest few, those that are to stay, and those of programs that run (an
/// embedded PostgreSQL stays what it is until the service restarts); returns what went.
///
/// # Errors
/// Of the file system, or somebody makes one at this moment.
pub fn prune(
    state: &Path,
    keep: usize,
    stay: &[PathBuf],
    programs: &[PathBuf],
) -> Result<Vec<PathBuf>, String> {
    let _lock = lock(state)?;
    let runs = |path: &Path| programs.iter().any(|program| program.starts_with(path));
    let made = made(state).map_err(|error| error.to_string())?;
    let old = made.into_iter().filter(|path| !stay.contains(path) && !runs(path));
    let mut gone: Vec<PathBuf> = old.skip(keep.saturating_sub(stay.len())).collect();
    gone.extend(unfinished(state).map_err(|error| error.to_string())?);
    for path in &gone {
        let mark = venv::unfinished_mark(path);
        // Half of one must not be taken for one.
        fs::replace(&mark, b"", 0o644, None)
            .and_then(|_| fs::remove_all(path))
            .and_then(|()| fs::remove(&mark))
            .map_err(|error| error.to_string())?;
    }
    Ok(gone)
}

/// Those that were begun; nobody is at it who has the lock.
fn unfinished(state: &Path) -> Result<Vec<PathBuf>, FsError> {
    let all = fs::list(&Recipe::home(state))?.into_iter();
    Ok(all.filter(|path| venv::unfinished_mark(path).exists()).collect())
}

/// Those that are complete, newest first.
fn made(state: &Path) -> Result<Vec<PathBuf>, FsError> {
    let mut made: Vec<_> = fs::list(&Recipe::home(state))?
        .into_iter()
        .filter(|path| venv::synapse_version(path).is_some())
        .filter_map(|path| Some((fs::modified(&path.join("pyvenv.cfg"))?, path)))
        .collect();
    made.sort_unstable_by(|one, other| other.cmp(one));
    Ok(made.into_iter().map(|(_, path)| path).collect())
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use nix::sys::stat::futimens;
    use nix::sys::time::TimeSpec;

    use super::*;

    /// A virtualenv as far as it matters here, made on that day.
    fn virtualenv(state: &Path, version: &str, day: i64) -> PathBuf {
        let path = Recipe::home(state).join(version);
        let packages = path.join("lib/python3.13/site-packages");
        std::fs::create_dir_all(packages.join(format!("matrix_synapse-{version}.dist-info"))).unwrap();
        std::fs::create_dir_all(path.join("bin")).unwrap();
        File::create(path.join("bin/python")).unwrap();
        let made = TimeSpec::new(day * 86_400, 0);
        futimens(File::create(path.join("pyvenv.cfg")).unwrap(), &made, &made).unwrap();
        path
    }

    #[test]
    fn the_newest_few_and_those_in_use_stay() {
        // Mutations, each seen red: the oldest kept; those in use not counted; an unfinished one kept; one with a program that
        // runs removed.
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path();
        let [now, newest, second, oldest, running] =
            [("1.150.0", 1), ("1.163.0", 9), ("1.162.0", 8), ("1.161.0", 7), ("1.140.0", 0)]
                .map(|(version, day)| virtualenv(state, version, day));
        let unfinished = virtualenv(state, "1.164.0", 10);
        File::create(venv::unfinished_mark(&unfinished)).unwrap();
        let programs = [running.join("lib/postgres"), "/usr/bin/python3".into()];
        let stay = [now.clone(), newest.clone()];
        let mut gone = prune(state, 3, &stay, &programs).unwrap();
        gone.sort();
        assert_eq!(gone, [oldest.clone(), unfinished.clone()]);
        let there = [&now, &newest, &second, &running, &oldest, &unfinished].map(|path| path.exists());
        assert_eq!(there, [true, true, true, true, false, false]);
        assert!(!venv::unfinished_mark(&unfinished).exists());
        assert_eq!(prune(state, 3, &stay, &[]).unwrap(), std::slice::from_ref(&running));
    }
}
