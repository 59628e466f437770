#!/usr/bin/env python3
"""Exports random checkpoints with quern, loads the exports with transformers, and makes golden cases of what it computes.

    exports.py OUT [--seed N]

Strictness is checked here: no missing, unexpected or mismatched tensor, and processor and tokenizer load. The golden
runner then compares the numbers with what quern computes with the checkpoint itself (kinds `export_retrieval`,
`export_generation`), and reads the export back. A checkpoint has LAVIS' names, which are translated here by rules of
their own.
"""

import argparse
import copy
import json
import pathlib
import random
import re
import shutil
import subprocess

import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import (
    AutoProcessor, AutoTokenizer, Blip2Config, Blip2ForConditionalGeneration, Blip2ForImageTextRetrieval,
    Blip2QFormerModel, Blip2VisionConfig, Blip2VisionModel,
)

from cases.qformer import outputs_of, texts, write_tensors
from cases.shared import halve_linears, randomise

ROOT = pathlib.Path(__file__).parents[2]
SIDE, PATCH, WIDTH = 28, 7, 24
HIDDEN, HEADS, DEPTH, INNER, QUERIES, EMBED, POSITIONS = 32, 4, 3, 64, 5, 16, 40
# LAVIS' names of a Hugging Face model's tensors
RULES = [
    (r"^vision_model\.post_layernorm\.(.*)$", r"ln_vision.\1"),
    (r"^qformer\.layernorm\.(.*)$", r"Qformer.bert.embeddings.LayerNorm.\1"),
    (r"^embeddings\.(.*)$", r"Qformer.bert.embeddings.\1"),
    (r"^(qformer\.encoder\..*attention)\.attention\.(.*)$", r"\1.self.\2"),
    (r"^qformer\.encoder\.(.*)$", r"Qformer.bert.encoder.\1"),
    (r"^(vision|text)_projection\.(.*)$", r"\1_proj.\2"),
]


def lavis_names(state, projection=None):
    """The Q-Former's tensors of a Hugging Face state dict, as a checkpoint of quern's has them."""
    renamed = {}
    for name, value in state.items():
        if name.startswith("language_model.") or (name.startswith("vision_model.") and "post_layernorm" not in name):
            continue
        for pattern, replacement in RULES:
            name = re.sub(pattern, replacement, name)
        renamed[name.replace("language_projection", f"{projection}")] = value.clone().contiguous()
    return renamed


def encoder(folder):
    """A random EVA tower in Hugging Face's layout."""
    config = Blip2VisionConfig(
        hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2, num_attention_heads=3, image_size=SIDE,
        patch_size=PATCH,
    )
    model = randomised(Blip2VisionModel(config))
    for name, parameter in model.named_parameters():
        if name.endswith("qkv.bias"):
            parameter[WIDTH:2 * WIDTH] = 0  # keys have none
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({
        "image_processor_type": "BlipImageProcessor", "do_resize": True, "do_rescale": True, "do_normalize": True,
        "size": {"height": SIDE, "width": SIDE}, "resample": 3, "rescale_factor": 1 / 255,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    }))
    return config


def sizes(vocab):
    return {
        "vocab_size": vocab, "hidden_size": HIDDEN, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS,
        "intermediate_size": INNER, "max_position_embeddings": POSITIONS,
    }


def checkpoint(folder, stage, tensors, vocab, **state):
    """A checkpoint as quern writes it (docs/reference/output.md)."""
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "state.json").write_text(json.dumps({
        "layout": 1, "stage": stage, "step": 7, "samples": 56, "updates": 7, "seed": 1, "batch": 8, "recipe_hash": "0" * 8,
        "qformer": {
            **sizes(vocab), "layer_norm_eps": 1e-12, "initializer_range": 0.02, "hidden_dropout_prob": 0.1,
            "attention_probs_dropout_prob": 0.1, "cross_attention_freq": 2, "encoder_width": WIDTH,
            "num_query_token": QUERIES, "embed_dim": EMBED, "pad_token_id": 0,
        },
        "version": "0.1.0", **state,
    }))


def recipe(folder, **stages):
    path = folder / "recipe.yaml"
    path.write_text(json.dumps({  # which is YAML
        "name": "exported", "output": str(folder / "out"),
        "datasets": [{"name": "toy", "path": str(folder / "corpus"), "capfilt": False}], **stages,
    }))
    return path


def stage1_section(folder):
    return {
        "image_encoder": str(folder / "encoder"), "tokenizer": str(ROOT / "zoo/blip"), "batch": 8, "steps": 10,
        "qformer": {
            **{key: value for key, value in sizes(0).items() if key != "vocab_size"}, "num_query_token": QUERIES,
            "embed_dim": EMBED,
        },
        "optimiser": {"warmup_steps": 2},
    }


def quern_export(*arguments, cwd=None):
    command = [ROOT / "target/release/quern", "export", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, f"{command}: {done.stderr}"


def loaded(cls, folder):
    model, info = cls.from_pretrained(folder, output_loading_info=True)
    found = {key: value for key, value in info.items() if value}
    assert not found, f"{cls.__name__} from {folder}: {found}"
    return model.eval()


def image(folder, processor):
    """Pixel values of pictures that the exported processor prepared."""
    pictures = [Image.effect_noise((40 + 9 * index, 33), 60 + 40 * index).convert("RGB") for index in range(3)]
    pixels = processor(images=pictures, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (3, 3, SIDE, SIDE), pixels.shape
    return pixels


def randomised(model):
    """Random weights that keep an activation's size from layer to layer: with larger ones transformers' own rounding in
    fp32 is up to twice what the runner allows, and the processor's instructions decide the outcome."""
    halve_linears(randomise(model))
    if hasattr(model, "query_tokens"):
        model.query_tokens.data.normal_()
    return model


def checked_features(model, pixels):
    """The visual tokens. Their rounding in fp32 must be far below the runner's tolerance, or the case says nothing."""
    visual = model.get_image_features(pixels).pooler_output
    exact = copy.deepcopy(model).double().get_image_features(pixels.double()).pooler_output
    share = ((visual - exact).abs() / (1e-5 + 1e-4 * exact.abs())).max().item()
    assert share < 0.5, f"transformers itself is {share:.2f} of the tolerance away from exact numbers"
    return visual


def retrieval(rng, folder):
    """Stage 1: the whole model, its blocks alone, and LAVIS' file."""
    folder.mkdir(parents=True)
    vision = encoder(folder / "encoder")
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "zoo/blip")
    vocab = len(tokenizer)
    model = randomised(Blip2ForImageTextRetrieval(Blip2Config(
        vision_config=vision.to_dict(), num_query_tokens=QUERIES, image_text_hidden_size=EMBED,
        qformer_config={**sizes(vocab), "use_qformer_text_input": True},
    )))
    tensors = lavis_names(model.state_dict())
    tensors["temp"] = torch.tensor(0.0613)
    head = "Qformer.cls.predictions"
    shapes = {"bias": (vocab,), "transform.dense.weight": (HIDDEN, HIDDEN), "transform.dense.bias": (HIDDEN,),
              "transform.LayerNorm.weight": (HIDDEN,), "transform.LayerNorm.bias": (HIDDEN,)}
    tensors.update({f"{head}.{name}": torch.randn(shape) for name, shape in shapes.items()})
    start = tokenizer.convert_tokens_to_ids("[DEC]")
    checkpoint(folder / "checkpoint", "stage1", tensors, vocab, decoder_start=start)
    path = recipe(folder, stage1=stage1_section(folder))
    quern_export("--to", "hf", "--recipe", path, "--max-shard", "50KB", folder / "checkpoint", folder / "export")
    assert (folder / "export/model.safetensors.index.json").is_file(), "cut into shards"
    exported = loaded(Blip2ForImageTextRetrieval, folder / "export")
    processor = AutoProcessor.from_pretrained(folder / "export")
    assert processor.tokenizer("red square")["input_ids"] == tokenizer("red square")["input_ids"]
    assert processor.tokenizer.convert_tokens_to_ids("[DEC]") == start
    pixels = image(folder, processor)
    ids, mask = texts(rng, vocab, POSITIONS)
    ids, mask = ids.repeat(2, 1)[:3], mask.repeat(2, 1)[:3]
    write_tensors(folder, inputs={"pixel_values": pixels, "input_ids": ids, "attention_mask": mask},
                  expected=outputs_of(exported, pixels, ids, mask))
    (folder / "config.json").write_text("{}")

    quern_export("--to", "hf", "--part", "qformer", "--recipe", path, folder / "checkpoint", folder / "blocks")
    blocks = loaded(Blip2QFormerModel, folder / "blocks")
    assert all(torch.equal(value, exported.qformer.state_dict()[name]) for name, value in blocks.state_dict().items())
    lavis(folder, json.loads(path.read_text()), tensors)


def lavis(folder, recipe, tensors):
    """LAVIS' file holds the checkpoint's tensors, and loads without running anything; the recipe is the manifest's."""
    shutil.copytree(folder / "checkpoint", folder / "out/stage1/step-000007")
    recipe.pop("output")
    counts = {"shards": 1, "rows": 90, "kept": 71, "passed": 12, "quarantined": 7, "bytes": 1, "quarantined_shards": 0,
              "quarantined_shard_rows": 0}
    (folder / "out/manifest.json").write_text(json.dumps({
        "layout": 1, "run_id": "run", "recipe_hash": "0" * 8, "seed": 1, "recipe": recipe, "models": {"captioner/x": "digest"},
        "versions": {"quern": "0.1.0"}, "totals": counts, "parts": [], "quarantined_shards": [],
    }))
    (folder / "metrics.json").write_text(json.dumps({"n": 90, "image_to_text": {"R@1": {"value": 0.25}, "ranks": [1, 2]}}))
    quern_export("--to", "lavis", "--metrics", "metrics.json", "out/stage1/step-000007", "lavis", cwd=folder)
    card = (folder / "lavis/README.md").read_text()
    for part in ("library_name: lavis", "90 rows", "captioner/x", "image_to_text R@1 value | 0.25", "stage1"):
        assert part in card, f"{part!r} is not in {card}"
    assert str(folder) not in card, "a card names no path of the machine"
    state = torch.load(folder / "lavis/model.pth", map_location="cpu", weights_only=True)["model"]
    tied = {name for name in state if ".decoder." in name}
    assert state.keys() - tied == tensors.keys(), state.keys() ^ tensors.keys()
    assert all(torch.equal(state[name], value) for name, value in tensors.items())


def generation(language, projection):
    def make(rng, folder):
        """Stage 2, with one of the zoo's language models."""
        folder.mkdir(parents=True)
        vision = encoder(folder / "encoder")
        shutil.copytree(ROOT / "zoo" / language, folder / "language")
        text = json.loads((folder / "language/config.json").read_text())
        width = text.get("d_model") or text["word_embed_proj_dim"]
        base = randomised(Blip2ForConditionalGeneration(Blip2Config(
            vision_config=vision.to_dict(), qformer_config=sizes(30), text_config=text, num_query_tokens=QUERIES,
        )))
        tensors = lavis_names(base.state_dict(), projection)
        identity = {"name": "language", "projection": projection, "width": width, "vocabulary": text["vocab_size"]}
        checkpoint(folder / "checkpoint", "stage2", tensors, 30, language_model=identity)
        path = recipe(folder, stage1=stage1_section(folder), stage2={
            "language_model": str(folder / "language"), "batch": 8, "steps": 10, "optimiser": {"warmup_steps": 2},
        })
        quern_export("--to", "hf", "--recipe", path, folder / "checkpoint", folder / "export")
        model = loaded(Blip2ForConditionalGeneration, folder / "export")
        processor = AutoProcessor.from_pretrained(folder / "export")
        tokenizer, token = processor.tokenizer, model.config.image_token_index
        assert tokenizer.convert_tokens_to_ids("<image>") == token
        pixels = image(folder, processor)
        prepared = processor(images=Image.new("RGB", (30, 20)), text="what shape is it", return_tensors="pt")
        assert (prepared["input_ids"] == token).sum() == QUERIES
        ids = tokenizer(["a red square"] * 3, return_tensors="pt")["input_ids"]
        ids = ids.clone()
        ids[:, 1] = torch.randint(5, 60, (3,))
        slots = torch.full((3, QUERIES), token)
        sequence = torch.cat([slots, ids], 1)
        labels = ids if projection == "opt_proj" else ids.flip(1)
        given = {"labels": labels} if projection == "t5_proj" else {}
        out = model(pixel_values=pixels, input_ids=sequence, attention_mask=torch.ones_like(sequence), **given)
        steps, prompt = 6, tokenizer([""] * 3, return_tensors="pt")["input_ids"]
        given = torch.cat([slots, prompt], 1)
        said = model.generate(pixel_values=pixels, input_ids=given, max_new_tokens=steps, do_sample=False)
        if projection == "opt_proj":
            assert torch.equal(said[:, :given.shape[1]], given), "it begins with what it was given"
            said = said[:, given.shape[1]:]
        else:
            said = said[:, 1:]  # after the decoder's start
        eos = model.language_model.generation_config.eos_token_id
        pad = text["pad_token_id"]
        said = torch.nn.functional.pad(said, (0, steps - said.shape[1]), value=pad)
        visual = checked_features(model, pixels)
        write_tensors(
            folder,
            inputs={"pixel_values": pixels, "input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels,
                    "prompt_ids": prompt},
            expected={"visual_tokens": visual, "logits": out.logits, "greedy_ids": said},
        )
        (folder / "config.json").write_text(json.dumps({"eos": eos, "max_new_tokens": steps}))

    return make


KINDS = {
    "export_retrieval": retrieval, "export_generation_opt": generation("opt", "opt_proj"),
    "export_generation_t5": generation("t5", "t5_proj"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad():
        for kind, make in KINDS.items():
            torch.manual_seed(options.seed)
            make(random.Random(f"{kind} {options.seed}"), options.out / f"{kind}_{options.seed}")


if __name__ == "__main__":
    main()
