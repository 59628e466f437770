//! A shard's rows as a stream, with their images, wherever these are: in the rows, at paths below a folder, in a tar
//! file, on the web.
//!
//! Rows come in the order of the file. What is needed next is read and fetched by tasks of their own, a bounded number of
//! rows ahead of the consumer. A store that fails ends the stream: the shard is read again. An image that can't be had,
//! however often it is asked for, is its row's failure alone ([`MissingImage`]).

mod images;
mod parquet_rows;
mod tar_rows;
mod task;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, future};
use parquet::errors::ParquetError;
use quern_recipes::{Dataset, ImageLimits, Images, Recipe};
use tokio::task::JoinError;

use crate::columns::ColumnError;
use crate::fetch::{FetchSetupError, Fetcher};
use crate::files::TAR;
use crate::rows::RowId;
use crate::store::{self, Folder, StoreError};

/// A row as it is in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRow {
    /// Who it is.
    pub id: RowId,
    /// The key column's value, if there is such a column and it is not null; integers as decimal text.
    pub key: Option<String>,
    /// The encoded image, if there is one and it could be had.
    pub image: Option<Bytes>,
    /// Why there is no image although the row names one.
    pub missing: Option<MissingImage>,
    /// The caption, if not null; broken UTF-8 shows as U+FFFD.
    pub caption: Option<String>,
}

impl RawRow {
    /// The encoded image.
    ///
    /// # Errors
    /// Why there is none.
    pub fn image(&self) -> Result<&Bytes, MissingImage> {
        let null = || MissingImage::new("image_missing", "the image is null");
        self.image.as_ref().ok_or_else(|| self.missing.clone().unwrap_or_else(null))
    }
}

/// Why a row has no image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MissingImage {
    /// A short word in snake_case, the same for all rows that failed like this.
    pub reason: &'static str,
    /// What exactly was wrong, without secrets.
    pub detail: String,
}

impl MissingImage {
    pub(crate) fn new(reason: &'static str, detail: impl Into<String>) -> Self {
        MissingImage { reason, detail: detail.into() }
    }
}

impl fmt::Display for MissingImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.detail)
    }
}

/// A shard's rows in order. After an error the rows of that piece are missing: stop there.
pub type RowStream = BoxStream<'static, Result<RawRow, ReadError>>;

/// Why rows can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file is not there or its store refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The file's columns are not the recipe's.
    #[error("{url}: {source}")]
    Columns {
        /// The file.
        url: String,
        /// Which column, and what there is.
        #[source]
        source: ColumnError,
    },
    /// The file has fewer rows than were asked for: it is not the file that was planned.
    #[error("{url}: rows {row_start} to {row_end} were planned, but the file has {rows}; it changed since, plan again")]
    OutOfRange {
        /// The file.
        url: String,
        /// First row asked for.
        row_start: u64,
        /// One past the last row asked for.
        row_end: u64,
        /// Rows that it has.
        rows: u64,
    },
    /// Bytes that are no parquet, or a fetch that failed; the cause says which.
    #[error("{url}, rows {row_start} to {row_end}: {source}")]
    Parquet {
        /// The file.
        url: String,
        /// First row of the piece that failed.
        row_start: u64,
        /// One past its last row.
        row_end: u64,
        /// The parquet reader's error.
        #[source]
        source: ParquetError,
    },
    /// Bytes that are no tar.
    #[error("{url}: {reason}")]
    Tar {
        /// The file.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The task that reads a piece died.
    #[error("{url}, rows {row_start} to {row_end}: the reader failed: {source}")]
    Task {
        /// The file.
        url: String,
        /// First row of the piece.
        row_start: u64,
        /// One past its last row.
        row_end: u64,
        /// How it died.
        #[source]
        source: JoinError,
    },
}

impl ReadError {
    /// Whether the store failed, or this process, which another try may mend, and not the file.
    pub fn is_passing(&self) -> bool {
        match self {
            ReadError::Store(error) => error.is_passing(),
            ReadError::Parquet { source: ParquetError::External(cause), .. } => {
                cause.downcast_ref::<object_store::Error>().is_some_and(store::is_passing)
            }
            // What panics on a file will do so again.
            ReadError::Task { source, .. } => !source.is_panic(),
            ReadError::Columns { .. }
            | ReadError::OutOfRange { .. }
            | ReadError::Parquet { .. }
            | ReadError::Tar { .. } => false,
        }
    }

    /// A short word for tables and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            ReadError::Store(StoreError::NotFound { .. }) => "file_not_found",
            ReadError::Store(_) => "store_failed",
            ReadError::Columns { .. } => "file_columns",
            ReadError::OutOfRange { .. } => "file_changed",
            ReadError::Parquet { .. } | ReadError::Tar { .. } => "file_unreadable",
            ReadError::Task { source, .. } if source.is_panic() => "file_unreadable",
            ReadError::Task { .. } => "reader_failed",
        }
    }
}

/// Reads rows of data sets.
#[derive(Debug, Clone)]
pub struct Reader {
    /// Images with more bytes are not read.
    max_bytes: u64,
    fetcher: Option<Arc<Fetcher>>,
}

impl Reader {
    /// A reader that asks the data sets' stores only: images that rows have as URLs are not fetched. Those with more
    /// bytes than `limits` allow are not read.
    pub fn new(limits: &ImageLimits) -> Self {
        Reader { max_bytes: limits.max_bytes, fetcher: None }
    }

    /// A reader that fetches images from the web, too, where the recipe has data sets that need it.
    ///
    /// # Errors
    /// When the HTTP client can't be set up.
    pub fn with_web(recipe: &Recipe) -> Result<Self, FetchSetupError> {
        let mut reader = Reader::new(&recipe.limits);
        if recipe.datasets.iter().any(|dataset| dataset.images == Images::Urls) {
            reader.fetcher = Some(Arc::new(Fetcher::new(&recipe.fetch, recipe.limits.max_bytes)?));
        }
        Ok(reader)
    }

    /// Streams `rows` rows of `file` (relative to the data set's path) from row `row_start`. Fetches begin when the
    /// stream is first polled, which must be inside a tokio runtime; dropping it ends them.
    ///
    /// # Errors
    /// When the file can't be opened, lacks the image or caption column, or has fewer rows. Later failures are in the
    /// stream; so is that a tar file has fewer rows.
    pub async fn rows(&self, dataset: &Dataset, file: &str, row_start: u64, rows: u64) -> Result<RowStream, ReadError> {
        self.rows_in(&store::open(&dataset.path)?, dataset, file, row_start, rows).await
    }

    /// As [`Reader::rows`], of these rows only, which are numbered as in the file: the images of others are not fetched.
    ///
    /// # Errors
    /// As [`Reader::rows`].
    pub async fn chosen_rows(
        &self,
        dataset: &Dataset,
        file: &str,
        row_start: u64,
        rows: u64,
        chosen: BTreeSet<u64>,
    ) -> Result<RowStream, ReadError> {
        let chosen = Arc::new(chosen);
        let is_chosen = move |row: u64| chosen.contains(&row);
        self.wanted_rows(&store::open(&dataset.path)?, dataset, file, row_start, rows, is_chosen).await
    }

    /// As [`Reader::rows`], in a folder that is open already; the data set's `path` is not looked at.
    ///
    /// # Errors
    /// As [`Reader::rows`].
    pub async fn rows_in(
        &self,
        folder: &Folder,
        dataset: &Dataset,
        file: &str,
        row_start: u64,
        rows: u64,
    ) -> Result<RowStream, ReadError> {
        self.wanted_rows(folder, dataset, file, row_start, rows, |_| true).await
    }

    async fn wanted_rows(
        &self,
        folder: &Folder,
        dataset: &Dataset,
        file: &str,
        row_start: u64,
        rows: u64,
        is_wanted: impl Fn(u64) -> bool + Clone + Send + 'static,
    ) -> Result<RowStream, ReadError> {
        let wanted = move |row: &RawRow| future::ready(is_wanted(row.id.row));
        if file.ends_with(TAR) {
            let rows = tar_rows::stream(folder, dataset, file, row_start, rows, self.max_bytes).await?;
            return Ok(rows.try_filter(wanted).boxed());
        }
        let found = parquet_rows::stream(folder, dataset, file, row_start, rows).await?;
        let found = found.try_filter(move |found| wanted(&found.row)).boxed();
        Ok(images::with_images(found, images::Source::of(dataset, self.fetcher.as_ref())?, self.max_bytes))
    }
}

/// As [`Reader::rows`] of a reader with the default limits.
///
/// # Errors
/// As [`Reader::rows`].
pub async fn read_rows(dataset: &Dataset, file: &str, row_start: u64, rows: u64) -> Result<RowStream, ReadError> {
    Reader::new(&ImageLimits::default()).rows(dataset, file, row_start, rows).await
}

#[cfg(test)]
mod tests;
