//! What coordinators keep beside a run's output, in `OUTPUT.coordinators/` of the output's store:
//!
//! ```text
//! incarnations/00000007                     one empty object per coordinator that ever worked on the output
//! acceptances/00000007-000000000512.jsonl   what the 7th accepted, from its journal's 512th acceptance on
//! recipe.json                               the recipe, for `quern coordinator rebuild`
//! slowest.json                              the shards that took longest, for `quern capfilt report`
//! ```
//!
//! An incarnation is taken by creating its object, which a store lets only one do: the fencing token of all that is leased
//! since. A coordinator that sees a higher one has been superseded and ends. The acceptances are written again after a
//! restart in between; reading them twice gives the same. See docs/decisions/0012.

use std::borrow::Cow;

use bytes::Bytes;
use quern_capfilt::{SlowShard, SlowestShards};
use quern_corpus::store::{self, Folder, StoreError};
use quern_machine::{Acceptance, Incarnation, ShardTime};
use quern_recipes::Recipe;
use serde::{Deserialize, Serialize};

const INCARNATIONS: &str = "incarnations";
const ACCEPTANCES: &str = "acceptances";
const RECIPE: &str = "recipe.json";

/// The folder beside an output.
#[derive(Debug, Clone)]
pub(crate) struct Beside {
    output: Folder,
    folder: Folder,
    recipe_hash: String,
    /// As it is kept; none where a URL in it holds a secret: such a recipe has to be given to `rebuild`.
    recipe_json: Option<String>,
}

/// An incarnation that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// It.
    pub incarnation: Incarnation,
    /// Whether coordinators worked here that the journal knows nothing of.
    pub behind: bool,
}

/// Whether the journal, whose last incarnation is `known` and which knows that `kept` acceptances are written, knows less
/// than its own incarnation wrote: `batches` says of each batch by whom, and the number of its first acceptance.
pub fn knows_less(known: Incarnation, kept: u64, mut batches: impl Iterator<Item = (Incarnation, u64)>) -> bool {
    batches.any(|(incarnation, first)| incarnation == known && first >= kept)
}

/// A line of `acceptances/`.
#[derive(Serialize, Deserialize)]
struct Line<'a> {
    /// Which run accepted it: another one in the same output has other parts.
    recipe: Cow<'a, str>,
    #[serde(flatten)]
    acceptance: Cow<'a, Acceptance>,
}

impl Beside {
    /// What is beside the output of a recipe.
    ///
    /// # Errors
    /// When the output is no location.
    pub fn open(recipe: &Recipe) -> Result<Self, StoreError> {
        Ok(Beside::of(store::open(&recipe.output)?, recipe))
    }

    fn of(output: Folder, recipe: &Recipe) -> Self {
        let folder = output.beside(quern_capfilt::BESIDE);
        let recipe_json = (!recipe.has_secrets()).then(|| recipe.to_json());
        Beside { output, folder, recipe_hash: recipe.hash(), recipe_json }
    }

    /// The output, as people write it.
    pub fn output(&self) -> &str {
        &self.output.url
    }

    /// The recipe that is kept beside `output`, as text.
    ///
    /// # Errors
    /// When there is none.
    pub async fn recipe(output: &str) -> Result<Bytes, StoreError> {
        store::open(output)?.beside(quern_capfilt::BESIDE).get(RECIPE).await
    }

    /// Takes the next incarnation; the journal's last one is `known`, and it knows that `kept` acceptances are written.
    ///
    /// # Errors
    /// When the store can't be read or written.
    pub async fn take(&self, known: Incarnation, kept: u64) -> Result<Taken, StoreError> {
        let last = self.last().await?;
        let mut incarnation = last.max(known).next();
        while !self.folder.put_new(&format!("{INCARNATIONS}/{:08}", incarnation.0), Bytes::new()).await? {
            incarnation = incarnation.next();
        }
        if let Some(json) = &self.recipe_json {
            self.folder.put(RECIPE, json.clone().into()).await?;
        }
        let behind = incarnation != known.next() || self.is_set_back(known, kept).await?;
        Ok(Taken { incarnation, behind })
    }

    /// Whether the journal's own incarnation has written more than the journal knows: it was restored from a backup, or
    /// its process died between the writing and the note of it. Reading what is known already does no harm.
    async fn is_set_back(&self, known: Incarnation, kept: u64) -> Result<bool, StoreError> {
        let batch = |name: &str| -> Option<(Incarnation, u64)> {
            let (incarnation, first) = name.rsplit('/').next()?.strip_suffix(".jsonl")?.split_once('-')?;
            Some((Incarnation(incarnation.parse().ok()?), first.parse().ok()?))
        };
        let names = self.folder.list(ACCEPTANCES).await?;
        Ok(knows_less(known, kept, names.iter().filter_map(|name| batch(name))))
    }

    /// The incarnation that has superseded `own`.
    ///
    /// # Errors
    /// When the store can't be listed.
    pub async fn superseded(&self, own: Incarnation) -> Result<Option<Incarnation>, StoreError> {
        Ok(Some(self.last().await?).filter(|last| *last > own))
    }

    async fn last(&self) -> Result<Incarnation, StoreError> {
        let names = self.folder.list(INCARNATIONS).await?;
        let number = |name: &String| name.rsplit('/').next()?.parse().ok();
        Ok(Incarnation(names.iter().filter_map(number).max().unwrap_or(0)))
    }

    /// Writes acceptances; `first` is the number of the first one.
    ///
    /// # Errors
    /// When the store can't be written.
    pub async fn keep(&self, own: Incarnation, first: u64, acceptances: &[Acceptance]) -> Result<(), StoreError> {
        let mut text = Vec::new();
        for acceptance in acceptances {
            let line = Line { recipe: Cow::Borrowed(&self.recipe_hash), acceptance: Cow::Borrowed(acceptance) };
            serde_json::to_writer(&mut text, &line).expect("an acceptance is plain data");
            text.push(b'\n');
        }
        self.folder.put(&format!("{ACCEPTANCES}/{:08}-{first:012}.jsonl", own.0), text.into()).await
    }

    /// Writes which shards took longest. Where nothing is known of it, as after a rebuild, what is there stays.
    ///
    /// # Errors
    /// When the store can't be written.
    pub async fn keep_slowest(&self, slowest: &[ShardTime]) -> Result<(), StoreError> {
        let slow = |time: &ShardTime| SlowShard {
            shard: time.shard.to_string(),
            rows: time.rows,
            took_ms: time.took_ms,
            attempts: time.attempts,
            worker: time.worker.clone(),
        };
        let shards: Vec<_> = slowest.iter().map(slow).collect();
        match shards.is_empty() {
            true => Ok(()),
            false => SlowestShards { recipe_hash: self.recipe_hash.clone(), shards }.write(&self.output).await,
        }
    }

    /// All acceptances of this run whose files are in the output. Where two speak of the same shard, the later one holds.
    ///
    /// # Errors
    /// When the store can't be read, or what is there isn't understood.
    pub async fn read(&self) -> Result<Vec<Acceptance>, String> {
        let said = |error: StoreError| error.to_string();
        let mut found = Vec::new();
        for name in self.folder.list(ACCEPTANCES).await.map_err(said)? {
            let text = self.folder.get(&name).await.map_err(said)?;
            for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
                let damaged = |error| format!("{} is damaged: {error}", self.folder.url_of(&name));
                let line: Line<'_> = serde_json::from_slice(line).map_err(damaged)?;
                if line.recipe == self.recipe_hash {
                    found.push(line.acceptance.into_owned());
                }
            }
        }
        let present = self.output.list("").await.map_err(said)?;
        let is_there = |name: &String| present.binary_search(name).is_ok();
        found.retain(|acceptance| match acceptance {
            Acceptance::Part { part, .. } => part.files().all(is_there),
            Acceptance::Checkpoint { checkpoint, .. } => {
                let below = format!("{}/", checkpoint.path);
                let first = present.partition_point(|name| *name < below);
                present.get(first).is_some_and(|name| name.starts_with(&below))
            }
        });
        found.reverse();
        Ok(found)
    }
}

#[cfg(test)]
mod tests;
