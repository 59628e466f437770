//! Rows of data sets that are not filtered: their captions are kept as they are, but their images must be readable.

use quern_capfilt::{PartRow, RowOutcome, pass_through};
use quern_corpus::reader::RawRow;
use quern_recipes::ImageLimits;

use crate::pixels::decode_rows;

/// What becomes of the rows of a data set with `capfilt: false`, in order. No model is needed. An image that can't be
/// decoded is quarantined here, not found out in training.
pub fn pass_rows(rows: Vec<RawRow>, limits: &ImageLimits, embed_images: bool) -> Vec<PartRow> {
    let decoding = tracing::info_span!("decode", rows = rows.len() as i64).entered();
    let decoded = decode_rows(&rows, limits, |_| ());
    drop(decoding);
    let outcome = |(row, decoded): (RawRow, Result<(), RowOutcome>)| {
        let mut row = pass_through(row, embed_images);
        if let (RowOutcome::Passed { .. }, Err(failed)) = (&row.outcome, decoded) {
            row.image = None;
            row.outcome = failed;
        }
        row
    };
    rows.into_iter().zip(decoded).map(outcome).collect()
}
