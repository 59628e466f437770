//! Images that are not in the rows: brought from where these say, ahead of the consumer, in the rows' order.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::ObjectStoreExt;
use quern_recipes::{Dataset, Images, redacted};

use super::task::EndedOnDrop;
use super::{MissingImage, RawRow, ReadError, RowStream};
use crate::fetch::Fetcher;
use crate::store::{self, Folder, StoreError};

/// Rows whose images are read from a store at a time, or wait for the consumer.
const AHEAD_ROWS: usize = 16;
/// What object stores take as a name, and file systems as one of its parts.
const PATH_BYTES: usize = 1024;
const PATH_PART_BYTES: usize = 255;
/// Characters that are shown of what is no path.
const SHOWN_CHARACTERS: usize = 200;

/// A row, and where its image is if it is not in the row.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub row: RawRow,
    pub path: Option<String>,
}

/// Where images are that rows name.
#[derive(Debug)]
pub(super) enum Source {
    /// In the rows.
    Rows,
    /// At paths below a folder.
    Folder(Folder),
    /// At URLs.
    Web(Arc<Fetcher>),
    /// At URLs that are not asked.
    Unasked,
}

impl Source {
    pub fn of(dataset: &Dataset, fetcher: Option<&Arc<Fetcher>>) -> Result<Self, StoreError> {
        match &dataset.images {
            Images::Bytes => Ok(Source::Rows),
            Images::Paths(base) => Ok(Source::Folder(store::open(base)?)),
            Images::Urls => Ok(fetcher.map_or(Source::Unasked, |fetcher| Source::Web(Arc::clone(fetcher)))),
        }
    }

    /// The image at `path`, or why this row has none; an error is the store's, which may do better later.
    async fn bring(&self, path: &str, max_bytes: u64) -> Result<Result<Bytes, MissingImage>, StoreError> {
        match self {
            Source::Rows => Ok(Err(MissingImage::new("image_missing", "the image is null"))),
            Source::Folder(folder) => read(folder, path, max_bytes).await,
            Source::Web(fetcher) => Ok(fetcher.get(path).await),
            Source::Unasked => Ok(Err(MissingImage::new("image_not_fetched", "images are not fetched from URLs here"))),
        }
    }

    /// Rows whose images are asked for or wait for the consumer.
    fn ahead(&self) -> usize {
        match self {
            Source::Web(fetcher) => fetcher.ahead(),
            _ => AHEAD_ROWS,
        }
    }
}

/// The rows with their images.
pub(super) fn with_images(
    found: BoxStream<'static, Result<Found, ReadError>>,
    source: Source,
    max_bytes: u64,
) -> RowStream {
    let ahead = source.ahead();
    let source = Arc::new(source);
    let begun = found.map(move |found| match found {
        Err(error) => futures::future::ready(Err(error)).boxed(),
        Ok(Found { row, path: None }) => futures::future::ready(Ok(row)).boxed(),
        Ok(Found { row, path: Some(path) }) => bring(Arc::clone(&source), row, path, max_bytes).boxed(),
    });
    begun.buffered(ahead).boxed()
}

/// A row with its image, which is asked for from now on, by a task: it goes on while the consumer is busy elsewhere.
fn bring(
    source: Arc<Source>,
    row: RawRow,
    path: String,
    max_bytes: u64,
) -> impl Future<Output = Result<RawRow, ReadError>> {
    let task = EndedOnDrop::spawn(async move { source.bring(&path, max_bytes).await });
    async move {
        let brought = task.output().await.map_err(|source| ReadError::Task {
            url: format!("{}/{}", row.id.dataset, row.id.file),
            row_start: row.id.row,
            row_end: row.id.row + 1,
            source,
        })?;
        Ok(match brought? {
            Ok(image) => RawRow { image: Some(image), ..row },
            Err(missing) => RawRow { missing: Some(missing), ..row },
        })
    }
}

/// The image at a path below `folder`.
async fn read(folder: &Folder, path: &str, max_bytes: u64) -> Result<Result<Bytes, MissingImage>, StoreError> {
    let Some(inside) = inside(path) else {
        let detail = format!("{:?} is no path below the data set's `images.paths`", shown(path));
        return Ok(Err(MissingImage::new("image_path_invalid", detail)));
    };
    let got = async {
        let found = folder.store.get(&folder.path_of(inside)?).await.map_err(|error| failed(folder, inside, error))?;
        let bytes = found.meta.size;
        if bytes > max_bytes {
            let detail = format!("{inside:?} has {bytes} bytes, but at most {max_bytes} are read (limits.max_bytes)");
            return Ok(Err(MissingImage::new("image_bytes_limit", detail)));
        }
        found.bytes().await.map(Ok).map_err(|error| failed(folder, inside, error))
    };
    match got.await {
        Err(StoreError::NotFound { .. }) => {
            Ok(Err(MissingImage::new("image_not_found", format!("there is no {inside:?}"))))
        }
        Err(StoreError::Denied { .. }) => {
            Ok(Err(MissingImage::new("image_denied", format!("the store refuses to read {inside:?}"))))
        }
        Err(StoreError::Location { .. }) => {
            Ok(Err(MissingImage::new("image_path_invalid", format!("{inside:?} is no path in the store"))))
        }
        other => other,
    }
}

/// What is no path may be a URL, and that may hold secrets.
fn shown(path: &str) -> String {
    redacted(path.split('?').next().unwrap_or_default()).chars().take(SHOWN_CHARACTERS).collect()
}

fn failed(folder: &Folder, path: &str, error: object_store::Error) -> StoreError {
    StoreError::new("read", folder.url_of(path), error)
}

/// A path that stays below the folder that it is relative to; a leading `./` is taken off.
fn inside(path: &str) -> Option<&str> {
    let path = path.strip_prefix("./").unwrap_or(path);
    let is_part = |part: &str| !part.is_empty() && part != "." && part.len() <= PATH_PART_BYTES;
    let stays = path.len() <= PATH_BYTES
        && !path.contains("://")
        && !path.chars().any(|c| c.is_ascii_control())
        && path.split('/').all(is_part)
        && !path.split(['/', '\\']).any(|part| part == "..");
    stays.then_some(path)
}

#[cfg(test)]
mod tests;
