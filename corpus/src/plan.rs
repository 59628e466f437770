//! The shard plan: which row ranges a data set is milled in, from its parquet files' footers or its tar files' headers
//! alone.
//!
//! Files are taken in the order of their names, at any depth. A shard is a run of whole row groups of one file that
//! holds `shard_rows` rows at most; a row group that is larger is cut into pieces of its own, and so is a tar file, whose
//! rows are its samples. A file that can't be
//! read is reported and keeps its place in the numbering, so that mending it changes no other shard's name. Files that came
//! later are numbered after those that were there ([`Milled`]).

mod count;
mod milled;

use futures::{StreamExt, stream};
use parquet::file::metadata::ParquetMetaData;
use quern_recipes::{Dataset, Format, Images};

use self::count::{CountError, Counted, count};
use crate::columns::ColumnError;
use crate::files::{FilesError, of_one_format};
use crate::rows::{RowId, ShardId, ShardSpec};
use crate::store::{self, Folder, StoreError};

pub use milled::Milled;

/// Files whose rows are counted at a time: a far store takes its time over each.
const CONCURRENT_FILES: usize = 64;

/// Files per data set, rows per file: what a [`ShardId`]'s digits hold, so that order of names is shard order.
const MAX_FILES: usize = 100_000;
const MAX_ROWS: u64 = 1_000_000_000;
/// Sets of columns that are remembered of a data set.
const MAX_LAYOUTS: usize = 8;

/// What a data set is milled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetPlan {
    /// The shards, in the order of their names.
    pub shards: Vec<ShardSpec>,
    /// The files that can't be read, in the order of their names.
    pub unreadable: Vec<UnreadableFile>,
    /// What the files are.
    pub inputs: Inputs,
}

/// What a data set's files are, read or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inputs {
    /// Of which kind all are.
    pub format: Format,
    /// How many there are.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Rows of those that can be read, before `max_rows`.
    pub rows: u64,
    /// The columns that are read, with the number of files that have them so; in the order in which they were met, 8 at
    /// most.
    pub layouts: Vec<(Vec<FoundColumn>, u64)>,
}

/// A column that is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundColumn {
    /// `image`, `caption` or `key`, as the recipe's `columns` calls it.
    pub role: &'static str,
    /// Its name; in tar files the extension of the members.
    pub name: String,
    /// What it holds, for people.
    pub holds: String,
}

/// A file that can't be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadableFile {
    /// The shard that stands for the file: the name of its first one, with 0 rows.
    pub shard: ShardSpec,
    /// Why.
    pub reason: String,
}

/// Why a data set has no plan.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The folder can't be opened or listed, or the store fails before all footers are read.
    #[error("data set `{dataset}`: {source}")]
    Store {
        /// The data set's name.
        dataset: String,
        /// What the store said.
        #[source]
        source: Box<StoreError>,
    },
    /// No file of a known format.
    #[error("data set `{dataset}`: no *.parquet file and no *.tar file under {url}; check `path` and `format`")]
    NoFiles {
        /// The data set's name.
        dataset: String,
        /// Its folder.
        url: String,
    },
    /// Files of two formats.
    #[error(
        "data set `{dataset}`: *.parquet files and *.tar files are under {url}; say which are meant with `format: parquet` \
         or `format: webdataset`"
    )]
    TwoFormats {
        /// The data set's name.
        dataset: String,
        /// Its folder.
        url: String,
    },
    /// A recipe that looks for the images of tar files elsewhere.
    #[error("data set `{dataset}`: the images of the *.tar files under {url} are in them; remove `images`")]
    ImagesInTars {
        /// The data set's name.
        dataset: String,
        /// Its folder.
        url: String,
    },
    /// More files than shard names can count.
    #[error("data set `{dataset}`: {files} files under {url}, but at most {MAX_FILES} are counted; split the data set")]
    TooManyFiles {
        /// The data set's name.
        dataset: String,
        /// Its folder.
        url: String,
        /// How many there are.
        files: usize,
    },
    /// Not one file has the columns that the recipe names.
    #[error("data set `{dataset}`: {url}: {source}")]
    Columns {
        /// The data set's name.
        dataset: String,
        /// The first file without them.
        url: String,
        /// Which one, and what there is.
        #[source]
        source: Box<ColumnError>,
    },
}

/// Plans a data set's shards of `shard_rows` rows at most, reading nothing but listings, footers and headers.
///
/// # Errors
/// When the folder can't be listed or has no parquet or tar file, when no file has the recipe's columns, or when the store
/// fails. A file that can't be read is no error: see [`DatasetPlan::unreadable`].
///
/// # Panics
/// If `shard_rows` is 0.
pub async fn plan_dataset(dataset: &Dataset, shard_rows: u64) -> Result<DatasetPlan, PlanError> {
    let folder = store::open(&dataset.path).map_err(|error| store_error(dataset, error))?;
    plan_folder(&folder, dataset, shard_rows).await
}

/// As [`plan_dataset`], of a data set of which some files were planned before: they keep their numbers.
///
/// A data set of which `max_rows` rows were drawn has the files that they were drawn from, and no later ones.
///
/// # Errors
/// As [`plan_dataset`].
///
/// # Panics
/// If `shard_rows` is 0.
pub async fn plan_again(dataset: &Dataset, shard_rows: u64, milled: &Milled) -> Result<DatasetPlan, PlanError> {
    let folder = store::open(&dataset.path).map_err(|error| store_error(dataset, error))?;
    let is_drawn_from = dataset.max_rows.is_some() && !milled.is_empty();
    let wanted = |file: &str| !is_drawn_from || milled.knows(file);
    plan_files(&folder, dataset, shard_rows, milled, wanted, |_, _| {}).await
}

/// The shards of those files of a data set that were not planned before, or couldn't be read then. None, where `max_rows`
/// rows were drawn: the draw was of the files that there were.
///
/// # Errors
/// As [`plan_dataset`].
///
/// # Panics
/// If `shard_rows` is 0.
pub async fn plan_more(dataset: &Dataset, shard_rows: u64, milled: &Milled) -> Result<DatasetPlan, PlanError> {
    let folder = store::open(&dataset.path).map_err(|error| store_error(dataset, error))?;
    let wanted = |file: &str| dataset.max_rows.is_none() && !milled.has_rows_of(file);
    plan_files(&folder, dataset, shard_rows, milled, wanted, |_, _| {}).await
}

/// As [`plan_dataset`], on a folder that is open already; the data set's `path` is not looked at.
///
/// # Errors
/// As [`plan_dataset`].
pub async fn plan_folder(folder: &Folder, dataset: &Dataset, shard_rows: u64) -> Result<DatasetPlan, PlanError> {
    plan_folder_telling(folder, dataset, shard_rows, |_, _| {}).await
}

/// As [`plan_folder`]; `tell` hears how many files are counted, and of how many.
///
/// # Errors
/// As [`plan_dataset`].
pub async fn plan_folder_telling(
    folder: &Folder,
    dataset: &Dataset,
    shard_rows: u64,
    tell: impl FnMut(usize, usize),
) -> Result<DatasetPlan, PlanError> {
    plan_files(folder, dataset, shard_rows, &Milled::default(), |_| true, tell).await
}

/// Plans those files of the folder that are `wanted`.
async fn plan_files(
    folder: &Folder,
    dataset: &Dataset,
    shard_rows: u64,
    milled: &Milled,
    wanted: impl Fn(&str) -> bool,
    mut tell: impl FnMut(usize, usize),
) -> Result<DatasetPlan, PlanError> {
    assert!(shard_rows > 0, "a shard has at least one row");
    let (format, files) = input_files(folder, dataset).await?;
    let numbers = milled.numbers(files.iter().map(|(file, _)| file.as_str()));
    let highest = numbers.iter().max().copied().unwrap_or(0);
    if highest >= MAX_FILES {
        let (dataset, url) = (dataset.name.clone(), folder.url.clone());
        return Err(PlanError::TooManyFiles { dataset, url, files: highest + 1 });
    }
    let files: Vec<_> = numbers.into_iter().zip(files).filter(|(_, (file, _))| wanted(file)).collect();
    let total = files.len();
    let bytes = files.iter().map(|(_, (_, size))| size).sum();
    let mut plan = DatasetPlan {
        shards: Vec::new(),
        unreadable: Vec::new(),
        inputs: Inputs { format, files: total as u64, bytes, rows: 0, layouts: Vec::new() },
    };
    let mut foreign = None;
    let mut counts = stream::iter(files)
        .map(|(number, (file, size))| async move {
            let counted = count(folder, dataset, format, &file, size).await;
            (number, file, counted)
        })
        .buffered(CONCURRENT_FILES)
        .enumerate();
    while let Some((index, (number, file, counted))) = counts.next().await {
        tell(index + 1, total);
        let spec = |row_start, rows| ShardSpec {
            shard: ShardId(format!("{}-{number:05}-{row_start:09}", dataset.name)),
            dataset: dataset.name.clone(),
            file: file.clone(),
            row_start,
            rows,
        };
        match counted {
            Ok(counted) => {
                plan.shards.extend(cut(&counted.groups, shard_rows).into_iter().map(|(start, rows)| spec(start, rows)));
                plan.inputs.add(counted);
            }
            // A file must not be given up for good because its store was out of order for a while.
            Err(CountError::Store(error)) if error.is_passing() => return Err(store_error(dataset, error)),
            Err(reason) => {
                plan.unreadable.push(UnreadableFile { shard: spec(0, 0), reason: reason.to_string() });
                if let (None, CountError::Columns(source)) = (&foreign, reason) {
                    foreign = Some((file, source));
                }
            }
        }
    }
    drop(counts);
    // Files that came later are numbered last, wherever their names are.
    plan.shards.sort_by(|a, b| a.shard.cmp(&b.shard));
    plan.unreadable.sort_by(|a, b| a.shard.shard.cmp(&b.shard.shard));
    // One file without the columns may be a stray; if every file that can be read lacks them, the recipe is wrong.
    if let Some((file, source)) = foreign.filter(|_| milled.is_empty() && plan.unreadable.len() == total) {
        let (dataset, url) = (dataset.name.clone(), folder.url_of(&file));
        return Err(PlanError::Columns { dataset, url, source: Box::new(source) });
    }
    if let Some(max_rows) = dataset.max_rows {
        plan.shards = drawn(plan.shards, max_rows);
    }
    Ok(plan)
}

impl Inputs {
    /// Counts a file that can be read.
    fn add(&mut self, counted: Counted) {
        self.rows += counted.groups.iter().sum::<u64>();
        let has_room = self.layouts.len() < MAX_LAYOUTS && !counted.columns.is_empty();
        match self.layouts.iter_mut().find(|(columns, _)| *columns == counted.columns) {
            Some((_, files)) => *files += 1,
            None if has_room => self.layouts.push((counted.columns, 1)),
            None => {}
        }
    }
}

/// Shards of `max_rows` rows together: those whose first rows have the lowest keys, the last of them cut; in the order of
/// their names. All shards, if they have no more. Which shards these are changes only with the shards that there are.
fn drawn(mut shards: Vec<ShardSpec>, max_rows: u64) -> Vec<ShardSpec> {
    let first_row = |shard: &ShardSpec| RowId {
        dataset: shard.dataset.as_str().into(),
        file: shard.file.as_str().into(),
        row: shard.row_start,
    };
    shards.sort_by_cached_key(|shard| (first_row(shard).key(), shard.shard.clone()));
    let mut left = max_rows;
    for shard in &mut shards {
        shard.rows = shard.rows.min(left);
        left -= shard.rows;
    }
    shards.retain(|shard| shard.rows > 0);
    shards.sort_by(|a, b| a.shard.cmp(&b.shard));
    shards
}

/// All files of the data set and their sizes, sorted, and what they are.
async fn input_files(folder: &Folder, dataset: &Dataset) -> Result<(Format, Vec<(String, u64)>), PlanError> {
    let listed = folder.list_sizes("").await.map_err(|error| store_error(dataset, error))?;
    let found = of_one_format(listed, dataset.format);
    let (dataset, url, images) = (dataset.name.clone(), folder.url.clone(), &dataset.images);
    match found {
        Err(FilesError::None) => Err(PlanError::NoFiles { dataset, url }),
        Err(FilesError::TwoFormats) => Err(PlanError::TwoFormats { dataset, url }),
        Ok((Format::WebDataset, _)) if *images != Images::Bytes => Err(PlanError::ImagesInTars { dataset, url }),
        Ok(found) => Ok(found),
    }
}

fn store_error(dataset: &Dataset, source: StoreError) -> PlanError {
    PlanError::Store { dataset: dataset.name.clone(), source: Box::new(source) }
}

/// The row count of each row group.
pub(crate) fn row_groups(metadata: &ParquetMetaData) -> Vec<u64> {
    metadata.row_groups().iter().map(|group| u64::try_from(group.num_rows()).unwrap_or(0)).collect()
}

/// The rows of all row groups; a footer may claim more than 64 bits count.
pub(crate) fn total_rows(groups: &[u64]) -> u64 {
    groups.iter().fold(0, |total, &rows| total.saturating_add(rows))
}

/// Cuts a file into (first row, rows), given the row counts of its row groups.
fn cut(groups: &[u64], shard_rows: u64) -> Vec<(u64, u64)> {
    let mut shards = Vec::new();
    let (mut start, mut rows) = (0, 0);
    for &group in groups {
        if rows > 0 && rows + group > shard_rows {
            shards.push((start, rows));
            (start, rows) = (start + rows, 0);
        }
        rows += group;
        if group > shard_rows {
            while rows > 0 {
                let piece = rows.min(shard_rows);
                shards.push((start, piece));
                (start, rows) = (start + piece, rows - piece);
            }
        }
    }
    if rows > 0 {
        shards.push((start, rows));
    }
    shards
}

#[cfg(test)]
mod tests;
