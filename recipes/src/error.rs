//! What is wrong with a recipe, and where.

use std::fmt;

use crate::locate::Place;
use crate::redact::redacted;

/// A recipe that can't be used. Its text is one line: file, line and column where known, key, what was expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct RecipeError {
    /// The recipe's file, as the user named it.
    pub file: String,
    /// Line and column, from 1.
    pub place: Option<Place>,
    /// The key's path in the recipe, such as `stage1.batch` or `datasets[1].name`; empty for the whole document.
    pub key: String,
    /// What is wrong and what was expected.
    pub message: String,
}

impl RecipeError {
    pub(crate) fn whole(file: &str, message: impl Into<String>) -> Self {
        RecipeError { file: file.into(), place: None, key: String::new(), message: message.into() }
    }
}

impl fmt::Display for RecipeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if let Some(place) = self.place {
            write!(f, ":{}:{}", place.line, place.column)?;
        }
        if !self.key.is_empty() {
            write!(f, ": `{}`", self.key)?;
        }
        // A parser may quote what it met.
        write!(f, ": {}", redacted(&self.message))
    }
}
