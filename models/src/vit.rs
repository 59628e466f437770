//! The frozen image encoder: CLIP's or EVA-CLIP's ViT without its last block (BLIP-2 section 3.1).
//!
//! Its features are all tokens of the penultimate layer, without a layer norm after it. Reproduces LAVIS `clip_vit.py`
//! and `eva_vit.py`. What it reads, and how the two are told apart:
//! - a folder with Hugging Face's `config.json`: its `model_type` says CLIP (`clip`, `clip_vision_model`) or EVA (`blip-2`,
//!   `blip_2_vision_model`);
//! - a folder with open_clip's `open_clip_config.json`: CLIP;
//! - LAVIS' and OpenAI's bare files, or a folder with one of them: the tensors' names say which, and their shapes which
//!   of the public models (no config comes with them).

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tch::{Device, Kind, Tensor};

use crate::clip::{ClipFolder, ClipLayout, ClipVisionConfig};
use crate::config::{CONFIG_FILE, Role, config_error, read_config};
use crate::eva::{EvaConfig, EvaLayout};
use crate::pre_norm::QkvTensors;
use crate::tower::{Tower, TowerShape};
use crate::weights::{Weights, WeightsError};

/// What the Q-Former looks through.
const IMAGE_ENCODER: Role = Role {
    name: "image encoder",
    model_types: &["clip", "clip_vision_model", "blip-2", "blip_2_vision_model"],
    architectures: &[],
};

/// What a CLIP checkpoint holds beside the blocks that are used, in Hugging Face's names.
const OTHER_CLIP_PARTS: [&str; 5] =
    ["text_model.", "text_projection.", "visual_projection.", "logit_scale", "vision_model.post_layernorm."];

/// LAVIS' own files, by name.
const LAVIS_FILES: [&str; 2] = ["eva_vit_g.pth", "clip_vit_L.pth"];

/// LAVIS' interpolation of CLIP's positions for other image sizes.
const CLIP_ALIGN_CORNERS: bool = true;

/// The encoder.
pub struct FrozenVit {
    tower: Tower,
    config: FrozenConfig,
}

/// The config of an image tower, by family.
#[derive(Debug, Clone, PartialEq)]
pub enum FrozenConfig {
    /// All blocks are counted, of which the last is left out.
    Clip(ClipVisionConfig),
    /// The blocks that are used are counted.
    Eva(EvaConfig),
}

impl FrozenVit {
    /// Reads config and weights at `path`, a folder or a file in one of this module's layouts.
    pub fn load(path: &Path, device: Device, kind: Kind) -> Result<Self, WeightsError> {
        let (config, weights) = FrozenVit::open(path, device, kind)?;
        FrozenVit::from_weights(weights, config)
    }

    /// The config of the encoder at `path`, and its checkpoint as [`from_weights`](Self::from_weights) takes it.
    pub(crate) fn open(path: &Path, device: Device, kind: Kind) -> Result<(FrozenConfig, Weights), WeightsError> {
        let found = Found::at(path)?;
        let weights = Weights::open(&found.weights, device, kind)?;
        let config = match found.config {
            Some(config) => config,
            None => FrozenConfig::of_public(&weights, path)?,
        };
        Ok((config, weights))
    }

    /// Takes the encoder out of `weights`, in any layout of the config's family. The last block may be missing and
    /// whatever is not the encoder is left alone, but any other tensor is an error.
    pub fn from_weights(weights: Weights, config: FrozenConfig) -> Result<Self, WeightsError> {
        let (weights, shape) = match &config {
            FrozenConfig::Clip(config) => clip_tower(weights, config)?,
            FrozenConfig::Eva(config) => eva_tower(weights, config)?,
        };
        let tower = Tower::load(&weights.root(), &shape)?;
        weights.finish()?;
        Ok(FrozenVit { tower, config })
    }

    /// `pixels [B, 3, H, W] -> [B, 1 + H/patch · W/patch, width]`; positions are interpolated (bicubic; corners
    /// aligned for CLIP, not for EVA, as LAVIS does) where the size is not the native one.
    pub fn features(&self, pixels: &Tensor) -> Tensor {
        tch::no_grad(|| self.tower.forward(pixels))
    }

    /// The position embedding for images of `side`: `[1 + patches, width]`.
    pub fn position(&self, side: i64) -> Tensor {
        let grid = side / self.config.shape().patches.patch_size;
        self.tower.embeddings().position(grid, grid).squeeze_dim(0)
    }

    /// Patches, positions and blocks one by one.
    pub fn tower(&self) -> &Tower {
        &self.tower
    }

    /// Of a token.
    pub fn width(&self) -> i64 {
        self.config.shape().patches.width
    }

    /// Side of the images that it was trained on.
    pub fn image_size(&self) -> i64 {
        self.config.shape().patches.image_size
    }
}

fn clip_tower(weights: Weights, config: &ClipVisionConfig) -> Result<(Weights, TowerShape), WeightsError> {
    let depth = config.penultimate();
    let layout = ClipLayout::of(&weights);
    let last = format!("vision_model.encoder.layers.{depth}.");
    let weights = weights.rename(|name| {
        let name = layout.canonical(name);
        let dropped = name.starts_with(&last) || OTHER_CLIP_PARTS.iter().any(|part| name.starts_with(part));
        (!dropped).then(|| name.strip_prefix("vision_model.").map(str::to_owned).unwrap_or(name))
    })?;
    Ok((weights, config.tower(depth, CLIP_ALIGN_CORNERS, layout.qkv())))
}

/// The tower's tensors under Hugging Face's names, and its shape as they store it.
pub(crate) fn eva_tower(weights: Weights, config: &EvaConfig) -> Result<(Weights, TowerShape), WeightsError> {
    let layout = EvaLayout::of(&weights);
    let weights = weights.rename(|name| config.canonical(name, layout))?;
    Ok((weights, config.tower(layout)))
}

impl FrozenConfig {
    /// The encoder's sizes, as Hugging Face stores it.
    pub fn shape(&self) -> TowerShape {
        match self {
            FrozenConfig::Clip(config) => config.tower(config.penultimate(), CLIP_ALIGN_CORNERS, QkvTensors::Apart),
            FrozenConfig::Eva(config) => config.tower(EvaLayout::HuggingFace),
        }
    }

    /// The config of the public model that `weights`, found at `path` without any config, are of.
    fn of_public(weights: &Weights, path: &Path) -> Result<Self, WeightsError> {
        let shape = |name: &str| weights.shape(name).or_else(|| weights.shape(&format!("visual.{name}")));
        let side = |positions: Option<Vec<i64>>, patch: i64| {
            let count = positions.and_then(|shape| shape.iter().rev().nth(1).copied()).unwrap_or_default();
            ((count - 1).max(0) as f64).sqrt().round() as i64 * patch
        };
        if let Some(class) = shape("cls_token") {
            let public = EvaConfig::default();
            if class.last() == Some(&public.hidden_size) {
                let image_size = side(shape("pos_embed"), public.patch_size);
                return Ok(FrozenConfig::Eva(EvaConfig { image_size, ..public }));
            }
        }
        if let Some([width, _, patch, _]) = shape("conv1.weight").as_deref()
            && let Some(public) = ClipVisionConfig::public(*width, *patch)
        {
            let image_size = side(shape("positional_embedding"), *patch);
            return Ok(FrozenConfig::Clip(ClipVisionConfig { image_size, ..public }));
        }
        let reason = "no config.json, and tensors of neither EVA-CLIP ViT-g/14 (LAVIS' names) nor CLIP ViT-B/32, B/16 or \
                      L/14 (OpenAI's names); put the weights into a folder with a config.json in Hugging Face's layout";
        Err(config_error(path, reason))
    }
}

/// What lies at a path.
struct Found {
    config: Option<FrozenConfig>,
    weights: PathBuf,
}

/// A config whose image tower may be a section of it.
#[derive(Deserialize)]
struct Sections<T> {
    vision_config: Option<T>,
}

impl Found {
    fn at(path: &Path) -> Result<Self, WeightsError> {
        let file = path.join(CONFIG_FILE);
        if ClipFolder::is_open_clip(path) {
            let ClipFolder { config, weights } = ClipFolder::read(path, &IMAGE_ENCODER)?;
            return Ok(Found { config: Some(FrozenConfig::Clip(config.vision_config)), weights });
        }
        if !file.is_file() {
            let lavis = LAVIS_FILES.map(|name| path.join(name)).into_iter().find(|file| file.is_file());
            return Ok(Found { config: None, weights: lavis.unwrap_or_else(|| path.to_owned()) });
        }
        let model_type = IMAGE_ENCODER.check(path)?;
        let config = match model_type.as_str() {
            "clip" | "clip_vision_model" => FrozenConfig::Clip(vision_section(&file)?),
            _ => FrozenConfig::Eva(vision_section(&file)?),
        };
        config.shape().check(&file, "vision_config")?;
        Ok(Found { config: Some(config), weights: path.to_owned() })
    }
}

fn vision_section<T: DeserializeOwned>(path: &Path) -> Result<T, WeightsError> {
    match read_config::<Sections<T>>(path)?.vision_config {
        Some(section) => Ok(section),
        None => read_config(path),
    }
}

#[cfg(test)]
mod tests;
