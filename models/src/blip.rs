//! BLIP captioner: a ViT and a BERT decoder that cross-attends to its tokens (arXiv 2201.12086).
//!
//! Reproduces Hugging Face `BlipForConditionalGeneration` (transformers 5.17), whose weights and `config.json` it
//! reads. An image is encoded once; its cross-attention keys and values are computed once and shared by all of its
//! captions, whose lanes are folded into the query dimension; where captions have ended, the next image's begin.

use std::path::Path;

use serde::Deserialize;
use tch::{Device, Kind, Tensor};

use crate::config::{CONFIG_FILE, Role, check_heads};
use crate::generate::{self, BeamOptions, Beams, Constraints, Ends, SamplingOptions, SlotSampler, SlotShape};
use crate::layers::{Activation, LayerNorm};
use crate::patches::{PatchLayout, PatchTensors};
use crate::pre_norm::{BlockShape, QkvTensors};
use crate::tower::{Tower, TowerShape};
use crate::weights::{Scope, Weights, WeightsError};

mod slots;
mod text;

pub use slots::BlipSlots;
pub use text::{BlipDecoder, ImageKeys, TextDecoder};

/// `config.json`; absent fields have Hugging Face's defaults.
#[derive(Debug, Clone, Deserialize)]
pub struct BlipConfig {
    /// The decoder's.
    pub text_config: BlipTextConfig,
    /// The encoder's.
    pub vision_config: BlipVisionConfig,
}

impl BlipConfig {
    fn check(&self, path: &Path) -> Result<(), WeightsError> {
        let text = &self.text_config;
        check_heads(path, "text_config", text.hidden_size, text.num_attention_heads)?;
        self.vision_config.tower().check(path, "vision_config")
    }
}

/// `BlipTextConfig`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct BlipTextConfig {
    /// Ids.
    pub vocab_size: i64,
    /// Of a token.
    pub hidden_size: i64,
    /// Of the MLP.
    pub intermediate_size: i64,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Heads of self- and cross-attention.
    pub num_attention_heads: i64,
    /// The longest sequence.
    pub max_position_embeddings: i64,
    /// In the MLP and in the head.
    pub hidden_act: Activation,
    /// Of the layer norms.
    pub layer_norm_eps: f64,
    /// Starts a caption (`[DEC]`).
    pub bos_token_id: i64,
    /// Fills finished captions.
    pub pad_token_id: i64,
    /// Ends a caption.
    pub sep_token_id: i64,
    /// Of the training loss.
    pub label_smoothing: f64,
}

impl Default for BlipTextConfig {
    fn default() -> Self {
        BlipTextConfig {
            vocab_size: 30524,
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 512,
            hidden_act: Activation::Gelu,
            layer_norm_eps: 1e-12,
            bos_token_id: 30522,
            pad_token_id: 0,
            sep_token_id: 102,
            label_smoothing: 0.0,
        }
    }
}

/// `BlipVisionConfig`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default)]
pub struct BlipVisionConfig {
    /// Of a token.
    pub hidden_size: i64,
    /// Of the MLP.
    pub intermediate_size: i64,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Heads.
    pub num_attention_heads: i64,
    /// Side of the images.
    pub image_size: i64,
    /// Side of the patches.
    pub patch_size: i64,
    /// In the MLP.
    pub hidden_act: Activation,
    /// Of the layer norms (1e-6 in LAVIS' own checkpoints).
    pub layer_norm_eps: f64,
}

impl Default for BlipVisionConfig {
    fn default() -> Self {
        BlipVisionConfig {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            image_size: 384,
            patch_size: 16,
            hidden_act: Activation::Gelu,
            layer_norm_eps: 1e-5,
        }
    }
}

impl BlipVisionConfig {
    fn tower(&self) -> TowerShape {
        TowerShape {
            patches: PatchLayout {
                image_size: self.image_size,
                patch_size: self.patch_size,
                width: self.hidden_size,
                tensors: PatchTensors::Blip,
                align_corners: false,
            },
            block: BlockShape {
                width: self.hidden_size,
                inner: self.intermediate_size,
                heads: self.num_attention_heads,
                activation: self.hidden_act,
                eps: self.layer_norm_eps,
                qkv: QkvTensors::Fused,
            },
            depth: self.num_hidden_layers,
            norm_first: false,
        }
    }
}

/// What captions images.
const CAPTIONER: Role =
    Role { name: "captioner", model_types: &["blip"], architectures: &["BlipForConditionalGeneration"] };

/// `BlipVisionModel`: tokens of an image, after the final layer norm.
pub struct VisionEncoder {
    tower: Tower,
    post_layernorm: LayerNorm,
}

impl VisionEncoder {
    fn load(scope: &Scope, config: &BlipVisionConfig) -> Result<Self, WeightsError> {
        Ok(VisionEncoder {
            tower: Tower::load(scope, &config.tower())?,
            post_layernorm: LayerNorm::load(&scope.sub("post_layernorm"), config.hidden_size, config.layer_norm_eps)?,
        })
    }

    /// `pixels [B, 3, S, S] -> [B, N, D]`, before the first block.
    pub fn embed(&self, pixels: &Tensor) -> Tensor {
        self.tower.embeddings().forward(pixels)
    }

    /// `pixels [B, 3, S, S] -> [B, N, D]`, after the last layer norm.
    pub fn forward(&self, pixels: &Tensor) -> Tensor {
        self.post_layernorm.forward(&self.tower.forward(pixels))
    }
}

/// The captioner. It is frozen: nothing here records gradients.
pub struct Blip {
    /// As read.
    pub config: BlipConfig,
    /// `vision_model`
    pub vision_model: VisionEncoder,
    /// `text_decoder`
    pub text_decoder: TextDecoder,
}

impl Blip {
    /// Reads `config.json` and the weights of a Hugging Face folder.
    pub fn load(folder: &Path, device: Device, kind: Kind) -> Result<Self, WeightsError> {
        let config: BlipConfig = CAPTIONER.config(folder)?;
        config.check(&folder.join(CONFIG_FILE))?;
        Blip::from_weights(&Weights::open(folder, device, kind)?, config)
    }

    /// Takes the model out of `weights`, all of which must be used.
    pub fn from_weights(weights: &Weights, config: BlipConfig) -> Result<Self, WeightsError> {
        let blip = Blip::from_scope(&weights.root(), config)?;
        weights.finish()?;
        Ok(blip)
    }

    /// Takes the model from `scope`.
    pub fn from_scope(scope: &Scope, config: BlipConfig) -> Result<Self, WeightsError> {
        let vision_model = VisionEncoder::load(&scope.sub("vision_model"), &config.vision_config)?;
        let width = config.vision_config.hidden_size;
        let text_decoder = TextDecoder::load(&scope.sub("text_decoder"), &config.text_config, width)?;
        Ok(Blip { config, vision_model, text_decoder })
    }

    /// The longest caption with BOS and prompt that the position embedding allows.
    pub fn longest(&self) -> i64 {
        self.config.text_config.max_position_embeddings
    }

    /// `pixels [B, 3, S, S] -> [B, N, D]`: what captions attend to.
    pub fn encode_images(&self, pixels: &Tensor) -> Tensor {
        tch::no_grad(|| self.vision_model.forward(pixels))
    }

    /// Teacher-forced logits: `input_ids` and `mask` `[B, L]`, `image_states [B, N, D]` -> `[B, L, vocab]`.
    pub fn logits(&self, image_states: &Tensor, input_ids: &Tensor, mask: &Tensor) -> Tensor {
        tch::no_grad(|| self.text_decoder.teacher_forced(&self.text_decoder.image_keys(image_states), input_ids, mask))
    }

    /// The language-modelling loss of `logits [B, L, vocab]` against `labels [B, L]`, which are shifted here; -100 is ignored.
    pub fn loss(&self, logits: &Tensor, labels: &Tensor) -> Tensor {
        let length = labels.size()[1];
        let predicted = logits.narrow(1, 0, length - 1).flatten(0, 1).to_kind(Kind::Float);
        let targets = labels.narrow(1, 1, length - 1).flatten(0, 1);
        let smoothing = self.config.text_config.label_smoothing;
        predicted.cross_entropy_loss::<Tensor>(&targets, None, tch::Reduction::Mean, -100, smoothing)
    }

    /// Samples captions of images that come one after the other, as there is room. `prompt` is without BOS and end.
    /// `options.max_length` may not exceed [`longest`](Blip::longest).
    pub fn sampler(&self, shape: SlotShape, prompt: &[i64], options: &SamplingOptions) -> SlotSampler<BlipSlots<'_>> {
        self.check_length(options.max_length);
        let decoder = BlipSlots::new(&self.text_decoder, shape, options.max_length);
        let device = self.text_decoder.device();
        SlotSampler::new(decoder, shape, self.prompt_ids(prompt), self.ends(), *options, device)
    }

    /// `captions_per_image` sampled captions of every image of `image_states [B, N, D]`, image by image, as ids
    /// without BOS, prompt, end and padding. `prompt` is without BOS and end.
    ///
    /// `uniforms(lane, step)` is the draw for the `step`-th generated token of lane `image · captions_per_image + caption`.
    pub fn nucleus(
        &self,
        image_states: &Tensor,
        captions_per_image: usize,
        prompt: &[i64],
        options: &SamplingOptions,
        uniforms: &mut dyn FnMut(usize, usize) -> f64,
    ) -> Vec<Vec<i64>> {
        let images = image_states.size()[0] as usize;
        let shape = SlotShape { slots: images, lanes: images * captions_per_image, copies: captions_per_image };
        let mut sampler = self.sampler(shape, prompt, options);
        let tags: Vec<usize> = (0..images).collect();
        sampler.admit(&tags, image_states, &mut |image, copy, step| uniforms(image * captions_per_image + copy, step));
        sampler.close();
        let mut captions = vec![Vec::new(); images];
        while !sampler.is_idle() {
            sampler.step().into_iter().for_each(|(tag, texts)| captions[tag] = texts);
        }
        captions.into_iter().flatten().collect()
    }

    /// The most likely caption of every image, token by token: `[B, L]` with BOS and prompt, padded.
    pub fn greedy(&self, image_states: &Tensor, prompt: &[i64], constraints: &Constraints) -> Tensor {
        let mut decoder = self.decoder(image_states, constraints.max_length);
        generate::greedy(&mut decoder, &self.prompts(image_states, prompt), self.ends(), constraints)
    }

    /// The best caption of every image by beam search, with BOS, prompt and end.
    pub fn beam(&self, image_states: &Tensor, prompt: &[i64], options: &BeamOptions) -> Beams {
        let mut decoder = self.decoder(image_states, options.constraints.max_length);
        generate::beam(&mut decoder, &self.prompts(image_states, prompt), self.ends(), options)
    }

    /// End and padding of captions.
    pub fn ends(&self) -> Ends {
        Ends { eos: self.config.text_config.sep_token_id, pad: self.config.text_config.pad_token_id }
    }

    /// Caption ids out of `sequences [lanes, L]`: without BOS and `prompt` and from the end on.
    pub fn strip(&self, sequences: &Tensor, prompt: &[i64]) -> Vec<Vec<i64>> {
        let rows: Vec<Vec<i64>> = Vec::try_from(sequences.to_device(Device::Cpu)).expect("ids [lanes, L]");
        rows.iter().map(|row| self.ends().trim(&row[1 + prompt.len()..]).to_vec()).collect()
    }

    fn decoder(&self, image_states: &Tensor, max_length: i64) -> BlipDecoder<'_> {
        self.check_length(max_length);
        let _no_grad = tch::no_grad_guard();
        BlipDecoder::new(&self.text_decoder, image_states, max_length)
    }

    fn check_length(&self, max_length: i64) {
        let longest = self.longest();
        assert!(max_length <= longest, "captions of {max_length} tokens, but the model's longest is {longest}");
    }

    /// BOS and `prompt`.
    fn prompt_ids(&self, prompt: &[i64]) -> Vec<i64> {
        [&[self.config.text_config.bos_token_id], prompt].concat()
    }

    /// BOS and `prompt` for every image: `[B, 1 + prompt]`.
    fn prompts(&self, image_states: &Tensor, prompt: &[i64]) -> Tensor {
        let ids = Tensor::from_slice(&self.prompt_ids(prompt)).to_device(image_states.device()).unsqueeze(0);
        ids.repeat([image_states.size()[0], 1])
    }
}

#[cfg(test)]
mod tests;
