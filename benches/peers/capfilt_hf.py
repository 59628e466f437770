#!/usr/bin/env python3
"""The CapFilt loop that a competent Hugging Face user writes: one `generate` per batch with `num_return_sequences`,
inference mode, SDPA where transformers has it, CLIP texts padded to the longest of the batch.

It loads everything once and tries the batch sizes on some images; then, for every line on standard input, it captions and
ranks all images once and answers with a line of JSON, as `bench-capfilt` does."""

import argparse
import io
import json
import sys
import time

import pyarrow.parquet as pq
import torch
from PIL import Image
from transformers import AutoTokenizer, BlipForConditionalGeneration, BlipImageProcessor, CLIPImageProcessor, CLIPModel


class Peer:
    def __init__(self, arguments):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype = getattr(torch, arguments.dtype)
        # transformers has no SDPA for BLIP; CLIP has it.
        blip = BlipForConditionalGeneration.from_pretrained(arguments.captioner, dtype=self.dtype)
        clip = CLIPModel.from_pretrained(arguments.ranker, dtype=self.dtype, attn_implementation="sdpa")
        self.blip, self.clip = blip.to(self.device).eval(), clip.to(self.device).eval()
        self.blip_images = BlipImageProcessor.from_pretrained(arguments.captioner)
        self.clip_images = CLIPImageProcessor.from_pretrained(arguments.ranker)
        self.blip_text = AutoTokenizer.from_pretrained(arguments.captioner)
        self.clip_text = AutoTokenizer.from_pretrained(arguments.ranker)
        self.sampling = json.loads(arguments.sampling)
        self.candidates = arguments.candidates
        table = pq.read_table(arguments.parquet, columns=["jpg", "caption"]).to_pydict()
        self.rows = list(zip(table["jpg"], table["caption"]))

    @torch.inference_mode()
    def batch(self, rows):
        """Captions, scores and the best two of each image; the tokens that were written."""
        images = [Image.open(io.BytesIO(jpg)).convert("RGB") for jpg, _ in rows]
        pixels = self.blip_images(images, return_tensors="pt")["pixel_values"].to(self.device, self.dtype)
        ids = self.blip.generate(pixels, do_sample=True, top_k=0, num_return_sequences=self.candidates, **self.sampling)
        end = self.blip.config.text_config.sep_token_id
        tokens = sum((row[1:].index(end) if end in row[1:] else len(row) - 1) for row in ids.tolist())
        written = [text.strip() for text in self.blip_text.batch_decode(ids, skip_special_tokens=True)]
        texts, kept = [], []
        for index, (_, web) in enumerate(rows):
            texts += written[index * self.candidates : (index + 1) * self.candidates] + [web]
        encoded = self.clip_text(texts, padding=True, truncation=True, max_length=77, return_tensors="pt").to(self.device)
        pixels = self.clip_images(images, return_tensors="pt")["pixel_values"].to(self.device, self.dtype)
        scores = self.clip(pixel_values=pixels, **encoded)
        image = torch.nn.functional.normalize(scores.image_embeds, dim=-1)
        text = torch.nn.functional.normalize(scores.text_embeds, dim=-1).view(len(rows), self.candidates + 1, -1)
        similarity = torch.einsum("be,bte->bt", image, text)
        for index, best in enumerate(similarity.topk(2).indices.tolist()):
            kept.append([texts[index * (self.candidates + 1) + at] for at in best])
        return kept, tokens

    def round(self, rows, size):
        started, tokens = time.perf_counter(), 0
        for start in range(0, len(rows), size):
            tokens += self.batch(rows[start : start + size])[1]
        seconds = time.perf_counter() - started
        return {"images": len(rows), "seconds": seconds, "tokens_per_caption": tokens / len(rows) / self.candidates}

    def best_size(self, sizes):
        """The fastest batch size on the first images, the first call of each size left out."""
        rates = {}
        for size in sizes:
            rows = self.rows[: max(sizes)]
            self.batch(rows[:size])
            rates[size] = len(rows) / self.round(rows, size)["seconds"]
        return max(rates, key=rates.get), rates


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--captioner", required=True)
    parser.add_argument("--ranker", required=True)
    parser.add_argument("--parquet", required=True)
    parser.add_argument("--candidates", type=int, required=True)
    parser.add_argument("--sampling", required=True, help="JSON: generate's arguments")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--batch-sizes", default="1,4,8")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    peer = Peer(arguments)
    size, rates = peer.best_size([int(size) for size in arguments.batch_sizes.split(",")])
    print(json.dumps({"ready": True, "device": peer.device, "batch": size, "rates": rates}), flush=True)
    for _ in sys.stdin:
        print(json.dumps(peer.round(peer.rows, size)), flush=True)


if __name__ == "__main__":
    main()
