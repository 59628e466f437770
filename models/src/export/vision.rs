//! The image tower inside a `Blip2*` model: EVA's, under transformers' names.

use std::path::Path;

use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::eva::EvaConfig;
use crate::patches::PatchEmbedding;
use crate::save::Outgoing;
use crate::tower::Tower;
use crate::vit::{FrozenConfig, FrozenVit, eva_tower};
use crate::weights::{Scope, Weights, WeightsError};

use super::inventory::Inventory;

/// LAVIS' biases of a block, of which transformers makes one with zeros for the keys.
const QUERY_BIAS: &str = "self_attn.q_bias";
const VALUE_BIAS: &str = "self_attn.v_bias";
const BIAS: &str = "self_attn.qkv.bias";
const POSITIONS: &str = "embeddings.position_embedding";

/// An image tower that is copied into an export.
pub struct VisionPart {
    config: EvaConfig,
    weights: Weights,
    /// Every tensor that the tower takes.
    names: Vec<String>,
    /// The position embedding, where it is for another image size than the stored one.
    positions: Option<Tensor>,
}

impl VisionPart {
    /// Opens the frozen encoder at `path`; `image_size`: the side of the images that it is shown, if not its own.
    ///
    /// # Errors
    /// When it is no EVA: transformers' `Blip2VisionModel` can't be any other tower.
    pub fn open(path: &Path, image_size: Option<i64>) -> Result<Self, WeightsError> {
        let (config, weights) = FrozenVit::open(path, Device::Cpu, Kind::Float)?;
        let FrozenConfig::Eva(mut config) = config else {
            let reason = "a CLIP tower has a LayerNorm before its first block, for which transformers' Blip2VisionModel has \
                          no place; export the blocks alone (--part qformer) or for LAVIS (--to lavis)";
            return Err(WeightsError::Config { location: path.display().to_string(), reason: reason.into() });
        };
        let (weights, shape) = eva_tower(weights, &config)?;
        let inventory = Inventory::of(&weights);
        Tower::load(&Scope::root(&inventory), &shape)?;
        let names = inventory.into_names();
        let positions = match image_size.filter(|side| *side != config.image_size) {
            None => None,
            Some(side) => {
                let grid = side / config.patch_size;
                config.image_size = side;
                let embeddings = PatchEmbedding::load(&weights.root().sub("embeddings"), &shape.patches)?;
                Some(embeddings.position(grid, grid))
            }
        };
        Ok(VisionPart { config, weights, names, positions })
    }

    /// `Blip2VisionConfig`.
    pub(super) fn config(&self) -> Value {
        let EvaConfig { hidden_size, intermediate_size, num_hidden_layers, num_attention_heads, .. } = self.config;
        json!({
            "model_type": "blip_2_vision_model",
            "hidden_size": hidden_size,
            "intermediate_size": intermediate_size,
            "num_hidden_layers": num_hidden_layers,
            "num_attention_heads": num_attention_heads,
            "image_size": self.config.image_size,
            "patch_size": self.config.patch_size,
            "hidden_act": self.config.hidden_act.name(),
            "layer_norm_eps": self.config.layer_norm_eps,
            "qkv_bias": self.config.qkv_bias,
        })
    }

    /// Its tensors, their names after `prefix`.
    pub(super) fn tensors(&self, prefix: &str) -> Vec<Outgoing<'_>> {
        self.names.iter().filter_map(|name| self.tensor(name, prefix)).collect()
    }

    fn tensor(&self, name: &str, prefix: &str) -> Option<Outgoing<'_>> {
        let stored = |name: &str| self.weights.outgoing(name).expect("the inventory lists what is there");
        if name.ends_with(VALUE_BIAS) {
            return None; // it goes with the query's
        }
        if let Some(block) = name.strip_suffix(QUERY_BIAS) {
            let (query, value) = (stored(name), stored(&format!("{block}{VALUE_BIAS}")));
            let shape = vec![3 * query.shape[0]];
            let joined = query.changed(shape, move |query| {
                let value = value.tensor();
                Tensor::cat(&[&query, &query.zeros_like(), &value], 0)
            });
            return Some(joined.called(format!("{prefix}{block}{BIAS}")));
        }
        match &self.positions {
            Some(positions) if name == POSITIONS => Some(Outgoing::held(format!("{prefix}{name}"), positions)),
            _ => Some(stored(name).called(format!("{prefix}{name}"))),
        }
    }
}
