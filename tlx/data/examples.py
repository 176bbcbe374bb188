"""Examples: a sequence of records with columns, and the views of it that an experiment sees.

Nothing here knows where records come from: see `tlx.data.sources`.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

from tlx.assets import cache_dir
from tlx.data.perturbation import Perturbation
from tlx.processors.columns import HEAVY, LABEL, inputs, read_cell

if TYPE_CHECKING:
    from tlx.data.sources.base import Dataset, Source
    from tlx.processors.columns import Columns
    from tlx.types import Column

Kind = TypeVar("Kind", bound="Examples")

# Labels of these kinds are one number each, so those of a split are one array.
SCALAR = ("class", "number")


class Examples(Sequence[dict[str, Any]]):
    """A split, or some rows of one.

    `examples[i]` holds what each column says: `{"text": str}`, `{"image": uint8[H, W, C]}`, `{"audio": float32[T]}`,
    `{"words": list of str}`, ... with `"label"` (an int, a float, or a list of them) and `"index"`, its position in the
    whole split, whatever rows the view has.

    Args:
        name: The name of the data set.
        split: The name of the split.
        source: The records: mappings from the name of a column to a cell. A sequence that has `__getitems__(rows)` is
            read many records at a time.
        columns: What each column holds; `label` is the target.
        rows: The places in `source` that this view shows, None for all.
        key: Names the file that remembers the labels, "" for none. It changes with the content.
        content: The fingerprint of the data set, by which computed features are kept apart.
        mapping: int[C]: what each class of the source counts as, where `columns` name the classes of another data set.
        perturbation: What changes labels and inputs after that.
    """

    grants = True

    def __init__(
        self,
        name: str,
        split: str,
        source: Sequence[Mapping[str, Any]],
        columns: Columns,
        *,
        rows: np.ndarray | None = None,
        key: str = "",
        content: str = "",
        mapping: np.ndarray | None = None,
        perturbation: Perturbation | None = None,
    ):
        self.name, self.split, self.source, self.columns = name, split, source, columns
        self.mapping, self.perturbation = mapping, perturbation
        self.rows = np.arange(len(source)) if rows is None else np.asarray(rows)
        self.key, self.content = key, content
        # What the pipeline has made of these examples, by processor; a view has its own.
        self.memory: dict[Any, Any] = {}
        # Measurements for the notes on odd data; runs on the same examples share them.
        self.measured: dict[Any, Any] = {}
        self._labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"Examples({self.name!r}, {self.split!r}, {len(self)} of {len(self.source)})"

    def __getitem__(self, position: int) -> dict[str, Any]:  # type: ignore[override]
        return self._example(position, inputs(self.columns))

    def light(self, position: int) -> dict[str, Any]:
        """The same example without its images and sounds, which take long to read."""
        columns = inputs(self.columns)
        return self._example(position, {name: own for name, own in columns.items() if own.kind not in HEAVY})

    @property
    def labelled(self) -> bool:
        """Whether the examples have labels that this view may read."""
        return self.grants and LABEL in self.columns

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes that the labels count."""
        return self.columns[LABEL].classes if LABEL in self.columns else ()

    @property
    def kind(self) -> str:
        """The kind of the label."""
        return self.columns[LABEL].kind if LABEL in self.columns else "nothing"

    @property
    def scalar(self) -> bool:
        """Whether each label is one number."""
        return self.kind in SCALAR

    def _example(self, position: int, columns: Columns) -> dict[str, Any]:
        index = int(self.rows[position])
        record = self.source[index]
        place = self.place(index)
        example = {name: read_cell(record[name], column, name, place) for name, column in columns.items()}
        if self.perturbation is not None:
            example = self.perturbation.shifted(example, index, len(self.source), columns)
        return {**example, **self._truth(record, index), "index": index}

    def _truth(self, record: Mapping[str, Any], index: int) -> dict[str, Any]:
        if LABEL not in self.columns:
            return {}
        label = self._label(record, index)
        if not self.scalar:
            return {LABEL: label if self.mapping is None else self.mapping[label].tolist()}
        (label,) = self._seen(np.array([label], self.label_dtype), np.array([index])).tolist()
        return {LABEL: label}

    def place(self, index: int) -> str:
        """The example at this place of the whole split, in an error."""
        return f"{self.name} {self.split}[{index}]"

    def labels(self) -> np.ndarray:
        """int32[N] classes, or float32[N] numbers; read once.

        Raises:
            ValueError: A class is out of range, or a number is not finite.
            TypeError: Each label is a list.
        """
        if not self.scalar:
            raise TypeError(f"each label of {self.name} {self.split} is a list ({self.kind}); read them one by one")
        if self._labels is None:
            file = cache_dir() / "labels" / f"{self.key}-{self.split}.npy"
            if self.key and file.is_file():
                every = np.load(file, allow_pickle=False)
            else:
                every = np.array(list(self._read_labels()), self.label_dtype)
                if self.key:
                    save_whole(file, every)
            self._labels = self._seen(every[self.rows], self.rows)
        return self._labels

    def check_labels(self) -> None:
        """Read all labels once. Raises ValueError for one that is out of range."""
        if self.scalar:
            self.labels()
        elif "checked" not in self.measured:
            self.measured["checked"] = sum(1 for _ in self._read_labels())

    def strata(self) -> np.ndarray:
        """int32[N]: what equal shares are drawn of: the classes, or 0 for all where labels are no classes."""
        return self.labels() if self.kind == "class" else np.zeros(len(self), np.int32)

    def _seen(self, labels: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The labels found at `rows` as these examples have them."""
        labels = labels if self.mapping is None else self.mapping[labels].astype(np.int32)
        return labels if self.perturbation is None else self.perturbation.relabelled(labels, rows, len(self.source))

    @property
    def identity(self) -> bytes:
        """Equal where two views of a split show the same examples, perturbed in the same way."""
        perturbed = "" if self.perturbation is None else self.perturbation.spelled
        return self.rows.astype(np.int64).tobytes() + perturbed.encode()

    def view(self, positions: np.ndarray) -> Self:
        """The examples at these positions of this view, in the order given."""
        positions = np.asarray(positions, int)
        rows = self.rows[positions]
        chosen = self._like(type(self), rows)
        chosen._labels = None if self._labels is None else self._labels[positions]
        return chosen

    def _like(self, kind: type[Kind], rows: np.ndarray | None) -> Kind:
        return kind(
            self.name, self.split, self.source, self.columns,
            rows=rows, key=self.key, content=self.content, mapping=self.mapping, perturbation=self.perturbation,
        )  # fmt: skip

    def seal(self) -> Sealed:
        """The same rows with nothing behind them."""
        return Sealed(self.name, self.split, (), self.columns, rows=self.rows, perturbation=self.perturbation)

    def unlabelled(self) -> Unlabelled:
        """The same rows without their labels."""
        return self._like(Unlabelled, self.rows)

    def renamed(self, classes: tuple[str, ...], mapping: np.ndarray) -> Self:
        """The same rows, whose labels c count as the classes `mapping[c]` of others."""
        view = self._like(type(self), self.rows)
        view.columns = {**self.columns, LABEL: self.columns[LABEL]._replace(classes=classes)}
        view.mapping = mapping
        return view

    def perturbed(self, perturbation: Perturbation) -> Self:
        """The same rows, perturbed."""
        view = self._like(type(self), self.rows)
        view.perturbation = perturbation
        return view

    def whole(self) -> Self:
        """All examples of the split that this is a view of."""
        return self._like(type(self), None)

    @property
    def label_dtype(self) -> type:
        """The type of one label."""
        return np.float32 if self.kind in ("number", "numbers") else np.int32

    def _read_labels(self) -> Iterator[Any]:
        for start in range(0, len(self.source), 1024):
            rows = range(start, min(start + 1024, len(self.source)))
            for index, record in zip(rows, many(self.source, rows), strict=True):
                yield self._label(record, index)

    def _label(self, record: Mapping[str, Any], index: int) -> Any:
        column: Column = self.columns[LABEL]
        if self.mapping is not None:
            # The record counts the classes of its own data set.
            column = column._replace(classes=("",) * len(self.mapping))
        label = read_cell(record[LABEL], column, LABEL, self.place(index))
        if column.kind == "tags" and len(label) != len(record["words"]):
            raise ValueError(
                f"{self.place(index)} has {len(record['words'])} words and {len(label)} tags; expected one tag for "
                "each word"
            )
        return label


class Unlabelled(Examples):
    """Examples whose labels nobody may read: they are in no example, and whoever asks for them is refused."""

    grants = False

    def _truth(self, record: Mapping[str, Any], index: int) -> dict[str, Any]:
        return {}

    def labels(self) -> np.ndarray:
        raise PermissionError(f"the labels of {self.name} {self.split} are not granted to this setting")


class Sealed(Examples):
    """A split of which only the length and the rows are known: whoever reads an example or a label is refused."""

    grants = False

    def _example(self, position: int, columns: Columns) -> dict[str, Any]:
        raise PermissionError(f"{self.name} {self.split} is sealed: this run was told not to look at it")

    def labels(self) -> np.ndarray:
        raise PermissionError(f"the labels of {self.name} {self.split} are sealed: this run was told not to look at it")


def open_dataset(source: str | Source) -> Dataset:
    """Open the data set of a source, or of a name that `tlx.data.sources.Tfds` knows.

    Raises what the source's `open` raises.
    """
    from tlx.data.sources import Tfds

    return Tfds(source).open() if isinstance(source, str) else source.open()


def many(source: Sequence[Mapping[str, Any]], rows: Sequence[int]) -> Sequence[Mapping[str, Any]]:
    """The records at these rows, read together where the source can do that."""
    read = getattr(source, "__getitems__", None)
    return [source[row] for row in rows] if read is None else read(rows)


def save_whole(file: Path, array: np.ndarray) -> None:
    """Write an array to a file at once, if the disk takes it."""
    # The file only saves time: a full or read-only disk must not stop a run.
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".npy", delete=False) as stream:
            np.save(stream, array)
        os.replace(stream.name, file)
