"""Define sources of data: an open base class.

A user's source is a frozen keyword-only dataclass in a file of the user:

    @dataclass(frozen=True, kw_only=True)
    class Parity(Source):
        count: int = 200

        def open(self):
            rows = [{"text": "ab" * n, "label": n % 2} for n in range(1, self.count + 1)]
            columns = {"text": Column("text"), "label": Column("class", ("odd", "even"))}
            return Dataset("parity", {"train": rows[: -50], "test": rows[-50:]}, columns, f"parity-{self.count}")

and takes the place of the name of a data set: `Data(target=Parity(count=300))`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tlx.processors.columns import LABEL, READERS, inputs
from tlx.trees import Example, near_miss

if TYPE_CHECKING:
    from tlx.data.examples import Examples
    from tlx.types import Column


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set as a value that can be printed, compared, hashed and swept. Nothing is read before `open()`."""

    def open(self) -> Dataset:
        """Return the data set. A fault raises ValueError or FileNotFoundError, which names the place."""
        raise TypeError(f"{type(self).__name__} defines no open(); return a tlx.data.Dataset")

    @property
    def short(self) -> str | Source:
        """Return the name that means the same in a recipe, or the source itself."""
        return self

    def whole(self) -> Source:
        """Return the source that divides off no test split, for data that are divided in another way."""
        return self


@dataclass(frozen=True)
class Dataset:
    """An opened data set.

    Args:
        name: The name in messages and reports.
        splits: The records of each split: any sequence of mappings from column to cell. `train` is needed;
            `validation` and `test` are used where present.
        columns: The kind of each column. `label` is the target, all others are inputs.
        fingerprint: A hash of the content and of the settings that changed it, not of its place.
        notes: Sentences for the output of a run, such as the columns that were chosen.
    """

    name: str
    splits: Mapping[str, Examples]
    columns: Mapping[str, Column]
    fingerprint: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        from tlx.data.examples import Examples

        check_columns(self.name, self.columns)
        splits: Mapping[str, Any] = self.splits
        examples_of = {
            split: records if isinstance(records, Examples) else self._examples(split, records)
            for split, records in splits.items()
        }
        object.__setattr__(self, "splits", examples_of)

    def _examples(self, split: str, records: Sequence[Example]) -> Examples:
        from tlx.data.examples import Examples, check_cell

        for name in self.columns if len(records) else ():
            check_cell(records[0], name, f"{self.name} {split}[0]")
        return Examples(self.name, split, records, self.columns, content=self.fingerprint)

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names of the classes of the label; () where there are none."""
        return self.columns[LABEL].classes if LABEL in self.columns else ()


def check_columns(name: str, columns: Mapping[str, Column]) -> None:
    """Raise ValueError for columns without an input, and for a kind that no reader supports."""
    for column, description in columns.items():
        if description.kind not in READERS:
            raise ValueError(
                f"the column {column!r} of {name} has the unknown kind "
                f"{description.kind!r}{near_miss(description.kind, READERS)}"
            )
    if not inputs(columns):
        raise ValueError(f"{name} has only the columns {', '.join(columns) or '(none)'}; expected an input column too")
    if LABEL in columns and columns[LABEL].kind == "tags" and "words" not in columns:
        raise ValueError(f"the label of {name} has the kind tags; expected a column 'words' with one word for each tag")
    if LABEL in columns and columns[LABEL].kind == "answers" and not {"text", "text_pair"} <= columns.keys():
        raise ValueError(
            f"the label of {name} has the kind answers; expected a question and the text with its answers: "
            "text='question', text_pair='context'"
        )
