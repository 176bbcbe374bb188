"""tlx: transfer learning as a research subject, in JAX.

The names below are the library's front; each is imported when it is first used, so that `import tlx` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tlx import analysis, functional, models, objectives, records, study, tasks, training, tune, tuning, weights
    from tlx import objectives as terms
    from tlx.analysis.changes import moved
    from tlx.data import Data
    from tlx.models import forward
    from tlx.optim import Optim
    from tlx.recipe import Recipe, Train
    from tlx.study import Study
    from tlx.study.sweeps import chain, choice, param, prod, sweep, zip_
    from tlx.training.loop import Run, run
    from tlx.training.run_many import run_many
    from tlx.types import Learn
    from tlx.weights import Pretrained, Weights, load_adapter, load_pretrained, save_adapter, save_pretrained

__version__ = "0.1.0"

HOMES = {
    "Data": "data", "Learn": "types", "Optim": "optim", "Pretrained": "weights", "Recipe": "recipe",
    "Run": "training.loop", "Study": "study", "Train": "recipe", "Weights": "weights", "chain": "study.sweeps",
    "choice": "study.sweeps", "forward": "models", "load_adapter": "weights", "load_pretrained": "weights",
    "moved": "analysis.changes", "param": "study.sweeps", "prod": "study.sweeps", "run": "training.loop",
    "run_many": "training.run_many", "save_adapter": "weights", "save_pretrained": "weights", "sweep": "study.sweeps",
    "zip_": "study.sweeps",
}  # fmt: skip
ROOMS = {
    "analysis": "analysis", "functional": "functional", "models": "models", "objectives": "objectives",
    "records": "records", "study": "study", "tasks": "tasks", "terms": "objectives", "training": "training",
    "tune": "tune", "tuning": "tuning", "weights": "weights",
}  # fmt: skip
# Modules that had a name here, and their place now.
MOVED = {
    "benefit": "analysis.benefit", "blend": "weights.blend", "cells": "records.studies",
    "classical": "analysis.classical", "cost": "training.flops", "energy": "training.energy", "merge": "weights.merge",
    "negative": "analysis.negative", "stats": "functional.significance",
}  # fmt: skip
__all__ = ["__version__", *HOMES, *ROOMS]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in ROOMS:
        return import_module(f"tlx.{ROOMS[name]}")
    if name in HOMES:
        return getattr(import_module(f"tlx.{HOMES[name]}"), name)
    if name in MOVED:
        raise AttributeError(f"tlx.{name} is now tlx.{MOVED[name]}")
    raise AttributeError(f"module 'tlx' has no attribute {name!r}")
