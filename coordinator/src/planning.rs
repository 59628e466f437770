//! The corpus as shards: all of it for a run that begins, what has come since for one that goes on.

use quern_capfilt::{Manifest, ManifestError};
use quern_corpus::ShardSpec;
use quern_corpus::plan::{DatasetPlan, Milled, PlanError, plan_again, plan_more};
use quern_corpus::store::{self, StoreError};
use quern_machine::{ShardId, ShardPlan, UnreadableFile};
use quern_recipes::Recipe;

/// Why the corpus has no plan.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanningError {
    /// A data set can't be read.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The output, or the manifest that is there, can't be read.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The output is no location.
    #[error(transparent)]
    Output(#[from] StoreError),
}

/// Shards, and files that can't be read, in the machine's words.
#[derive(Debug, Default)]
pub(crate) struct Planned {
    pub shards: Vec<ShardPlan>,
    pub unreadable: Vec<UnreadableFile>,
}

impl Planned {
    /// Adds a data set's plan.
    fn add(&mut self, planned: DatasetPlan) {
        self.shards.extend(planned.shards.into_iter().map(plan_of));
        let files = planned.unreadable.into_iter();
        self.unreadable.extend(files.map(|file| UnreadableFile { shard: plan_of(file.shard), reason: file.reason }));
    }
}

/// Cuts the whole corpus into shards. Where this recipe's manifest is in the output already (the journal is gone), its
/// files keep the numbers that they have there.
///
/// # Errors
/// When a data set or the output can't be read.
pub(crate) async fn plan(recipe: &Recipe) -> Result<Planned, PlanningError> {
    let known = match manifest(recipe).await? {
        Some(manifest) if manifest.recipe_hash == recipe.hash() => manifest.shards(),
        _ => Vec::new(),
    };
    let mut planned = Planned::default();
    for dataset in &recipe.datasets {
        let milled = Milled::of(&dataset.name, &known);
        planned.add(plan_again(dataset, recipe.shard_rows, &milled).await?);
    }
    Ok(planned)
}

/// Cuts those files into shards of which none of the `known` shards has rows.
///
/// # Errors
/// When a data set can't be read.
pub(crate) async fn extend(recipe: &Recipe, known: &[ShardSpec]) -> Result<Planned, PlanningError> {
    let mut planned = Planned::default();
    for dataset in &recipe.datasets {
        let milled = Milled::of(&dataset.name, known);
        planned.add(plan_more(dataset, recipe.shard_rows, &milled).await?);
    }
    Ok(planned)
}

/// The output's manifest, if it has one.
///
/// # Errors
/// When the output can't be read, or the manifest isn't understood.
pub(crate) async fn manifest(recipe: &Recipe) -> Result<Option<Manifest>, PlanningError> {
    match Manifest::read(&store::open(&recipe.output)?).await {
        Ok(manifest) => Ok(Some(manifest)),
        Err(ManifestError::Store(StoreError::NotFound { .. })) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn plan_of(spec: ShardSpec) -> ShardPlan {
    let ShardSpec { shard, dataset, file, row_start, rows } = spec;
    ShardPlan { shard: ShardId(shard.0), dataset, file, row_start, rows }
}

pub(crate) fn spec_of(plan: &ShardPlan) -> ShardSpec {
    ShardSpec {
        shard: quern_corpus::ShardId(plan.shard.0.clone()),
        dataset: plan.dataset.clone(),
        file: plan.file.clone(),
        row_start: plan.row_start,
        rows: plan.rows,
    }
}
