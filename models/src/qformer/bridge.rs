//! The Q-Former of stage 2 (BLIP-2 §3.3): its query side and the projection to a frozen language model, as LAVIS'
//! `blip2_opt.py` and `blip2_t5.py` train them.
//!
//! LAVIS deletes the text side (`cls`, the text embeddings, the text's feed-forward layers) and keeps the embeddings'
//! LayerNorm, which the queries pass. Names and order of [`Bridge::parameters`] are those of its `named_parameters`.

use serde::{Deserialize, Serialize};
use tch::{Device, Tensor};

use crate::language::Family;
use crate::layers::{LayerNorm, Linear};
use crate::weights::{Scope, TensorSource, Weights, WeightsError, parameter_count};

use super::bert::{Bert, Sides};
use super::parameters::Recorder;
use super::{Dropout, Initialiser, Parameters, QFormer, QFormerConfig};

/// The projection's name in LAVIS' checkpoints: by the kind of language model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Projection {
    /// To an OPT.
    #[serde(rename = "opt_proj")]
    Opt,
    /// To a T5.
    #[serde(rename = "t5_proj")]
    T5,
}

impl Projection {
    /// `opt_proj`, `t5_proj`.
    pub fn name(self) -> &'static str {
        match self {
            Projection::Opt => "opt_proj",
            Projection::T5 => "t5_proj",
        }
    }
}

impl From<Family> for Projection {
    fn from(family: Family) -> Self {
        match family {
            Family::Opt => Projection::Opt,
            Family::T5 => Projection::T5,
        }
    }
}

/// Sizes of a [`Bridge`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BridgeConfig {
    /// Those of the Q-Former that it was cut from; those of its text side are of no account.
    pub qformer: QFormerConfig,
    /// Which projection.
    pub projection: Projection,
    /// Width `W` of the language model's embeddings.
    pub language_width: i64,
}

/// What is trained in stage 2. Shapes as in the module above; `W` is the language model's width.
pub struct Bridge {
    /// Sizes and probabilities.
    pub config: BridgeConfig,
    parameters: Parameters,
    query_tokens: Tensor,
    ln_vision: LayerNorm,
    bert: Bert,
    projection: Linear,
}

impl Bridge {
    /// Takes the weights of a stage-2 `checkpoint`, all of them and no others; floating tensors must arrive as
    /// `Kind::Float`.
    ///
    /// # Errors
    /// When a tensor is missing, surplus or misshapen.
    pub fn from_weights(checkpoint: &Weights, config: &BridgeConfig) -> Result<Self, WeightsError> {
        let bridge = Self::load(checkpoint, config)?;
        checkpoint.finish()?;
        Ok(bridge)
    }

    /// The query side of `stage1`, copied, before a projection that is drawn by `seed`.
    ///
    /// # Errors
    /// On sizes that no model can have.
    pub fn from_stage1(
        stage1: &QFormer,
        projection: Projection,
        language_width: i64,
        seed: u64,
    ) -> Result<Self, WeightsError> {
        let config = BridgeConfig { qformer: stage1.config.clone(), projection, language_width };
        let drawn = Initialiser::new(seed, &config.qformer, stage1.device());
        Self::load(&Grafted { stage1: stage1.parameters(), projection: projection.name(), drawn }, &config)
    }

    pub(super) fn load(source: &dyn TensorSource, config: &BridgeConfig) -> Result<Self, WeightsError> {
        let trainable = Recorder::new(source);
        let bridge = Self::from_scope(&Scope::root(&trainable), config)?;
        Ok(Bridge { parameters: trainable.into_parameters(), ..bridge })
    }

    /// Parameters of a bridge of `config`.
    pub fn parameter_count(config: &BridgeConfig) -> Result<i64, WeightsError> {
        parameter_count(|scope| Self::from_scope(scope, config))
    }

    /// Takes the tensors out of `root`; none is recorded as a parameter.
    fn from_scope(root: &Scope, config: &BridgeConfig) -> Result<Self, WeightsError> {
        let BridgeConfig { qformer, projection, language_width } = config;
        qformer.validate()?;
        let hidden = qformer.hidden_size;
        let query_tokens = root.tensor("query_tokens", &[1, qformer.num_query_token, hidden])?;
        let ln_vision = LayerNorm::load(&root.sub("ln_vision"), qformer.encoder_width, qformer.ln_vision_eps)?;
        let bert = Bert::load(&root.sub("Qformer.bert"), qformer, Sides::Queries)?;
        let projection = Linear::load(&root.sub(projection.name()), hidden, *language_width)?;
        let parameters = Parameters::default();
        Ok(Bridge { config: config.clone(), parameters, query_tokens, ln_vision, bert, projection })
    }

    /// The trainable tensors in LAVIS' names and order.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Where the weights are.
    pub fn device(&self) -> Device {
        self.query_tokens.device()
    }

    /// What a language model sees of images: frozen features `[B, N, V]` -> `[B, Q, W]`.
    pub fn visual_tokens(&self, features: &Tensor, dropout: &Dropout) -> Tensor {
        let images = self.bert.image_memory(&self.ln_vision.forward(features));
        self.projection.forward(&self.bert.queries(&self.query_tokens, &images, dropout).0)
    }
}

/// A stage-1 model's tensors, and an initialiser's for the projection, which stage 1 has not.
struct Grafted<'a> {
    stage1: &'a Parameters,
    projection: &'static str,
    drawn: Initialiser,
}

impl Grafted<'_> {
    fn find(&self, name: &str) -> Option<&Tensor> {
        self.stage1.iter().find(|(known, _)| *known == name).map(|(_, tensor)| tensor)
    }
}

impl TensorSource for Grafted<'_> {
    fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor, WeightsError> {
        match self.find(name) {
            Some(tensor) => Ok(tensor.shallow_clone()),
            None => {
                assert!(name.starts_with(self.projection), "{name} is in every stage-1 model of these sizes");
                self.drawn.tensor(name, shape)
            }
        }
    }

    fn has(&self, name: &str) -> bool {
        name.starts_with(self.projection) || self.find(name).is_some()
    }

    fn tied(&self, _name: &str, _tied_to: &str, _value: &Tensor) -> Result<(), WeightsError> {
        Ok(())
    }
}
