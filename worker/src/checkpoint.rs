//! A checkpoint as it is named at the terminal, with the recipe that it was trained by.

use std::path::Path;

use quern_capfilt::Manifest;
use quern_corpus::store;
use quern_recipes::Recipe;
use tokio::runtime::{Builder, Runtime};

/// A checkpoint and its recipe.
pub struct Located {
    /// The recipe.
    pub recipe: Recipe,
    /// As quern-trainer takes it: a location of its own, or a path below the recipe's output.
    pub checkpoint: String,
}

/// The checkpoint `named` (a folder from here, a URL, or a path below the recipe's output) and its recipe: the one in
/// `file` or, without it, what the manifest of the checkpoint's output states.
///
/// # Errors
/// One sentence when there is no recipe.
pub fn locate(named: &str, file: Option<&Path>) -> Result<Located, String> {
    let checkpoint = place(named);
    let recipe = match file {
        Some(file) => Recipe::read(file).map_err(|error| error.to_string())?,
        None => recorded(&checkpoint).map_err(|reason| {
            format!("the recipe of the checkpoint {named} is not known: {reason}; name it with --recipe")
        })?,
    };
    Ok(Located { recipe, checkpoint })
}

/// A folder or file that is found from here as one that is found from anywhere; all else as it is.
pub fn place(named: &str) -> String {
    match Path::new(named).canonicalize() {
        Ok(here) => here.display().to_string(),
        Err(_) => named.to_owned(),
    }
}

/// The recipe in the manifest of `OUTPUT/stage2/step-000200`'s output.
fn recorded(checkpoint: &str) -> Result<Recipe, String> {
    let mut parts = checkpoint.trim_end_matches('/').rsplitn(3, '/');
    let output = parts.nth(2).filter(|output| !output.is_empty()).ok_or("it is not in an output's folder")?;
    let folder = store::open(output).map_err(|error| error.to_string())?;
    let manifest = runtime()?.block_on(Manifest::read(&folder)).map_err(|error| error.to_string())?;
    let mut recipe = manifest.recipe;
    recipe["output"] = output.into();
    Recipe::from_json(&recipe.to_string()).map_err(|error| error.to_string())
}

/// A runtime of this thread's own.
///
/// # Errors
/// One sentence when the system has none to give.
pub fn runtime() -> Result<Runtime, String> {
    let built = Builder::new_current_thread().enable_all().build();
    built.map_err(|error| format!("the async runtime does not start: {error}"))
}
