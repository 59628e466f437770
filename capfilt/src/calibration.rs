//! How fast a device captions and ranks: asked of `quern-worker calibrate`, which is sent the rows on its standard input
//! and answers on its standard output.
//!
//! A request is a line of JSON, and for each of its rows a line of JSON with the image's bytes behind it. The answer is one
//! line of JSON.

use std::io::{self, BufRead, Read, Write};

use bytes::Bytes;
use quern_corpus::reader::RawRow;
use quern_corpus::{RowId, ShardId, ShardSpec};
use quern_recipes::Recipe;
use serde::{Deserialize, Serialize};

use crate::part::{PartError, encode_part};
use crate::provenance::Provenance;
use crate::row::PartRow;

/// What is asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The recipe, resolved, with its `capfilt`.
    pub recipe: Recipe,
    /// How many rows a shard has, at which the measurement ends at the latest; the request's rows are taken again and again.
    pub shard_rows: u64,
    /// When the measurement ends otherwise, in seconds.
    pub seconds: f64,
    /// Rows that follow.
    pub rows: u64,
}

/// A row as it is sent.
#[derive(Debug, Serialize, Deserialize)]
struct Sent {
    dataset: String,
    file: String,
    row: u64,
    key: Option<String>,
    caption: Option<String>,
    image_bytes: u64,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// What was measured.
    Calibrated(Calibration),
    /// Why nothing was, in one sentence.
    Failed(String),
}

/// How fast a device captions and ranks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// `cpu` or `cuda:N`.
    pub device: String,
    /// What that is: the product's name.
    pub hardware: String,
    /// Threads for tensor arithmetic, as the recipe says.
    pub threads: u32,
    /// Images that are captioned and ranked in a second.
    pub images_per_second: f64,
    /// What that was measured on.
    pub basis: Basis,
    /// Images that were done in the time that counts, some of them several times.
    pub images: u64,
    /// The time that counts, in seconds.
    pub seconds: f64,
    /// Different images that were done.
    pub different_images: u64,
    /// Mean tokens of a written caption, without begin, prompt and end.
    pub tokens_per_caption: f64,
    /// Share of the different images that keep a caption, after the recipe's filters.
    pub kept_share: f64,
    /// What the images' part takes.
    pub part_bytes: PartBytes,
}

/// What parts take, both files of each.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PartBytes {
    /// Whatever its rows.
    pub per_shard: f64,
    /// For each of its rows.
    pub per_row: f64,
}

/// What a throughput was measured on. The models were loaded before, and warm but for the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// A whole shard, its beginning and its end counted, when lanes are empty.
    WholeShard,
    /// The middle of a shard, with all lanes filled.
    FullLanes,
    /// The first few images, which are alone: the device is too slow for more in the time given.
    FewImages,
}

impl Request {
    /// Sends the request and its rows, which must have their images.
    ///
    /// # Errors
    /// When the other process does not read.
    pub fn send(&self, rows: &[RawRow], to: &mut impl Write) -> io::Result<()> {
        assert_eq!(self.rows, rows.len() as u64, "the request counts its rows");
        write_line(to, self)?;
        for row in rows {
            let image = row.image.as_deref().unwrap_or_default();
            let sent = Sent {
                dataset: row.id.dataset.to_string(),
                file: row.id.file.to_string(),
                row: row.id.row,
                key: row.key.clone(),
                caption: row.caption.clone(),
                image_bytes: image.len() as u64,
            };
            write_line(to, &sent)?;
            to.write_all(image)?;
        }
        to.flush()
    }

    /// Receives a request and its rows.
    ///
    /// # Errors
    /// When it ends early or is none.
    pub fn receive(from: &mut impl BufRead) -> io::Result<(Self, Vec<RawRow>)> {
        let request: Request = read_line(from)?;
        let mut rows = Vec::new();
        for _ in 0..request.rows {
            let sent: Sent = read_line(from)?;
            let mut image = Vec::new();
            if from.by_ref().take(sent.image_bytes).read_to_end(&mut image)? as u64 != sent.image_bytes {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            rows.push(RawRow {
                id: RowId { dataset: sent.dataset.into(), file: sent.file.into(), row: sent.row },
                key: sent.key,
                image: Some(Bytes::from(image)),
                missing: None,
                caption: sent.caption,
            });
        }
        Ok((request, rows))
    }
}

impl PartBytes {
    /// Of rows like these: any rows, numbered anew. What a part has without rows is told by half of them beside all of
    /// them, images left aside, whose sizes differ too much.
    ///
    /// # Errors
    /// As [`encode_part`].
    pub fn of(rows: Vec<PartRow>, provenance: &Provenance) -> Result<Self, PartError> {
        let (count, half) = (rows.len(), rows.len() / 2);
        let bare: Vec<PartRow> = rows.iter().map(|row| PartRow { image: None, ..row.clone() }).collect();
        let half_bytes = part_bytes(bare[..half].to_vec(), provenance)?;
        let bare_bytes = part_bytes(bare, provenance)?;
        let bytes = part_bytes(rows, provenance)?;
        if half == 0 {
            return Ok(PartBytes { per_shard: 0.0, per_row: bytes });
        }
        let bare_row = (bare_bytes - half_bytes) / (count - half) as f64;
        let per_shard = (bare_bytes - bare_row * count as f64).max(0.0);
        Ok(PartBytes { per_shard, per_row: (bytes - per_shard) / count as f64 })
    }
}

/// Bytes of the part that rows make up, numbered anew; 0 for none.
fn part_bytes(mut rows: Vec<PartRow>, provenance: &Provenance) -> Result<f64, PartError> {
    let Some(id) = rows.first().map(|row| row.id.clone()) else { return Ok(0.0) };
    for (at, row) in rows.iter_mut().enumerate() {
        row.id = RowId { row: at as u64, ..id.clone() };
    }
    let (dataset, file) = (id.dataset.to_string(), id.file.to_string());
    let shard = ShardSpec { shard: ShardId("sample".into()), dataset, file, row_start: 0, rows: rows.len() as u64 };
    let part = encode_part(&shard, rows, provenance)?;
    Ok(part.data.iter().chain(&part.quarantine).map(|(_, bytes)| bytes.len() as f64).sum())
}

fn write_line(to: &mut impl Write, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *to, line)?;
    to.write_all(b"\n")
}

fn read_line<T: for<'a> Deserialize<'a>>(from: &mut impl BufRead) -> io::Result<T> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(rows: u64) -> Request {
        let recipe = r#"{"name": "r", "output": "/o", "datasets": [{"name": "d", "path": "/d"}],
                         "capfilt": {"captioner": "/b", "ranker": "/c"}}"#;
        Request { recipe: Recipe::from_json(recipe).unwrap(), shard_rows: 9, seconds: 1.5, rows }
    }

    fn row(row: u64, image: &'static [u8], caption: Option<&str>) -> RawRow {
        RawRow {
            id: RowId { dataset: "d".into(), file: "f\n".into(), row },
            key: None,
            image: Some(Bytes::from_static(image)),
            missing: None,
            caption: caption.map(Into::into),
        }
    }

    #[test]
    fn a_parts_bytes_are_told_from_few_rows() {
        let text = |at: u64| blake3::hash(&at.to_le_bytes()).to_hex().to_string();
        let rows = |count| {
            (0..count).map(|at| crate::pass_through(row(90 - at, b"image", Some(&text(at))), Ok(None))).collect()
        };
        let provenance = Provenance::default();
        let few = PartBytes::of(rows(20), &provenance).unwrap();
        let many = part_bytes(rows(90), &provenance).unwrap();
        let told = few.per_shard + 90.0 * few.per_row;
        assert!((told / many - 1.0).abs() < 0.1 && few.per_shard > 500.0, "{few:?}: {told} for {many}");
        let one = PartBytes::of(rows(1), &provenance).unwrap();
        assert_eq!((one.per_shard, one.per_row), (0.0, part_bytes(rows(1), &provenance).unwrap()));
        assert_eq!(PartBytes::of(Vec::new(), &provenance).unwrap(), PartBytes { per_shard: 0.0, per_row: 0.0 });
    }

    #[test]
    fn a_request_arrives_as_it_was_sent() {
        let rows = [row(3, b"\n{}\n", Some("two\nlines")), row(4, b"", None)];
        let mut sent = Vec::new();
        request(2).send(&rows, &mut sent).unwrap();
        let (received, same) = Request::receive(&mut sent.as_slice()).unwrap();
        assert_eq!((received, same.as_slice()), (request(2), rows.as_slice()));
        // The last line's end is not missed: no image follows it.
        for cut in [0, 5, sent.len() / 2, sent.len() - 2] {
            assert!(Request::receive(&mut &sent[..cut]).is_err(), "{cut} bytes");
        }
    }
}
