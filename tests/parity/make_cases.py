#!/usr/bin/env python3
"""Makes fresh golden cases of chosen sizes and seeds from the installed Hugging Face transformers.

    make_cases.py OUT [--seed N] [--kinds blip_caption clip_rank clip_vit] [--count N]

Every case is a random tiny model of random sizes, in the layout of tests/golden/cases (see tests/golden/README.md), so
that the golden runner checks it: `golden OUT`. Everything expected comes from transformers and torch, nothing from quern.
"""

import argparse
import json
import pathlib
import random

import torch
from safetensors.torch import save_file
from transformers import (
    BlipConfig, BlipForConditionalGeneration, CLIPConfig, CLIPModel, CLIPVisionConfig, CLIPVisionModel,
)
from transformers.generation import (
    LogitsProcessorList, MinLengthLogitsProcessor, RepetitionPenaltyLogitsProcessor, TemperatureLogitsWarper,
    TopKLogitsWarper, TopPLogitsWarper,
)


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


def clip_rank(rng, folder):
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


def clip_vit(rng, folder):
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


def filters(logits, prefix, vocab_eos):
    """Every step of sampling apart, and whole pipelines, by transformers' own processors."""
    expected = {}

    def keep(name, *processors):
        out = LogitsProcessorList(processors)(prefix, logits.clone())
        expected[f"{name}/keep"], expected[f"{name}/probs"] = out.isfinite(), out.softmax(-1)

    penalty, minimum = RepetitionPenaltyLogitsProcessor(1.1), MinLengthLogitsProcessor(8, vocab_eos)
    expected["repetition_penalty_1.1/logits"] = penalty(prefix, logits.clone())
    for p in (0.5, 0.9):
        keep(f"top_p_{p}", TopPLogitsWarper(p))
    keep("pipeline_no_topk", penalty, minimum, TopPLogitsWarper(0.9))
    keep("pipeline", penalty, minimum, TemperatureLogitsWarper(0.7), TopKLogitsWarper(50), TopPLogitsWarper(0.9))
    return expected


def blip_caption(rng, folder):
    """BlipForConditionalGeneration: states, teacher forcing, greedy, beam search, sampling filters."""
    heads, width = heads_and_width(rng)
    vocab, beams, batch = rng.randint(60, 120), rng.randint(2, 4), rng.randint(1, 4)
    vision = {**vision_config(rng, 8), "hidden_act": "gelu"}
    text = {
        "vocab_size": vocab, "hidden_size": width, "encoder_hidden_size": vision["hidden_size"], "intermediate_size": 2 * width,
        "num_hidden_layers": rng.randint(2, 3), "num_attention_heads": heads, "max_position_embeddings": 40, "hidden_act": "gelu",
        "layer_norm_eps": 1e-12, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "bos_token_id": vocab - 2,
        "pad_token_id": 0, "sep_token_id": 4, "eos_token_id": 4, "is_decoder": True, "label_smoothing": rng.choice([0.0, 0.1]),
    }
    config = {
        "text_config": text, "vision_config": vision, "max_length": 13, "min_length": 6, "num_beams": beams,
        "length_penalty": rng.choice([1.0, 0.6]), "early_stopping": False, "beam_generations": ["5.x"],
    }
    model = randomise(BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision)))
    with torch.no_grad():  # some captions should end
        model.text_decoder.cls.predictions.bias[4] += 1.5
        model.text_decoder.cls.predictions.decoder.bias[4] = model.text_decoder.cls.predictions.bias[4]
    pixels = torch.randn(batch, 3, vision["image_size"], vision["image_size"])
    vision_states = model.vision_model(pixels).last_hidden_state
    prompt = torch.tensor([[3] + [rng.randint(6, vocab - 3) for _ in range(rng.randint(1, 4))] + [4]] * batch)
    body = prompt.shape[1] - 2
    lengths = [rng.randint(2, 7) for _ in range(batch)]
    ids = torch.zeros(batch, 2 + body + max(lengths), dtype=torch.long)
    for row, words in enumerate(lengths):
        caption = [rng.randint(6, vocab - 3) for _ in range(words)]
        sequence = [vocab - 2] + prompt[row, 1:-1].tolist() + caption + [4]
        ids[row, :len(sequence)] = torch.tensor(sequence)
    mask = (ids != 0).long()
    all_labels = ids.masked_fill(mask == 0, -100)
    labels = all_labels.clone()
    labels[:, :body + 1] = -100

    def forced(labels):
        return model.text_decoder(ids, attention_mask=mask, encoder_hidden_states=vision_states, labels=labels, reduction="mean")

    expected = {
        "vision_embeddings": model.vision_model.embeddings(pixels), "vision_last_hidden_state": vision_states,
        "logits": forced(None).logits, "loss_prompt_masked": forced(labels).loss, "loss_no_prompt_mask": forced(all_labels).loss,
    }
    lengths = {"max_length": config["max_length"], "min_length": config["min_length"], "do_sample": False}

    def generate(name, **options):
        expected[name] = model.generate(pixels, **{**lengths, **options})

    generate("greedy_ids")
    generate("greedy_no_min_length_ids", min_length=0)
    generate("greedy_rep1.1_ids", repetition_penalty=1.1)
    generate("greedy_prompt_ids", input_ids=prompt.clone())
    for infix, extra in (("", {}), ("_prompt", {"input_ids": prompt.clone()})):
        out = model.generate(pixels, **lengths, **extra, num_beams=beams, length_penalty=config["length_penalty"],
                             early_stopping=False, return_dict_in_generate=True, output_scores=True)
        # transformers takes pad id 0 for "none" and fills with the end: fill with the pad, as its other searches do
        ended = (out.sequences == 4).cumsum(1) - (out.sequences == 4).long() > 0
        expected[f"beam{beams}{infix}_ids"] = out.sequences.masked_fill(ended, 0)
        expected[f"beam{beams}{infix}_scores"] = out.sequences_scores
    logits, prefix = torch.randn(6, vocab) * 2, torch.randint(5, vocab, (6, 5))
    logits[4, :20] = 1.0
    logits[5] = 0.0
    expected.update(filters(logits, prefix, 4))
    state = {key: value for key, value in model.state_dict().items() if not key.endswith("position_ids")}
    inputs = {"pixel_values": pixels, "input_ids": ids, "attention_mask": mask, "labels": labels, "prompt_tok": prompt,
              "proc_logits": logits, "proc_prefix": prefix}
    write_case(folder, config, state, inputs, expected)


KINDS = {"blip_caption": blip_caption, "clip_rank": clip_rank, "clip_vit": clip_vit}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=2, help="cases of each kind")
    parser.add_argument("--kinds", nargs="+", choices=sorted(KINDS), default=sorted(KINDS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad():
        for kind in options.kinds:
            for number in range(options.count):
                seed = options.seed + number
                torch.manual_seed(seed)
                KINDS[kind](random.Random(f"{kind} {seed}"), options.out / f"{kind}_{seed}")


if __name__ == "__main__":
    main()
