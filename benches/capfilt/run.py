#!/usr/bin/env python3
"""CapFilt against the script that a Hugging Face user writes, in alternation: the same folders of weights, the same parquet,
the same sampling, data type and threads. `make bench-capfilt`; docs/benchmarks.md has the figures."""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch

import models

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benches"))
import alternation  # noqa: E402
import photographs  # noqa: E402

CANDIDATES = 10
SAMPLING = dict(top_p=0.9, min_length=5, max_length=20, repetition_penalty=1.1)


def write_recipe(path, corpus, captioner, ranker, batch, dtype):
    precision = {"float32": "float", "bfloat16": "bfloat16", "float16": "half"}[dtype]
    sampling = ", ".join(f"{key}: {value}" for key, value in SAMPLING.items())
    path.write_text(
        f"name: bench\noutput: {path.parent / 'output'}\n"
        f"datasets:\n  - {{ name: noise, path: {corpus.parent} }}\n"
        f"capfilt:\n  captioner: {captioner}\n  ranker: {ranker}\n  candidates: {CANDIDATES}\n  batch_images: {batch}\n"
        f"  precision: {{ captioner: {precision}, ranker: {precision} }}\n  sampling: {{ {sampling} }}\n"
    )
    return path


def matmul_rate(threads, dtype):
    """Floating-point operations per second of a large matrix multiplication."""
    torch.set_num_threads(threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    side = 8192 if device == "cuda" else 2048
    a = torch.randn(side, side, device=device).to(dtype)
    times = []
    for _ in range(8):
        started = time.perf_counter()
        a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return 2 * side**3 / statistics.median(times[2:])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", choices=["base", "large"], default="base")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16, help="quern's batch_images")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--peer-batch-sizes", default="1,4,8")
    parser.add_argument("--folder", type=Path, default=ROOT / "out/bench-capfilt")
    arguments = parser.parse_args()
    captioner, ranker = models.make(arguments.folder / "models", arguments.size)
    corpus = photographs.write(arguments.folder / f"corpus-{arguments.images}", arguments.images, models.words(20_000))
    recipe = write_recipe(arguments.folder / "recipe.yaml", corpus, captioner, ranker, arguments.batch, arguments.dtype)
    peak = matmul_rate(arguments.threads, getattr(torch, arguments.dtype))

    ours = alternation.Side("quern", [ROOT / "target/release/bench-capfilt", recipe, "--threads", arguments.threads])
    peer = [sys.executable, ROOT / "benches/peers/capfilt_hf.py", "--captioner", captioner, "--ranker", ranker]
    peer += ["--parquet", corpus, "--candidates", CANDIDATES, "--sampling", json.dumps(SAMPLING)]
    peer += ["--threads", arguments.threads, "--dtype", arguments.dtype, "--batch-sizes", arguments.peer_batch_sizes]
    theirs = alternation.Side("the Hugging Face script", peer)
    print(f"{arguments.size}, {arguments.dtype}, {ours.about['device']}, {arguments.threads} threads, {arguments.images} images a round")
    rates = ", ".join(f"{size}: {rate:.3f}" for size, rate in theirs.about["rates"].items())
    print(f"the script's images/s by batch size: {rates}; it takes {theirs.about['batch']}", flush=True)
    ratios = alternation.alternate(ours, theirs, arguments.rounds)
    for side in (ours, theirs):
        tokens = statistics.mean(round["tokens_per_caption"] for round in side.rounds)
        # A made-up word is 1.7 CLIP tokens on the average; start and end come on top.
        needed = models.flops(arguments.size, tokens, 1.7 * tokens + 2, CANDIDATES)
        share = side.rate() * needed / peak
        print(f"{side.name}: {side.rate():.3f} images/s, {tokens:.1f} tokens per caption, {share:.0%} of {peak / 1e9:.0f} GFLOP/s")
    print(f"ratio: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
