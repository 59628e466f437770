//! The ranker: CLIP with its tokenizer and preprocessor; the score of a caption is its cosine with the image.

use std::path::PathBuf;

use quern_models::clip::{Clip, cosine};
use quern_models::precision::kind_of;
use quern_models::preprocessor::PreprocessorConfig;
use quern_models::source::fetch;
use quern_models::tokenize::Tokenizer;
use quern_recipes::CapFilt;
use tch::{Device, Kind, Tensor};

use crate::EngineError;
use crate::captioner::check_image_size;

pub(crate) const ROLE: &str = "ranker";

/// CLIP with all that it needs to rank captions.
pub struct Ranker {
    /// Where its files are on this machine.
    pub folder: PathBuf,
    clip: Clip,
    tokenizer: Tokenizer,
    /// What it wants done to an image.
    pub preprocessor: PreprocessorConfig,
    device: Device,
    kind: Kind,
}

impl Ranker {
    /// Fetches and loads the recipe's ranker.
    ///
    /// # Errors
    /// When a file can't be fetched, is missing or broken.
    pub fn load(config: &CapFilt, device: Device) -> Result<Self, EngineError> {
        let kind = kind_of(config.precision.ranker, device);
        let folder = fetch(&config.ranker).map_err(|source| EngineError::Source { role: ROLE, source })?;
        let model = |source| EngineError::Model { role: ROLE, source };
        let clip = Clip::load(&folder, device, kind).map_err(model)?;
        let preprocessor = PreprocessorConfig::read(&folder).map_err(model)?;
        let tokenizer = Tokenizer::load(&folder).map_err(|source| EngineError::Tokenizer { role: ROLE, source })?;
        let unfit = |reason| EngineError::Unfit { role: ROLE, folder: config.ranker.clone(), reason };
        check_image_size(&preprocessor, clip.config.vision_config.image_size).map_err(unfit)?;
        Ok(Ranker { folder, clip, tokenizer, preprocessor, device, kind })
    }

    /// `pixels [B, 3, S, S] -> [B, E]`
    pub fn embed_images(&self, pixels: &Tensor) -> Tensor {
        self.clip.image_embeds(&pixels.to_kind(self.kind))
    }

    /// The cosine of an image, as `embed_images` gives it (`[1, E]`), with each text. Texts are cut to the model's longest.
    pub fn similarities(&self, image_embed: &Tensor, texts: &[impl AsRef<str>]) -> Vec<f32> {
        if texts.is_empty() {
            return Vec::new();
        }
        let longest = self.clip.config.text_config.max_position_embeddings as usize;
        let (ids, mask) = self.tokenizer.encode_batch(texts, longest);
        let text_embeds = self.clip.text_embeds(&ids.to_device(self.device), &mask.to_device(self.device));
        let scores = cosine(image_embed, &text_embeds).squeeze_dim(0).to_device(Device::Cpu);
        Vec::try_from(scores).expect("scores [T]")
    }
}
