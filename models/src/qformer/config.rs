//! The Q-Former's sizes, in the names of BERT's and LAVIS' configs.

use serde::{Deserialize, Serialize};

use crate::layers::Activation;
use crate::weights::WeightsError;

/// Sizes of a Q-Former.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
pub struct QFormerConfig {
    /// Text tokens, `[DEC]` included.
    pub vocab_size: i64,
    /// Width `D`.
    pub hidden_size: i64,
    /// Transformer blocks.
    pub num_hidden_layers: i64,
    /// Attention heads.
    pub num_attention_heads: i64,
    /// Width of the feed-forward layers.
    pub intermediate_size: i64,
    /// Text positions.
    pub max_position_embeddings: i64,
    /// Epsilon of BERT's LayerNorms.
    #[serde(default = "default_layer_norm_eps")]
    pub layer_norm_eps: f64,
    /// Standard deviation of initial weights.
    #[serde(default = "default_initializer_range")]
    pub initializer_range: f64,
    /// Dropout on hidden states.
    pub hidden_dropout_prob: f64,
    /// Dropout on attention probabilities.
    pub attention_probs_dropout_prob: f64,
    /// A cross-attention in every n-th block, from the first.
    pub cross_attention_freq: i64,
    /// Width `V` of the image features.
    pub encoder_width: i64,
    /// Learned queries `Q`.
    pub num_query_token: i64,
    /// Width `E` of the contrastive projections.
    pub embed_dim: i64,
    /// Id of the padding token.
    #[serde(default)]
    pub pad_token_id: i64,
    /// Epsilon of `ln_vision`: PyTorch's default in LAVIS, the image encoder's in Hugging Face's models.
    #[serde(default = "default_ln_vision_eps")]
    pub ln_vision_eps: f64,
}

impl QFormerConfig {
    /// BERT's activation; the Q-Former knows no other.
    pub(super) const ACTIVATION: Activation = Activation::Gelu;
    /// Epsilon of `ln_vision` in LAVIS: PyTorch's default.
    pub const LN_VISION_EPS: f64 = 1e-5;

    /// Whether block `layer` looks at the image.
    pub fn has_cross_attention(&self, layer: i64) -> bool {
        layer % self.cross_attention_freq == 0
    }

    /// Errs on sizes that no model can have.
    pub fn validate(&self) -> Result<(), WeightsError> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("cross_attention_freq", self.cross_attention_freq),
            ("encoder_width", self.encoder_width),
            ("num_query_token", self.num_query_token),
            ("embed_dim", self.embed_dim),
        ];
        if let Some((name, size)) = sizes.into_iter().find(|(_, size)| *size < 1) {
            return Err(config_error(format!("{name} is {size}, but must be at least 1")));
        }
        if self.hidden_size % self.num_attention_heads != 0 {
            let (width, heads) = (self.hidden_size, self.num_attention_heads);
            return Err(config_error(format!("hidden_size {width} is not a multiple of num_attention_heads {heads}")));
        }
        let probabilities = [
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            ("attention_probs_dropout_prob", self.attention_probs_dropout_prob),
        ];
        match probabilities.into_iter().find(|(_, p)| !(0.0..1.0).contains(p)) {
            Some((name, p)) => Err(config_error(format!("{name} is {p}, but must be at least 0 and below 1"))),
            None => Ok(()),
        }
    }
}

fn config_error(reason: String) -> WeightsError {
    WeightsError::Config { location: "Q-Former config".into(), reason }
}

fn default_layer_norm_eps() -> f64 {
    1e-12
}

fn default_ln_vision_eps() -> f64 {
    QFormerConfig::LN_VISION_EPS
}

fn default_initializer_range() -> f64 {
    0.02
}
