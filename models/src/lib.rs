//! ViT, CLIP, BLIP, Q-Former, tokenisers, strict weights, generation.

pub mod blip;
pub mod caption_text;
pub mod clip;
pub mod generate;
pub mod layers;
pub mod patches;
pub mod pre_norm;
pub mod preprocessor;
pub mod qformer;
pub mod tokenize;
pub mod vit;
pub mod weights;
