#!/usr/bin/env python3
"""Stage 1's batches of pixels against PyTorch's DataLoader with Pillow and torchvision, in alternation, on the same
parquet. `make bench-loader`; docs/benchmarks.md has the figures."""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benches"))
import alternation  # noqa: E402
import photographs  # noqa: E402

SIDE = 224


def write_recipe(folder, corpus, batch):
    """The data set passed through, then stage 1; and the same without stage 1, which writes the captions."""
    captions = (
        f"name: bench\noutput: {folder / 'output'}\ndatasets:\n  - {{ name: noise, path: {corpus.parent}, capfilt: false }}\n"
    )
    (folder / "captions.yaml").write_text(captions)
    zoo = ROOT / "zoo"
    (folder / "recipe.yaml").write_text(
        f"{captions}stage1:\n  image_encoder: {zoo / 'clip'}\n  image_size: {SIDE}\n  tokenizer: {zoo / 'blip'}\n"
        f"  batch: {batch}\n  steps: 3000\n"
    )
    return folder / "captions.yaml", folder / "recipe.yaml"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--size", default="512x384", help="of the photographs")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="decoders here, workers there")
    parser.add_argument("--folder", type=Path, default=ROOT / "out/bench-loader")
    arguments = parser.parse_args()
    size = tuple(map(int, arguments.size.split("x")))
    folder = arguments.folder / arguments.size
    corpus = photographs.write(folder / f"corpus-{arguments.images}", arguments.images, ["a", "photo", "of", "noise"], size)
    captions, recipe = write_recipe(folder, corpus, arguments.batch)
    subprocess.run([ROOT / "target/release/quern", "run", captions], check=True, stdout=subprocess.DEVNULL)

    ours = [ROOT / "target/release/bench-loader", recipe, "--rows", arguments.images, "--threads", arguments.threads]
    peer = [sys.executable, ROOT / "benches/peers/loader_torch.py", "--parquet", corpus, "--side", SIDE]
    peer += ["--batch", arguments.batch, "--workers", arguments.threads]
    print(f"{arguments.images} JPEGs of {arguments.size} to {SIDE}x{SIDE}, batches of {arguments.batch}, {arguments.threads} threads")
    sides = alternation.Side("quern", ours), alternation.Side("the DataLoader", peer)
    ratios = alternation.alternate(*sides, arguments.rounds)
    print(", ".join(f"{side.name}: {side.rate():.0f} images/s" for side in sides))
    print(f"ratio: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
