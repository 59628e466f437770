//! The ranker: CLIP with its tokenizer and preprocessor; the score of a caption is its cosine with the image.

use std::path::PathBuf;

use quern_models::clip::{Clip, unit};
use quern_models::precision::kind_of;
use quern_models::preprocessor::PreprocessorConfig;
use quern_models::source::fetch;
use quern_models::tokenize::Tokenizer;
use quern_recipes::CapFilt;
use tch::{Device, Kind, Tensor};

use crate::EngineError;
use crate::captioner::check_image_size;

pub(crate) const ROLE: &str = "ranker";

/// Texts that are embedded together at most.
const TEXTS: usize = 64;

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

    /// The cosine of each text with its image, a row of `image_embeds [B, E]`. Texts are cut to the model's longest, and
    /// embedded with others of about their length.
    pub fn similarities(&self, image_embeds: &Tensor, texts: &[(usize, &str)]) -> Vec<f32> {
        let longest = self.clip.config.text_config.max_position_embeddings as usize;
        let images = unit(image_embeds);
        let ids: Vec<Vec<i64>> = texts.iter().map(|(_, text)| self.tokenizer.encode(text, longest)).collect();
        let mut by_length: Vec<usize> = (0..texts.len()).collect();
        by_length.sort_by_key(|&at| ids[at].len());
        let mut scores = vec![0.0; texts.len()];
        for batch in by_length.chunks(TEXTS) {
            let rows: Vec<&[i64]> = batch.iter().map(|&at| &ids[at][..]).collect();
            let (ids, mask) = self.tokenizer.pad(&rows);
            let embeds = self.clip.text_embeds(&ids.to_device(self.device), &mask.to_device(self.device));
            let image_of: Vec<i64> = batch.iter().map(|&at| texts[at].0 as i64).collect();
            let images = images.index_select(0, &Tensor::from_slice(&image_of).to_device(self.device));
            let cosines = (images * unit(&embeds)).sum_dim_intlist(-1, false, None).to_device(Device::Cpu);
            let cosines: Vec<f32> = Vec::try_from(cosines).expect("scores [T]");
            batch.iter().zip(cosines).for_each(|(&at, cosine)| scores[at] = cosine);
        }
        scores
    }
}
