//! YAML in, a checked [`Recipe`] out; and the JSON form for the wire.

use std::path::Path;

use crate::error::RecipeError;
use crate::locate::{Document, Place};
use crate::recipe::Recipe;

impl Recipe {
    /// Parses and validates a recipe. `file` is only its name in errors; relative paths stay relative.
    pub fn parse(file: &str, yaml: &str) -> Result<Recipe, RecipeError> {
        let recipe: Recipe = serde_saphyr::from_str(yaml).map_err(|error| from_yaml(file, yaml, &error))?;
        recipe.validate().map_err(|broken| {
            let place = Document::read(yaml).place(&broken.key);
            RecipeError { file: file.into(), place, key: broken.key, message: broken.message }
        })?;
        Ok(recipe)
    }

    /// Reads, validates and resolves the recipe in the file `path`.
    pub fn read(path: impl AsRef<Path>) -> Result<Recipe, RecipeError> {
        let path = path.as_ref();
        let file = path.display().to_string();
        let yaml = std::fs::read_to_string(path)
            .map_err(|error| RecipeError::whole(&file, format!("the recipe can't be read: {error}")))?;
        let recipe = Recipe::parse(&file, &yaml)?;
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = folder
            .canonicalize()
            .map_err(|error| RecipeError::whole(&file, format!("its folder can't be resolved: {error}")))?;
        Ok(recipe.resolve(&folder))
    }

    /// The recipe as JSON, for the wire and the manifest.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a recipe holds only what JSON can state")
    }

    /// Whether a URL in it holds a secret: such a recipe is kept nowhere but where it was handed in.
    pub fn has_secrets(&self) -> bool {
        crate::redact::holds_secret(&self.to_json())
    }

    /// A recipe from [`to_json`](Recipe::to_json)'s text. It is validated again: it comes from another process.
    pub fn from_json(json: &str) -> Result<Recipe, RecipeError> {
        let recipe: Recipe = serde_json::from_str(json).map_err(|error| RecipeError {
            file: "recipe JSON".into(),
            place: (error.line() > 0).then_some(Place { line: error.line() as u64, column: error.column() as u64 }),
            key: String::new(),
            message: error.to_string(),
        })?;
        recipe.validate().map_err(|broken| RecipeError {
            file: "recipe JSON".into(),
            place: None,
            key: broken.key,
            message: broken.message,
        })?;
        Ok(recipe)
    }
}

fn from_yaml(file: &str, yaml: &str, error: &serde_saphyr::Error) -> RecipeError {
    let place = error.location().map(Place::from);
    let key = place.and_then(|place| Document::read(yaml).key_at(place)).unwrap_or_default();
    RecipeError { file: file.into(), place, key, message: describe(error.without_snippet()) }
}

/// The parser's message on one line, without the position that the error states itself.
fn describe(error: &serde_saphyr::Error) -> String {
    let text = error.to_string();
    let line = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    match line.rfind(" at line ") {
        Some(position) if line[position..].contains("column") => line[..position].to_string(),
        _ => line,
    }
}
