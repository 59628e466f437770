"""CLIP as ranker and as frozen encoder, against CLIPModel and CLIPVisionModel."""

import torch
from transformers import CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModel

from .shared import heads_and_width, randomise, vision_config, write_case


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
    pixels = torch.randn(batch, 3, config["vision_config"]["image_size"], config["vision_config"]["image_size"])
    out = model(input_ids=ids.flatten(0, 1), attention_mask=mask.flatten(0, 1), pixel_values=pixels)
    image_embeds = model.visual_projection(model.vision_model(pixels).pooler_output)
    text_out = model.text_model(input_ids=ids.flatten(0, 1), attention_mask=mask.flatten(0, 1))
    text_embeds = model.text_projection(text_out.pooler_output)
    cosine = out.image_embeds @ out.text_embeds.T
    own = torch.stack([cosine[i, i * captions:(i + 1) * captions] for i in range(batch)])
    own[:, 7] = own[:, 4]
    order = own.argsort(dim=1, descending=True, stable=True)
    distinct = torch.tensor([[i for i in row if i != 7][:keep] for row in order.tolist()])
    write_case(
        folder, config, model.state_dict(), {"pixel_values": pixels, "input_ids": ids, "attention_mask": mask, "input_ids_pad0": pad0},
        {"image_embeds": image_embeds, "text_embeds": text_embeds, "cosine": cosine, "own_cosine": own,
         "top2": order[:, :keep], "top2_dedup": distinct},
    )


def openai_names(state):
    """Hugging Face's vision tower under OpenAI's names, queries, keys and values stacked."""
    state = {key.removeprefix("vision_model."): value for key, value in state.items()}
    renamed = {}
    top = {
        "embeddings.class_embedding": "class_embedding", "embeddings.patch_embedding.weight": "conv1.weight",
        "embeddings.position_embedding.weight": "positional_embedding",
        **{f"{ours}.{part}": f"{theirs}.{part}" for part in ("weight", "bias")
           for ours, theirs in (("pre_layrnorm", "ln_pre"), ("post_layernorm", "ln_post"))},
    }
    blocks = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
              "self_attn.out_proj": "attn.out_proj"}
    for key, value in state.items():
        if key in top:
            renamed[top[key]] = value
        elif key.startswith("encoder.layers."):
            _, _, index, rest = key.split(".", 3)
            prefix, (name, part) = f"transformer.resblocks.{index}", rest.rsplit(".", 1)
            if name in blocks:
                renamed[f"{prefix}.{blocks[name]}.{part}"] = value
            elif name == "self_attn.q_proj":
                stack = [state[key.replace("q_proj", which)] for which in ("q_proj", "k_proj", "v_proj")]
                renamed[f"{prefix}.attn.in_proj_{part}"] = torch.cat(stack)
    return renamed


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
    state = {key if key.startswith("vision_model.") else f"vision_model.{key}": value for key, value in model.state_dict().items()}
    state = {key: value for key, value in state.items() if not key.endswith("position_ids")}
    native = vision["image_size"] // 7
    sides = [7 * (native + 1), 7 * (native + 3)]
    pixels = torch.randn(rng.randint(1, 4), 3, vision["image_size"], vision["image_size"])
    out = model(pixels, output_hidden_states=True)
    inputs = {"pixel_values": pixels}
    expected = {
        "features": out.hidden_states[-2], "hf_hidden_states_minus_2": out.hidden_states[-2],
        "hf_last_hidden_state": out.last_hidden_state, "hf_pooler_output": out.pooler_output,
    }
    for side in sides:
        position = position_for(state["vision_model.embeddings.position_embedding.weight"], side // 7)
        other = CLIPVisionModel(CLIPVisionConfig(**{**vision, "image_size": side})).eval()
        own = {key: value for key, value in model.state_dict().items() if not key.endswith("position_ids")}
        (name,) = [key for key in own if key.endswith("position_embedding.weight")]
        other.load_state_dict({**own, name: position}, strict=False)
        pixels = torch.randn(2, 3, side, side)
        inputs[f"pixel_values_{side}"] = pixels
        expected[f"features_{side}"] = other(pixels, output_hidden_states=True).hidden_states[-2]
        expected[f"positional_embedding_{side}"] = position
    config = {"hf_vision_config": vision, "other_img_sizes": sides}
    write_case(folder, config, openai_names(state), inputs, expected, weights_hf=state)


KINDS = {"clip_rank": clip_rank, "clip_vit": clip_vit}
