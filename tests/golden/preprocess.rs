//! `preprocess`: encoded bytes through the evaluation transforms of CLIP and BLIP, as Pillow computes them.

use anyhow::{Context, bail, ensure};
use quern_corpus::images::{EvaluationInputs, EvaluationOptions, Orientation, RgbImage, evaluation_inputs};
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

/// The steps that every case holds; `exif_*` are the same for an image that is turned as its EXIF says.
const ALWAYS: [&str; 4] = ["clip_u8", "clip_sample", "blip_u8", "blip_sample"];
/// EXIF's number for an image that needs no turning.
const UPRIGHT: u32 = 1;

/// Checks a case.
pub fn check(case: &Case, checks: &mut Checks) -> anyhow::Result<()> {
    let encoded: Vec<u8> = Vec::try_from(case.input("encoded_bytes")?)?;
    let file = case.folder.join(case.value::<String>("image")?);
    let stored = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    ensure!(stored == encoded, "{} differs from the input encoded_bytes", file.display());
    let options = EvaluationOptions {
        limits: ImageLimits::default(),
        orientation: Orientation::Ignore,
        clip_size: case.value("clip_size")?,
        blip_size: case.value("blip_size")?,
        mean: case.value("mean")?,
        std: case.value("std")?,
    };
    let turned_options = EvaluationOptions { orientation: Orientation::Apply, ..options };
    let plain = evaluation_inputs(&encoded, &options)?;
    let turned = evaluation_inputs(&encoded, &turned_options)?;
    for step in ALWAYS {
        compare(checks, step, step, &plain, &options)?;
    }
    for step in ["decoded_rgb", "clip_u8_hf"] {
        let required = step == "clip_u8_hf" && case.value::<f64>("hf_vs_torchvision_clip_maxabs")? > 0.0;
        if required || case.expected.contains_key(step) {
            compare(checks, step, step, &plain, &options)?;
        }
    }
    if case.value::<u32>("exif_orientation")? != UPRIGHT {
        for step in ALWAYS {
            compare(checks, &format!("exif_{step}"), step, &turned, &turned_options)?;
        }
    }
    Ok(())
}

/// Compares the step `step` of the transforms with the expected tensor `name`.
fn compare(
    checks: &mut Checks,
    name: &str,
    step: &str,
    inputs: &EvaluationInputs,
    options: &EvaluationOptions,
) -> anyhow::Result<()> {
    let (actual, tolerance) = match step {
        "decoded_rgb" => (image(&inputs.decoded), LEVELS),
        "clip_u8" => (image(&inputs.clip), LEVELS),
        "clip_u8_hf" => (image(&inputs.clip_hf), LEVELS),
        "blip_u8" => (image(&inputs.blip), LEVELS),
        "clip_sample" => (sample(&inputs.clip_pixels, options.clip_size, CLIP_STRIDE), PIXELS),
        "blip_sample" => (sample(&inputs.blip_pixels, options.blip_size, BLIP_STRIDE), PIXELS),
        _ => bail!("{name} is no step of the transforms"),
    };
    checks.compare(name, &actual, tolerance)
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
