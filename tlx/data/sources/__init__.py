"""Sources of data. A source is a frozen value; `open()` returns its splits and the description of its columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tlx.data.sources.base import Dataset, Source
    from tlx.data.sources.combined import Concat, Where
    from tlx.data.sources.csv import Csv
    from tlx.data.sources.folder import Folder
    from tlx.data.sources.hf_dataset import HfDataset
    from tlx.data.sources.image_list import ImageList
    from tlx.data.sources.in_memory import Arrays, Frame
    from tlx.data.sources.jsonl import Jsonl
    from tlx.data.sources.mixture import Member, Mixture
    from tlx.data.sources.numbers import Numbers
    from tlx.data.sources.parquet import Parquet
    from tlx.data.sources.tfds import Tfds

# Lazy, because the command line reads settings without the imports that read data.
_HOMES = {
    "Arrays": "in_memory", "Concat": "combined", "Csv": "csv", "Dataset": "base", "Folder": "folder",
    "Frame": "in_memory", "HfDataset": "hf_dataset", "ImageList": "image_list", "Jsonl": "jsonl",
    "Member": "mixture", "Mixture": "mixture", "Numbers": "numbers", "Parquet": "parquet",
    "Source": "base", "Tfds": "tfds", "Where": "combined",
}  # fmt: skip
__all__ = [
    "Arrays", "Concat", "Csv", "Dataset", "Folder", "Frame", "HfDataset", "ImageList", "Jsonl", "Member", "Mixture",
    "Numbers", "Parquet", "Source", "Tfds", "Where",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
