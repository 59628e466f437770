//! ViT, EVA, CLIP, BLIP, Q-Former, OPT, T5, tokenisers, strict weights, generation.

pub mod blip;
pub mod blip2;
pub mod caption_text;
pub mod clip;
pub mod config;
pub mod eva;
pub mod export;
pub mod generate;
pub mod language;
pub mod layers;
pub mod memory;
pub mod opt;
pub mod patches;
pub mod pre_norm;
pub mod precision;
pub mod preprocessor;
pub mod presets;
pub mod qformer;
pub mod save;
pub mod source;
pub mod t5;
pub mod tokenize;
pub mod tower;
pub mod vit;
pub mod weights;

#[cfg(test)]
mod testing;
