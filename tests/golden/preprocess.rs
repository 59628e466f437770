//! `preprocess`: encoded bytes through the evaluation transforms of CLIP and BLIP, as Pillow computes them.

use anyhow::{Context, ensure};
use quern_corpus::images::{CropRounding, Evaluation, Geometry, Orientation, RgbImage, decode_oriented};
use quern_recipes::ImageLimits;
use tch::{Kind, Tensor};

use crate::case::Case;
use crate::checks::{Checks, Tolerance};

/// Levels of 255: the largest and the mean difference.
const LEVELS: Tolerance = Tolerance::Levels { largest: 2.0, mean: 0.01 };
/// Two levels of 255, normalised; the smallest standard deviation is a quarter.
const PIXELS: Tolerance = Tolerance::Elements { rel: 0.0, abs: 2.0 / 255.0 / 0.25 };
/// Samples are every so many pixels.
const CLIP_STRIDE: i64 = 16;
const BLIP_STRIDE: i64 = 24;

/// EXIF's number for an image that needs no turning.
const UPRIGHT: u32 = 1;

/// Checks a case. `exif_*` are the same steps for an image that is turned as its EXIF says.
pub fn check(case: &Case, checks: &mut Checks) -> anyhow::Result<()> {
    let encoded: Vec<u8> = Vec::try_from(case.input("encoded_bytes")?)?;
    let file = case.folder.join(case.value::<String>("image")?);
    let stored = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    ensure!(stored == encoded, "{} differs from the input encoded_bytes", file.display());
    let plain = decode_oriented(&encoded, &ImageLimits::default(), Orientation::Ignore)?;
    if case.expected.contains_key("decoded_rgb") {
        checks.compare("decoded_rgb", &image(&plain), LEVELS)?;
    }
    transforms(case, checks, "", &plain)?;
    let differ = case.value::<f64>("hf_vs_torchvision_clip_maxabs")? > 0.0;
    if differ || case.expected.contains_key("clip_u8_hf") {
        let (cropped, _) = clip(case, CropRounding::HuggingFace)?.apply(&plain);
        checks.compare("clip_u8_hf", &image(&cropped), LEVELS)?;
    }
    if case.value::<u32>("exif_orientation")? != UPRIGHT {
        let turned = decode_oriented(&encoded, &ImageLimits::default(), Orientation::Apply)?;
        transforms(case, checks, "exif_", &turned)?;
    }
    Ok(())
}

/// The transforms of a decoded image, compared with the expected tensors that begin with `prefix`.
fn transforms(case: &Case, checks: &mut Checks, prefix: &str, decoded: &RgbImage) -> anyhow::Result<()> {
    let of_clip = (clip(case, CropRounding::Torchvision)?, "clip", CLIP_STRIDE);
    let size = case.value("blip_size")?;
    let of_blip = (evaluation(case, Geometry::Squash { width: size, height: size })?, "blip", BLIP_STRIDE);
    for (evaluation, model, stride) in [of_clip, of_blip] {
        let (sized, pixels) = evaluation.apply(decoded);
        checks.compare(&format!("{prefix}{model}_u8"), &image(&sized), LEVELS)?;
        checks.compare(&format!("{prefix}{model}_sample"), &sample(&pixels, sized.width, stride), PIXELS)?;
    }
    Ok(())
}

fn clip(case: &Case, rounding: CropRounding) -> anyhow::Result<Evaluation> {
    let size = case.value("clip_size")?;
    evaluation(case, Geometry::ShortestSide { size, crop: size, rounding })
}

fn evaluation(case: &Case, geometry: Geometry) -> anyhow::Result<Evaluation> {
    Ok(Evaluation { geometry, mean: case.value("mean")?, std: case.value("std")? })
}

/// `[height, width, 3]`
fn image(image: &RgbImage) -> Tensor {
    Tensor::from_data_size(&image.pixels, &[i64::from(image.height), i64::from(image.width), 3], Kind::Uint8)
}

/// `[3, size, size]`, every `stride`-th row and column.
fn sample(pixels: &[f32], size: u32, stride: i64) -> Tensor {
    let size = i64::from(size);
    let pixels = Tensor::from_slice(pixels).view([3, size, size]);
    pixels.slice(1, 0, None, stride).slice(2, 0, None, stride)
}
