"""Sources of data. A source is a frozen value; `open()` returns its splits and the description of its columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tlx.data.sources.base import Dataset, Source
    from tlx.data.sources.csv import Csv
    from tlx.data.sources.tfds import Tfds

# Lazy, because the command line reads settings without the imports that read data.
_HOMES = {"Csv": "csv", "Dataset": "base", "Source": "base", "Tfds": "tfds"}
__all__ = ["Csv", "Dataset", "Source", "Tfds"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
