//! `quern capfilt retry`: rows in quarantine are done again, and take the place of what was said of them there.

use std::path::PathBuf;

use quern_coordinator::{RebuildError, kept_recipe};
use quern_recipes::Recipe;

use super::short::absolute;
use crate::commands::run::{Local, carry_out};
use crate::launch::Again;
use crate::outcome::{Done, Failure, chain};

/// Do rows again that are in quarantine, on this machine; all others stay as they are. What is left of a run that was
/// stopped is done, too. Where a coordinator carries the run out, ask it: `quern retry`.
#[derive(clap::Args)]
pub struct Arguments {
    /// The run's output: folder or URL.
    output: String,
    /// What the rows are in quarantine for: REASON or STAGE/REASON, as the report shows them; `shard/given_up`: whole
    /// shards.
    #[arg(long = "reason", value_name = "REASON", required = true, value_delimiter = ',')]
    reasons: Vec<String>,
    /// The recipe [default: the one that was kept beside the output].
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    #[command(flatten)]
    local: Local,
}

/// Retries, and says what came out.
pub async fn retry(arguments: Arguments) -> Result<Done, Failure> {
    let Arguments { output, reasons, recipe, local } = arguments;
    let output = absolute(&output)?;
    let recipe = match recipe {
        Some(recipe) => Recipe::read(&recipe)?,
        None => kept_recipe(&output).await.map_err(no_recipe)?,
    };
    // The output may have been moved since.
    carry_out(Recipe { output, ..recipe }, local, Again::Retry(reasons.into_iter().collect())).await
}

fn no_recipe(error: RebuildError) -> Failure {
    Failure::bad_input(chain(&error))
}
