//! How many captions are correct. The only place outside the toy world that looks at the column `truth`.

use std::collections::HashMap;

use futures::TryStreamExt;
use quern_capfilt::{Manifest, read_captions};
use quern_corpus::RowId;
use quern_corpus::plan::plan_dataset;
use quern_corpus::reader::{RawRow, read_rows};
use quern_corpus::store;
use quern_corpus::toy::{Scene, is_correct};
use quern_recipes::{Columns, Dataset, Recipe};
use serde::Serialize;

use super::evaluation::Estimate;
use crate::outcome::{Failure, chain};

/// Captions, and how many of them are correct.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// All of them.
    pub captions: u64,
    /// Those that are true of their scene.
    pub correct: u64,
}

impl Count {
    /// One more caption.
    pub fn add(&mut self, correct: bool) {
        self.captions += 1;
        self.correct += u64::from(correct);
    }

    /// Share of correct captions.
    pub fn share(&self) -> Estimate {
        let captions = self.captions.max(1) as f64;
        let value = self.correct as f64 / captions;
        Estimate { value, standard_error: (value * (1.0 - value) / captions).sqrt() }
    }
}

/// Correct captions before and after CapFilt.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Captions {
    /// The web's.
    pub raw: Count,
    /// All that were kept.
    pub kept: Count,
    /// The first of each image.
    pub first: Count,
}

/// The scenes of a recipe's corpora.
pub struct Truth {
    scenes: HashMap<RowId, Scene>,
    raw: Count,
}

impl Truth {
    /// Reads the corpora of `recipe`, and counts their own captions.
    pub async fn read(recipe: &Recipe) -> Result<Self, Failure> {
        let mut truth = Truth { scenes: HashMap::new(), raw: Count::default() };
        for dataset in &recipe.datasets {
            truth.add(dataset, recipe.shard_rows).await?;
        }
        Ok(truth)
    }

    /// Whether a caption is correct for a row; nothing for a row that is not of these corpora.
    pub fn judge(&self, row: &RowId, caption: &str) -> Option<bool> {
        self.scenes.get(row).map(|scene| is_correct(caption, scene))
    }

    /// Counts what CapFilt kept in the output of `recipe`.
    pub async fn count(&self, recipe: &Recipe) -> Result<Captions, Failure> {
        let mut captions = Captions { raw: self.raw, ..Captions::default() };
        let output = store::open(&recipe.output).map_err(|error| failed(&error))?;
        let manifest = Manifest::read(&output).await.map_err(|error| failed(&error))?;
        for data in manifest.parts.iter().filter_map(|part| part.data.as_ref()) {
            let bytes = output.get(data).await.map_err(|error| failed(&error))?;
            for row in read_captions(bytes).map_err(|error| failed(&error))? {
                for caption in &row.captions {
                    let correct = self.judge(&row.id, &caption.text).ok_or_else(|| {
                        Failure::failed(format!("{data} names {}, which is no row of the corpus", row.id))
                    })?;
                    captions.kept.add(correct);
                    if caption.rank == 1 {
                        captions.first.add(correct);
                    }
                }
            }
        }
        Ok(captions)
    }

    /// Reads a corpus' scenes by reading `truth` as its key column.
    async fn add(&mut self, dataset: &Dataset, shard_rows: u64) -> Result<(), Failure> {
        let columns = Columns { key: "truth".into(), ..dataset.columns.clone() };
        let dataset = Dataset { columns, ..dataset.clone() };
        let plan = plan_dataset(&dataset, shard_rows).await.map_err(|error| failed(&error))?;
        for shard in plan.shards {
            let rows =
                read_rows(&dataset, &shard.file, shard.row_start, shard.rows).await.map_err(|error| failed(&error))?;
            let rows: Vec<RawRow> = rows.try_collect().await.map_err(|error| failed(&error))?;
            for row in rows {
                let scene: Scene = serde_json::from_str(row.key.as_deref().unwrap_or_default())
                    .map_err(|error| Failure::failed(format!("{}: its column `truth` is no scene: {error}", row.id)))?;
                self.raw.add(is_correct(row.caption.as_deref().unwrap_or_default(), &scene));
                self.scenes.insert(row.id, scene);
            }
        }
        Ok(())
    }
}

/// The work failed at reading.
pub fn failed(error: &dyn std::error::Error) -> Failure {
    Failure::failed(chain(error))
}
