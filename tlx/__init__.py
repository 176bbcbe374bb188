"""tlx: transfer learning as a research subject, in JAX.

The names below are the library's front; each is imported when it is first used, so that `import tlx` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tlx import (
        benefit,
        blend,
        cells,
        classical,
        cost,
        energy,
        merge,
        models,
        negative,
        objectives,
        stats,
        study,
        tasks,
        tune,
        tuning,
    )
    from tlx import objectives as terms
    from tlx.data import Data
    from tlx.many import run_many
    from tlx.models import forward
    from tlx.movement import moved
    from tlx.optim import Optim
    from tlx.recipe import Recipe, Train
    from tlx.study import Study
    from tlx.sweeps import chain, choice, param, prod, sweep, zip_
    from tlx.train import Run, run
    from tlx.types import Learn
    from tlx.weights import Pretrained, Weights, load_adapter, load_pretrained, save_adapter, save_pretrained

__version__ = "0.1.0"

HOMES = {
    "Data": "data", "Learn": "types", "Optim": "optim", "Pretrained": "weights", "Recipe": "recipe", "Run": "train",
    "Study": "study", "Train": "recipe", "Weights": "weights", "chain": "sweeps", "choice": "sweeps",
    "forward": "models", "load_adapter": "weights", "load_pretrained": "weights", "moved": "movement",
    "param": "sweeps", "prod": "sweeps", "run": "train", "run_many": "many", "save_adapter": "weights",
    "save_pretrained": "weights", "sweep": "sweeps", "zip_": "sweeps",
}  # fmt: skip
ROOMS = {
    "benefit": "benefit", "blend": "blend", "cells": "cells", "classical": "classical", "cost": "cost",
    "energy": "energy", "merge": "merge", "models": "models", "negative": "negative", "objectives": "objectives",
    "stats": "stats", "study": "study", "tasks": "tasks", "terms": "objectives", "tune": "tune", "tuning": "tuning",
}  # fmt: skip
__all__ = ["__version__", *HOMES, *ROOMS]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in ROOMS:
        return import_module(f"tlx.{ROOMS[name]}")
    if name in HOMES:
        return getattr(import_module(f"tlx.{HOMES[name]}"), name)
    raise AttributeError(f"module 'tlx' has no attribute {name!r}")
