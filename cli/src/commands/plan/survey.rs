//! What a data set's files are, from their names, footers and headers.

use quern_corpus::plan::{DatasetPlan, PlanError, plan_folder_telling};
use quern_corpus::{ShardSpec, store};
use quern_recipes::{Dataset, Format, Recipe};
use serde::Serialize;

use super::sample::Sample;
use crate::outcome::{Failure, chain};
use crate::progress::Meter;

/// A data set.
#[derive(Debug, Serialize)]
pub struct DatasetSurvey {
    pub name: String,
    pub path: String,
    /// What becomes of its captions.
    pub captions: Captions,
    pub format: Format,
    pub files: u64,
    /// Of all files.
    pub bytes: u64,
    /// Of the files that can be read.
    pub rows_in_files: u64,
    /// The rows that are taken.
    pub rows: u64,
    pub max_rows: Option<u64>,
    pub shards: u64,
    pub columns: Vec<Column>,
    pub unreadable: Vec<Unreadable>,
    /// None of a data set without rows.
    pub sample: Option<Sample>,
}

/// What becomes of a data set's captions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Captions {
    /// CapFilt writes new ones.
    #[serde(rename = "capfilt")]
    CapFilt,
    /// They stay as they are.
    Kept,
    /// They are an earlier run's.
    EarlierRun,
}

/// A column that is read.
#[derive(Debug, Serialize)]
pub struct Column {
    /// `image`, `caption` or `key`.
    pub role: &'static str,
    pub name: String,
    pub holds: String,
    /// Files that have it so.
    pub files: u64,
}

/// A file that can't be read, and is quarantined as a whole.
#[derive(Debug, Serialize)]
pub struct Unreadable {
    pub file: String,
    pub reason: String,
}

/// Looks at the data set's files, and gives its shards, too.
pub async fn survey(recipe: &Recipe, dataset: &Dataset) -> Result<(DatasetSurvey, Vec<ShardSpec>), Failure> {
    let folder = store::open(&dataset.path)
        .map_err(|error| Failure::bad_input(format!("data set `{}`: {}", dataset.name, chain(&error))))?;
    let mut meter: Option<Meter> = None;
    let planned = plan_folder_telling(&folder, dataset, recipe.shard_rows, |done, total| {
        meter.get_or_insert_with(|| Meter::new(&dataset.name, total as u64, "files")).set(done as u64);
    });
    let planned = planned.await;
    if let Some(meter) = meter {
        meter.clear();
    }
    let DatasetPlan { shards, unreadable, inputs } = planned.map_err(failure)?;
    let columns = inputs.layouts.into_iter().flat_map(|(columns, files)| {
        columns.into_iter().map(move |column| (column.role, column.name, column.holds, files))
    });
    let survey = DatasetSurvey {
        name: dataset.name.clone(),
        path: dataset.path.clone(),
        captions: match (&recipe.captions, dataset.capfilt) {
            (Some(_), _) => Captions::EarlierRun,
            (None, true) => Captions::CapFilt,
            (None, false) => Captions::Kept,
        },
        format: inputs.format,
        files: inputs.files,
        bytes: inputs.bytes,
        rows_in_files: inputs.rows,
        rows: shards.iter().map(|shard| shard.rows).sum(),
        max_rows: dataset.max_rows,
        shards: shards.len() as u64,
        columns: merged(columns),
        unreadable: unreadable
            .into_iter()
            .map(|file| Unreadable { file: file.shard.file, reason: file.reason })
            .collect(),
        sample: None,
    };
    Ok((survey, shards))
}

/// Each column once, with the files that have it.
fn merged(columns: impl Iterator<Item = (&'static str, String, String, u64)>) -> Vec<Column> {
    let mut merged: Vec<Column> = Vec::new();
    for (role, name, holds, files) in columns {
        let same = |column: &&mut Column| column.role == role && column.name == name && column.holds == holds;
        match merged.iter_mut().find(same) {
            Some(column) => column.files += files,
            None => merged.push(Column { role, name, holds, files }),
        }
    }
    merged
}

/// A store that is out of order may be in order later; else the recipe or the data is wrong.
fn failure(error: PlanError) -> Failure {
    match &error {
        PlanError::Store { source, .. } if source.is_passing() => Failure::failed(format!(
            "{}; check the URL, the network, and the credentials that `quern doctor` finds",
            chain(&error)
        )),
        _ => Failure::bad_input(chain(&error)),
    }
}
