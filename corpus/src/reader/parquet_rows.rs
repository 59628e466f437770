//! A shard's rows out of a parquet file: the wanted columns, one row range, a bounded number of bytes ahead.
//!
//! The range is cut at the image column's pages into pieces of some 16 MiB (where a file has no page index, at its
//! row groups). Pieces are fetched and decoded by tasks of their own, a few ahead of the consumer, and come in order.

use std::sync::Arc;

use arrow::array::RecordBatch;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, RowSelection, RowSelector};
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::arrow::{ParquetRecordBatchStreamBuilder, ProjectionMask};
use parquet::errors::ParquetError;
use parquet::file::metadata::PageIndexPolicy;
use quern_recipes::{Columns, Dataset};
use tokio::task::JoinError;

use super::images::Found;
use super::task::EndedOnDrop;
use super::{RawRow, ReadError};
use crate::columns::{self, Leaves};
use crate::parquet_file::ParquetFile;
use crate::plan::{row_groups, total_rows};
use crate::rows::RowId;
use crate::store::Folder;
use crate::values::{bytes_at, image_bytes, image_paths, text};

/// Compressed image bytes per piece, but for a page that alone has more.
const PIECE_BYTES: u64 = 16 << 20;
/// Pieces that are fetched or wait for the consumer.
const PREFETCH_PIECES: usize = 3;
/// Rows that are decoded at a time.
const BATCH_ROWS: usize = 64;

/// Streams `rows` rows of `file` from row `row_start`, with what they say about their images.
pub(super) async fn stream(
    folder: &Folder,
    dataset: &Dataset,
    file: &str,
    row_start: u64,
    rows: u64,
) -> Result<BoxStream<'static, Result<Found, ReadError>>, ReadError> {
    let source = Arc::new(Source::open(folder, dataset, file).await?);
    let pieces = source.pieces(row_start, rows)?;
    let stream = stream::iter(pieces)
        .map(move |piece| {
            let source = Arc::clone(&source);
            let task = EndedOnDrop::spawn(Arc::clone(&source).read_piece(piece));
            async move { task.output().await.unwrap_or_else(|error| Err(source.died(piece, error))) }
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
    columns: Columns,
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
        let columns = columns::named(schema, dataset);
        let leaves = columns::find(schema, &columns, &dataset.images)
            .map_err(|source| ReadError::Columns { url: url.clone(), source })?;
        // Arrow's own schema in the footer would turn the bytes back into text.
        let options = ArrowReaderOptions::new()
            .with_skip_arrow_metadata(true)
            .with_parquet_schema(Arc::new(columns::text_as_bytes(schema, leaves).map_err(unreadable)?))
            .with_offset_index_policy(PageIndexPolicy::Optional);
        let metadata = ArrowReaderMetadata::load_async(&mut file, options).await.map_err(unreadable)?;
        Ok(Source { file, metadata, leaves, columns, dataset: dataset.name.as_str().into(), name: name.into(), url })
    }

    /// Cuts the row range into pieces.
    fn pieces(&self, row_start: u64, rows: u64) -> Result<Vec<Piece>, ReadError> {
        let groups = row_groups(self.metadata.metadata());
        let total = total_rows(&groups);
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
        let Some(pages) = index.page_locations(self.leaves.of_image()) else { return Vec::new() };
        let pages: Vec<(u64, u64)> = pages
            .iter()
            .map(|page| (page.first_row_index.max(0) as u64, page.compressed_page_size.max(0) as u64))
            .collect();
        cuts_at_pages(&pages, first, last, PIECE_BYTES)
    }

    async fn read_piece(self: Arc<Self>, piece: Piece) -> Result<Vec<Found>, ReadError> {
        let mask = ProjectionMask::leaves(self.metadata.parquet_schema(), self.leaves.all());
        let selection = vec![RowSelector::skip(piece.skip as usize), RowSelector::select(piece.rows as usize)];
        let unreadable = |source| self.unreadable(piece, source);
        let mut batches = ParquetRecordBatchStreamBuilder::new_with_metadata(self.file.clone(), self.metadata.clone())
            .with_row_groups(vec![piece.row_group])
            .with_projection(mask)
            .with_row_selection(RowSelection::from(selection))
            .with_batch_size(BATCH_ROWS)
            .build()
            .map_err(unreadable)?;
        let mut rows = Vec::new(); // the piece's length is a claim
        while let Some(batch) = batches.try_next().await.map_err(unreadable)? {
            self.append_rows(&batch, piece.first_row + rows.len() as u64, &mut rows).map_err(unreadable)?;
        }
        if rows.len() as u64 != piece.rows {
            let detail = format!("{} rows where the footer says {}", rows.len(), piece.rows);
            return Err(unreadable(ParquetError::General(detail)));
        }
        Ok(rows)
    }

    fn append_rows(&self, batch: &RecordBatch, first_row: u64, rows: &mut Vec<Found>) -> Result<(), ParquetError> {
        let column = |name: &str| {
            batch.column_by_name(name).ok_or_else(|| ParquetError::General(format!("column `{name}` was not read")))
        };
        let image = column(&self.columns.image)?;
        let images = self.leaves.image.map(|_| image_bytes(image)).transpose()?;
        let paths = self.leaves.path.map(|_| image_paths(image)).transpose()?;
        let captions = column(&self.columns.caption)?;
        let keys = self.leaves.key.map(|_| column(&self.columns.key)).transpose()?;
        for index in 0..batch.num_rows() {
            let id = RowId {
                dataset: Arc::clone(&self.dataset),
                file: Arc::clone(&self.name),
                row: first_row + index as u64,
            };
            let image = images.as_ref().map(|images| bytes_at(images, index)).transpose()?.flatten();
            let row = RawRow {
                id,
                key: keys.map(|keys| text(keys, index)).transpose()?.flatten(),
                image: image.map(Bytes::copy_from_slice),
                missing: None,
                caption: text(captions, index)?,
            };
            let path = match row.image {
                Some(_) => None,
                None => paths.as_ref().map(|paths| text(paths, index)).transpose()?.flatten(),
            };
            rows.push(Found { row, path });
        }
        Ok(())
    }

    fn unreadable(&self, piece: Piece, source: ParquetError) -> ReadError {
        let (row_start, row_end) = (piece.first_row, piece.first_row + piece.rows);
        ReadError::Parquet { url: self.url.clone(), row_start, row_end, source }
    }

    fn died(&self, piece: Piece, source: JoinError) -> ReadError {
        let (row_start, row_end) = (piece.first_row, piece.first_row + piece.rows);
        ReadError::Task { url: self.url.clone(), row_start, row_end, source }
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

#[cfg(test)]
mod tests;
