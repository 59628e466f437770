"""EVA-CLIP as frozen encoder, against Blip2VisionModel, under its own names and under LAVIS'."""

import torch
from transformers import Blip2VisionConfig, Blip2VisionModel

from .shared import count, dtype_field, in_precision, pixels_for, randomise, vision_config, without_buffers, write_case

# Hugging Face's names -> LAVIS', part by part.
LAVIS_NAMES = [
    ("embeddings.class_embedding", "cls_token"), ("embeddings.position_embedding", "pos_embed"),
    ("embeddings.patch_embedding", "patch_embed.proj"), ("encoder.layers", "blocks"), ("layer_norm1", "norm1"),
    ("layer_norm2", "norm2"), ("self_attn.projection", "attn.proj"), ("self_attn", "attn"), ("post_layernorm", "norm"),
]


def lavis_names(state):
    """Hugging Face's tower under LAVIS' names; the fused bias becomes those of queries and values."""
    renamed = {}
    for key, value in state.items():
        for theirs, lavis in LAVIS_NAMES:
            key = key.replace(theirs, lavis)
        if key.endswith("attn.qkv.bias"):
            queries, keys, values = value.chunk(3)
            assert keys.is_meta or not keys.any(), "EVA's keys have no bias"
            stem = key.removesuffix("qkv.bias")
            renamed[f"{stem}q_bias"], renamed[f"{stem}v_bias"] = queries, values
        else:
            renamed[key] = value
    return renamed


def states(model, x):
    """The tokens after every block."""
    out = []
    for layer in model.encoder.layers:
        x = layer(x)
        out.append(x)
    return out


def eva_vit(rng, folder, dtype):
    """A complete checkpoint of one block more than is used, as EVA-CLIP's is."""
    patch = rng.choice([7, 14])
    sizes = {**vision_config(rng, patch), "layer_norm_eps": 1e-6, "qkv_bias": True}
    sizes["intermediate_size"] = int(sizes["hidden_size"] * 4.3637)
    depth = sizes["num_hidden_layers"]
    model = randomise(Blip2VisionModel(Blip2VisionConfig(**{**sizes, "num_hidden_layers": depth + 1})))
    with torch.no_grad():
        for layer in model.encoder.layers:
            layer.self_attn.qkv.bias.chunk(3)[1].zero_()
    native = sizes["image_size"] // patch
    sides = [patch * (native + 2), patch * max(native - 1, 1)]
    batch = rng.randint(1, 4)
    inputs = {"pixel_values": pixels_for(dtype, batch, 3, sizes["image_size"], sizes["image_size"])}
    inputs.update({f"pixel_values_{side}": pixels_for(dtype, 2, 3, side, side) for side in sides})

    def compute(model):
        blocks = states(model, model.embeddings(inputs["pixel_values"]))
        weight = model.embeddings.patch_embedding.weight
        patches = model.embeddings.patch_embedding(inputs["pixel_values"].to(weight.dtype)).flatten(2).transpose(1, 2)
        out = {f"block{index}": block for index, block in enumerate(blocks[:depth])}
        out.update({"patch_embed": patches, "features": blocks[depth - 1], "features_all_blocks": blocks[depth]})
        out["hf_features"] = blocks[depth - 1].clone()
        for side in sides:
            first = model.embeddings(inputs[f"pixel_values_{side}"], interpolate_pos_encoding=True)
            out[f"features_{side}"] = states(model, first)[depth - 1]
            out[f"pos_embed_{side}"] = model.embeddings.interpolate_pos_encoding(first, side, side)
        return out

    model, expected = in_precision(model, dtype, compute)
    state = without_buffers(model.state_dict())
    head = {"head.weight": torch.randn(5, sizes["hidden_size"]), "head.bias": torch.randn(5)}
    beside = {"query_tokens": torch.randn(1, 4, 8), "language_projection.bias": torch.randn(8)}
    converted = {f"vision_model.{key}": value for key, value in state.items() if f"layers.{depth}." not in key}
    config = {
        **dtype_field(dtype), "img_size": sizes["image_size"], "patch_size": patch, "embed_dim": sizes["hidden_size"],
        "depth": depth, "checkpoint_depth": depth + 1, "num_heads": sizes["num_attention_heads"], "mlp_ratio": 4.3637,
        "mlp_hidden_dim": sizes["intermediate_size"], "qkv_bias": True, "layer_norm_eps": 1e-6, "other_img_sizes": sides,
    }
    write_case(folder, config, {**lavis_names(state), **head}, inputs, expected, weights_hf={**converted, **beside})


def tower(config):
    """The encoder's parameters; Hugging Face's final norm is LAVIS' `ln_vision`, which trains with the Q-Former."""
    model = Blip2VisionModel(Blip2VisionConfig(**config))
    return {name: value for name, value in model.named_parameters() if "post_layernorm" not in name}


KINDS = {"eva_vit": eva_vit}
DTYPES = {"eva_vit": [torch.bfloat16]}
COUNTS = {"eva_encoder": lambda config: count(tower(config)), "eva_encoder_lavis": lambda config: count(lavis_names(tower(config)))}
