"""tlx: transfer learning as a research subject, in JAX.

The names below are those that a user needs first; each is imported when it is first used, so that `import tlx` costs
nothing. Everything else is reached through its package, such as `tlx.weights.merge` or `tlx.functional.metrics`.
"""

from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tlx import (
        analysis,
        functional,
        models,
        predict,
        records,
        report,
        study,
        tasks,
        training,
        tune,
        tuning,
        weights,
    )
    from tlx import objectives as terms
    from tlx.data import Data
    from tlx.finetuning import finetune
    from tlx.models import forward
    from tlx.optim import Optim
    from tlx.recipe import Recipe, Train
    from tlx.study import Study, choice, param, prod
    from tlx.training.loop import How, run
    from tlx.training.run_many import run_many
    from tlx.types import Learn
    from tlx.weights import Weights, load_adapter, load_pretrained, save_adapter, save_pretrained

__version__ = "0.1.0"

# By name the module that holds it.
HOMES = {
    "Data": "data", "How": "training.loop", "Learn": "types", "Optim": "optim", "Recipe": "recipe", "Study": "study",
    "Train": "recipe", "Weights": "weights", "choice": "study", "finetune": "finetuning", "forward": "models",
    "load_adapter": "weights",
    "load_pretrained": "weights", "param": "study", "prod": "study", "run": "training.loop",
    "run_many": "training.run_many", "save_adapter": "weights", "save_pretrained": "weights",
}  # fmt: skip
PACKAGES = {
    "analysis": "analysis", "models": "models", "predict": "predict", "report": "report", "study": "study",
    "tasks": "tasks", "terms": "objectives", "tune": "tune", "tuning": "tuning",
}  # fmt: skip
# What had a name here, and its place now.
MOVED = {
    "Pretrained": "weights.Pretrained", "Run": "training.loop.Run", "benefit": "analysis.benefit",
    "blend": "weights.blend", "cells": "records.studies", "chain": "study.chain", "classical": "analysis.classical",
    "cost": "training.flops", "energy": "training.energy", "merge": "weights.merge", "moved": "analysis.changes.moved",
    "negative": "analysis.negative", "stats": "functional.significance", "sweep": "study.sweep", "zip_": "study.zip_",
}  # fmt: skip
__all__ = ["__version__", *HOMES, *PACKAGES]  # noqa: PLE0604


def __dir__() -> list[str]:
    """Return the names that completion offers: those of `__all__`, and the packages behind them."""
    hidden = {"cli", "config", "files", "objectives"}
    return sorted({*__all__, *(module.name for module in iter_modules(__path__) if module.ispkg)} - hidden)


def __getattr__(name: str) -> Any:
    if name in HOMES:
        return getattr(import_module(f"tlx.{HOMES[name]}"), name)
    if name in PACKAGES:
        return import_module(f"tlx.{PACKAGES[name]}")
    if name in MOVED:
        raise AttributeError(f"tlx.{name} is now tlx.{MOVED[name]}")
    if not name.startswith("_") and find_spec(f"tlx.{name}") is not None:
        return import_module(f"tlx.{name}")
    raise AttributeError(f"module 'tlx' has no attribute {name!r}")
