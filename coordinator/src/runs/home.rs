//! Where runs that were handed in are kept: `STATE/{run id}/submission.json` and, beside it, `journal.sqlite`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use quern_recipes::Recipe;
use serde::{Deserialize, Serialize};

use super::run::id_of;
use crate::journal::JournalError;

const SUBMISSION: &str = "submission.json";
const JOURNAL: &str = "journal.sqlite";

/// Why a folder of runs can't be used.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// The folder or a file in it can't be read or written.
    #[error("{path} can't be used to keep runs: {source}; check the folder and its permissions")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// What is kept isn't a submission that this version reads.
    #[error("{path} is not a recipe that was handed in: {reason}; restore it, or move its folder away")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A run's journal can't be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// A recipe that was handed in.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Submission {
    /// When, since the Unix epoch.
    pub submitted_ms: u64,
    /// What, resolved and valid.
    pub recipe: Recipe,
}

/// The folder.
#[derive(Debug)]
pub(super) struct Home {
    folder: PathBuf,
}

impl Home {
    /// A folder that is there, or is made.
    pub fn open(folder: &Path) -> Result<Self, HomeError> {
        fs::create_dir_all(folder).map_err(|source| HomeError::Io { path: folder.into(), source })?;
        Ok(Home { folder: folder.into() })
    }

    /// Everything that was handed in, in the order in which it came.
    pub fn submissions(&self) -> Result<Vec<Submission>, HomeError> {
        let unreadable = |path: &Path| {
            let path = path.to_path_buf();
            move |source| HomeError::Io { path, source }
        };
        let mut found: Vec<Submission> = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(unreadable(&self.folder))? {
            let path = entry.map_err(unreadable(&self.folder))?.path().join(SUBMISSION);
            let text = match fs::read_to_string(&path) {
                Ok(text) => text,
                // Something else's folder, or one that was begun when the process died: nobody was told that it was kept.
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    continue;
                }
                Err(error) => return Err(unreadable(&path)(error)),
            };
            let submission: Submission = serde_json::from_str(&text)
                .map_err(|error| HomeError::Damaged { path: path.clone(), reason: error.to_string() })?;
            let valid = submission.recipe.validate();
            valid
                .map_err(|broken| HomeError::Damaged { path, reason: format!("{}: {}", broken.key, broken.message) })?;
            found.push(submission);
        }
        found.sort_by_cached_key(|submission| (submission.submitted_ms, id_of(&submission.recipe)));
        Ok(found)
    }

    /// Keeps a recipe: when this returns, it survives the machine's power being cut.
    pub fn keep(&self, recipe: &Recipe, submitted_ms: u64) -> io::Result<()> {
        let folder = self.folder.join(id_of(recipe));
        fs::create_dir_all(&folder)?;
        let submission = Submission { submitted_ms, recipe: recipe.clone() };
        let text = serde_json::to_vec_pretty(&submission).expect("a recipe holds only what JSON can state");
        let unfinished = folder.join(format!("{SUBMISSION}.part"));
        let mut file = File::create(&unfinished)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&unfinished, folder.join(SUBMISSION))?;
        File::open(&folder)?.sync_all()?;
        File::open(&self.folder)?.sync_all()
    }

    /// Where a run's journal is.
    pub fn journal(&self, recipe: &Recipe) -> PathBuf {
        self.folder.join(id_of(recipe)).join(JOURNAL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(name: &str, seed: u64) -> Recipe {
        let yaml = format!(
            "name: {name}\nseed: {seed}\noutput: /out/{name}\ndatasets:\n  - name: toy\n    path: /corpus\n    capfilt: \
             false\n"
        );
        Recipe::parse("test.yaml", &yaml).unwrap()
    }

    #[test]
    fn what_was_handed_in_comes_back_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path()).unwrap();
        home.keep(&recipe("later", 1), 20).unwrap();
        home.keep(&recipe("sooner", 2), 10).unwrap();
        // Begun, but never told that it was kept.
        fs::create_dir(folder.path().join("unfinished")).unwrap();
        fs::write(folder.path().join("lost+found"), "").unwrap();
        let names =
            |home: &Home| home.submissions().unwrap().into_iter().map(|kept| kept.recipe.name).collect::<Vec<_>>();
        assert_eq!(names(&home), ["sooner", "later"]);
        assert_eq!(names(&Home::open(folder.path()).unwrap()), ["sooner", "later"]);
    }

    #[test]
    fn what_is_damaged_is_said_with_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::open(folder.path()).unwrap();
        home.keep(&recipe("toy", 1), 10).unwrap();
        let file = home.journal(&recipe("toy", 1)).with_file_name(SUBMISSION);
        fs::write(&file, "{").unwrap();
        let said = home.submissions().unwrap_err().to_string();
        assert!(said.contains(&*file.to_string_lossy()) && said.contains("move its folder away"), "{said}");
    }
}
