//! Images: encoded bytes to RGB, Pillow's bicubic, and the transforms of CLIP, BLIP and training.
//!
//! Everything here reproduces what Pillow 11 and torchvision compute, byte for byte: the published weights saw
//! images through them.

mod decode;
mod encode;
mod exif;
mod frames;
mod resize;
mod transform;

pub use decode::{ImageError, decode, decode_oriented};
pub use encode::{EncodeError, shrunk};
pub use exif::Orientation;
pub use resize::resize_bicubic;
pub use transform::{CropRounding, Evaluation, Geometry, normalise_into, train_crop};

/// An RGB image of 8 bits per channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RgbImage {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Red, green, blue, row by row: `[height, width, 3]`.
    pub pixels: Vec<u8>,
}
