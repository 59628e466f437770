//! A row's image, decoded; or what becomes of the row without.

use std::any::Any;
use std::panic::catch_unwind;

use quern_corpus::images::{self, RgbImage};
use quern_corpus::reader::RawRow;
use quern_recipes::ImageLimits;

use crate::row::{RowOutcome, Stage};

/// Decodes the row's image within `limits`.
///
/// # Errors
/// What becomes of a row without a decodable image. A decoder that panics is its row's failure alone.
pub fn decode_row(row: &RawRow, limits: &ImageLimits) -> Result<RgbImage, RowOutcome> {
    let bytes = row.image().map_err(RowOutcome::without_image)?;
    let failed = |reason, detail: String| Err(RowOutcome::quarantined(Stage::Decode, reason, detail));
    match catch_unwind(|| images::decode(bytes, limits)) {
        Ok(Ok(image)) => Ok(image),
        Ok(Err(error)) => failed(error.reason(), error.to_string()),
        Err(panic) => failed("decoder_panic", panic_message(&*panic)),
    }
}

/// What a panic said.
pub fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_else(|| "unknown".into())
}
