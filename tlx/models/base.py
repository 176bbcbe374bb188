"""Base class of architectures, and functions that build and describe their models."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import jax
import numpy as np

from tlx.models.heads import Head, Pooled, Span, Vocabulary
from tlx.models.neck import neck_of, with_neck
from tlx.models.sizes import total
from tlx.trees import Tree, near_miss
from tlx.types import Array, Field, Model


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Open base class of architectures: the sizes and rates of a model, and the functions that depend on them alone.

    A user's architecture is a frozen, keyword-only dataclass that derives from this class and defines `build` and
    `input_fields`. It needs no registration: pass an instance to a recipe or to `load_pretrained`.

    Attributes:
        supported_heads: The heads that `build` takes; `models.build` refuses others.
        formats: The foreign forms of its checkpoints. Each is a class that derives from `tlx.weights.formats.Format`,
            or its place, "module:Class", which is imported when a checkpoint is read or written.
        any_size: Whether no parameter depends on the size of the image, a field `size`. A checkpoint that states no
            size then has that of its image processor.
    """

    supported_heads: ClassVar[tuple[type[Head], ...]] = (Pooled,)
    formats: ClassVar[tuple[Any, ...]] = ()
    any_size: ClassVar[bool] = False

    def build(self, head: Head | None) -> Model:
        """Return the chain of stages with the declared parameters; the bare backbone if `head` is None."""
        raise TypeError(f"{type(self).__name__} does not define build(head), which builds the model; define it")

    def input_fields(self) -> Mapping[str, Field]:
        """Return the required inputs of the model by name, with their shapes for one example."""
        raise TypeError(
            f"{type(self).__name__} does not define input_fields(), which declares the inputs of the model; define it"
        )

    def count(self, head: Head | None) -> int:
        """Count the declared parameters. An architecture with many equal layers need not build them all for that."""
        return total(self.build(head).params)

    def longest_text(self) -> int | None:
        """Return the largest number of tokens of a text; None if the model reads no text or has no limit."""
        return None

    def embedding_rows(self) -> Mapping[str, int]:
        """Return the number of embedding rows for each integer input, by the name of the input."""
        return {}

    def resized(self, size: int) -> Self:
        """Return the architecture for another number of positions, or another side of an image."""
        raise ValueError(f"resize is not available: {type(self).__name__} has no position embeddings")

    def resize_positions(self, path: str, array: np.ndarray, size: int) -> np.ndarray | None:
        """Return the declared leaf at `path` resized to `size`; None if it does not depend on the size."""
        return None

    def key_shape(self) -> tuple[int, int] | None:
        """Return the number of heads of keys and values and their size, if the blocks can decode with a cache of them:
        with a `cache` in the carry they compute `layers.attention_step`. None if they cannot."""
        return None

    def first_word(self) -> int | None:
        """Return the word that a decoder reads first, for a model with an encoder, too; None for a model of one stack.

        The decoder begins at the stage `decoder_stem`. With a `cache` in the carry its blocks also write `memory_keys`,
        the keys and values of the `memory`, and with `memory_keys` in the carry they read these.
        """
        return None

    def forced_words(self) -> tuple[int | None, int | None]:
        """Return the first new word of every generated text, and the word at the last place of a text of the largest
        length; None where the model chooses."""
        return None, None

    def has_attention_maps(self) -> bool:
        """Return whether the blocks compare all tokens with each other by plain dot products of queries and keys, so
        that `attention_scores` can compute their attention maps."""
        return True

    def attention_input(self, params: Tree, x: Array) -> Array:
        """Return the input of the attention of a block, computed from the hidden states `x` [B, T, W] before it.

        `params` are the parameters of the attention. A pre-norm block returns the normed hidden states.
        """
        return x


def check_architecture(config: object) -> Architecture:
    """Return `config`. Raises TypeError if it is not an architecture."""
    if not isinstance(config, Architecture):
        raise TypeError(
            f"{type(config).__name__} is not an architecture; expected a value such as models.Bert(...), or a value of "
            "your own class that derives from models.Architecture"
        )
    return config


def as_head(head: Head | int | None) -> Head | None:
    """Return the head; an int is short for `Pooled` of that many outputs."""
    return head if head is None or isinstance(head, Head) else Pooled(head)


def with_words(config: Architecture, head: Head | None) -> Head | None:
    """Return the head; one over the vocabulary gets the number of the model's words.

    Raises:
        ValueError: The head states another number of words than the model has.
    """
    if not isinstance(head, Vocabulary):
        return head
    words = config.embedding_rows()["input_ids"]
    if head.outputs not in (0, words):
        raise ValueError(f"the head has {head.outputs} outputs, but the model has {words} words; use Vocabulary()")
    return replace(head, outputs=words)


def check_head(config: Architecture, head: Head | None) -> None:
    """Raise ValueError for a head that the architecture does not support."""
    kinds = config.supported_heads
    # Spans are exchanged with other libraries in a form that not every model with outputs for tokens has.
    if head is None or (isinstance(head, kinds) and (Span in kinds or not isinstance(head, Span))):
        return
    names = [kind.__name__ for kind in kinds]
    head_name = type(head).__name__
    close = near_miss(head_name, names) or (f"; closest: {closest(type(head), kinds)!r}" if kinds else "")
    raise ValueError(f"{type(config).__name__} does not support the head {head}; it supports {', '.join(names)}{close}")


def closest(kind: type[Head], kinds: tuple[type[Head], ...]) -> str:
    """Return the name of the head that shares the most classes with `kind`."""
    return max(kinds, key=lambda candidate: len(set(kind.__mro__) & set(candidate.__mro__))).__name__


def build(config: Architecture, head: Head | int | None = None) -> Model:
    """Build the model of an architecture.

    Args:
        config: The architecture.
        head: The head of the model; an int is short for `Pooled` of that many outputs; None for the bare backbone.

    Returns:
        The chain of stages with the parameters that they declare.

    Raises:
        TypeError: `config` is not an architecture.
        ValueError: The architecture does not support the head.
    """
    architecture, head = check_architecture(config), as_head(head)
    check_head(architecture, head)
    head = with_words(architecture, head)
    if head is None or (neck := neck_of(head)) is None:
        return architecture.build(head)
    return with_neck(architecture.build(Pooled(head.outputs)), head, neck, example_inputs(architecture))


def count(config: Architecture, head: Head | int | None = None) -> int:
    """Count the parameters that the model of an architecture has; `head` is as in `build`."""
    architecture, head = check_architecture(config), as_head(head)
    check_head(architecture, head)
    head = with_words(architecture, head)
    return architecture.count(head) if neck_of(head) is None else total(build(architecture, head).params)


def image_shape(config: Architecture) -> tuple[int, int, int] | None:
    """Return (height, width, channels) of the images that a model reads; None if it reads other inputs."""
    field = config.input_fields().get("image")
    if field is None or len(field.shape) != 3:
        return None
    height, width, channels = field.shape
    return None if height is None or width is None or channels is None else (height, width, channels)


def example_inputs(config: Architecture, batch: int = 2, tokens: int = 8) -> dict[str, jax.ShapeDtypeStruct]:
    """Return shapes of inputs that a model reads, for tracing it without data.

    A ragged axis has the length `tokens`, or less if the model has fewer positions.
    """
    length = min(tokens, config.longest_text() or tokens)
    return {
        name: jax.ShapeDtypeStruct((batch, *(length if n is None else n for n in field.shape)), field.dtype)
        for name, field in config.input_fields().items()
    }
