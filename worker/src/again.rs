//! A shard some of whose rows are done again: its part as it was, and what becomes of it.

use std::collections::BTreeSet;

use bytes::Bytes;
use quern_capfilt::{PartRow, Provenance, ReadPartError, Redo, read_provenance};
use quern_corpus::store::{self, Folder, StoreError};
use quern_proto as wire;
use quern_recipes::Recipe;

use crate::shard::ShardEnd;

/// A part as it was.
pub struct Earlier {
    redo: Redo,
    /// Where it came from, if it has rows.
    provenance: Option<Provenance>,
}

impl Earlier {
    /// Reads the part that is named, out of the output. An error is how the shard ends.
    pub async fn read(output: &str, wanted: &wire::Redo) -> Result<Self, ShardEnd> {
        let folder = store::open(output).map_err(not_there)?;
        let data = file(&folder, &wanted.data).await.map_err(not_there)?;
        let quarantine = file(&folder, &wanted.quarantine).await.map_err(not_there)?;
        let damaged = |error: ReadPartError| ShardEnd::Unreadable {
            reason: format!("the part {} {} is damaged: {error}", wanted.data, wanted.quarantine),
            permanent: true,
        };
        let provenance = data.clone().map(read_provenance).transpose().map_err(damaged)?;
        let reasons = wanted.reasons.iter().cloned().collect();
        Ok(Earlier { redo: Redo::of(data, quarantine, &reasons).map_err(damaged)?, provenance })
    }

    /// The numbers of the rows to be done again.
    pub fn rows(&self) -> &BTreeSet<u64> {
        self.redo.rows()
    }

    /// All rows of the shard, given what became of those that were done again by what `now` says. An error is how the shard
    /// ends: captions of two models don't go together in a part.
    pub fn merged(self, again: Vec<PartRow>, recipe: &Recipe, now: &Provenance) -> Result<Vec<PartRow>, ShardEnd> {
        match &self.provenance {
            Some(then) if !then.models.is_empty() && then.models != now.models => {
                let reason = "the part was written by other models than are there now under these names; give them back, or \
                              begin anew elsewhere";
                Err(ShardEnd::Unreadable { reason: reason.into(), permanent: true })
            }
            _ => Ok(self.redo.merged(again, recipe)),
        }
    }
}

async fn file(folder: &Folder, name: &str) -> Result<Option<Bytes>, StoreError> {
    if name.is_empty() { Ok(None) } else { folder.get(name).await.map(Some) }
}

fn not_there(error: StoreError) -> ShardEnd {
    ShardEnd::Unreadable { permanent: !error.is_passing(), reason: error.to_string() }
}
