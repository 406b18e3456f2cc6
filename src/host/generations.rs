//! The configurations that were applied, or were to be: kept, so that one can go back.
//!
//! `N.toml` is the text, `N.json` what became of it. They belong to whom the supervisor runs as; what does not is not read,
//! since what it starts with must not come from anybody else.

use std::path::Path;
use std::path::PathBuf;

use crate::sys::fs;
use crate::sys::fs::FsError;
use crate::wire::Generation;
use crate::wire::GenerationResult;

/// So many are kept, and the newest that was applied in any case.
const KEPT: usize = 20;

/// The directory of generations, which exists.
#[derive(Clone, Debug)]
pub struct Generations {
    directory: PathBuf,
}

impl Generations {
    pub const fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Every generation, the oldest first. One whose record cannot be read does not count.
    pub fn list(&self) -> Vec<Generation> {
        let files = fs::list(&self.directory).unwrap_or_default();
        let records = files.into_iter().filter(|path| path.extension().is_some_and(|of| of == "json"));
        let mut all: Vec<Generation> =
            records.filter_map(|path| serde_json::from_str(&fs::read_own(&path).ok()?).ok()).collect();
        all.sort_by_key(|generation| generation.number);
        all
    }

    /// The newest one that was applied.
    pub fn applied(&self) -> Option<Generation> {
        self.list().into_iter().rfind(|generation| generation.result == GenerationResult::Applied)
    }

    /// The newest generation with this text.
    pub fn of_text(&self, text: &str) -> Option<Generation> {
        let same = |generation: &Generation| self.text(generation.number).is_ok_and(|held| held == text);
        self.list().into_iter().rev().find(same)
    }

    /// What is to be said of a TOML file that was applied before and undone, if this text is such a one.
    pub fn undone(&self, text: &str, file: &Path) -> Option<String> {
        let Generation { number, result, why, .. } = self.of_text(text)?;
        let why = why.as_deref().and_then(|why| why.lines().next()).unwrap_or("no reason known");
        let how = match result {
            GenerationResult::RolledBack => "was rolled back",
            GenerationResult::Failed => "failed",
            GenerationResult::Applying | GenerationResult::Applied => return None,
        };
        Some(format!(
            "{} is generation {number}, which {how} ({why}): edit it, or try it once more by `synvisor reload`",
            file.display()
        ))
    }

    /// The TOML of a generation.
    ///
    /// # Errors
    /// Of the file system.
    pub fn text(&self, number: u64) -> Result<String, FsError> {
        fs::read_own(&self.file(number, "toml"))
    }

    /// Notes a new generation and gives its number; the oldest ones go.
    ///
    /// # Errors
    /// Of the file system.
    pub fn begin(
        &self,
        text: &str,
        at: u64,
        who: &str,
        changes: Vec<String>,
        rollback: bool,
    ) -> Result<u64, FsError> {
        let all = self.list();
        let number = all.last().map_or(1, |last| last.number + 1);
        fs::replace(&self.file(number, "toml"), text.as_bytes(), 0o600, None)?;
        let (who, result) = (who.to_owned(), GenerationResult::Applying);
        let record = Generation { number, at, who, changes, rollback, result, why: None };
        // A text without a record does not count, and takes room.
        self.write(&record).inspect_err(|_| drop(fs::remove(&self.file(number, "toml"))))?;
        let applied = self.applied().map(|generation| generation.number);
        let excess = (all.len() + 1).saturating_sub(KEPT);
        for old in all.iter().take(excess).filter(|old| Some(old.number) != applied) {
            // The record first: without one the text does not count.
            fs::remove(&self.file(old.number, "json"))?;
            fs::remove(&self.file(old.number, "toml"))?;
        }
        Ok(number)
    }

    /// Notes what became of a generation; one that is not kept any more is let be.
    ///
    /// # Errors
    /// Of the file system.
    pub fn settle(&self, number: u64, result: GenerationResult, why: Option<String>) -> Result<(), FsError> {
        match self.list().into_iter().find(|generation| generation.number == number) {
            Some(generation) => self.write(&Generation { result, why, ..generation }),
            None => Ok(()),
        }
    }

    fn write(&self, generation: &Generation) -> Result<(), FsError> {
        // A record of plain strings and numbers always has a JSON form.
        let text = serde_json::to_vec_pretty(generation).unwrap_or_default();
        fs::replace(&self.file(generation.number, "json"), &text, 0o600, None).map(drop)
    }

    fn file(&self, number: u64, extension: &str) -> PathBuf {
        self.directory.join(format!("{number}.{extension}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_and_the_last_that_was_applied() {
        let dir = tempfile::tempdir().unwrap();
        let generations = Generations::new(dir.path().to_owned());
        assert_eq!(generations.applied(), None);
        let begin =
            |text: &str| generations.begin(text, 7, "root", vec!["a 1 → 2".to_owned()], false).unwrap();
        assert_eq!(begin("first"), 1);
        assert_eq!(generations.applied(), None);
        generations.settle(1, GenerationResult::Applied, None).unwrap();
        for number in 2..=KEPT as u64 + 4 {
            assert_eq!(begin("another"), number);
            generations.settle(number, GenerationResult::RolledBack, Some("why".to_owned())).unwrap();
        }
        let numbers: Vec<u64> = generations.list().iter().map(|generation| generation.number).collect();
        let newest: Vec<u64> = (5..=KEPT as u64 + 4).collect();
        assert_eq!(numbers, [vec![1], newest].concat());
        assert_eq!(
            generations.applied().map(|applied| (applied.number, applied.who)),
            Some((1, "root".into()))
        );
        assert_eq!(generations.text(1).unwrap(), "first");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2 * (KEPT + 1));
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(dir.path().join("1.toml"), Some(65_534), None).unwrap();
            generations.text(1).unwrap_err();
        }
        generations.settle(3, GenerationResult::Failed, None).unwrap();
        assert_eq!(generations.list().len(), KEPT + 1, "a generation that is gone stays gone");
    }
}
