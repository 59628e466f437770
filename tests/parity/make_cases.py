#!/usr/bin/env python3
"""Makes fresh golden cases of chosen sizes and seeds from the installed Hugging Face transformers.

    make_cases.py OUT [--seed N] [--kinds blip_caption clip_rank …] [--count N]

Every case is a random tiny model of random sizes, in the layout of tests/golden/cases (see tests/golden/README.md), so
that the golden runner checks it: `golden OUT`. Everything expected comes from transformers and torch, nothing from quern.
`cases/` holds a module per model (see cases/__init__.py); a new module is found by itself.
"""

import argparse
import importlib
import pathlib
import pkgutil
import random

import torch

import cases


MODULES = [importlib.import_module(f"cases.{module.name}") for module in pkgutil.iter_modules(cases.__path__)]


def offered(table):
    """What the modules of cases/ offer under the name `table`, in one."""
    found = {}
    for module in MODULES:
        for stem, entry in getattr(module, table, {}).items():
            assert stem not in found, f"two modules of cases/ make {stem}"
            found[stem] = entry
    return found


def main():
    makers, sets, half = offered("KINDS"), offered("SETS"), offered("DTYPES")
    kinds = sorted([*makers, *sets])
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=3, help="cases of each kind; of those in half precision, one")
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with torch.no_grad():
        for kind in options.kinds:
            if kind in sets:
                sets[kind](options.out)
                continue
            for dtype in [torch.float32, *half.get(kind, [])]:
                whole, name = dtype == torch.float32, str(dtype).removeprefix("torch.")
                for seed in range(options.seed, options.seed + (options.count if whole else 1)):
                    torch.manual_seed(seed)
                    folder = options.out / (f"{kind}_{seed}" if whole else f"{kind}_{name}_{seed}")
                    makers[kind](random.Random(f"{kind} {name} {seed}"), folder, dtype)


if __name__ == "__main__":
    main()
