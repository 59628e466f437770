"""Photographs of nothing: smooth noise as JPEG, with a caption of made-up words each, in img2dataset's parquet layout."""

import io
import random

import numpy
import pyarrow
import pyarrow.parquet as pq
from PIL import Image


def write(folder, images, known, size=(512, 384)):
    """`images` rows below `folder`, their captions of the words `known`; the file, which is kept for the next time."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{images}.parquet"
    if path.exists():
        return path
    dice, noise = random.Random(1), numpy.random.default_rng(1)
    rows = {"key": [], "jpg": [], "caption": []}
    for index in range(images):
        small = Image.fromarray(noise.integers(0, 256, (size[1] // 16, size[0] // 16, 3), dtype=numpy.uint8))
        encoded = io.BytesIO()
        small.resize(size, Image.Resampling.BICUBIC).save(encoded, "JPEG", quality=90)
        rows["key"].append(f"{index:09}")
        rows["jpg"].append(encoded.getvalue())
        rows["caption"].append(" ".join(dice.choices(known, k=10)))
    pq.write_table(pyarrow.table(rows), path, row_group_size=1000)
    return path
