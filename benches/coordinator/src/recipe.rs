//! The recipe that the coordinator carries out.

use std::path::Path;

use quern_recipes::Recipe;

/// Writes a recipe of the corpus in `folder/corpus`, in shards of `shard_rows` rows, whose parts would be in `folder/out`.
///
/// # Errors
/// When it can't be written, or the folder's name can't be stated in a recipe.
pub fn write(path: &Path, folder: &Path, shard_rows: u64) -> anyhow::Result<Recipe> {
    let folder = folder.display();
    let yaml = format!(
        "name: bench\nseed: 1\noutput: {folder}/out\nshard_rows: {shard_rows}\ndatasets:\n  - name: laion\n    path: \
         {folder}/corpus\n    capfilt: false\n"
    );
    std::fs::write(path, yaml)?;
    Ok(Recipe::read(path)?)
}
