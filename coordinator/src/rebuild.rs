//! A ledger from the output alone, after its disk was lost.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use quern_corpus::store::{self, StoreError};
use quern_machine::{Chore, Machine, Phase};
use quern_recipes::{Recipe, RecipeError, redacted};
use tokio::sync::watch;

use crate::beside::Beside;
use crate::clock::SystemClock;
use crate::journal::JournalError;
use crate::runs::Run;

/// What a rebuilt ledger knows.
#[derive(Debug, Clone, PartialEq)]
pub struct Rebuilt {
    /// Shards of the plan.
    pub shards: u64,
    /// Those whose part was accepted and is in the output; the others are done again.
    pub done: u64,
    /// The recipe.
    pub recipe: Box<Recipe>,
}

/// Why a ledger can't be rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// There is a journal already.
    #[error("{journal} is there already: name a file that isn't, or start the coordinator with it")]
    JournalThere {
        /// The journal.
        journal: PathBuf,
    },
    /// The recipe is not beside the output.
    #[error("no recipe is kept beside {output} ({source}): give the recipe's file, too")]
    NoRecipe {
        /// The output.
        output: String,
        /// Why not.
        #[source]
        source: StoreError,
    },
    /// The recipe beside the output can't be used by this version.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// The recipe is of another output.
    #[error("the recipe's output is {expected}, not {output}: give that URL")]
    OtherOutput {
        /// The output as given.
        output: String,
        /// The recipe's.
        expected: String,
    },
    /// The output is no location.
    #[error(transparent)]
    Output(#[from] StoreError),
    /// The new journal can't be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The run failed meanwhile.
    #[error("the ledger can't be rebuilt: {cause}")]
    Failed {
        /// Why.
        cause: String,
    },
}

/// Writes a new journal of the run whose output is `from`: the corpus is cut into the same shards again, and what
/// coordinators have written down of accepted parts and checkpoints beside the output is taken over. Without `recipe`,
/// the one that is kept there is taken. This counts as a start: a coordinator that still works on the output ends.
///
/// # Errors
/// When the recipe, the output or the journal can't be used; then no journal is left.
pub async fn rebuild(from: &str, recipe: Option<Recipe>, journal: &Path) -> Result<Rebuilt, RebuildError> {
    if journal.exists() {
        return Err(RebuildError::JournalThere { journal: journal.into() });
    }
    let output = store::open(from)?.url;
    let recipe = match recipe {
        Some(recipe) => recipe,
        None => kept_recipe(from).await?,
    };
    if store::open(&recipe.output)?.url != output {
        let expected = redacted(&recipe.output);
        return Err(RebuildError::OtherOutput { output: redacted(&output), expected });
    }
    let (superseded, clock) = (watch::Sender::new(None), Arc::new(SystemClock::new()));
    let run = Run::open(recipe.clone(), journal, 0, clock, superseded).await?;
    let found = read_all(&run).await;
    run.close().await;
    let rebuilt = found.map(|(shards, done)| Rebuilt { shards, done, recipe: Box::new(recipe) });
    if rebuilt.is_err() {
        // The error says more than one about the files that are left.
        for suffix in ["", "-wal", "-shm", ".lock"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", journal.display()));
        }
    }
    rebuilt
}

/// The recipe that the coordinator of an output has kept beside it.
///
/// # Errors
/// When there is none, or it isn't one that this version can use.
pub async fn kept_recipe(output: &str) -> Result<Recipe, RebuildError> {
    let text = Beside::recipe(output).await;
    let text = text.map_err(|source| RebuildError::NoRecipe { output: redacted(output), source })?;
    Ok(Recipe::from_json(&String::from_utf8_lossy(&text))?)
}

/// Waits until the plan is made and the acceptances are read; gives the number of shards, and of those done.
async fn read_all(run: &Run) -> Result<(u64, u64), RebuildError> {
    let is_read = |machine: &Machine| {
        let is_waiting = machine.phase() == Phase::Planning || machine.chore() == Some(Chore::ReadAcceptances);
        machine.end().is_some() || !is_waiting
    };
    let failed = |cause: String| RebuildError::Failed { cause };
    let mut statuses = run.statuses();
    loop {
        let status = statuses.borrow_and_update().clone();
        let seen = run.look(move |machine| (is_read(machine), machine.status().totals)).await;
        let (is_read, totals) = seen.map_err(|error| failed(error.to_string()))?;
        match status.phase.as_str() {
            "failed" => return Err(failed(status.explanation)),
            _ if is_read => return Ok((totals.shards, totals.done)),
            _ => statuses.changed().await.map_err(|error| failed(error.to_string()))?,
        }
    }
}
