"""How many parameters every preset of models/presets/ has, counted on PyTorch's meta device.

A module of this package may have `COUNTS`: a preset's `model` -> a function from its `config` to the count.
"""

import importlib
import json
import pathlib
import pkgutil

import torch

from .shared import write_case

PRESETS = pathlib.Path(__file__).parents[3] / "models" / "presets"


def counters():
    """Every module's `COUNTS` in one."""
    package = __name__.rsplit(".", 1)[0]
    modules = [importlib.import_module(f"{package}.{module.name}") for module in pkgutil.iter_modules([pathlib.Path(__file__).parent])]
    return {model: counter for module in modules for model, counter in getattr(module, "COUNTS", {}).items()}


def parameter_count(out):
    """One case per preset."""
    known = counters()
    for path in sorted(PRESETS.glob("*.json")):
        preset = json.loads(path.read_text())
        with torch.device("meta"):
            count = known[preset["model"]](preset["config"])
        write_case(out / "parameter_count" / path.stem, preset, None, {}, {"parameters": torch.tensor([count])})


SETS = {"parameter_count": parameter_count}
