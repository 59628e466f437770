//! The frozen side of an image: what is done to it before the encoder, and the encoder.

use std::path::Path;

use quern_corpus::Keyed;
use quern_corpus::images::{self, CropRounding, Evaluation, Geometry, RgbImage};
use quern_models::memory::filled;
use quern_models::precision::kind_of;
use quern_models::preprocessor::{PreprocessorConfig, Resize};
use quern_models::vit::FrozenVit;
use quern_recipes::{Augment, Precision};
use tch::{Device, Kind, Tensor, no_grad};

use crate::error::TrainError;

/// What is done to images before the encoder.
pub struct ImageTransform {
    config: PreprocessorConfig,
    augment: Augment,
}

impl ImageTransform {
    /// The transform of the encoder in `folder`, for images of `side` pixels if that is given.
    ///
    /// # Errors
    /// When the folder has no preprocessor that is known.
    pub fn load(folder: &Path, side: Option<u32>, augment: Augment) -> Result<Self, TrainError> {
        let mut config = PreprocessorConfig::read(folder)?;
        if let Some(side) = side {
            config.resize = match config.resize {
                Resize::ShortestSide { .. } => Resize::ShortestSide { size: side, crop: side },
                Resize::Squash { .. } => Resize::Squash { width: side, height: side },
            };
        }
        Ok(ImageTransform { config, augment })
    }

    /// Whether the recipe leaves training images as they are: no crop, no mirroring.
    pub fn is_constant(&self) -> bool {
        self.augment.min_scale >= 1.0 && !self.augment.flip
    }

    /// Numbers per image: `3 · side · side`.
    pub fn numbers(&self) -> usize {
        let (width, height) = self.config.output_size();
        3 * (width * height) as usize
    }

    /// Pixels `[images, 3, H, W]` as `fill` writes them, image after image, into memory that holds anything; and what it says.
    pub fn filled<T>(&self, images: usize, fill: impl FnOnce(&mut [f32]) -> T) -> (Tensor, T) {
        let (width, height) = self.config.output_size();
        filled(&[images as i64, 3, i64::from(height), i64::from(width)], fill)
    }

    /// The training transform with these draws; where the recipe augments nothing, the evaluation transform.
    pub fn train(&self, image: &RgbImage, draws: &Keyed, out: &mut [f32]) {
        if self.is_constant() {
            return self.evaluate(image, out);
        }
        let cropped = images::train_crop(image, self.config.output_size().0, &self.augment, draws);
        images::normalise_into(&cropped, self.config.mean, self.config.std, out);
    }

    /// The evaluation transform.
    pub fn evaluate(&self, image: &RgbImage, out: &mut [f32]) {
        let geometry = match self.config.resize {
            Resize::ShortestSide { size, crop } => {
                Geometry::ShortestSide { size, crop, rounding: CropRounding::HuggingFace }
            }
            Resize::Squash { width, height } => Geometry::Squash { width, height },
        };
        let PreprocessorConfig { mean, std, .. } = self.config;
        out.copy_from_slice(&Evaluation { geometry, mean, std }.apply(image).1);
    }
}

/// The frozen image encoder.
pub struct FrozenEncoder {
    model: FrozenVit,
    device: Device,
    kind: Kind,
}

impl FrozenEncoder {
    /// The encoder in `folder`.
    ///
    /// # Errors
    /// When its files are not as they must be.
    pub fn load(folder: &Path, precision: Precision, device: Device) -> Result<Self, TrainError> {
        let kind = kind_of(precision, device);
        Ok(FrozenEncoder { model: FrozenVit::load(folder, device, kind)?, device, kind })
    }

    /// Width of its features.
    pub fn width(&self) -> i64 {
        self.model.width()
    }

    /// `pixels [B, 3, H, W] -> [B, N, V]`, on the encoder's device.
    pub fn features(&self, pixels: &Tensor) -> Tensor {
        no_grad(|| self.model.features(&pixels.to_device(self.device).to_kind(self.kind)))
    }
}
