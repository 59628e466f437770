//! A parquet file in an object store, read by ranges: its end first, then only what is asked for.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};

/// Bytes of the file's end that are fetched at once: most footers and page indices fit.
const TAIL_BYTES: u64 = 64 << 10;

/// A parquet file whose end has been fetched.
#[derive(Debug, Clone)]
pub(crate) struct ParquetFile {
    store: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
    tail: Bytes,
}

impl ParquetFile {
    /// Opens the file of `size` bytes at `path` by fetching its end.
    pub async fn open(store: Arc<dyn ObjectStore>, path: Path, size: u64) -> object_store::Result<Self> {
        let tail = match size {
            0 => Bytes::new(),
            size => store.get_range(&path, size.saturating_sub(TAIL_BYTES)..size).await?,
        };
        Ok(ParquetFile { store, path, size, tail })
    }

    fn in_tail(&self, range: &Range<u64>) -> Option<Bytes> {
        let tail_start = self.size - self.tail.len() as u64;
        (range.start >= tail_start && range.end <= self.size && range.start <= range.end)
            .then(|| self.tail.slice((range.start - tail_start) as usize..(range.end - tail_start) as usize))
    }
}

/// The store's error behind the parquet reader's, or else that.
pub(crate) fn cause(error: ParquetError) -> std::result::Result<object_store::Error, ParquetError> {
    match error {
        ParquetError::External(cause) => cause.downcast().map(|cause| *cause).map_err(ParquetError::External),
        error => Err(error),
    }
}

/// A footer may say that a column lies anywhere; readers take its word for it, and panic where it lies before the file.
///
/// # Errors
/// When a column does not lie in a file of so many bytes.
pub fn check_places(metadata: &ParquetMetaData, file_bytes: u64) -> Result<()> {
    for column in metadata.row_groups().iter().flat_map(|group| group.columns()) {
        let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
        let places = [start, column.data_page_offset(), column.compressed_size()];
        let end = start.checked_add(column.compressed_size()).and_then(|end| u64::try_from(end).ok());
        if places.iter().any(|&place| place < 0) || end.is_none_or(|end| end > file_bytes) {
            let (path, bytes) = (column.column_path(), column.compressed_size());
            let detail =
                format!("column {path} should have {bytes} bytes from byte {start} on, but the file has {file_bytes}");
            return Err(ParquetError::General(detail));
        }
    }
    Ok(())
}

fn external(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl AsyncFileReader for ParquetFile {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes>> {
        async move {
            match self.in_tail(&range) {
                Some(bytes) => Ok(bytes),
                None => self.store.get_range(&self.path, range).await.map_err(external),
            }
        }
        .boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>>> {
        async move {
            if let Some(bytes) = ranges.iter().map(|range| self.in_tail(range)).collect() {
                return Ok(bytes);
            }
            self.store.get_ranges(&self.path, &ranges).await.map_err(external)
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>>> {
        async move {
            let size = self.size;
            let reader = ParquetMetaDataReader::new().with_arrow_reader_options(options);
            let metadata = reader.load_and_finish(self, size).await?;
            check_places(&metadata, size)?;
            Ok(Arc::new(metadata))
        }
        .boxed()
    }
}
