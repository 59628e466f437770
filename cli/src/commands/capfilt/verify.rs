//! `quern capfilt verify`: whether an output keeps its promises.

use std::path::{Path, PathBuf};

use quern_capfilt::{Manifest, Totals, Violation, visible};
use quern_corpus::ShardSpec;
use quern_corpus::plan::{Milled, plan_again};
use quern_corpus::store;
use quern_recipes::{Dataset, Recipe};
use serde::Deserialize;

use crate::outcome::{Done, Failure, chain};

/// Violations that are printed at most.
const SHOWN: usize = 50;

/// Check that every input row is in an output exactly once, and that every file is what the manifest says.
#[derive(clap::Args)]
pub struct Arguments {
    /// The run's output: folder or URL.
    output: String,
    /// A recipe that says where the inputs are now [default: where the run read them].
    #[arg(long, value_name = "FILE", conflicts_with = "without_inputs")]
    recipe: Option<PathBuf>,
    /// Look at the output alone: input files that are missing from it altogether go unnoticed.
    #[arg(long)]
    without_inputs: bool,
}

/// What of the manifest's recipe the plan depends on.
#[derive(Deserialize)]
struct Inputs {
    datasets: Vec<Dataset>,
    shard_rows: u64,
}

/// Verifies, and prints what is wrong.
pub async fn verify(arguments: Arguments) -> Result<Done, Failure> {
    let output = store::open(&arguments.output).map_err(|error| Failure::bad_input(chain(&error)))?;
    let plan = match (&arguments.recipe, arguments.without_inputs) {
        (_, true) => None,
        (recipe, false) => {
            let manifest = Manifest::read(&output).await.map_err(|error| failed(&error))?;
            Some(plan(inputs(recipe.as_deref(), &manifest)?, &manifest).await?)
        }
    };
    let verification = quern_capfilt::verify(&output, plan.as_deref()).await.map_err(|error| failed(&error))?;
    println!("{}: {}", arguments.output, totals(&verification.seen));
    if verification.is_whole() {
        println!("whole: every row once, every file as the manifest says");
        return Ok(Done::Completely);
    }
    report(&verification.violations);
    Err(Failure::failed(format!("{} is not whole: {} violations", arguments.output, verification.violations.len())))
}

/// The inputs as the recipe in a file names them, or else the manifest's.
fn inputs(recipe: Option<&Path>, manifest: &Manifest) -> Result<Inputs, Failure> {
    if let Some(recipe) = recipe {
        let Recipe { datasets, shard_rows, .. } = Recipe::read(recipe)?;
        return Ok(Inputs { datasets, shard_rows });
    }
    serde_json::from_value(manifest.recipe.clone())
        .map_err(|error| Failure::failed(format!("the manifest's recipe does not name the inputs: {error}")))
}

/// The shards that the inputs have now, with the manifest's numbers for its files; an unreadable file is one of no rows.
async fn plan(inputs: Inputs, manifest: &Manifest) -> Result<Vec<ShardSpec>, Failure> {
    let known = manifest.shards();
    let mut shards = Vec::new();
    for dataset in &inputs.datasets {
        let milled = Milled::of(&dataset.name, &known);
        let plan = plan_again(dataset, inputs.shard_rows, &milled).await.map_err(|error| {
            Failure::failed(format!(
                "{}; name a recipe with the inputs' present place (--recipe), or do without them (--without-inputs)",
                chain(&error)
            ))
        })?;
        shards.extend(plan.shards);
        shards.extend(plan.unreadable.into_iter().map(|file| file.shard));
    }
    Ok(shards)
}

fn totals(seen: &Totals) -> String {
    format!(
        "{} rows in {} parts: {} kept, {} passed, {} in quarantine; {} whole shards ({} rows) in quarantine",
        seen.rows,
        seen.shards,
        seen.kept,
        seen.passed,
        seen.quarantined,
        seen.quarantined_shards,
        seen.quarantined_shard_rows
    )
}

fn report(violations: &[Violation]) {
    for violation in violations.iter().take(SHOWN) {
        // Names and reasons are those of whoever wrote the output.
        println!("  {}", visible(&violation.to_string()));
    }
    if violations.len() > SHOWN {
        println!("  … and {} more", violations.len() - SHOWN);
    }
}

fn failed(error: &dyn std::error::Error) -> Failure {
    Failure::failed(chain(error))
}
