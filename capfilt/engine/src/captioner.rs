//! The captioner: BLIP with its tokenizer and preprocessor; captions by nucleus sampling with keyed draws.

use std::path::PathBuf;

use quern_corpus::{Keyed, Purpose};
use quern_models::blip::{Blip, BlipSlots};
use quern_models::generate::{SamplingOptions, SlotSampler, SlotShape};
use quern_models::precision::kind_of;
use quern_models::preprocessor::PreprocessorConfig;
use quern_models::source::fetch;
use quern_models::tokenize::Tokenizer;
use quern_recipes::CapFilt;
use tch::{Device, Kind, Tensor};

use crate::EngineError;

pub(crate) const ROLE: &str = "captioner";

/// BLIP with all that it needs to caption images.
pub struct Captioner {
    /// Where its files are on this machine.
    pub folder: PathBuf,
    blip: Blip,
    tokenizer: Tokenizer,
    /// What it wants done to an image.
    pub preprocessor: PreprocessorConfig,
    /// The prompt's ids, without BOS and end.
    prompt: Vec<i64>,
    sampling: SamplingOptions,
    captions_per_image: usize,
    batch_images: usize,
    kind: Kind,
}

impl Captioner {
    /// Fetches and loads the recipe's captioner.
    ///
    /// # Errors
    /// When a file can't be fetched, is missing or broken, or model and recipe don't fit together.
    pub fn load(config: &CapFilt, device: Device) -> Result<Self, EngineError> {
        let kind = kind_of(config.precision.captioner, device);
        let folder = fetch(&config.captioner).map_err(|source| EngineError::Source { role: ROLE, source })?;
        let model = |source| EngineError::Model { role: ROLE, source };
        let unfit = |reason| EngineError::Unfit { role: ROLE, folder: config.captioner.clone(), reason };
        let blip = Blip::load(&folder, device, kind).map_err(model)?;
        let preprocessor = PreprocessorConfig::read(&folder).map_err(model)?;
        let tokenizer = Tokenizer::load(&folder).map_err(|source| EngineError::Tokenizer { role: ROLE, source })?;
        check_image_size(&preprocessor, blip.config.vision_config.image_size).map_err(unfit)?;
        let longest = blip.longest();
        let sampling = sampling_options(config);
        if sampling.max_length > longest {
            let reason =
                format!("its longest text has {longest} tokens, but `sampling.max_length` is {}", sampling.max_length);
            return Err(unfit(reason));
        }
        let prompt = prompt_ids(&tokenizer, &config.prompt, longest as usize);
        if prompt.len() as i64 + 1 >= sampling.max_length {
            let (tokens, room) = (prompt.len(), sampling.max_length);
            return Err(unfit(format!(
                "the prompt has {tokens} tokens, which leaves no room in `sampling.max_length` {room}"
            )));
        }
        Ok(Captioner {
            folder,
            blip,
            tokenizer,
            preprocessor,
            prompt,
            sampling,
            captions_per_image: config.candidates as usize,
            batch_images: config.batch_images as usize,
            kind,
        })
    }

    /// `pixels [B, 3, S, S] -> [B, N, D]`: what captions attend to.
    pub fn encode(&self, pixels: &Tensor) -> Tensor {
        self.blip.encode_images(&pixels.to_kind(self.kind))
    }

    /// Captions of `images` images at most, as there is room: so many lanes as `batch_images` images have, in which those of
    /// twice as many images may be, since their captions end one after the other.
    pub fn sampler(&self, images: usize) -> SlotSampler<BlipSlots<'_>> {
        let (batch, copies) = (self.batch_images, self.captions_per_image);
        let shape = SlotShape { slots: images.min(2 * batch), lanes: images.min(batch) * copies, copies };
        self.blip.sampler(shape, &self.prompt, &self.sampling)
    }

    /// The draw for token `step` of a row's caption `copy`.
    pub fn draw(seed: u64, row: u64, copy: usize, step: usize) -> f64 {
        Keyed::new(seed, row, Purpose::CaptionToken, copy as u64).uniform(step as u64)
    }

    /// A caption without surrounding white space; it may be empty.
    pub fn text(&self, ids: &[i64]) -> String {
        self.tokenizer.decode(ids).trim().to_owned()
    }
}

/// The model must be fed with images of its own size.
pub(crate) fn check_image_size(preprocessor: &PreprocessorConfig, image_size: i64) -> Result<(), String> {
    let (width, height) = preprocessor.output_size();
    if i64::from(width) == image_size && i64::from(height) == image_size {
        return Ok(());
    }
    Err(format!(
        "its preprocessor makes images of {width}x{height}, but its `vision_config.image_size` is {image_size}"
    ))
}

fn sampling_options(config: &CapFilt) -> SamplingOptions {
    let sampling = &config.sampling;
    SamplingOptions {
        top_p: sampling.top_p,
        top_k: sampling.top_k.map(i64::from),
        temperature: sampling.temperature,
        min_length: i64::from(sampling.min_length),
        max_length: i64::from(sampling.max_length),
        repetition_penalty: sampling.repetition_penalty,
    }
}

/// The ids of `prompt` without the special tokens that the tokenizer puts around a text.
fn prompt_ids(tokenizer: &Tokenizer, prompt: &str, longest: usize) -> Vec<i64> {
    let around = tokenizer.encode("", longest);
    let whole = tokenizer.encode(prompt, longest);
    // BERT: [CLS] text [SEP]; whatever stands before and behind an empty text stands there around the prompt too.
    let before = around.iter().zip(&whole).take_while(|(a, b)| a == b).count().min(around.len().div_ceil(2));
    let behind = around.len() - before;
    whole[before..whole.len() - behind].to_vec()
}
