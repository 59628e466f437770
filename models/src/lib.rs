//! ViT, CLIP, BLIP, Q-Former, tokenisers, strict weights, generation.
