"""What all cases share: files, random weights, random sizes, half precision."""

import copy
import json

import torch
from safetensors.torch import save_file


def write_case(folder, config, weights, inputs, expected, **more_weights):
    """Writes one case's files; `weights` may be None."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    files = {"weights": weights, "inputs": inputs, "expected": expected, **more_weights}
    for name, tensors in ((name, tensors) for name, tensors in files.items() if tensors is not None):
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


def halve_linears(model):
    """Halves the weights of linear layers, so that rounding moves what is computed by a few per cent only."""
    with torch.no_grad():
        for layer in (module for module in model.modules() if isinstance(module, torch.nn.Linear)):
            layer.weight.mul_(0.5)


def in_precision(model, dtype, compute):
    """`model` in `dtype`, and what `compute(model)` gives, by name.

    In half precision `fp32/NAME` is beside every NAME: the same, rounded, weights computed in fp32. The golden runner holds
    quern to transformers' own distance from it.
    """
    if dtype == torch.float32:
        return model, compute(model)
    model = model.to(dtype)
    exact = compute(copy.deepcopy(model).float())
    return model, {**compute(model), **{f"fp32/{name}": value for name, value in exact.items()}}


def pixels_for(dtype, *shape):
    """Random pixels, in fp32 but exact in `dtype`."""
    return torch.randn(*shape).to(dtype).float()


def dtype_field(dtype):
    """The config's entry that names the precision."""
    return {} if dtype == torch.float32 else {"dtype": str(dtype).removeprefix("torch.")}


def heads_and_width(rng):
    """Heads and the width that they share."""
    heads = rng.choice([2, 3, 4])
    return heads, heads * rng.choice([8, 12])


def vision_config(rng, patch):
    """A vision transformer's sizes, in Hugging Face's fields."""
    heads, width = heads_and_width(rng)
    return {
        "hidden_size": width, "intermediate_size": width * rng.choice([2, 3]), "num_hidden_layers": rng.randint(2, 4),
        "num_attention_heads": heads, "image_size": patch * rng.randint(2, 4), "patch_size": patch,
        "layer_norm_eps": 1e-5,
    }


def without_buffers(state):
    """A state dict without the position ids that some models save."""
    return {key: value for key, value in state.items() if not key.endswith("position_ids")}


def count(*parts):
    """The parameters of modules, or of state dicts without buffers; a tied parameter counts once."""
    tensors = [list(part.values() if isinstance(part, dict) else part.parameters()) for part in parts]
    return sum(tensor.numel() for part in tensors for tensor in part)
