#!/usr/bin/env python3
"""The memory of a CapFilt worker over many rows of the zoo's models: its resident set against the rows that are done, and the
slope of the line through all but the first fifth. `make bench-memory`; docs/benchmarks.md has the figures."""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
QUERN = ROOT / "target/release/quern"


def resident_mb(pid):
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def worker_below(pid):
    """The worker that `quern run` has started, once it is there."""
    while True:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                if "quern-worker" in Path(f"/proc/{child}/cmdline").read_text():
                    return int(child)
        time.sleep(0.05)


def slope(samples):
    """MB per 10,000 rows of the least-squares line through (rows, MB)."""
    rows, mb = [row for row, _ in samples], [mb for _, mb in samples]
    return statistics.linear_regression(rows, mb).slope * 10_000


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--candidates", type=int, default=10)
    parser.add_argument("--folder", type=Path, default=ROOT / "out/bench-memory")
    arguments = parser.parse_args()
    arguments.folder = arguments.folder.resolve()
    corpus, output = arguments.folder / f"corpus-{arguments.rows}", arguments.folder / "output"
    if not corpus.exists():
        subprocess.run([QUERN, "corpus", "synth", "--rows", str(arguments.rows), "--out", corpus], check=True)
    for left in arguments.folder.glob("output*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    zoo = ROOT / "zoo"
    recipe = arguments.folder / "recipe.yaml"
    recipe.write_text(
        f"name: memory\noutput: {output}\nshard_rows: 500\ndatasets:\n  - {{ name: scenes, path: {corpus} }}\n"
        f"capfilt:\n  captioner: {zoo / 'blip'}\n  ranker: {zoo / 'clip'}\n  candidates: {arguments.candidates}\n"
    )
    run = subprocess.Popen([QUERN, "run", recipe, "--workers", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    url = next(word for word in run.stderr.readline().replace(",", " ").split() if word.startswith("http://"))
    worker = worker_below(run.pid)
    samples = []
    while run.poll() is None:
        status = subprocess.run([QUERN, "status", "--to", url, "-o", "json"], capture_output=True, text=True)
        try:
            samples.append((json.loads(status.stdout)["rows_done"], resident_mb(worker)))
        except (FileNotFoundError, ValueError, KeyError):
            pass  # it is coming up, or over
        time.sleep(1)
    if run.returncode != 0:
        sys.exit(f"the run ended with {run.returncode}: {run.stderr.read()}")
    warm = [(rows, mb) for rows, mb in samples if rows >= arguments.rows / 5]
    for rows, mb in warm[:: max(1, len(warm) // 10)]:
        print(f"{rows:>7} rows: {mb:.1f} MB")
    print(f"slope after {arguments.rows // 5} rows: {slope(warm):+.2f} MB per 10,000 rows (goal: below 1)")


if __name__ == "__main__":
    main()
