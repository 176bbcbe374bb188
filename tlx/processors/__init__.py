"""Turn a raw example into the inputs of a model: tokens of text, pixels of an image.

The files read and written are those of Hugging Face directories (`tokenizer.json`, `preprocessor_config.json`, ...), so
a model saved with its processor opens in transformers and the other way round.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tlx.processors.base import Inputs, Processor, format_source
from tlx.processors.columns import inputs, spelled
from tlx.processors.numbers import NumberProcessor
from tlx.processors.pictures import ImageProcessor
from tlx.processors.sounds import SoundProcessor
from tlx.processors.texts import DEFAULT_TOKENS, TOKENIZER_FILES, TextProcessor
from tlx.trees import Example

if TYPE_CHECKING:
    from tlx.processors.columns import Columns

__all__ = [
    "DEFAULT_TOKENS",
    "TOKENIZER_FILES",
    "ImageProcessor",
    "Inputs",
    "NumberProcessor",
    "Processor",
    "SoundProcessor",
    "TextProcessor",
    "fit",
    "load",
]

# In the order in which a directory is offered to them: files of images go before a tokenizer.
PROCESSORS: tuple[type[Processor], ...] = (SoundProcessor, ImageProcessor, TextProcessor, NumberProcessor)


def load(
    directory: str | Path,
    tokens: int | None = None,
    room: int | None = None,
    users: tuple[type[Processor], ...] = (),
) -> Processor | None:
    """Read the processor whose files lie in a directory; None where no class opens it.

    Args:
        directory: The folder of its files.
        tokens: The length at which examples are cut, None for that of the files.
        room: How many positions the model has, None where that is not known.
        users: Classes of the user, tried first. No class that a file names is ever imported.
    """
    directory = Path(directory)
    for kind in (*users, *PROCESSORS):
        if kind.opens(directory):
            return kind.load(directory, tokens, room)
    return None


def fit(
    data: Any,
    columns: Columns,
    base: Processor | None = None,
    shape: tuple[int, ...] | None = None,
    example: Callable[[], Example] | None = None,
) -> Processor:
    """Return the processor that a recipe needs: that of the recipe or of the weights, at the sizes of the data.

    Args:
        data: The `Data` of the recipe.
        columns: The columns of the data.
        base: The processor of the weights, None where they have none.
        shape: The shape of the images that the model reads, None where it states none.
        example: Reads one example of the data.

    Raises:
        ValueError: No processor reads such columns, or the processor does not fit the model.
    """
    base = data.processor or base
    kinds = {column.kind for column in inputs(columns).values()}
    offered = [type(base)] if base is not None else []
    for kind in (*offered, *PROCESSORS):
        if kinds & set(kind.reads):
            if kind in PROCESSORS and not set(kind.reads) & inputs(columns).keys():
                names, roles = ", ".join(map(repr, inputs(columns))), " or ".join(map(repr, kind.reads))
                raise ValueError(
                    f"{format_source(data.target)} has the inputs {names}, and {kind.noun} reads the column {roles}; "
                    "give the column that name, or a processor of your own: Data(processor=...)"
                )
            return kind.fit(base, data, columns, shape, example)
    raise ValueError(
        f"{format_source(data.target)} has {spelled(columns)}, but no processor of tlx reads them; set your own "
        "processor: Data(processor=...)"
    )
