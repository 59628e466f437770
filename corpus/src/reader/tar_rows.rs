//! A shard's rows out of a tar file: a row is a sample.
//!
//! Where a row is, the headers before it tell: they are read again for every shard. Rows are read in pieces of some
//! 8 MiB, one piece ahead of the consumer.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt, stream};
use quern_recipes::Dataset;

use super::task::EndedOnDrop;
use super::{MissingImage, RawRow, ReadError};
use crate::rows::RowId;
use crate::store::Folder;
use crate::tars::{Layout, Member, Parts, Sample, Samples, TarError, caption_in_json};

/// Bytes of images per piece, but for an image that alone has more.
const PIECE_BYTES: usize = 8 << 20;
/// Rows per piece at most.
const PIECE_ROWS: usize = 1024;
/// A longer text or json is no caption.
const MAX_TEXT_BYTES: u64 = 1 << 20;

/// Streams `rows` rows of `file` from row `row_start`.
pub(super) async fn stream(
    folder: &Folder,
    dataset: &Dataset,
    file: &str,
    row_start: u64,
    rows: u64,
    max_bytes: u64,
) -> Result<BoxStream<'static, Result<RawRow, ReadError>>, ReadError> {
    let samples = Samples::open(folder, file, folder.size(file).await?)?;
    let asked = Asked { url: folder.url_of(file), row_start, row_end: row_start.saturating_add(rows) };
    let asked = Arc::new(asked);
    let source = Source {
        samples,
        layout: Layout::new(&dataset.columns),
        image: dataset.columns.image.clone(),
        dataset: dataset.name.as_str().into(),
        file: file.into(),
        asked: Arc::clone(&asked),
        max_bytes,
        next_row: 0,
    };
    let pieces = stream::unfold(Reading::Unbegun(Box::new(source)), move |reading| reading.piece(Arc::clone(&asked)));
    Ok(pieces.map_ok(|rows| stream::iter(rows.into_iter().map(Ok))).try_flatten().boxed())
}

/// Which rows of which file.
struct Asked {
    url: String,
    row_start: u64,
    row_end: u64,
}

type Piece = Result<Vec<RawRow>, ReadError>;

/// How far reading is.
enum Reading {
    Unbegun(Box<Source>),
    /// The next piece is being read.
    Begun(EndedOnDrop<(Box<Source>, Piece)>),
    Over,
}

impl Reading {
    /// The next piece, and the reading of the one after it.
    async fn piece(self, asked: Arc<Asked>) -> Option<(Piece, Reading)> {
        let task = match self {
            Reading::Unbegun(source) => EndedOnDrop::spawn(source.piece()),
            Reading::Begun(task) => task,
            Reading::Over => return None,
        };
        match task.output().await {
            Ok((_, Ok(rows))) if rows.is_empty() => None,
            Ok((source, Ok(rows))) => Some((Ok(rows), Reading::Begun(EndedOnDrop::spawn(source.piece())))),
            Ok((_, Err(error))) => Some((Err(error), Reading::Over)),
            Err(source) => {
                let Asked { url, row_start, row_end } = &*asked;
                let (url, row_start, row_end) = (url.clone(), *row_start, *row_end);
                Some((Err(ReadError::Task { url, row_start, row_end, source }), Reading::Over))
            }
        }
    }
}

/// An opened file: what is read of it, and how.
struct Source {
    samples: Samples,
    layout: Layout,
    image: String,
    dataset: Arc<str>,
    file: Arc<str>,
    asked: Arc<Asked>,
    max_bytes: u64,
    /// The row that comes next in the file.
    next_row: u64,
}

impl Source {
    async fn piece(mut self: Box<Self>) -> (Box<Self>, Piece) {
        let piece = self.read_piece().await;
        (self, piece)
    }

    /// Some rows; none at the end of the range.
    async fn read_piece(&mut self) -> Piece {
        let (mut rows, mut bytes) = (Vec::new(), 0);
        while self.next_row < self.asked.row_end && bytes < PIECE_BYTES && rows.len() < PIECE_ROWS {
            let sample = self.samples.next().await.map_err(|error| self.failed(error))?;
            let Some(sample) = sample else { return Err(self.out_of_range()) };
            if self.next_row >= self.asked.row_start {
                let row = self.row(&sample).await.map_err(|error| self.failed(error))?;
                bytes += row.image.as_ref().map_or(0, Bytes::len);
                rows.push(row);
            }
            self.next_row += 1;
        }
        Ok(rows)
    }

    async fn row(&mut self, sample: &Sample) -> Result<RawRow, TarError> {
        let Parts { image, caption, json } = self.layout.parts(sample);
        let (image, missing) = match image {
            None => {
                let detail = format!("the sample has no member `{}`", self.image);
                (None, Some(MissingImage::new("image_missing", detail)))
            }
            Some(member) if member.bytes > self.max_bytes => {
                let (bytes, limit) = (member.bytes, self.max_bytes);
                let detail = format!("the image has {bytes} bytes, but at most {limit} are read (limits.max_bytes)");
                (None, Some(MissingImage::new("image_bytes_limit", detail)))
            }
            // A copy, so that it does not keep all that was fetched with it.
            Some(member) => (Some(Bytes::copy_from_slice(&self.samples.content(member).await?)), None),
        };
        let caption = match (caption, json) {
            (Some(text), _) => self.text(text).await?.map(|text| String::from_utf8_lossy(&text).into_owned()),
            (None, Some(json)) => {
                self.text(json).await?.and_then(|json| caption_in_json(&json, self.layout.captions()))
            }
            (None, None) => None,
        };
        let id = RowId { dataset: Arc::clone(&self.dataset), file: Arc::clone(&self.file), row: self.next_row };
        Ok(RawRow { id, key: Some(sample.key.clone()), image, missing, caption })
    }

    async fn text(&mut self, member: &Member) -> Result<Option<Bytes>, TarError> {
        match member.bytes {
            0..=MAX_TEXT_BYTES => Ok(Some(self.samples.content(member).await?)),
            _ => Ok(None),
        }
    }

    fn failed(&self, error: TarError) -> ReadError {
        match error {
            TarError::Store(error) => ReadError::Store(error),
            TarError::Damaged(_) => ReadError::Tar { url: self.asked.url.clone(), reason: error.to_string() },
        }
    }

    fn out_of_range(&self) -> ReadError {
        let Asked { url, row_start, row_end } = &*self.asked;
        let (url, row_start, row_end) = (url.clone(), *row_start, *row_end);
        ReadError::OutOfRange { url, row_start, row_end, rows: self.next_row }
    }
}
