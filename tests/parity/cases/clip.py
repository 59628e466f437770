"""CLIP as ranker and as frozen encoder, against CLIPModel and CLIPVisionModel."""

import torch
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModel

from .shared import (
    count, dtype_field, heads_and_width, in_precision, pixels_for, randomise, vision_config, without_buffers, write_case,
)


def clip_rank(rng, folder, dtype):
    """CLIPModel: embeddings, cosines and the two best captions of every image, with repeated captions among them."""
    captions, batch, keep = 11, rng.randint(2, 5), 2
    heads, width = heads_and_width(rng)
    vocab, projection, length = rng.randint(40, 90), rng.choice([12, 20]), rng.randint(8, 16)
    act = rng.choice(["quick_gelu", "gelu"])
    config = {
        "text_config": {
            "vocab_size": vocab, "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2,
            "num_attention_heads": heads, "max_position_embeddings": length, "hidden_act": act, "layer_norm_eps": 1e-5,
            "projection_dim": projection, "pad_token_id": vocab - 1, "bos_token_id": vocab - 2,
            "eos_token_id": rng.choice([vocab - 1, 2]),
        },
        "vision_config": {**vision_config(rng, 7), "hidden_act": act, "projection_dim": projection},
        "projection_dim": projection,
    }
    model = randomise(CLIPModel(CLIPConfig(**config)))
    ids = torch.full((batch, captions, length), vocab - 1)
    mask = torch.zeros_like(ids)
    for image in range(batch):
        for caption in range(captions):
            words = rng.randint(1, length - 2)
            text = [vocab - 2] + [rng.randint(3, vocab - 3) for _ in range(words)] + [vocab - 1]
            ids[image, caption, :len(text)] = torch.tensor(text)
            mask[image, caption, :len(text)] = 1
        ids[image, 7], mask[image, 7] = ids[image, 4], mask[image, 4]
    pad0 = torch.where(mask.bool(), ids, 0)
    pixels = pixels_for(dtype, batch, 3, config["vision_config"]["image_size"], config["vision_config"]["image_size"])

    def compute(model):
        text_out = model.text_model(input_ids=ids.flatten(0, 1), attention_mask=mask.flatten(0, 1))
        image_embeds = model.visual_projection(model.vision_model(pixels).pooler_output)
        text_embeds = model.text_projection(text_out.pooler_output)
        units = [embeds.float() / embeds.float().norm(dim=-1, keepdim=True) for embeds in (image_embeds, text_embeds)]
        return {"image_embeds": image_embeds, "text_embeds": text_embeds, "cosine": units[0] @ units[1].T}

    model, expected = in_precision(model, dtype, compute)
    own = torch.stack([expected["cosine"][i, i * captions:(i + 1) * captions] for i in range(batch)])
    own[:, 7] = own[:, 4]
    if dtype == torch.float32:  # a rounding would change which of two near captions is better
        order = own.argsort(dim=1, descending=True, stable=True)
        distinct = torch.tensor([[i for i in row if i != 7][:keep] for row in order.tolist()])
        expected.update({"own_cosine": own, "top2": order[:, :keep], "top2_dedup": distinct})
    state = without_buffers(model.state_dict())
    write_case(
        folder, {**config, **dtype_field(dtype)}, state,
        {"pixel_values": pixels, "input_ids": ids, "attention_mask": mask, "input_ids_pad0": pad0}, expected,
        weights_openai=openai_model(state),
    )


TOWER_NAMES = {
    "vision_model": {
        "embeddings.class_embedding": "class_embedding", "embeddings.patch_embedding.weight": "conv1.weight",
        "embeddings.position_embedding.weight": "positional_embedding", "pre_layrnorm": "ln_pre",
        "post_layernorm": "ln_post",
    },
    "text_model": {
        "embeddings.token_embedding.weight": "token_embedding.weight",
        "embeddings.position_embedding.weight": "positional_embedding", "final_layer_norm": "ln_final",
    },
}
BLOCK_NAMES = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
               "self_attn.out_proj": "attn.out_proj"}


def openai_names(state, tower="vision_model"):
    """One of Hugging Face's towers under OpenAI's names, queries, keys and values stacked."""
    state = {key.removeprefix(f"{tower}."): value for key, value in state.items()}
    top, renamed = TOWER_NAMES[tower], {}
    for key, value in state.items():
        name, part = key.rsplit(".", 1)
        if key in top:
            renamed[top[key]] = value
        elif name in top:
            renamed[f"{top[name]}.{part}"] = value
        elif key.startswith("encoder.layers."):
            _, _, index, name = name.split(".", 3)
            prefix = f"transformer.resblocks.{index}"
            if name in BLOCK_NAMES:
                renamed[f"{prefix}.{BLOCK_NAMES[name]}.{part}"] = value
            elif name == "self_attn.q_proj":
                stack = [state[key.replace("q_proj", which)] for which in ("q_proj", "k_proj", "v_proj")]
                renamed[f"{prefix}.attn.in_proj_{part}"] = torch.cat(stack)
    return renamed


def openai_model(state):
    """CLIPModel under OpenAI's and open_clip's names; they store the projections as transposes."""
    def tower(name):
        return openai_names({key: value for key, value in state.items() if key.startswith(name)}, name)

    return {
        **{f"visual.{key}": value for key, value in tower("vision_model").items()}, **tower("text_model"),
        "visual.proj": state["visual_projection.weight"].T, "text_projection": state["text_projection.weight"].T,
        "logit_scale": state["logit_scale"],
    }


def position_for(position, grid):
    """LAVIS' interpolation for CLIP: bicubic with aligned corners."""
    side, width = round((position.shape[0] - 1) ** 0.5), position.shape[1]
    patches = position[1:].view(1, side, side, width).permute(0, 3, 1, 2)
    patches = torch.nn.functional.interpolate(patches, size=(grid, grid), mode="bicubic", align_corners=True)
    return torch.cat([position[:1], patches.permute(0, 2, 3, 1).reshape(grid * grid, width)])


def clip_vit(rng, folder, dtype):
    """CLIPVisionModel: penultimate features, natively and with interpolated positions."""
    vision = {**vision_config(rng, 7), "hidden_act": rng.choice(["quick_gelu", "gelu"])}
    model = randomise(CLIPVisionModel(CLIPVisionConfig(**vision)))
    native = vision["image_size"] // 7
    sides = [7 * (native + 1), 7 * (native + 3)]
    inputs = {"pixel_values": pixels_for(dtype, rng.randint(1, 4), 3, vision["image_size"], vision["image_size"])}
    inputs.update({f"pixel_values_{side}": pixels_for(dtype, 2, 3, side, side) for side in sides})

    def compute(model):
        out = model(inputs["pixel_values"], output_hidden_states=True)
        computed = {
            "features": out.hidden_states[-2], "hf_hidden_states_minus_2": out.hidden_states[-2],
            "hf_last_hidden_state": out.last_hidden_state, "hf_pooler_output": out.pooler_output,
        }
        own = without_buffers(model.state_dict())
        (name,) = [key for key in own if key.endswith("position_embedding.weight")]
        for side in sides:
            position = position_for(own[name].float(), side // 7).to(own[name].dtype)
            other = CLIPVisionModel(CLIPVisionConfig(**{**vision, "image_size": side})).eval().to(own[name].dtype)
            other.load_state_dict({**own, name: position}, strict=False)
            states = other(inputs[f"pixel_values_{side}"], output_hidden_states=True).hidden_states
            computed[f"features_{side}"], computed[f"positional_embedding_{side}"] = states[-2], position
        return computed

    model, expected = in_precision(model, dtype, compute)
    state = {f"vision_model.{key.removeprefix('vision_model.')}": value
             for key, value in without_buffers(model.state_dict()).items()}
    config = {**dtype_field(dtype), "hf_vision_config": vision, "other_img_sizes": sides}
    write_case(folder, config, openai_names(state), inputs, expected, weights_hf=state)


def count_encoder(config):
    """The image tower as LAVIS uses it: without last block and final norm."""
    vision = CLIPVisionModel(CLIPVisionConfig(**config["vision_config"]))
    last = f"encoder.layers.{vision.config.num_hidden_layers - 1}."
    return count({name: parameter for name, parameter in vision.named_parameters()
                  if last not in name and "post_layernorm" not in name})


KINDS = {"clip_rank": clip_rank, "clip_vit": clip_vit}
DTYPES = {"clip_rank": [torch.bfloat16], "clip_vit": [torch.bfloat16]}
COUNTS = {"clip": lambda config: count(CLIPModel(CLIPConfig(**config))), "clip_encoder": count_encoder}
