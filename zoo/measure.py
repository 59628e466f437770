"""Measures the zoo on scenes that it was not trained on: how often captions are correct, and what ranking makes of it.

    .venv/bin/python zoo/measure.py [--zoo zoo] [--data DIR] [--rows 500]

Captions are judged by the toy world's own `is_correct` (the example `toy_correct` of quern-corpus), never here.
"""

import argparse
import io
import pathlib
import subprocess

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, BlipForConditionalGeneration, CLIPModel

ROOT = pathlib.Path(__file__).resolve().parent.parent
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
MEASURE_SEED, CANDIDATES = 1001, 10


def judge(truths, captions):
    """1 for every caption that is correct for its scene."""
    lines = "".join(f"{truth}\t{' '.join((caption or '').split())}\n" for truth, caption in zip(truths, captions))
    command = ["cargo", "run", "--release", "--quiet", "-p", "quern-corpus", "--example", "toy_correct"]
    printed = subprocess.run(command, cwd=ROOT, input=lines, text=True, check=True, capture_output=True).stdout
    return np.array([int(line) for line in printed.split()])


def pixels(jpgs, side):
    images = [Image.open(io.BytesIO(jpg)).convert("RGB").resize((side, side), Image.BICUBIC) for jpg in jpgs]
    return torch.stack([(torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 - MEAN) / STD for image in images])


def complete(model, tokenizer, prompts, new_tokens):
    """What the language model says next, greedily, up to the end of the line. Decoder-only prompts are whole texts."""
    encoder = model.config.is_encoder_decoder
    tokenizer.padding_side = "right" if encoder else "left"
    said = []
    for start in range(0, len(prompts), 100):
        encoded = tokenizer(prompts[start:start + 100], padding=True, return_tensors="pt", add_special_tokens=encoder)
        ids = model.generate(input_ids=encoded.input_ids, attention_mask=encoded.attention_mask, do_sample=False,
                             max_new_tokens=new_tokens)
        skip = 0 if encoder else encoded.input_ids.shape[1]
        said += [text.split("\n")[0].strip() for text in tokenizer.batch_decode(ids[:, skip:], skip_special_tokens=True)]
    return said


def measure_language_models(folder, rows):
    """How often the language models are right when they read the full caption: their answers, and their own captions."""
    truths, full = [row["truth"] for row in rows], [row["correct_captions"][0] for row in rows]
    for name, kind, joint in (("opt", AutoModelForCausalLM, "</s>"), ("t5", AutoModelForSeq2SeqLM, " ")):
        tokenizer = AutoTokenizer.from_pretrained(folder / name)
        model = kind.from_pretrained(folder / name, dtype=torch.float32).eval()
        said = complete(model, tokenizer, [f"{caption}{joint}{row['question']}" for caption, row in zip(full, rows)], 8)
        right = np.mean([answer == row["answer"] for answer, row in zip(said, rows)])
        captions = complete(model, tokenizer, [f"{caption}{joint}".rstrip(" ") for caption in full], 48)
        print(f"{name}: answers right: {right:.3f}; captions correct: {judge(truths, captions).mean():.3f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=pathlib.Path, default=ROOT / "zoo")
    parser.add_argument("--data", type=pathlib.Path, default=ROOT / "out/zoo-measure")
    parser.add_argument("--rows", type=int, default=500)
    arguments = parser.parse_args()
    if not any(arguments.data.glob("*.parquet")):
        command = [ROOT / "target/release/quern", "corpus", "synth", "--rows", arguments.rows, "--junk", 0.6,
                   "--seed", MEASURE_SEED, "--questions", "--variants", 1, "--out", arguments.data]
        subprocess.run([str(part) for part in command], check=True)
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    rows = pq.read_table(sorted(arguments.data.glob("*.parquet"))).slice(0, arguments.rows).to_pylist()
    truths, web = [row["truth"] for row in rows], [row["caption"] for row in rows]
    images = pixels([row["jpg"] for row in rows], 64)
    print(f"{len(rows)} scenes; web captions correct: {judge(truths, web).mean():.3f}", flush=True)

    blip = BlipForConditionalGeneration.from_pretrained(arguments.zoo / "blip", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(arguments.zoo / "blip")
    captions = [[] for _ in rows]
    for start in range(0, len(rows), 100):
        batch = images[start:start + 100].repeat_interleave(CANDIDATES, dim=0)
        ids = blip.generate(pixel_values=batch, do_sample=True, top_p=0.9, top_k=0, min_length=5, max_length=48)
        for index, text in enumerate(tokenizer.batch_decode(ids, skip_special_tokens=True)):
            captions[start + index // CANDIDATES].append(text)
    flat = [caption for own in captions for caption in own]
    correct = judge([truth for truth in truths for _ in range(CANDIDATES)], flat).reshape(-1, CANDIDATES)
    print(f"sampled captions correct: {correct.mean():.3f}; distinct per image: {np.mean([len(set(own)) for own in captions]):.2f}")

    clip = CLIPModel.from_pretrained(arguments.zoo / "clip", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(arguments.zoo / "clip")
    image_embeds = clip.get_image_features(pixel_values=images)
    image_embeds = getattr(image_embeds, "pooler_output", image_embeds)
    kept_truths, kept, first_truths, first = [], [], [], []
    for index, own in enumerate(captions):
        texts = list(dict.fromkeys([text for text in own + [web[index] or ""] if text]))
        encoded = tokenizer(texts, padding=True, truncation=True, max_length=77, return_tensors="pt")
        embeds = clip.get_text_features(**encoded)
        embeds = getattr(embeds, "pooler_output", embeds)
        scores = torch.cosine_similarity(embeds, image_embeds[index:index + 1])
        best = [texts[i] for i in scores.argsort(descending=True, stable=True)[:2]]
        first_truths.append(truths[index])
        first.append(best[0])
        kept_truths += [truths[index]] * len(best)
        kept += best
    print(f"first choice correct: {judge(first_truths, first).mean():.3f}; kept (top 2) correct: {judge(kept_truths, kept).mean():.3f}; "
          f"words per kept caption: {np.mean([len(text.split()) for text in kept]):.1f}")
    measure_language_models(arguments.zoo, rows)


if __name__ == "__main__":
    main()
