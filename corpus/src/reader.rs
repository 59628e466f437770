//! A shard's rows as a stream: three columns, one row range, a bounded number of bytes ahead.
//!
//! The range is cut at the image column's pages into pieces of some 16 MiB (where a file has no page index, at its
//! row groups). Pieces are fetched and decoded by tasks of their own, a few ahead of the consumer, and come in order.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int32Type, Int64Type, UInt32Type, UInt64Type};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, RowSelection, RowSelector};
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::errors::ParquetError;
use parquet::file::metadata::PageIndexPolicy;
use quern_recipes::Dataset;
use tokio::task::{JoinError, JoinHandle};

use crate::columns::{self, ColumnError, Leaves};
use crate::parquet_file::ParquetFile;
use crate::plan::row_groups;
use crate::rows::RowId;
use crate::store::{self, Folder, StoreError};

/// Compressed image bytes per piece, but for a page that alone has more.
const PIECE_BYTES: u64 = 16 << 20;
/// Pieces that are fetched or wait for the consumer.
const PREFETCH_PIECES: usize = 3;
/// Rows that are decoded at a time.
const BATCH_ROWS: usize = 64;

/// A row as it is in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRow {
    /// Who it is.
    pub id: RowId,
    /// The key column's value, if there is such a column and it is not null; integers as decimal text.
    pub key: Option<String>,
    /// The encoded image, if not null.
    pub image: Option<Bytes>,
    /// The caption, if not null; broken UTF-8 shows as U+FFFD.
    pub caption: Option<String>,
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
            ReadError::Task { .. } => true,
            ReadError::Columns { .. } | ReadError::OutOfRange { .. } | ReadError::Parquet { .. } => false,
        }
    }

    /// A short word for tables and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            ReadError::Store(StoreError::NotFound { .. }) => "file_not_found",
            ReadError::Store(_) => "store_failed",
            ReadError::Columns { .. } => "file_columns",
            ReadError::OutOfRange { .. } => "file_changed",
            ReadError::Parquet { .. } => "file_unreadable",
            ReadError::Task { .. } => "reader_failed",
        }
    }
}

/// Streams `rows` rows of `file` (relative to the data set's path) from row `row_start`. Fetches begin when the
/// stream is first polled, which must be inside a tokio runtime; dropping it ends them.
///
/// # Errors
/// When the file can't be opened, lacks the image or caption column, or has fewer rows. Later failures are in the
/// stream.
pub async fn read_rows(dataset: &Dataset, file: &str, row_start: u64, rows: u64) -> Result<RowStream, ReadError> {
    read_rows_in(&store::open(&dataset.path)?, dataset, file, row_start, rows).await
}

/// As [`read_rows`], in a folder that is open already; the data set's `path` is not looked at.
///
/// # Errors
/// As [`read_rows`].
pub async fn read_rows_in(
    folder: &Folder,
    dataset: &Dataset,
    file: &str,
    row_start: u64,
    rows: u64,
) -> Result<RowStream, ReadError> {
    let source = Arc::new(Source::open(folder, dataset, file).await?);
    let pieces = source.pieces(row_start, rows)?;
    let stream = stream::iter(pieces)
        .map(move |piece| {
            let source = Arc::clone(&source);
            // A task, so that fetch and decode go on while the consumer is busy elsewhere.
            let task = EndedOnDrop(tokio::spawn(Arc::clone(&source).read_piece(piece)));
            task.rows(source, piece)
        })
        .buffered(PREFETCH_PIECES)
        .map_ok(|rows| stream::iter(rows.into_iter().map(Ok)))
        .try_flatten();
    Ok(stream.boxed())
}

/// An opened file: what is read of it, and how.
struct Source {
    file: ParquetFile,
    metadata: ArrowReaderMetadata,
    leaves: Leaves,
    columns: quern_recipes::Columns,
    dataset: Arc<str>,
    name: Arc<str>,
    url: String,
}

/// A run of rows of one row group that is fetched at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Piece {
    row_group: usize,
    /// Rows of the group before the piece.
    skip: u64,
    rows: u64,
    /// The first row's index in the file.
    first_row: u64,
}

impl Source {
    async fn open(folder: &Folder, dataset: &Dataset, name: &str) -> Result<Self, ReadError> {
        let url = folder.url_of(name);
        let size = folder.size(name).await?;
        let unreadable = |source| ReadError::Parquet { url: url.clone(), row_start: 0, row_end: 0, source };
        let file = ParquetFile::open(folder.store.clone(), folder.path_of(name)?, size).await;
        let mut file = file.map_err(|error| unreadable(ParquetError::External(Box::new(error))))?;

        let footer = file.get_metadata(None).await.map_err(unreadable)?;
        let schema = footer.file_metadata().schema_descr();
        let leaves = columns::find(schema, &dataset.columns)
            .map_err(|source| ReadError::Columns { url: url.clone(), source })?;
        // Arrow's own schema in the footer would turn the bytes back into text.
        let options = ArrowReaderOptions::new()
            .with_skip_arrow_metadata(true)
            .with_parquet_schema(Arc::new(columns::text_as_bytes(schema, leaves).map_err(unreadable)?))
            .with_offset_index_policy(PageIndexPolicy::Optional);
        let metadata = ArrowReaderMetadata::load_async(&mut file, options).await.map_err(unreadable)?;
        Ok(Source {
            file,
            metadata,
            leaves,
            columns: dataset.columns.clone(),
            dataset: dataset.name.as_str().into(),
            name: name.into(),
            url,
        })
    }

    /// Cuts the row range into pieces.
    fn pieces(&self, row_start: u64, rows: u64) -> Result<Vec<Piece>, ReadError> {
        let groups = row_groups(self.metadata.metadata());
        let total: u64 = groups.iter().sum();
        let row_end = row_start.saturating_add(rows);
        if row_end > total {
            return Err(ReadError::OutOfRange { url: self.url.clone(), row_start, row_end, rows: total });
        }
        let mut pieces = Vec::new();
        let mut group_start = 0;
        for (row_group, &group_rows) in groups.iter().enumerate() {
            let first = row_start.clamp(group_start, group_start + group_rows) - group_start;
            let last = row_end.clamp(group_start, group_start + group_rows) - group_start;
            let mut cuts = self.cuts(row_group, first, last);
            cuts.push(last);
            let mut skip = first;
            for cut in cuts {
                if cut > skip {
                    pieces.push(Piece { row_group, skip, rows: cut - skip, first_row: group_start + skip });
                    skip = cut;
                }
            }
            group_start += group_rows;
        }
        Ok(pieces)
    }

    /// Rows of a group between `first` and `last` at which a new piece starts.
    fn cuts(&self, row_group: usize, first: u64, last: u64) -> Vec<u64> {
        let index = self.metadata.metadata().page_index_for_row_group(row_group);
        let Some(pages) = index.page_locations(self.leaves.image) else { return Vec::new() };
        let pages: Vec<(u64, u64)> = pages
            .iter()
            .map(|page| (page.first_row_index.max(0) as u64, page.compressed_page_size.max(0) as u64))
            .collect();
        cuts_at_pages(&pages, first, last, PIECE_BYTES)
    }

    async fn read_piece(self: Arc<Self>, piece: Piece) -> Result<Vec<RawRow>, ReadError> {
        let wanted = [Some(self.leaves.image), Some(self.leaves.caption), self.leaves.key].into_iter().flatten();
        let mask = ProjectionMask::leaves(self.metadata.parquet_schema(), wanted);
        let selection = vec![RowSelector::skip(piece.skip as usize), RowSelector::select(piece.rows as usize)];
        let unreadable = |source| self.unreadable(piece, source);
        let mut batches = ParquetRecordBatchStreamBuilder::new_with_metadata(self.file.clone(), self.metadata.clone())
            .with_row_groups(vec![piece.row_group])
            .with_projection(mask)
            .with_row_selection(RowSelection::from(selection))
            .with_batch_size(BATCH_ROWS)
            .build()
            .map_err(unreadable)?;
        let mut rows = Vec::with_capacity(piece.rows as usize);
        while let Some(batch) = batches.try_next().await.map_err(unreadable)? {
            self.append_rows(&batch, piece.first_row + rows.len() as u64, &mut rows).map_err(unreadable)?;
        }
        if rows.len() as u64 != piece.rows {
            let detail = format!("{} rows where the footer says {}", rows.len(), piece.rows);
            return Err(unreadable(ParquetError::General(detail)));
        }
        Ok(rows)
    }

    fn append_rows(&self, batch: &RecordBatch, first_row: u64, rows: &mut Vec<RawRow>) -> Result<(), ParquetError> {
        let column = |name: &str| {
            batch.column_by_name(name).ok_or_else(|| ParquetError::General(format!("column `{name}` was not read")))
        };
        let images = image_bytes(column(&self.columns.image)?)?;
        let captions = column(&self.columns.caption)?;
        let keys = self.leaves.key.map(|_| column(&self.columns.key)).transpose()?;
        for index in 0..batch.num_rows() {
            rows.push(RawRow {
                id: RowId {
                    dataset: Arc::clone(&self.dataset),
                    file: Arc::clone(&self.name),
                    row: first_row + index as u64,
                },
                key: keys.map(|keys| text(keys, index)).transpose()?.flatten(),
                image: bytes_at(&images, index)?.map(Bytes::copy_from_slice),
                caption: text(captions, index)?,
            });
        }
        Ok(())
    }

    fn unreadable(&self, piece: Piece, source: ParquetError) -> ReadError {
        let (row_start, row_end) = (piece.first_row, piece.first_row + piece.rows);
        ReadError::Parquet { url: self.url.clone(), row_start, row_end, source }
    }
}

/// Where to cut `first..last`, so that the pages of a piece have `piece_bytes` at most (but for a single larger
/// page). `pages` are (first row, compressed bytes) of a row group's pages, in order.
fn cuts_at_pages(pages: &[(u64, u64)], first: u64, last: u64, piece_bytes: u64) -> Vec<u64> {
    let mut cuts = Vec::new();
    let mut bytes = 0;
    for (index, &(page_start, page_bytes)) in pages.iter().enumerate() {
        let page_end = pages.get(index + 1).map_or(u64::MAX, |&(start, _)| start);
        if page_end <= first || page_start >= last {
            continue;
        }
        if bytes > 0 && bytes + page_bytes > piece_bytes {
            cuts.push(page_start);
            bytes = 0;
        }
        bytes += page_bytes;
    }
    cuts
}

/// The column with the images' bytes; of a struct its field `bytes`. A null struct has a null field.
pub(crate) fn image_bytes(column: &ArrayRef) -> Result<ArrayRef, ParquetError> {
    let Some(image) = column.as_struct_opt() else { return Ok(Arc::clone(column)) };
    let bytes = image.column_by_name("bytes").filter(|bytes| bytes.data_type() == &DataType::Binary);
    bytes.cloned().ok_or_else(|| ParquetError::General("an image struct without binary `bytes`".into()))
}

pub(crate) fn bytes_at(column: &ArrayRef, index: usize) -> Result<Option<&[u8]>, ParquetError> {
    let bytes = column.as_binary_opt::<i32>().ok_or_else(|| unexpected(column))?;
    Ok((!bytes.is_null(index)).then(|| bytes.value(index)))
}

/// A value as text: bytes as UTF-8, integers in decimal.
pub(crate) fn text(column: &ArrayRef, index: usize) -> Result<Option<String>, ParquetError> {
    if column.is_null(index) {
        return Ok(None);
    }
    Ok(Some(match column.data_type() {
        DataType::Int32 => column.as_primitive::<Int32Type>().value(index).to_string(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(index).to_string(),
        DataType::UInt32 => column.as_primitive::<UInt32Type>().value(index).to_string(),
        DataType::UInt64 => column.as_primitive::<UInt64Type>().value(index).to_string(),
        _ => String::from_utf8_lossy(bytes_at(column, index)?.unwrap_or_default()).into_owned(),
    }))
}

fn unexpected(column: &ArrayRef) -> ParquetError {
    ParquetError::General(format!("a column of {} where bytes, text or integers were expected", column.data_type()))
}

/// A task that ends when nobody waits for it any more.
struct EndedOnDrop(JoinHandle<Result<Vec<RawRow>, ReadError>>);

impl EndedOnDrop {
    async fn rows(mut self, source: Arc<Source>, piece: Piece) -> Result<Vec<RawRow>, ReadError> {
        (&mut self.0).await.unwrap_or_else(|error| {
            let (row_start, row_end) = (piece.first_row, piece.first_row + piece.rows);
            Err(ReadError::Task { url: source.url.clone(), row_start, row_end, source: error })
        })
    }
}

impl Drop for EndedOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests;
