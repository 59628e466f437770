//! What stage 1 and its evaluation are built from: tokenizer, frozen image encoder, image transform, model sizes.

use std::path::Path;

use quern_corpus::images::{self, CropRounding, RgbImage};
use quern_corpus::{Keyed, Purpose};
use quern_models::caption_text::pre_caption;
use quern_models::preprocessor::{PreprocessorConfig, Resize};
use quern_models::qformer::{QFormer, QFormerConfig};
use quern_models::source::{self, ModelSource};
use quern_models::tokenize::{Padding, Tokenizer};
use quern_models::vit::FrozenVit;
use quern_recipes::{Augment, Recipe, Stage1};
use tch::{Device, Kind, Tensor, no_grad};

use crate::checkpoint::Identity;
use crate::error::TrainError;
use crate::stage1::Plan;

/// Words of a caption at most (LAVIS `BlipCaptionProcessor`).
const MAX_WORDS: usize = 50;
/// BLIP-2's token that begins a text which is to be generated.
const DECODER_START: &str = "[DEC]";
/// Epsilon of BERT's LayerNorms.
const LAYER_NORM_EPS: f64 = 1e-12;
/// Standard deviation of BERT's initial weights.
const INITIALIZER_RANGE: f64 = 0.02;

/// Everything but the weights that are trained.
pub struct Setup {
    /// Sizes of the Q-Former.
    pub config: QFormerConfig,
    /// How texts become ids.
    pub texts: TextEncoder,
    /// How images become pixels.
    pub images: ImageTransform,
    /// How pixels become features.
    pub encoder: FrozenEncoder,
}

impl Setup {
    /// Reads the models that the recipe's stage 1 names.
    ///
    /// # Errors
    /// When there is no stage 1 in it, or a model's files are not as they must be.
    pub fn load(recipe: &Recipe, device: Device) -> Result<Self, TrainError> {
        let stage1 = section(recipe)?;
        let texts = TextEncoder::load(stage1)?;
        let folder = source::fetch(&stage1.image_encoder)?;
        let encoder = FrozenEncoder::load(&folder, device)?;
        let images = ImageTransform::load(&folder, stage1.augment)?;
        let sizes = &stage1.qformer;
        let config = QFormerConfig {
            vocab_size: texts.tokenizer.vocab_size() as i64,
            hidden_size: sizes.hidden_size.into(),
            num_hidden_layers: sizes.num_hidden_layers.into(),
            num_attention_heads: sizes.num_attention_heads.into(),
            intermediate_size: sizes.intermediate_size.into(),
            max_position_embeddings: sizes.max_position_embeddings.into(),
            layer_norm_eps: LAYER_NORM_EPS,
            initializer_range: INITIALIZER_RANGE,
            hidden_dropout_prob: sizes.hidden_dropout_prob,
            attention_probs_dropout_prob: sizes.attention_probs_dropout_prob,
            cross_attention_freq: sizes.cross_attention_freq.into(),
            encoder_width: encoder.model.width(),
            num_query_token: sizes.num_query_token.into(),
            embed_dim: sizes.embed_dim.into(),
            pad_token_id: texts.tokenizer.pad_id(),
            ln_vision_eps: QFormerConfig::LN_VISION_EPS,
        };
        if stage1.max_text_length > sizes.max_position_embeddings {
            let (length, positions) = (stage1.max_text_length, sizes.max_position_embeddings);
            return Err(TrainError::Recipe(format!(
                "stage1.max_text_length is {length}, but the Q-Former has {positions} text positions \
                 (stage1.qformer.max_position_embeddings)"
            )));
        }
        Ok(Setup { config, texts, images, encoder })
    }

    /// The model before its first step: the same for the same recipe, everywhere.
    ///
    /// # Errors
    /// On sizes that no model can have.
    pub fn initial_model(&self, seed: u64, device: Device) -> Result<QFormer, TrainError> {
        Ok(QFormer::init(&self.config, Keyed::new(seed, 0, Purpose::Init, 0).bits(0), device)?)
    }

    /// What the loop needs of the recipe.
    ///
    /// # Errors
    /// When the batch is too small for negatives, or for the ranks.
    pub fn plan(&self, recipe: &Recipe, ranks: usize) -> Result<Plan, TrainError> {
        let stage1 = section(recipe)?;
        if (stage1.batch as usize) < ranks.max(2) {
            let batch = stage1.batch;
            return Err(TrainError::Recipe(format!(
                "stage1.batch is {batch}, but {ranks} ranks need a row each, and negatives need at least two"
            )));
        }
        Ok(Plan {
            semantics: stage1.semantics.into(),
            steps: stage1.steps,
            checkpoint_every: stage1.checkpoint_every.max(1),
            optimiser: stage1.optimiser,
            identity: Identity {
                seed: recipe.seed,
                batch: stage1.batch,
                recipe_hash: recipe.hash(),
                decoder_start: self.texts.decoder_start,
            },
        })
    }
}

/// The recipe's stage 1.
pub(crate) fn section(recipe: &Recipe) -> Result<&Stage1, TrainError> {
    recipe.stage1.as_ref().ok_or_else(|| TrainError::Recipe("there is no `stage1` section to train by".into()))
}

/// The text tokenizer with `[DEC]`, and the length that every text is padded to.
pub struct TextEncoder {
    tokenizer: Tokenizer,
    /// Id of `[DEC]`.
    pub decoder_start: i64,
    max_length: usize,
}

impl TextEncoder {
    fn load(stage1: &Stage1) -> Result<Self, TrainError> {
        let mut tokenizer = Tokenizer::load(&ModelSource::parse(&stage1.tokenizer)?.fetch_settings()?)?;
        let decoder_start = tokenizer.add_special_token(DECODER_START);
        Ok(TextEncoder { tokenizer, decoder_start, max_length: stage1.max_text_length as usize })
    }

    /// Cleaned-up texts as ids and mask `[B, L]`; `L` is the same in every batch, so that keyed dropout doesn't depend
    /// on which texts are together.
    pub fn encode(&self, texts: &[impl AsRef<str>]) -> (Tensor, Tensor) {
        let clean: Vec<String> = texts.iter().map(|text| pre_caption(text.as_ref(), MAX_WORDS)).collect();
        self.tokenizer.encode_padded(&clean, self.max_length, Padding::MaxLength)
    }
}

/// What is done to images before the encoder.
pub struct ImageTransform {
    config: PreprocessorConfig,
    augment: Augment,
}

impl ImageTransform {
    fn load(folder: &Path, augment: Augment) -> Result<Self, TrainError> {
        Ok(ImageTransform { config: PreprocessorConfig::read(folder)?, augment })
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

    /// Pixels `[B, 3, H, W]` of images that lie one after the other.
    pub fn batch(&self, pixels: &[f32]) -> Tensor {
        let (width, height) = self.config.output_size();
        Tensor::from_slice(pixels).view([-1, 3, i64::from(height), i64::from(width)])
    }

    /// The training transform with these draws; where the recipe augments nothing, the evaluation transform.
    pub fn train(&self, image: &RgbImage, draws: &Keyed, out: &mut [f32]) {
        if self.is_constant() {
            return self.evaluate(image, out);
        }
        let side = self.config.output_size().0;
        self.normalise(&images::train_crop(image, side, &self.augment, draws), out);
    }

    /// The evaluation transform.
    pub fn evaluate(&self, image: &RgbImage, out: &mut [f32]) {
        let prepared = match self.config.resize {
            Resize::ShortestSide { size, crop } => images::clip_eval(image, size, crop, CropRounding::HuggingFace),
            Resize::Squash { width, height } => images::blip_eval(image, width, height),
        };
        self.normalise(&prepared, out);
    }

    fn normalise(&self, image: &RgbImage, out: &mut [f32]) {
        images::normalise_into(image, self.config.mean, self.config.std, out);
    }
}

/// The frozen image encoder: half precision on a GPU, full on a CPU.
pub struct FrozenEncoder {
    model: FrozenVit,
    device: Device,
    kind: Kind,
}

impl FrozenEncoder {
    fn load(folder: &Path, device: Device) -> Result<Self, TrainError> {
        let kind = if device.is_cuda() { Kind::Half } else { Kind::Float };
        Ok(FrozenEncoder { model: FrozenVit::load(folder, device, kind)?, device, kind })
    }

    /// `pixels [B, 3, H, W] -> [B, N, V]`, on the encoder's device.
    pub fn features(&self, pixels: &Tensor) -> Tensor {
        no_grad(|| self.model.features(&pixels.to_device(self.device).to_kind(self.kind)))
    }
}
