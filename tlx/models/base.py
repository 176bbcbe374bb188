"""What an architecture is: an open base class of frozen, keyword-only dataclasses."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import jax
import numpy as np

from tlx.models.heads import Head, Pooled
from tlx.models.sizes import total
from tlx.trees import Tree, near_miss
from tlx.types import Array, Field, Model


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """The numbers of a model, and the functions that need nothing but them.

    An architecture of your own is a frozen, keyword-only dataclass that derives from this class and defines `build` and
    `input_fields`. It is registered nowhere: a recipe or `load_pretrained` gets an instance of it.

    Attributes:
        supported_heads: The heads that `build` takes; `models.build` refuses others.
        formats: The foreign forms of its checkpoints. Each is a class that derives from `tlx.weights.formats.Format`,
            or its place, "module:Class", which is imported when a checkpoint is read or written.
    """

    supported_heads: ClassVar[tuple[type[Head], ...]] = (Pooled,)
    formats: ClassVar[tuple[Any, ...]] = ()

    def build(self, head: Head | None) -> Model:
        """Return the chain of stages with the declared parameters; without a `head`, the bare backbone."""
        raise TypeError(f"{type(self).__name__} does not say how it is built: define build(head)")

    def input_fields(self) -> Mapping[str, Field]:
        """Return the arrays that the model cannot do without, by name, with their shapes for one example."""
        raise TypeError(f"{type(self).__name__} does not say what it reads: define input_fields()")

    def count(self, head: Head | None) -> int:
        """Count the declared parameters; an architecture of many alike layers does so without building them all."""
        return total(self.build(head).params)

    def longest_text(self) -> int | None:
        """Return how many tokens a text may have, None where the model reads no text or has no limit."""
        return None

    def embedding_rows(self) -> Mapping[str, int]:
        """Return the number of rows of the embedding that each input of integers is looked up in."""
        return {}

    def resized(self, size: int) -> Self:
        """Return the architecture for another number of positions, or another side of an image."""
        raise ValueError(f"resize: {type(self).__name__} has no position embeddings")

    def resize_positions(self, path: str, array: np.ndarray, size: int) -> np.ndarray | None:
        """Return the leaf at `path`, which this architecture declares, for the size `size`; None where it stays."""
        return None

    def attention_input(self, params: Tree, x: Array) -> Array:
        """Return what the attention of a block reads of the hidden states `x` [B, T, W] before the block.

        `params` are those of the attention. A block whose norm comes first returns the normed hidden states.
        """
        return x


def check_architecture(config: Any) -> Architecture:
    """Return `config`; raise TypeError where it is no architecture."""
    if not isinstance(config, Architecture):
        raise TypeError(
            f"{type(config).__name__} is not an architecture; expected a value such as models.Bert(...), or of a class "
            "of your own that derives from models.Architecture"
        )
    return config


def as_head(head: Head | int | None) -> Head | None:
    """Return the head; an int is short for `Pooled` of that many outputs."""
    return head if head is None or isinstance(head, Head) else Pooled(head)


def check_head(config: Architecture, head: Head | None) -> None:
    """Raise ValueError for a head that the architecture does not support."""
    kinds = config.supported_heads
    if head is None or isinstance(head, kinds):
        return
    names = [kind.__name__ for kind in kinds]
    asked = type(head).__name__
    close = near_miss(asked, names) or (f"; closest: {closest(type(head), kinds)!r}" if kinds else "")
    raise ValueError(f"{type(config).__name__} does not support the head {head}; it supports {', '.join(names)}{close}")


def closest(kind: type[Head], kinds: tuple[type[Head], ...]) -> str:
    """Return the name of the head that shares the most classes with `kind`."""
    return max(kinds, key=lambda other: len(set(kind.__mro__) & set(other.__mro__))).__name__


def build(config: Any, head: Head | int | None = None) -> Model:
    """Build the model of an architecture.

    Args:
        config: The architecture.
        head: What the model ends in; an int is short for `Pooled` of that many outputs; None for the bare backbone.

    Returns:
        The chain of stages with the parameters that they declare.

    Raises:
        TypeError: `config` is no architecture.
        ValueError: The architecture does not support the head.
    """
    architecture, head = check_architecture(config), as_head(head)
    check_head(architecture, head)
    return architecture.build(head)


def count(config: Any, head: Head | int | None = None) -> int:
    """Count the parameters that the model of an architecture has; `head` is as in `build`."""
    architecture, head = check_architecture(config), as_head(head)
    check_head(architecture, head)
    return architecture.count(head)


def image_shape(config: Architecture) -> tuple[int, int, int] | None:
    """Return (height, width, channels) of the images that a model reads; None where it reads something else."""
    field = config.input_fields().get("image")
    if field is None or len(field.shape) != 3:
        return None
    height, width, channels = field.shape
    return None if height is None or width is None or channels is None else (height, width, channels)


def example_inputs(config: Architecture, batch: int = 2, tokens: int = 8) -> dict[str, jax.ShapeDtypeStruct]:
    """Return shapes of inputs that a model reads, with which it is traced where there are no data.

    A ragged axis has the length `tokens`, or as much as the model has positions for.
    """
    length = min(tokens, config.longest_text() or tokens)
    return {
        name: jax.ShapeDtypeStruct((batch, *(length if n is None else n for n in field.shape)), field.dtype)
        for name, field in config.input_fields().items()
    }
