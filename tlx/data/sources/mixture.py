"""Mix text-to-text tasks: several data sets as one, whose texts name their task and whose labels are words."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from tlx.data.members import Members, MixingRates, Rates
from tlx.data.sources.base import Dataset, Source
from tlx.data.sources.combined import Joined, digest, whole_of
from tlx.functional.mixtures import AVERAGE
from tlx.processors.base import format_source
from tlx.processors.columns import LABEL, inputs, spelled
from tlx.trees import Example, near_miss
from tlx.types import Column

if TYPE_CHECKING:
    from tlx.data.examples import Examples

# The kinds of labels that are words.
WRITTEN = ("text", "class")
INPUTS = ({"text"}, {"text", "text_pair"})
COLUMNS = {"text": Column("text"), LABEL: Column("text")}


@dataclass(frozen=True, kw_only=True)
class Member:
    """A task of a mixture.

    Args:
        name: Its name in metrics, notes and pages.
        source: Its data set: texts, or pairs of texts, with a class or a text as the label.
        prefix: The text before each of its texts; None for the name and a colon, as in "movies: ".
        between: The text between the two texts of a pair.
    """

    name: str
    source: str | Source
    prefix: str | None = None
    between: str = " "

    def __post_init__(self) -> None:
        if isinstance(self.source, Source):
            object.__setattr__(self, "source", self.source.short)
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", self.name) or self.name == AVERAGE:
            raise ValueError(
                f"a member of a mixture has the name {self.name!r}; expected letters, digits, _, - and dots, and a "
                f"name other than {AVERAGE!r}"
            )

    @property
    def start(self) -> str:
        """Return the text before each text."""
        return f"{self.name}: " if self.prefix is None else self.prefix

    def words(self, example: Example, classes: Sequence[str]) -> dict[str, str]:
        """Return an example of the data set as a text and the text to write for it."""
        text = example["text"] if "text_pair" not in example else self.between.join(
            (example["text"], example["text_pair"])
        )  # fmt: skip
        label = example[LABEL]
        return {"text": self.start + text, LABEL: classes[label] if classes else str(label)}


@dataclass(frozen=True, kw_only=True)
class Mixture(Source):
    """A mixture of text-to-text tasks, which one model learns together (Raffel et al., 2020, section 3.5.2).

        Mixture((Member(name="movies", source="sentiment/movies"), Member(name="tweets", source="sentiment/tweets")))

    Each text has the prefix of its task, and the model writes the label: the name of the class, or the text. Training
    draws the tasks at `rates`; validation and test are the examples of all tasks, measured together, by task, and as
    the unweighted average over the tasks.

    Args:
        members: The tasks.
        rates: How often training draws each task: "proportional" to its number of examples, "equal", or one number
            for each member.
        limit: Count at most this many examples of a task for its rate; None for no limit.
        temperature: Raise proportional rates to the power 1 / temperature: 1 leaves them as they are, and a large
            number brings them near to equal ones.
        validation: The share of its training examples that a member without a validation split holds out for it.
    """

    members: tuple[Member, ...] = field(kw_only=False)
    rates: Rates = "proportional"
    limit: int | None = None
    temperature: float = 1.0
    validation: float = 0.1

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError("the mixture has no members; give at least one Member(name=..., source=...)")
        names = self.names
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two members of the mixture have the name {twice[0]!r}; choose a different name for each")
        self._check_rates()
        if not 0 < self.validation < 1:
            raise ValueError(f"validation={self.validation}; expected a share between 0 and 1")

    def _check_rates(self) -> None:
        """Raise ValueError for rates, a limit or a temperature that are out of range or have no effect."""
        if isinstance(self.rates, tuple):
            if len(self.rates) != len(self.members) or not all(0 < rate < math.inf for rate in self.rates):
                raise ValueError(
                    f"rates={self.rates} for {len(self.members)} members; expected one number above 0 for each member"
                )
        elif self.rates not in ("proportional", "equal"):
            raise ValueError(f"rates={self.rates!r}; expected 'proportional', 'equal', or one number for each member")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit={self.limit}; expected 1 example or more, or None for no limit")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature={self.temperature}; expected more than 0 (1 for proportional rates)")
        if self.rates != "proportional" and (self.limit is not None or self.temperature != 1):
            setting = f"temperature={self.temperature}" if self.limit is None else f"limit={self.limit}"
            raise ValueError(f"{setting} and rates={self.rates!r} are both set; {setting} changes proportional rates")

    def __str__(self) -> str:
        return " + ".join(self.names)

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names of the members."""
        return tuple(member.name for member in self.members)

    def only(self, names: Sequence[str]) -> Mixture:
        """Return the mixture of some of the members, whose rates keep their proportions.

        Raises:
            ValueError: There is no member of a name.
        """
        if unknown := [name for name in names if name not in self.names]:
            raise ValueError(
                f"the mixture has no member {unknown[0]!r}{near_miss(unknown[0], self.names, listed=True)}; it has "
                f"{', '.join(self.names)}"
            )
        kept = [number for number, name in enumerate(self.names) if name in names]
        rates = tuple(self.rates[number] for number in kept) if isinstance(self.rates, tuple) else self.rates
        return replace(self, members=tuple(self.members[number] for number in kept), rates=rates)

    def whole(self) -> Source:
        """Return the mixture of the same tasks, which divide off no test split."""
        return replace(self, members=tuple(replace(item, source=whole_of(item.source)) for item in self.members))

    def open(self) -> Dataset:
        """Open the data sets of all members.

        Raises:
            ValueError: A member has no training examples, its inputs are not texts, or its labels cannot be written.
        """
        from tlx.data.examples import Examples, open_dataset

        datasets = [open_dataset(member.source) for member in self.members]
        for member, dataset in zip(self.members, datasets, strict=True):
            check_member(member, dataset)
        settings = [[member.name, member.start, member.between] for member in self.members]
        fingerprint = digest([[dataset.fingerprint for dataset in datasets], settings, self.validation])
        parts = [splits_of(dataset, self.validation) for dataset in datasets]
        splits = {
            split: Examples(str(self), split, MixedRows(self, split, parts), COLUMNS, key=fingerprint)
            for split in ("train", "validation", "test")
            if any(split in part for part in parts)
        }
        return Dataset(str(self), splits, COLUMNS, fingerprint, tuple(self._notes(datasets, parts)))

    def _notes(self, datasets: Sequence[Dataset], parts: Sequence[dict[str, Examples]]) -> list[str]:
        """Return the notes of the members, and one on those without a test split."""
        notes = [
            f"{member.name}: {note}"
            for member, dataset in zip(self.members, datasets, strict=True)
            for note in dataset.notes
        ]
        untested = [name for name, part in zip(self.names, parts, strict=True) if "test" not in part]
        if untested and len(untested) < len(parts):
            notes.append(f"the test examples have none of {', '.join(untested)}, which has no labelled test split")
        return notes


def check_member(member: Member, dataset: Dataset) -> None:
    """Raise ValueError where a member has no training examples, inputs that are no texts, or labels that are no
    words."""
    what = f"the member {member.name!r} of the mixture ({format_source(member.source)})"
    if "train" not in dataset.splits or not len(dataset.splits["train"]):
        raise ValueError(f"{what} has no training examples; remove the member, or give it a training split")
    if set(inputs(dataset.columns)) not in INPUTS:
        raise ValueError(f"{what} has {spelled(dataset.columns)}; expected texts or pairs of texts")
    kind = dataset.columns[LABEL].kind if LABEL in dataset.columns else "nothing"
    if kind not in WRITTEN:
        raise ValueError(
            f"{what} has a label of the kind {kind!r}, which cannot be written; expected a class or a text (for a "
            "table: label_kind='text')"
        )


def splits_of(dataset: Dataset, share: float) -> dict[str, Examples]:
    """Return the splits of a member that have labels. Without a validation split the share is held out of the training
    split: the same examples in every mixture."""
    from tlx.data import DATASETS
    from tlx.data.held_out import divided, validation_split, withheld

    train, validation, test = dataset.splits["train"], validation_split(dataset), dataset.splits.get("test")
    if validation is None:
        train, validation = divided(train, share)
    splits = {"train": train, "validation": validation}
    if test is not None and len(test) and (dataset.name in DATASETS or not withheld(test, train)):
        splits["test"] = test
    return splits


class MixedRows(Joined):
    """The records of a split of a mixture: the texts of one member after those of another, in words.

    `members` says which example is of which member.
    """

    def __init__(self, mixture: Mixture, split: str, parts: Sequence[dict[str, Examples]]):
        present = [number for number, part in enumerate(parts) if split in part]
        super().__init__([parts[number][split] for number in present])
        self.tasks = [mixture.members[number] for number in present]
        sizes = [len(part) for part in self.parts]
        self.members = Members(
            mixture.names,
            np.repeat(np.array(present, np.int32), sizes),
            np.concatenate([part.rows for part in self.parts]).astype(np.int32),
            MixingRates(mixture.rates, mixture.limit, mixture.temperature),
        )

    def __getitem__(self, position: int) -> Example:  # type: ignore[override]
        part, inside = self.find(position)
        examples = self.parts[part]
        return self.tasks[part].words(examples.light(inside), examples.classes)

    def raw(self, name: str) -> list[str]:
        """Return a whole column of these records; "member" is the name of the member of each of them."""
        if name == "member":
            return [self.members.names[number] for number in self.members.numbers.tolist()]
        if name not in COLUMNS:
            columns = ("member", *COLUMNS)
            raise ValueError(
                f"the mixture has no column {name!r}{near_miss(name, columns, listed=True)}; it has "
                f"{', '.join(columns)}"
            )
        return [record[name] for record in self]
