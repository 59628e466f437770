#!/usr/bin/env python3
"""The input pipeline that a PyTorch user writes: a Dataset over the parquet's rows, Pillow, torchvision's transforms on
PIL images as in LAVIS' recipes, a DataLoader with persistent workers.

For every line on standard input it takes one epoch of shuffled batches and answers with a line of JSON, as `bench-loader`
does."""

import argparse
import io
import json
import sys
import time

import pyarrow.parquet as pq
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class Rows(Dataset):
    def __init__(self, path, side):
        # Arrow's buffers: shared by the workers, nothing is copied before a row is asked for.
        table = pq.read_table(path, columns=["jpg", "caption"], memory_map=True)
        self.jpg, self.caption = table["jpg"], table["caption"]
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(side, scale=(0.5, 1.0), interpolation=transforms.InterpolationMode.BICUBIC),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(CLIP_MEAN, CLIP_STD),
            ]
        )

    def __len__(self):
        return len(self.jpg)

    def __getitem__(self, index):
        image = Image.open(io.BytesIO(self.jpg[index].as_py())).convert("RGB")
        return self.transform(image), self.caption[index].as_py()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--parquet", required=True)
    parser.add_argument("--side", type=int, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--workers", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = Rows(arguments.parquet, arguments.side)
    loader = DataLoader(
        rows, batch_size=arguments.batch, shuffle=True, num_workers=arguments.workers, persistent_workers=True, prefetch_factor=3
    )
    sum(len(captions) for _, captions in loader)  # starts the workers
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        started = time.perf_counter()
        images = sum(len(captions) for _, captions in loader)
        print(json.dumps({"images": images, "seconds": time.perf_counter() - started}), flush=True)


if __name__ == "__main__":
    main()
