//! ViT, CLIP, BLIP, Q-Former, tokenisers, strict weights, generation.

pub mod layers;
pub mod qformer;
pub mod weights;
