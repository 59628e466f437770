//! How long it takes to plan a corpus from its footers.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use object_store::local::LocalFileSystem;
use object_store::path::Path as StorePath;
use quern_corpus::plan::{DatasetPlan, plan_dataset, plan_folder};
use quern_corpus::store::Folder;
use quern_recipes::Recipe;

use crate::slow_store::SlowStore;

/// Plans the recipe's data set where it is.
///
/// # Errors
/// When the plan isn't the one that the corpus was written for.
pub async fn plan_here(recipe: &Recipe, shards: u64) -> anyhow::Result<Duration> {
    let start = Instant::now();
    let plan = plan_dataset(&recipe.datasets[0], recipe.shard_rows).await?;
    let took = start.elapsed();
    check(&plan, shards)?;
    Ok(took)
}

/// Plans it through a store whose every request takes `latency`.
///
/// # Errors
/// As [`plan_here`].
pub async fn plan_far(recipe: &Recipe, shards: u64, latency: Duration) -> anyhow::Result<Duration> {
    let dataset = &recipe.datasets[0];
    let prefix = StorePath::from_absolute_path(Path::new(&dataset.path))?;
    let store = SlowStore { inner: LocalFileSystem::new(), latency };
    let folder = Folder::new(Arc::new(store), prefix, &dataset.path);
    let start = Instant::now();
    let plan = plan_folder(&folder, dataset, recipe.shard_rows).await?;
    let took = start.elapsed();
    check(&plan, shards)?;
    Ok(took)
}

fn check(plan: &DatasetPlan, shards: u64) -> anyhow::Result<()> {
    ensure!(plan.unreadable.is_empty(), "{} files can't be read", plan.unreadable.len());
    ensure!(plan.shards.len() as u64 == shards, "{} shards are planned, not {shards}", plan.shards.len());
    Ok(())
}
