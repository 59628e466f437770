//! What a file has, from a parquet file's footer or a tar file's headers.

use std::collections::BTreeSet;

use parquet::arrow::async_reader::AsyncFileReader;
use quern_recipes::{Dataset, Format};

use super::{FoundColumn, MAX_ROWS, row_groups, total_rows};
use crate::columns::{self, ColumnError};
use crate::parquet_file::{self, ParquetFile};
use crate::store::{Folder, StoreError};
use crate::tars::{Layout, Samples, TarError};

/// Different extensions that are remembered of a tar file beside those that are sought.
const MAX_EXTENSIONS: usize = 256;

/// Why a file is left out of the plan.
#[derive(Debug, thiserror::Error)]
pub(super) enum CountError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("not a readable parquet file: {0}")]
    Parquet(#[source] parquet::errors::ParquetError),
    #[error(transparent)]
    Tar(TarError),
    #[error("{0} rows, but at most {MAX_ROWS} are counted per file; split the file")]
    TooManyRows(u64),
    #[error(transparent)]
    Columns(#[from] ColumnError),
}

/// What a file has.
#[derive(Debug)]
pub(super) struct Counted {
    /// The row count of each of its row groups; a tar file's samples are one.
    pub groups: Vec<u64>,
    /// The columns that are read; empty for a tar file without samples.
    pub columns: Vec<FoundColumn>,
}

/// Counts a file's rows, and finds its columns.
pub(super) async fn count(
    folder: &Folder,
    dataset: &Dataset,
    format: Format,
    file: &str,
    size: u64,
) -> Result<Counted, CountError> {
    match format {
        Format::Parquet => read_footer(folder, dataset, file, size).await,
        Format::WebDataset => count_samples(folder, dataset, file, size).await,
    }
}

async fn read_footer(folder: &Folder, dataset: &Dataset, file: &str, size: u64) -> Result<Counted, CountError> {
    let path = folder.path_of(file)?;
    let opened = ParquetFile::open(folder.store.clone(), path, size).await;
    let mut parquet = opened.map_err(|error| StoreError::new("read", folder.url_of(file), error))?;
    let metadata = parquet.get_metadata(None).await.map_err(|error| match parquet_file::cause(error) {
        Ok(error) => CountError::Store(StoreError::new("read", folder.url_of(file), error)),
        Err(error) => CountError::Parquet(error),
    })?;
    let schema = metadata.file_metadata().schema_descr();
    let named = columns::named(schema, dataset);
    columns::find(schema, &named, &dataset.images)?;
    let groups = row_groups(&metadata);
    let rows = total_rows(&groups);
    if rows > MAX_ROWS {
        Err(CountError::TooManyRows(rows))
    } else {
        Ok(Counted { groups, columns: columns::found(schema, &named) })
    }
}

async fn count_samples(folder: &Folder, dataset: &Dataset, file: &str, size: u64) -> Result<Counted, CountError> {
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
        0 => Ok(Counted { groups: Vec::new(), columns: Vec::new() }),
        rows if rows > MAX_ROWS => Err(CountError::TooManyRows(rows)),
        rows => {
            layout.check(&dataset.columns, &extensions)?;
            Ok(Counted { groups: vec![rows], columns: layout.found(&extensions) })
        }
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
