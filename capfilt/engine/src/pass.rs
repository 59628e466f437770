//! Rows of data sets that are not filtered: their captions are kept as they are, but their images must be readable.

use std::sync::atomic::{AtomicBool, Ordering};

use quern_capfilt::{PartRow, embedded, pass_through};
use quern_corpus::reader::RawRow;
use quern_recipes::{EmbedImages, ImageLimits};

use crate::pixels::{Trial, decode_rows};

/// What becomes of a shard's rows of a data set with `capfilt: false`, shown to `each` in order; no model is needed. They are
/// decoded `chunk_rows` at a time, each put to `trial` first. Once `stop` is raised, it returns without the rest.
pub fn pass_shard(
    rows: impl Iterator<Item = RawRow>,
    chunk_rows: usize,
    limits: &ImageLimits,
    embed_images: EmbedImages,
    trial: Trial<'_>,
    stop: &AtomicBool,
    mut each: impl FnMut(PartRow),
) {
    let mut rows = rows.peekable();
    while !stop.load(Ordering::Relaxed) && rows.peek().is_some() {
        let chunk = rows.by_ref().take(chunk_rows.max(1)).collect();
        pass_chunk(chunk, limits, embed_images, trial).into_iter().for_each(&mut each);
    }
}

/// An image that can't be decoded is quarantined here, not found out in training.
fn pass_chunk(rows: Vec<RawRow>, limits: &ImageLimits, embed_images: EmbedImages, trial: Trial<'_>) -> Vec<PartRow> {
    let decoding = tracing::info_span!("decode", rows = rows.len() as i64).entered();
    let decoded = decode_rows(&rows, limits, trial, |row, image| embedded(row, image, embed_images));
    drop(decoding);
    rows.into_iter().zip(decoded).map(|(row, decoded)| pass_through(row, decoded)).collect()
}
