"""What all cases share: files, random weights, random sizes."""

import json

import torch
from safetensors.torch import save_file


def write_case(folder, config, weights, inputs, expected, **more_weights):
    """Writes one case's files."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    files = {"weights": weights, "inputs": inputs, "expected": expected, **more_weights}
    for name, tensors in files.items():
        tensors = {key: value.detach().contiguous().clone() for key, value in tensors.items()}
        save_file(tensors, folder / f"{name}.safetensors")


def randomise(model, spread=0.3):
    """Weights large enough for choices to differ; gains around one, biases small."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name.lower() or "layrnorm" in name:
                parameter.normal_(1.0 if name.endswith("weight") else 0.0, 0.1)
            elif parameter.ndim > 0:
                parameter.normal_(0.0, spread if "embedding" in name else 2.0 / parameter.shape[-1] ** 0.5)
    return model.eval()


def heads_and_width(rng):
    heads = rng.choice([2, 3, 4])
    return heads, heads * rng.choice([8, 12])


def vision_config(rng, patch):
    heads, width = heads_and_width(rng)
    return {
        "hidden_size": width, "intermediate_size": width * rng.choice([2, 3]), "num_hidden_layers": rng.randint(2, 4),
        "num_attention_heads": heads, "image_size": patch * rng.randint(2, 4), "patch_size": patch,
        "layer_norm_eps": 1e-5,
    }
