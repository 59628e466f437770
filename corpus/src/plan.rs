//! The shard plan: which row ranges a data set is milled in, from its parquet files' footers or its tar files' headers
//! alone.
//!
//! Files are taken in the order of their names, at any depth. A shard is a run of whole row groups of one file that
//! holds `shard_rows` rows at most; a row group that is larger is cut into pieces of its own, and so is a tar file, whose
//! rows are its samples. A file that can't be
//! read is reported and keeps its place in the numbering, so that mending it changes no other shard's name.

use std::collections::BTreeSet;

use futures::{StreamExt, stream};
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::file::metadata::ParquetMetaData;
use quern_recipes::{Dataset, Format, Images};

use crate::columns::{self, ColumnError};
use crate::files::{FilesError, of_one_format};
use crate::parquet_file::ParquetFile;
use crate::rows::{RowId, ShardId, ShardSpec};
use crate::store::{self, Folder, StoreError};
use crate::tars::{Layout, Samples, TarError};

/// Files whose rows are counted at a time: a far store takes its time over each.
const CONCURRENT_FILES: usize = 64;

/// Files per data set, rows per file: what a [`ShardId`]'s digits hold, so that order of names is shard order.
const MAX_FILES: usize = 100_000;
const MAX_ROWS: u64 = 1_000_000_000;
/// Different extensions that are remembered of a tar file beside those that are sought.
const MAX_EXTENSIONS: usize = 256;

/// What a data set is milled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatasetPlan {
    /// The shards, in the order of their names.
    pub shards: Vec<ShardSpec>,
    /// The files that can't be read, in the order of their names.
    pub unreadable: Vec<UnreadableFile>,
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

/// As [`plan_dataset`], on a folder that is open already; the data set's `path` is not looked at.
///
/// # Errors
/// As [`plan_dataset`].
pub async fn plan_folder(folder: &Folder, dataset: &Dataset, shard_rows: u64) -> Result<DatasetPlan, PlanError> {
    assert!(shard_rows > 0, "a shard has at least one row");
    let (format, files) = input_files(folder, dataset).await?;
    let counts: Vec<_> = stream::iter(files)
        .map(|(file, size)| async move {
            let groups = match format {
                Format::Parquet => read_footer(folder, dataset, &file, size).await,
                Format::WebDataset => count_samples(folder, dataset, &file, size).await,
            };
            (file, groups)
        })
        .buffered(CONCURRENT_FILES)
        .collect()
        .await;
    refuse_foreign_columns(folder, dataset, &counts)?;

    let mut plan = DatasetPlan { shards: Vec::new(), unreadable: Vec::new() };
    for (index, (file, groups)) in counts.into_iter().enumerate() {
        let spec = |row_start, rows| ShardSpec {
            shard: ShardId(format!("{}-{index:05}-{row_start:09}", dataset.name)),
            dataset: dataset.name.clone(),
            file: file.clone(),
            row_start,
            rows,
        };
        match groups {
            Ok(groups) => {
                plan.shards.extend(cut(&groups, shard_rows).into_iter().map(|(start, rows)| spec(start, rows)))
            }
            // A file must not be given up for good because its store was out of order for a while.
            Err(CountError::Store(error)) if error.is_passing() => return Err(store_error(dataset, error)),
            Err(reason) => plan.unreadable.push(UnreadableFile { shard: spec(0, 0), reason: reason.to_string() }),
        }
    }
    if let Some(max_rows) = dataset.max_rows {
        plan.shards = drawn(plan.shards, max_rows);
    }
    Ok(plan)
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
        Ok((_, files)) if files.len() > MAX_FILES => Err(PlanError::TooManyFiles { dataset, url, files: files.len() }),
        Ok((Format::WebDataset, _)) if *images != Images::Bytes => Err(PlanError::ImagesInTars { dataset, url }),
        Ok(found) => Ok(found),
    }
}

fn store_error(dataset: &Dataset, source: StoreError) -> PlanError {
    PlanError::Store { dataset: dataset.name.clone(), source: Box::new(source) }
}

/// Why a file is left out of the plan.
#[derive(Debug, thiserror::Error)]
enum CountError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("not a readable parquet file: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),
    #[error(transparent)]
    Tar(TarError),
    #[error("{0} rows, but at most {MAX_ROWS} are counted per file; split the file")]
    TooManyRows(u64),
    #[error(transparent)]
    Columns(#[from] ColumnError),
}

/// The row count of each of a file's row groups.
async fn read_footer(folder: &Folder, dataset: &Dataset, file: &str, size: u64) -> Result<Vec<u64>, CountError> {
    let path = folder.path_of(file)?;
    let opened = ParquetFile::open(folder.store.clone(), path, size).await;
    let mut parquet = opened.map_err(|error| StoreError::new("read", folder.url_of(file), error))?;
    let metadata = parquet.get_metadata(None).await?;
    let schema = metadata.file_metadata().schema_descr();
    columns::find(schema, &columns::named(schema, dataset), &dataset.images)?;
    let groups = row_groups(&metadata);
    let rows = total_rows(&groups);
    if rows > MAX_ROWS { Err(CountError::TooManyRows(rows)) } else { Ok(groups) }
}

/// A tar file's samples, as if they were one row group.
async fn count_samples(folder: &Folder, dataset: &Dataset, file: &str, size: u64) -> Result<Vec<u64>, CountError> {
    let mut samples = Samples::open(folder, file, size)?;
    let layout = Layout::new(&dataset.columns);
    let (mut rows, mut extensions) = (0, BTreeSet::new());
    while let Some(sample) = samples.next().await? {
        rows += 1;
        for member in sample.members {
            let is_kept = extensions.len() < MAX_EXTENSIONS || layout.seeks(&member.extension);
            if is_kept && !extensions.contains(&member.extension) {
                extensions.insert(member.extension);
            }
        }
    }
    match rows {
        0 => Ok(Vec::new()),
        rows if rows > MAX_ROWS => Err(CountError::TooManyRows(rows)),
        rows => layout.check(&dataset.columns, &extensions).map(|()| vec![rows]).map_err(Into::into),
    }
}

impl From<TarError> for CountError {
    fn from(error: TarError) -> Self {
        match error {
            TarError::Store(error) => CountError::Store(error),
            error @ TarError::Damaged(_) => CountError::Tar(error),
        }
    }
}

/// The row count of each row group.
pub(crate) fn row_groups(metadata: &ParquetMetaData) -> Vec<u64> {
    metadata.row_groups().iter().map(|group| u64::try_from(group.num_rows()).unwrap_or(0)).collect()
}

/// The rows of all row groups; a footer may claim more than 64 bits count.
pub(crate) fn total_rows(groups: &[u64]) -> u64 {
    groups.iter().fold(0, |total, &rows| total.saturating_add(rows))
}

/// One file without the columns may be a stray; if every file that can be read lacks them, the recipe is wrong.
fn refuse_foreign_columns(
    folder: &Folder,
    dataset: &Dataset,
    counts: &[(String, Result<Vec<u64>, CountError>)],
) -> Result<(), PlanError> {
    if counts.iter().any(|(_, groups)| groups.is_ok()) {
        return Ok(());
    }
    for (file, groups) in counts {
        if let Err(CountError::Columns(source)) = groups {
            return Err(PlanError::Columns {
                dataset: dataset.name.clone(),
                url: folder.url_of(file),
                source: Box::new(source.clone()),
            });
        }
    }
    Ok(())
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
