//! Images: encoded bytes to RGB, Pillow's bicubic, and the transforms of CLIP, BLIP and training.
//!
//! Everything here reproduces what Pillow 11 and torchvision compute, byte for byte: the published weights saw
//! images through them.

mod decode;
mod exif;
mod resize;
mod transform;

use quern_recipes::ImageLimits;

pub use decode::{ImageError, decode, decode_oriented};
pub use exif::Orientation;
pub use resize::resize_bicubic;
pub use transform::{CropRounding, blip_eval, clip_eval, normalise_into, train_crop};

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

/// What [`evaluation_inputs`] computes, and how.
#[derive(Debug, Clone, Copy)]
pub struct EvaluationOptions {
    /// What is refused.
    pub limits: ImageLimits,
    /// Whether the image is turned as its EXIF says.
    pub orientation: Orientation,
    /// CLIP's shortest side and crop.
    pub clip_size: u32,
    /// BLIP's width and height.
    pub blip_size: u32,
    /// Mean per channel, on the scale of 0 to 1.
    pub mean: [f32; 3],
    /// Standard deviation per channel.
    pub std: [f32; 3],
}

/// An image as the evaluation transforms of CLIP and BLIP see it, step by step.
#[derive(Debug, Clone, PartialEq)]
pub struct EvaluationInputs {
    /// The decoded image.
    pub decoded: RgbImage,
    /// CLIP's transform with torchvision's crop.
    pub clip: RgbImage,
    /// CLIP's transform with Hugging Face's crop.
    pub clip_hf: RgbImage,
    /// BLIP's transform.
    pub blip: RgbImage,
    /// `clip` normalised: `[3, clip_size, clip_size]`.
    pub clip_pixels: Vec<f32>,
    /// `blip` normalised: `[3, blip_size, blip_size]`.
    pub blip_pixels: Vec<f32>,
}

/// Decodes an image and takes it through both evaluation transforms, keeping every intermediate result.
///
/// # Errors
/// As [`decode`].
pub fn evaluation_inputs(bytes: &[u8], options: &EvaluationOptions) -> Result<EvaluationInputs, ImageError> {
    let decoded = decode_oriented(bytes, &options.limits, options.orientation)?;
    let clip = clip_eval(&decoded, options.clip_size, options.clip_size, CropRounding::Torchvision);
    let clip_hf = clip_eval(&decoded, options.clip_size, options.clip_size, CropRounding::HuggingFace);
    let blip = blip_eval(&decoded, options.blip_size, options.blip_size);
    let normalise = |image: &RgbImage| {
        let mut pixels = vec![0.0; image.pixels.len()];
        normalise_into(image, options.mean, options.std, &mut pixels);
        pixels
    };
    let (clip_pixels, blip_pixels) = (normalise(&clip), normalise(&blip));
    Ok(EvaluationInputs { decoded, clip, clip_hf, blip, clip_pixels, blip_pixels })
}
