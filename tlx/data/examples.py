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
from tlx.processors.columns import HEAVY, LABEL, check_answers, inputs, read_cell
from tlx.trees import Example, near_miss

if TYPE_CHECKING:
    from tlx.data.members import Members
    from tlx.data.sources.base import Dataset, Source
    from tlx.processors.columns import Columns
    from tlx.types import Column

Kind = TypeVar("Kind", bound="Examples")

# Labels of these kinds are one number each, so those of a split are one array.
SCALAR = ("class", "number")
# The text in which a question has its answers.
CONTEXT = "text_pair"


class Examples(Sequence[dict[str, Any]]):
    """Examples of a split: all of its rows or some of them.

    `examples[i]` is a mapping with the cell of each column: `{"text": str}`, `{"image": uint8[H, W, C]}`, `{"audio":
    float32[T]}`, `{"words": list of str}`, ... It also has `"label"` (an int, a float, or a list of them) and
    `"index"`, the position of the example in the whole split, whichever rows the view has.

    Args:
        name: The name of the data set.
        split: The name of the split.
        source: The records: mappings from the name of a column to a cell. A sequence with `__getitems__(rows)` is read
            many records at a time.
        columns: The kind of each column; `label` is the target.
        rows: The positions in `source` that this view shows, None for all.
        key: The name of the file that caches the labels, "" for no cache. It changes with the content.
        content: The fingerprint of the data set, by which computed features are kept apart.
        mapping: int[C], the class for each class of the source, where `columns` name the classes of another data set.
        perturbation: The noise of labels and inputs, applied after `mapping`.
    """

    grants = True

    def __init__(
        self,
        name: str,
        split: str,
        source: Sequence[Example],
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
        # Processed examples by processor; they are not shared with other views.
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
        """Return the example without its images and sounds, which take long to read."""
        columns = inputs(self.columns)
        return self._example(position, {name: column for name, column in columns.items() if column.kind not in HEAVY})

    @property
    def labelled(self) -> bool:
        """Return whether the examples have labels that this view may read."""
        return self.grants and LABEL in self.columns

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes of the label; () where the examples have no label."""
        return self.columns[LABEL].classes if LABEL in self.columns else ()

    @property
    def kind(self) -> str:
        """Return the kind of the label."""
        return self.columns[LABEL].kind if LABEL in self.columns else "nothing"

    @property
    def scalar(self) -> bool:
        """Return whether each label is one number."""
        return self.kind in SCALAR

    def _example(self, position: int, columns: Columns) -> dict[str, Any]:
        index = int(self.rows[position])
        record = self.source[index]
        example = {name: self.cell(record, column, name, index) for name, column in columns.items()}
        if self.perturbation is not None:
            example = self.perturbation.shifted(example, index, len(self.source), columns)
        return {**example, **self._truth(record, index), "index": index}

    def cell(self, record: Example, column: Column, name: str, index: int) -> Any:
        """Return the value of a cell of the record at this place of the whole split. Raises ValueError where it cannot
        be read."""
        try:
            return cell_of(record, column, name, "")
        except ValueError:
            # The place and the user's name of the column are for the message alone, and finding the place may take
            # longer than reading the cell.
            title = " + ".join(self.roles.get(name, (name,)))
            try:
                return cell_of(record, column, name, self.place(index), title)
            except ValueError as error:
                remedy = getattr(self.source, "remedy", "") if column.kind in HEAVY else ""
                raise ValueError(f"{error}{remedy}") from None

    def _truth(self, record: Example, index: int) -> dict[str, Any]:
        if LABEL not in self.columns:
            return {}
        label = self._label(record, index)
        if not self.scalar:
            return {LABEL: label if self.mapping is None else self.mapping[label].tolist()}
        (label,) = self._map_labels(np.array([label], self.label_dtype), np.array([index])).tolist()
        return {LABEL: label}

    @property
    def groups(self) -> np.ndarray | None:
        """Return int[N], the group of each example (a patient, say); None where the source has no groups."""
        groups = getattr(self.source, "groups", None)
        return None if groups is None else groups[self.rows]

    @property
    def times(self) -> np.ndarray | None:
        """Return float[N], the time of each example; None where the source has no times."""
        times = getattr(self.source, "times", None)
        return None if times is None else times[self.rows]

    @property
    def members(self) -> Members | None:
        """Return the member of a mixture of each example; None where the source is no mixture."""
        members: Members | None = getattr(self.source, "members", None)
        return None if members is None else members.at(self.rows)

    @property
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """Return the columns of the table that each input and the label come from; {} where the source is no table."""
        return getattr(self.source, "roles", {})

    def place(self, index: int) -> str:
        """Return the name of the example at this place of the whole split, for an error message."""
        named = getattr(self.source, "place", None)
        return f"{self.name} {self.split}[{index}]" if named is None else str(named(index))

    def labels(self) -> np.ndarray:
        """Return all labels: int32[N] classes, or float32[N] numbers. They are read once.

        Raises:
            ValueError: A class is out of range, or a number is not finite.
            TypeError: Each label is a list.
        """
        if not self.scalar:
            raise TypeError(
                f"each label of {self.name} {self.split} is a list ({self.kind}); read the examples one by one"
            )
        if self._labels is None:
            file = cache_dir() / "labels" / f"{self.key}-{self.split}.npy"
            ready = getattr(self.source, "labels", None)
            if ready is not None:
                labels = ready
            elif self.key and file.is_file():
                labels = np.load(file, allow_pickle=False)
            else:
                labels = np.array(list(self._read_labels()), self.label_dtype)
                if self.key:
                    save_whole(file, labels)
            self._labels = self._map_labels(labels[self.rows], self.rows)
        return self._labels

    def check_labels(self) -> None:
        """Read all labels once. Raises ValueError for one that is out of range."""
        if self.scalar:
            self.labels()
        elif "checked" not in self.measured:
            self.measured["checked"] = sum(1 for _ in self._read_labels())

    def strata(self) -> np.ndarray:
        """Return int[N], the groups from which equal shares are drawn: the members of a mixture, or the classes, or 0
        for all examples where the labels are not classes."""
        if (members := self.members) is not None:
            return members.keys[members.numbers]
        return self.labels() if self.kind == "class" else np.zeros(len(self), np.int32)

    def _map_labels(self, labels: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the stored labels at `rows` after the mapping and the perturbation of these examples."""
        labels = labels if self.mapping is None else self.mapping[labels].astype(np.int32)
        return labels if self.perturbation is None else self.perturbation.relabelled(labels, rows, len(self.source))

    @property
    def identity(self) -> bytes:
        """Return bytes that are equal where two views of a split show the same examples, perturbed in the same way."""
        perturbed = "" if self.perturbation is None else self.perturbation.spelled
        return self.rows.astype(np.int64).tobytes() + perturbed.encode()

    def view(self, positions: np.ndarray) -> Self:
        """Return the examples at these positions of this view, in the order given."""
        positions = np.asarray(positions, int)
        rows = self.rows[positions]
        view = self._like(type(self), rows)
        view._labels = None if self._labels is None else self._labels[positions]
        return view

    def _like(self, kind: type[Kind], rows: np.ndarray | None) -> Kind:
        return kind(
            self.name, self.split, self.source, self.columns,
            rows=rows, key=self.key, content=self.content, mapping=self.mapping, perturbation=self.perturbation,
        )  # fmt: skip

    def seal(self) -> Sealed:
        """Return a view of the same rows that holds no records, so that no input and no label can be read."""
        return Sealed(self.name, self.split, (), self.columns, rows=self.rows, perturbation=self.perturbation)

    def unlabelled(self) -> Unlabelled:
        """Return the same rows without their labels."""
        return self._like(Unlabelled, self.rows)

    def renamed(self, classes: tuple[str, ...], mapping: np.ndarray) -> Self:
        """Return a view of the same rows, with label c replaced by the class `mapping[c]` of `classes`."""
        view = self._like(type(self), self.rows)
        view.columns = {**self.columns, LABEL: self.columns[LABEL]._replace(classes=classes)}
        view.mapping = mapping
        return view

    def perturbed(self, perturbation: Perturbation) -> Self:
        """Return the same rows, perturbed."""
        view = self._like(type(self), self.rows)
        view.perturbation = perturbation
        return view

    def whole(self) -> Self:
        """Return a view of all examples of the split."""
        return self._like(type(self), None)

    @property
    def label_dtype(self) -> type:
        """Return the NumPy type of one label."""
        return np.float32 if self.kind in ("number", "numbers") else np.int32

    def _read_labels(self) -> Iterator[Any]:
        for start in range(0, len(self.source), 1024):
            rows = range(start, min(start + 1024, len(self.source)))
            for index, record in zip(rows, many(self.source, rows), strict=True):
                yield self._label(record, index)

    def _label(self, record: Example, index: int) -> Any:
        column: Column = self.columns[LABEL]
        if self.mapping is not None:
            # The label of a record is a class of the original data set.
            column = column._replace(classes=("",) * len(self.mapping))
        label = self.cell(record, column, LABEL, index)
        if column.kind == "tags" and "words" in record and len(label) != len(record["words"]):
            raise ValueError(
                f"{self.place(index)} has {len(record['words'])} words and {len(label)} tags; expected one tag for "
                "each word"
            )
        if column.kind == "answers":
            check_answers(label, self.cell(record, self.columns[CONTEXT], CONTEXT, index), self.place(index))
        return label


class Light(Sequence[dict[str, Any]]):
    """Examples without their images and sounds, each read when it is asked for."""

    def __init__(self, examples: Examples):
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, position: int) -> dict[str, Any]:  # type: ignore[override]
        if not 0 <= position < len(self):
            raise IndexError(f"there is no example {position} of {len(self)}")
        return self.examples.light(position)


class Unlabelled(Examples):
    """Examples without access to their labels: no example holds its label, and `labels()` raises PermissionError."""

    grants = False

    def _truth(self, record: Example, index: int) -> dict[str, Any]:
        return {}

    def labels(self) -> np.ndarray:
        raise PermissionError(f"the labels of {self.name} {self.split} are not available to training in this setting")


class Sealed(Examples):
    """A split of which only the length and the rows are known. Reading an example or a label raises PermissionError."""

    grants = False

    def _example(self, position: int, columns: Columns) -> dict[str, Any]:
        raise PermissionError(f"{self.name} {self.split} is sealed: this run does not read this split")

    def labels(self) -> np.ndarray:
        raise PermissionError(f"the labels of {self.name} {self.split} are sealed: this run does not read this split")


def open_dataset(source: str | Source, *, whole: bool = False) -> Dataset:
    """Open the data set of a source, or of a text that names one (see `tlx.data.sources.named`).

    With `whole` a source does not divide off a test split. Raises what the source's `open` raises.
    """
    from tlx.data.sources.named import source_named

    named = source_named(source) if isinstance(source, str) else source
    return named.whole().open() if whole else named.open()


def cell_of(record: Mapping[str, Any], column: Column, name: str, place: str, title: str = "") -> Any:
    """Return the value of a cell of a record. Raises ValueError where there is none, or where it cannot be read.

    `title` is the name of the column in an error, where it has another name in the table of the user.
    """
    check_cell(record, name, place, title)
    return read_cell(record[name], column, title or name, place)


def check_cell(record: Mapping[str, Any], name: str, place: str, title: str = "") -> None:
    """Raise ValueError, with the nearest name, where a record has no cell of a column or an empty one.

    `title` is the name of the column in an error, where it has another name in the table of the user.
    """
    if name not in record:
        raise ValueError(
            f"{place} has no value for the column {name!r}{near_miss(name, list(record))}; add the value, or remove "
            "the column"
        )
    if record[name] is None:
        raise ValueError(
            f"{place}: {(title or name)!r} is None (an empty cell); add the value, or remove such examples"
        )


def many(source: Sequence[Example], rows: Sequence[int]) -> Sequence[Example]:
    """Return the records at these rows, read together where the source can do that."""
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
