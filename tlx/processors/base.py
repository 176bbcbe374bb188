"""Turn a raw example into the arrays that a model reads: an open base class.

A processor of your own is a frozen dataclass in your own file, given as `Data(processor=...)`. It declares `reads` and
`fields`, and makes its arrays when it is called:

    @dataclass(frozen=True)
    class Letters(Processor):
        letters: str = "abcdefghijklmnopqrstuvwxyz"
        reads: ClassVar = ("text",)

        @property
        def fields(self):
            return {"image": Field((len(self.letters),), "float32")}

        def __call__(self, example):
            counts = [example["text"].lower().count(letter) for letter in self.letters]
            return {"image": np.array(counts, np.float32)}
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from tlx import config
from tlx.processors.opening import read_json
from tlx.trees import Example

if TYPE_CHECKING:
    from tlx.processors.columns import Columns
    from tlx.types import Field

Inputs = dict[str, np.ndarray]

# The file in which the base class keeps a processor.
FILE = "processor.json"


class Processor:
    """Makes the arrays that a model reads from a raw example.

    `reads` are the kinds of columns that it reads, `noun` is its name in an error, and `augments` says whether
    `Data(augment=...)` may change its array `image`. A subclass defines `fields` and `__call__`. The base class saves
    and loads any subclass that is a frozen dataclass of plain values.
    """

    reads: ClassVar[tuple[str, ...]] = ()
    noun: ClassVar[str] = "a processor"
    augments: ClassVar[bool] = False

    @property
    def fields(self) -> Mapping[str, Field]:
        """Return the arrays of an example, by name. A ragged axis is None in the shape."""
        raise TypeError(f"{type(self).__name__} declares no fields; return a dict of tlx.types.Field")

    def __call__(self, example: Example) -> Inputs:
        """Return the arrays of one example, as `fields` declares them, without padding."""
        raise TypeError(f"{type(self).__name__} defines no __call__(example)")

    @property
    def ragged(self) -> bool:
        """Return whether the shape of some array depends on the example."""
        return any(None in field.shape for field in self.fields.values())

    @property
    def longest(self) -> int:
        """Return the largest number of entries along a ragged axis; 0 where nothing is ragged or there is no limit."""
        return 0

    @property
    def window(self) -> int:
        """Return the number of entries of a window, if a long example has several of them along its ragged axes; else
        0."""
        return 0

    @property
    def row_bytes(self) -> int:
        """Return the bytes of one example with `longest` entries along each ragged axis."""
        sizes = [
            tuple(self.longest if side is None else side for side in field.shape) for field in self.fields.values()
        ]
        types = [np.dtype(field.dtype).itemsize for field in self.fields.values()]
        return sum(int(np.prod(size)) * item for size, item in zip(sizes, types, strict=True))

    def many(self, examples: Sequence[Example]) -> list[Inputs]:
        """Return the arrays of several examples. Define it where that is cheaper than one by one."""
        return [self(example) for example in examples]

    @property
    def limits(self) -> Mapping[str, int]:
        """Return for a field of integers the number above all of its values, where that is known."""
        return {}

    def measure(self, examples: Sequence[Example]) -> list[int]:
        """Return the length of the ragged axes of each example. Define it where it is cheaper than the arrays."""
        return [length_of(self(example), self.fields) for example in examples]

    def uncut(self, examples: Sequence[Example]) -> list[int]:
        """Return the length of the ragged axes of each example before anything is cut off."""
        return self.measure(examples)

    def reading(self, example: Example) -> str:
        """Return the text that a model reads of an example, for people to look at; empty where it reads no text."""
        return ""

    def picture(self, image: np.ndarray) -> np.ndarray | None:
        """Return uint8[H, W, C] of the array `image` that this processor makes, for people to look at; None where it is
        no picture."""
        return None

    def word_ids(self, example: Example) -> np.ndarray:
        """Return int[T], for each entry of the ragged axis the number of its word in the example, -1 for no word.

        The first entry of a word stands for it, so a word whose first entry is cut off has -1 at its other entries.
        Raises TypeError where the processor does not read words.
        """
        raise TypeError(f"{type(self).__name__} defines no word_ids(example), so it does not read words; define it")

    @classmethod
    def fit(
        cls,
        base: Processor | None,
        data: Any,
        columns: Columns,
        shape: tuple[int, ...] | None = None,
        example: Callable[[], Example] | None = None,
    ) -> Processor:
        """Return the processor for the data of a recipe, from the class that reads their columns.

        Args:
            base: The processor of the recipe, else that of the weights, else None.
            data: The `Data` of the recipe.
            columns: The columns of the data.
            shape: The shape of the images that the model reads, None where it states none.
            example: Reads one example.

        Raises:
            ValueError: The data need another processor.
        """
        if base is None or not set(cls.reads) & set(base.reads):
            raise ValueError(
                f"{format_source(data.target)} requires {cls.noun}; set it: Data(processor={cls.__name__}(...))"
            )
        return base

    def check_shape(self, shape: tuple[int, ...] | None, directory: str) -> None:
        """Raise ValueError where a model of `directory` that reads images of `shape` does not fit this processor."""

    def read(self, argument: str) -> dict[str, Any]:
        """Return the example for an argument of `tlx predict`: a text, or the name of a file.

        Raises ValueError where it cannot be read.
        """
        raise ValueError(f"{type(self).__name__} defines no read(argument), so it cannot read {argument!r}; define it")

    def within(self, rows: Mapping[str, int], room: int | None) -> Processor:
        """Return the processor, limited to what a model can read.

        Args:
            rows: For each input of integers, the rows of the embedding of the model.
            room: The number of tokens of a text that the model has positions for, None where that is not known.

        Raises:
            ValueError: The processor and the model cannot belong together.
        """
        return self

    def trials(self) -> list[dict[str, Any]]:
        """Return fixed examples, on which a saved processor that was loaded again is compared with the original."""
        return []

    def by_transformers(self, directory: Path) -> Processor | None:
        """Return the processor that `transformers` opens from a directory; None where tlx does not compare with it."""
        return None

    def notes(self) -> list[str]:
        """Return notes on oddities of the processor that are not mistakes."""
        return []

    def cuts(self, example: Example) -> bool:
        """Return whether a part of the example is lost because it is too long."""
        return False

    def cut_notes(self, examples: Iterable[Example]) -> list[str]:
        """Return a sentence where parts of these examples are lost."""
        return []

    @property
    def identity(self) -> Any:
        """Return JSON values that are equal where two processors make the same arrays. They are part of the keys of
        stored arrays."""
        return config.dump(self)

    def save(self, directory: str | Path) -> None:
        """Write the files that `opens` recognises and `load` reads into `directory`."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        if not is_plain(self):
            raise ValueError(
                f"{type(self).__name__} cannot be saved: make it a frozen dataclass of numbers, strings and tuples, or "
                "define save(directory), load(directory, tokens, room) and opens(directory)"
            )
        values = {name: config.dump(value) for name, value in config.fields(self).items()}
        document = json.dumps({"kind": type(self).__name__, "values": values}, indent=2)
        (directory / FILE).write_text(document + "\n", encoding="utf-8")

    @classmethod
    def opens(cls, directory: Path) -> bool:
        """Return whether `load` can read the files in the directory."""
        return (directory / FILE).exists() and read_json(directory / FILE).get("kind") == cls.__name__

    @classmethod
    def load(cls, directory: str | Path, tokens: int | None = None, room: int | None = None) -> Self:
        """Read a processor that `save` has written.

        Args:
            directory: The folder of its files.
            tokens: The length at which examples are cut, None for that of the files.
            room: How many positions the model has, None where that is not known.
        """
        file = Path(directory) / FILE
        values = read_json(file).get("values")
        names = {field.name for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
        if not isinstance(values, dict) or not values.keys() <= names:
            raise ValueError(
                f"{file} is damaged; expected the values {', '.join(sorted(names))}: save the processor again"
            )
        return cls(**{name: tupled(value) for name, value in values.items()})


def users_class(directory: Path) -> str:
    """Return the name of the user's class of the processor that is saved in a directory; empty where there is none."""
    return str(read_json(directory / FILE).get("kind", "")) if (directory / FILE).exists() else ""


def length_of(arrays: Mapping[str, np.ndarray], fields: Mapping[str, Field]) -> int:
    """Return the longest ragged axis of the arrays of one example; 0 where there is none."""
    sides = [
        size
        for name, field in fields.items()
        if None in field.shape
        # An array of another rank is refused when a batch is made.
        for size, side in zip(np.shape(arrays[name]), field.shape, strict=False)
        if side is None
    ]
    return max(sides, default=0)


def is_plain(value: object) -> bool:
    """Return whether a processor is a frozen dataclass of numbers, strings, None and tuples of them."""
    plain = bool | int | float | str | None
    values = list(config.fields(value).values()) if config.is_record(value) else [value]
    while values:
        part = values.pop()
        if isinstance(part, tuple):
            values += part
        elif not isinstance(part, plain):
            return False
    return True


def tupled(value: object) -> Any:
    """Return JSON values with tuples in the place of lists."""
    return tuple(map(tupled, value)) if isinstance(value, list) else value


def format_source(source: Any) -> str:
    """Return a source of data for a sentence: the name of a data set in quotes, another value as it prints."""
    return repr(source) if isinstance(source, str) else str(source)
