//! A row's image, decoded; or what becomes of the row without.

use std::any::Any;
use std::panic::catch_unwind;

use bytes::Bytes;
use quern_corpus::images::{self, EncodeError, RgbImage};
use quern_corpus::reader::RawRow;
use quern_recipes::{EmbedImages, ImageLimits};

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

/// The image that a row's part carries: as it is, made smaller, or none, as `embed` says.
///
/// # Errors
/// What becomes of a row whose image can't be made smaller.
pub fn embedded(row: &RawRow, image: &RgbImage, embed: EmbedImages) -> Result<Option<Bytes>, RowOutcome> {
    let bytes = row.image.as_ref().filter(|_| embed.is_on());
    let (Some(bytes), Some(shrink)) = (bytes, embed.shrink()) else { return Ok(bytes.cloned()) };
    let failed = |error: EncodeError| RowOutcome::quarantined(Stage::Write, "image_not_encoded", error.to_string());
    images::shrunk(bytes, image, shrink).map(Some).map_err(failed)
}

/// What a panic said.
pub fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_else(|| "unknown".into())
}
