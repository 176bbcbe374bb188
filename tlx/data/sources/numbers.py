"""Use rows of numbers in memory, such as the arrays of scikit-learn. Shapes: N rows, F numbers of a row."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tlx.assets import cache_dir
from tlx.data.sources.base import Dataset, Source
from tlx.files.durable import write_whole
from tlx.processors.columns import LABEL
from tlx.trees import Example
from tlx.types import Column

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class Numbers(Source):
    """Rows of numbers, each with a label.

        Numbers((features, labels), classes=("ill", "well"))

    After it is made, each split is the hash of its content, which is kept in the cache.

    Args:
        train: `(features, labels)`: float[N, F], and int[N] numbers of classes, or float[N] or float[N, K] targets.
        validation: The validation split, likewise.
        test: The test split, likewise.
        classes: The names of the classes; () for targets that are numbers.
    """

    train: Any = field(kw_only=False)
    validation: Any = None
    test: Any = None
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for split in SPLITS:
            value = getattr(self, split)
            if value is not None and not isinstance(value, str):
                features, labels = value
                object.__setattr__(self, split, kept(features, labels, bool(self.classes), split))

    def __str__(self) -> str:
        return f"numbers {self.train[:8]}"

    def open(self) -> Dataset:
        """Open the arrays. Raises FileNotFoundError where the cache was emptied since they were kept."""
        splits = {split: rows_of(content, split) for split in SPLITS if (content := getattr(self, split)) is not None}
        labels = splits["train"].labels
        kind: Any = "class" if self.classes else "number" if labels.ndim == 1 else "numbers"
        columns = {"numbers": Column("numbers"), LABEL: Column(kind, self.classes)}
        contents = {split: getattr(self, split) for split in splits}
        fingerprint = hashlib.sha256(json.dumps([contents, self.classes]).encode()).hexdigest()[:16]
        return Dataset(str(self), splits, columns, fingerprint)  # type: ignore[arg-type]


class NumberRows(Sequence[Example]):
    """The rows of a split: `features` [N, F] and `labels` [N] or [N, K]."""

    def __init__(self, features: np.ndarray, labels: np.ndarray):
        self.features, self.labels = features, labels

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, position: int) -> Example:  # type: ignore[override]
        if not 0 <= position < len(self):
            raise IndexError(f"there are {len(self)} rows; there is no row {position}")
        return {"numbers": self.features[position], LABEL: self.labels[position]}

    def __iter__(self) -> Iterator[Example]:
        return (self[position] for position in range(len(self)))

    def __getitems__(self, positions: Sequence[int]) -> list[Mapping[str, Any]]:
        return [self[position] for position in positions]


def kept(features: Any, labels: Any, classes: bool, split: str) -> str:
    """Keep the arrays of a split in the cache. Return the hash of their content.

    Raises ValueError for arrays that do not fit each other.
    """
    rows = np.ascontiguousarray(features, np.float64)
    targets = np.ascontiguousarray(labels, np.int32 if classes else np.float32)
    if rows.ndim != 2 or not len(rows) or len(targets) != len(rows):
        raise ValueError(
            f"{split}: the features have the shape {list(rows.shape)} and the labels {list(targets.shape)}; expected "
            "[rows, numbers] and one label for each row"
        )
    stream = io.BytesIO()
    np.savez(stream, allow_pickle=False, features=rows, labels=targets)
    # The hash is of the arrays, for an archive also holds times.
    content = hashlib.sha256(str((rows.shape, targets.shape, targets.dtype)).encode())
    for array in (rows, targets):
        content.update(array.tobytes())
    name = content.hexdigest()[:32]
    file = file_of(name)
    if not file.is_file():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, [stream.getbuffer()], shared=True)
    return name


def rows_of(content: str, split: str) -> NumberRows:
    """Return the rows that the cache keeps under a hash. Raises FileNotFoundError where there are none."""
    file = file_of(content)
    if not file.is_file():
        raise FileNotFoundError(
            f"the numbers {content[:8]} of the split {split!r} are no longer in the cache ({file.parent}); make the "
            "source again from its arrays: Numbers(...)"
        )
    with np.load(file, allow_pickle=False) as arrays:
        return NumberRows(arrays["features"], arrays["labels"])


def file_of(content: str) -> Any:
    """Return the file of the cache that keeps arrays of this hash."""
    return cache_dir() / "numbers" / f"{content}.npz"
