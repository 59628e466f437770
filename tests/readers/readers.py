"""What data people read parquet with reads an output as it is: DuckDB, pandas, `datasets`, by file and by the folder's card.

Two real runs, with and without the images in the parts, over captions with control characters, nulls and failing rows;
pyarrow says what is in the files, and every reader must say the same.

usage: readers.py QUERN     (quern-worker beside it)
"""

import json
import os
import pathlib
import sys
import tempfile

import pyarrow
import pyarrow.parquet
from cluster import corpus, milled

# Survives as it is, in every reader: NUL, tab, escape, a turn of the direction, markup, quotes, a surrogate pair in UTF-16.
NASTY = "a\0b\t\x1b[31m\u202e<script>alert(1)</script> & \"quotes\" 'too' \U0001f415\r\n"
KEY = lambda row: (row["dataset"], row["file"], row["row"])


def with_nasty_captions(data: pathlib.Path) -> pathlib.Path:
    file = data / "00001.parquet"
    table = pyarrow.parquet.read_table(file)
    captions = table["caption"].to_pylist()
    captions[0] = captions[9] = NASTY
    keys = [None if row == 9 else key for row, key in enumerate(table["key"].to_pylist())]
    for name, column in (("caption", captions), ("key", keys)):
        place = table.column_names.index(name)
        table = table.set_column(place, name, pyarrow.array(column, pyarrow.string()))
    pyarrow.parquet.write_table(table, file)
    return data


def truth(output: pathlib.Path, folder: str) -> list[dict]:
    files = sorted((output / folder).glob("*.parquet"))
    rows = [row for file in files for row in pyarrow.parquet.ParquetFile(file).read().to_pylist()]
    return sorted(rows, key=KEY)


def same(reader: str, found: list[dict], expected: list[dict]):
    found = sorted(found, key=KEY)
    assert len(found) == len(expected), f"{reader}: {len(found)} rows instead of {len(expected)}"
    for mine, theirs in zip(expected, found):
        assert mine == theirs, f"{reader}: {mine}\nis read as\n{theirs}"


def duckdb_reads(output: pathlib.Path, folder: str, expected: list[dict]):
    import duckdb

    files = f"{output}/{folder}/*.parquet"
    table = duckdb.sql(f"SELECT * FROM '{files}'")
    same("duckdb", [dict(zip(table.columns, row)) for row in table.fetchall()], expected)
    if folder == "data":
        (nasty,) = duckdb.execute(f"SELECT count(*) FROM '{files}' WHERE top_caption = ?", [NASTY]).fetchall()[0]
        assert nasty >= 2, f"duckdb finds the nasty caption {nasty} times"
        (best,) = duckdb.sql(f"SELECT max(list_max([c.score FOR c IN candidates])) FROM '{files}'").fetchall()[0]
        assert best == max(c["score"] for row in expected for c in row["candidates"])


def pandas_reads(output: pathlib.Path, folder: str, expected: list[dict]):
    import pandas

    frame = pandas.read_parquet(output / folder)

    def plain(value):
        if hasattr(value, "tolist") and not isinstance(value, (str, bytes)):
            value = value.tolist()
        if isinstance(value, list):
            return [plain(item) for item in value]
        if isinstance(value, dict):
            return {name: plain(item) for name, item in value.items()}
        return None if isinstance(value, float) and value != value else value

    same("pandas", [{name: plain(value) for name, value in row.items()} for row in frame.to_dict("records")], expected)


def datasets_reads(output: pathlib.Path, embed_images: bool, expected: dict[str, list[dict]]):
    import datasets
    import PIL.Image
    from datasets import load_dataset

    def undecoded(rows):
        return rows.cast_column("image", datasets.Image(decode=False)) if embed_images else rows

    by_file = load_dataset("parquet", data_files=f"{output}/data/*.parquet", split="train")
    by_card = load_dataset(str(output), split="train")
    streamed = load_dataset(str(output), split="train", streaming=True)
    for way, rows in (("by file", by_file), ("by its card", by_card), ("streamed", streamed)):
        assert ("image" in rows.features) == embed_images, f"{way}: {rows.features}"
        if embed_images:
            assert isinstance(rows.features["image"], datasets.Image), f"{way}: {rows.features}"
            image = next(iter(rows))["image"]
            assert isinstance(image, PIL.Image.Image) and image.convert("RGB").size == image.size
        same(f"datasets, {way}", list(undecoded(rows)), expected["data"])
    assert by_file.features == by_card.features, f"the card says\n{by_card.features}\nthe files\n{by_file.features}"
    failed = load_dataset(str(output), "quarantine", split="train")
    same("datasets, quarantine", list(failed), expected["quarantine"])
    assert datasets.get_dataset_config_names(str(output)) == ["default", "quarantine"]


def leftovers_are_noticed(output: pathlib.Path):
    """What an attempt that was not accepted left behind is not read without a word."""
    from datasets import load_dataset
    from datasets.exceptions import ExpectedMoreSplitsError
    from datasets.utils.info_utils import NonMatchingSplitsSizesError

    some = next((output / "data").iterdir())
    left = some.with_name(f"left-{some.name}")
    left.write_bytes(some.read_bytes())
    try:
        # An own cache: what was read of the folder before is not read again.
        load_dataset(str(output), split="train", cache_dir=str(output.with_name("another-cache")))
    except (NonMatchingSplitsSizesError, ExpectedMoreSplitsError):
        return
    finally:
        left.unlink()
    raise AssertionError("a file too many in data/ goes unnoticed")


def the_card_is_the_hubs(output: pathlib.Path):
    from huggingface_hub import DatasetCard

    card = DatasetCard.load(output / "README.md")
    assert card.data.pretty_name == "an output: for | other `readers`", card.data
    assert card.data.task_categories == ["image-to-text"] and card.data.license is None
    totals = json.loads((output / "manifest.json").read_text())["totals"]
    assert card.data.dataset_info[0]["splits"][0]["num_examples"] == totals["kept"] + totals["passed"]


def main(quern: str):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        os.environ |= {"HF_HOME": str(folder / "hf"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
        data = with_nasty_captions(corpus(folder / "corpus", quern, 80))
        for embed_images in (False, True):
            more = f"  embed_images: {str(embed_images).lower()}"
            output = milled(folder, data, quern, f"images-{embed_images}", more)
            expected = {part: truth(output, part) for part in ("data", "quarantine")}
            passed = [row for row in expected["data"] if row["dataset"] == "as-they-are"]
            assert [row["top_caption"] for row in passed].count(NASTY) == 2 and any(row["key"] is None for row in passed)
            assert all(row["captions"][0]["score"] is None for row in passed)
            for part, rows in expected.items():
                assert rows, f"no rows in {part}/"
                duckdb_reads(output, part, rows)
                pandas_reads(output, part, rows)
            datasets_reads(output, embed_images, expected)
            the_card_is_the_hubs(output)
        leftovers_are_noticed(output)
    print("DuckDB, pandas and datasets read what is there")


if __name__ == "__main__":
    main(*sys.argv[1:])
