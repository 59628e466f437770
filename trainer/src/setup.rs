//! What stage 1 and its evaluation are built from: tokenizer, frozen image encoder, image transform, model sizes.

use quern_corpus::{Keyed, Purpose};
use quern_models::caption_text::pre_caption;
use quern_models::generate::Ends;
use quern_models::qformer::foreign::{Absent, Checkpoint};
use quern_models::qformer::{QFormer, QFormerConfig};
use quern_models::source::{self, ModelSource};
use quern_models::tokenize::{Padding, Tokenizer};
use quern_recipes::{Recipe, Stage1 as Section};
use tch::{Device, Tensor};

use crate::checkpoint::{Identity, Saved, Trained};
use crate::error::TrainError;
use crate::loader::{Caption, Captions, Feed};
use crate::stage1::Stage1;
use crate::training::Plan;
use crate::vision::{FrozenEncoder, ImageTransform};

/// Words of a caption at most (LAVIS `BlipCaptionProcessor`).
pub(crate) const MAX_WORDS: usize = 50;
/// BLIP-2's token that begins a text which is to be generated.
pub(crate) const DECODER_START: &str = "[DEC]";
/// Epsilon of BERT's LayerNorms.
const LAYER_NORM_EPS: f64 = 1e-12;
/// BERT-base-uncased's, and `[DEC]`.
const BERT_TOKENS: i64 = 30_523;
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
        let encoder = FrozenEncoder::load(&folder, stage1.precision.image_encoder, device)?;
        let images = ImageTransform::load(&folder, stage1.image_size, stage1.augment)?;
        let sizes = &stage1.qformer;
        let config = QFormerConfig {
            vocab_size: texts.tokenizer.vocab_size() as i64,
            pad_token_id: texts.tokenizer.pad_id(),
            ..qformer_config(sizes, encoder.width())
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

    /// The model before its first step, from the recipe's BERT or Q-Former or from nothing: the same for the same recipe,
    /// everywhere.
    ///
    /// # Errors
    /// On sizes that no model can have, or that what it starts from has not.
    pub fn initial_model(&self, recipe: &Recipe, device: Device) -> Result<QFormer, TrainError> {
        let seed = initial_seed(recipe);
        Ok(match &section(recipe)?.init {
            None => QFormer::init(&self.config, seed, device)?,
            Some(init) => {
                let path = source::fetch(init)?;
                match Checkpoint::is_other_model(&path) {
                    true => QFormer::from_bert_folder(&path, &self.texts.tokenizer, &self.config, seed, device)?,
                    false => self.foreign_model(Checkpoint::open(&path, device)?, Absent::Refused)?,
                }
            }
        })
    }

    /// The model of a checkpoint of quern's.
    ///
    /// # Errors
    /// When it is damaged, of another stage, or of another image encoder or tokenizer than the recipe's.
    pub async fn trained_model(&self, saved: &Saved, device: Device) -> Result<QFormer, TrainError> {
        let model = saved.qformer(device).await?;
        let (found, own) = (&model.config, &self.config);
        match (found.encoder_width, found.vocab_size) == (own.encoder_width, own.vocab_size) {
            true => Ok(model),
            false => {
                let reason = "it was trained with another image encoder or tokenizer than the recipe names";
                Err(saved.unfit(reason.into()))
            }
        }
    }

    /// The model of a checkpoint that is not quern's.
    ///
    /// # Errors
    /// When it is of other sizes than the recipe's, or lacks what `absent` insists on.
    pub fn foreign_model(&self, checkpoint: Checkpoint, absent: Absent) -> Result<QFormer, TrainError> {
        Ok(checkpoint.stage1(&self.config, absent)?)
    }

    /// Stage 1 as the loop trains it, from `model` on.
    ///
    /// # Errors
    /// When there is no stage 1 in the recipe.
    pub fn stage(&self, recipe: &Recipe, model: QFormer) -> Result<Stage1, TrainError> {
        let semantics = section(recipe)?.semantics.into();
        Ok(Stage1 { model, semantics, seed: recipe.seed, decoder_start: self.texts.decoder_start })
    }

    /// What batches of `batch` rows are made with.
    pub fn feed(self, batch: u32) -> Feed<TextEncoder> {
        Feed { texts: self.texts, images: self.images, encoder: self.encoder, batch }
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
        let trained = Trained::QFormer { config: self.config.clone(), decoder_start: self.texts.decoder_start };
        Ok(Plan {
            steps: stage1.steps,
            checkpoint_every: stage1.checkpoint_every,
            optimiser: stage1.optimiser,
            identity: Identity { seed: recipe.seed, batch: stage1.batch, recipe_hash: recipe.hash(), trained },
        })
    }
}

/// The Q-Former of a recipe's sizes, before features of width `encoder_width`; its vocabulary is BERT's.
pub(crate) fn qformer_config(sizes: &quern_recipes::QFormer, encoder_width: i64) -> QFormerConfig {
    QFormerConfig {
        vocab_size: BERT_TOKENS,
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
        encoder_width,
        num_query_token: sizes.num_query_token.into(),
        embed_dim: sizes.embed_dim.into(),
        pad_token_id: 0,
        ln_vision_eps: QFormerConfig::LN_VISION_EPS,
    }
}

/// The seed of a run's initial weights.
pub(crate) fn initial_seed(recipe: &Recipe) -> u64 {
    Keyed::new(recipe.seed, 0, Purpose::Init, 0).bits(0)
}

/// The recipe's stage 1.
pub(crate) fn section(recipe: &Recipe) -> Result<&Section, TrainError> {
    recipe.stage1.as_ref().ok_or_else(|| TrainError::Recipe("there is no `stage1` section to train by".into()))
}

/// The text tokenizer with `[DEC]`, and the length that every text is padded to.
pub struct TextEncoder {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// Id of `[DEC]`.
    pub decoder_start: i64,
    max_length: usize,
}

impl TextEncoder {
    fn load(stage1: &Section) -> Result<Self, TrainError> {
        let mut tokenizer = Tokenizer::load(&ModelSource::parse(&stage1.tokenizer)?.fetch_settings()?)?;
        let decoder_start = tokenizer.add_special_token(DECODER_START);
        Ok(TextEncoder { tokenizer, decoder_start, max_length: stage1.max_text_length as usize })
    }

    /// What ends a text that the Q-Former writes, and what fills it up.
    pub fn ends(&self) -> Ends {
        // BERT's empty text is [CLS] [SEP].
        let eos = *self.tokenizer.encode("", usize::MAX).last().expect("special tokens stand around every text");
        Ends { eos, pad: self.tokenizer.pad_id() }
    }

    /// Cleaned-up texts as ids and mask `[B, L]`; `L` is the same in every batch, so that keyed dropout doesn't depend
    /// on which texts are together.
    pub fn encode(&self, texts: &[impl AsRef<str>]) -> (Tensor, Tensor) {
        let clean: Vec<String> = texts.iter().map(|text| pre_caption(text.as_ref(), MAX_WORDS)).collect();
        self.tokenizer.encode_padded(&clean, self.max_length, Padding::MaxLength)
    }
}

/// Ids and mask of stage 1's texts, `[B, L]` each.
pub struct Encoded {
    /// Token ids, `[CLS]` first.
    pub ids: Tensor,
    /// 1 for a token, 0 for padding.
    pub mask: Tensor,
}

impl Captions for TextEncoder {
    type Encoded = Encoded;

    fn encode(&self, captions: &[Caption]) -> Encoded {
        let texts: Vec<&str> = captions.iter().map(|caption| caption.text).collect();
        let (ids, mask) = TextEncoder::encode(self, &texts);
        Encoded { ids, mask }
    }
}
