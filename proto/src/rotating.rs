//! Files that may be replaced while the process runs: certificates, keys, tokens.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// A file that can't be used. The text never holds what is in the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path} can't be used: {reason}")]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong.
    pub reason: String,
}

impl FileError {
    /// An error of `path`.
    pub fn new(path: &Path, reason: impl fmt::Display) -> Self {
        FileError { path: path.into(), reason: reason.to_string() }
    }

    /// What a file holds.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn read(path: &Path) -> Result<Vec<u8>, FileError> {
        std::fs::read(path).map_err(|error| FileError::new(path, error))
    }
}

/// What files hold, read again when one of them has changed.
pub struct Rotating<T> {
    files: Vec<PathBuf>,
    read: fn(&[PathBuf]) -> Result<T, FileError>,
    held: Mutex<Held<T>>,
}

struct Held<T> {
    marks: Vec<Option<Mark>>,
    value: Arc<T>,
}

/// What tells one version of a file from another.
type Mark = (SystemTime, u64, u64);

impl<T> Rotating<T> {
    /// Reads the files for the first time.
    ///
    /// # Errors
    /// When they can't be used.
    pub fn open(files: Vec<PathBuf>, read: fn(&[PathBuf]) -> Result<T, FileError>) -> Result<Self, FileError> {
        let marks = marks(&files);
        let value = Arc::new(read(&files)?);
        Ok(Rotating { files, read, held: Mutex::new(Held { marks, value }) })
    }

    /// What the files hold now. While they hold nothing usable, such as between the replacement of a certificate and
    /// that of its key, it is what they held before.
    pub fn now(&self) -> Arc<T> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let marks = marks(&self.files);
        if marks != held.marks {
            held.marks = marks;
            match (self.read)(&self.files) {
                Ok(value) => {
                    held.value = Arc::new(value);
                    tracing::info!("{} has been replaced and is read anew", self.files[0].display());
                }
                Err(error) => tracing::warn!("{error}; what it held before stays in force"),
            }
        }
        Arc::clone(&held.value)
    }
}

impl<T> fmt::Debug for Rotating<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rotating").field("files", &self.files).finish_non_exhaustive()
    }
}

/// Links are followed: Kubernetes replaces a mounted Secret by turning a link.
fn marks(files: &[PathBuf]) -> Vec<Option<Mark>> {
    use std::os::unix::fs::MetadataExt;
    let mark = |file: &PathBuf| {
        let found = std::fs::metadata(file).ok()?;
        Some((found.modified().ok()?, found.len(), found.ino()))
    };
    files.iter().map(mark).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(files: &[PathBuf]) -> Result<u32, FileError> {
        let text = FileError::read(&files[0])?;
        String::from_utf8_lossy(&text).parse().map_err(|error| FileError::new(&files[0], error))
    }

    #[test]
    fn a_replaced_file_is_read_anew_and_a_bad_one_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("number");
        let replace = |text: &str| {
            std::fs::write(folder.path().join("new"), text).unwrap();
            std::fs::rename(folder.path().join("new"), &file).unwrap();
        };
        replace("1");
        let rotating = Rotating::open(vec![file.clone()], number).unwrap();
        assert_eq!(*rotating.now(), 1);
        replace("22");
        assert_eq!(*rotating.now(), 22);
        replace("no number");
        assert_eq!(*rotating.now(), 22);
        std::fs::remove_file(&file).unwrap();
        assert_eq!(*rotating.now(), 22);
        replace("4");
        assert_eq!(*rotating.now(), 4);
    }
}
