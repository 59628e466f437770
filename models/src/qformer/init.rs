//! Initial weights: a [`TensorSource`] that draws each tensor by (seed, name, index).
//!
//! As BERT (`_init_weights`) and LAVIS do it: normal with standard deviation `initializer_range`, biases 0, LayerNorms
//! 1 and 0, the padding token's embedding 0, the temperature 0.07; the heads and projections that LAVIS leaves to
//! `nn.Linear` are uniform in ±1/√inputs.

use std::f64::consts::TAU;

use tch::{Device, Kind, Tensor};

use crate::weights::{TensorSource, WeightsError};

use super::QFormerConfig;
use super::dropout::{GOLDEN, mix};

const INITIAL_TEMPERATURE: f64 = 0.07;
const HEADS: [&str; 5] = ["vision_proj.", "text_proj.", "itm_head.", "opt_proj.", "t5_proj."];
const WORD_EMBEDDINGS: &str = "word_embeddings.weight";

/// Draws weights; the same for the same seed, whatever the machine.
pub struct Initialiser {
    seed: u64,
    std: f64,
    head_inputs: i64,
    pad_token: i64,
    device: Device,
}

impl Initialiser {
    /// Draws for a model of `config`, on `device`.
    pub fn new(seed: u64, config: &QFormerConfig, device: Device) -> Self {
        Initialiser {
            seed,
            std: config.initializer_range,
            head_inputs: config.hidden_size,
            pad_token: config.pad_token_id,
            device,
        }
    }

    fn draw(&self, name: &str, shape: &[i64]) -> Tensor {
        let floats = (Kind::Float, Device::Cpu);
        if HEADS.iter().any(|head| name.starts_with(head)) {
            let bound = 1.0 / (self.head_inputs as f64).sqrt();
            return self.fill(name, shape, |uniform, _| (2.0 * uniform - 1.0) * bound);
        }
        match name {
            "temp" => Tensor::full(shape, INITIAL_TEMPERATURE, floats),
            _ if name.ends_with("bias") => Tensor::zeros(shape, floats),
            _ if name.ends_with("LayerNorm.weight") || name == "ln_vision.weight" => Tensor::ones(shape, floats),
            _ => {
                let std = self.std;
                let normal = |u: f64, v: f64| (-2.0 * (1.0 - u).ln()).sqrt() * (TAU * v).cos() * std;
                let drawn = self.fill(name, shape, normal);
                if name.ends_with(WORD_EMBEDDINGS) && self.pad_token < shape[0] {
                    let _ = drawn.get(self.pad_token).zero_();
                }
                drawn
            }
        }
    }

    /// Each element from its own two uniforms in [0, 1).
    fn fill(&self, name: &str, shape: &[i64], element: impl Fn(f64, f64) -> f64) -> Tensor {
        let stream = name.bytes().fold(mix(self.seed), |state, byte| mix(state ^ u64::from(byte)));
        let uniform = |index: u64| {
            let bits = mix(stream.wrapping_add((index + 1).wrapping_mul(GOLDEN)));
            (bits >> 11) as f64 / (1u64 << 53) as f64
        };
        let count: i64 = shape.iter().product();
        let values: Vec<f32> =
            (0..count as u64).map(|index| element(uniform(2 * index), uniform(2 * index + 1)) as f32).collect();
        Tensor::from_slice(&values).view(shape)
    }
}

impl TensorSource for Initialiser {
    fn tensor(&self, name: &str, shape: &[i64]) -> Result<Tensor, WeightsError> {
        Ok(self.draw(name, shape).to_device(self.device))
    }

    fn has(&self, _name: &str) -> bool {
        true
    }

    fn tied(&self, _name: &str, _tied_to: &str, _value: &Tensor) -> Result<(), WeightsError> {
        Ok(())
    }
}
