"""Foreign forms of checkpoints, one file for each family: names of tensors, and reading and writing of config.json.

An architecture names its formats (`Architecture.formats`); there is no other list of them.
"""

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from typing import Any

from tlx import models
from tlx.models import Architecture
from tlx.trees import near_miss
from tlx.weights.formats.base import Format

__all__ = ["Format", "foreign", "foreign_kinds", "formats_of"]


def formats_of(kind: type[Architecture]) -> Iterator[Format]:
    """Yield the formats that a class of architectures names."""
    for place in kind.formats:
        yield opened(place)


@cache
def opened(place: Any) -> Format:
    """Return the format at a `place`: a class, or "module:Class"."""
    if isinstance(place, str):
        module, _, name = place.partition(":")
        place = getattr(import_module(module), name)
    form = place()
    if not isinstance(form, Format):
        raise TypeError(f"{place!r} is not a format; expected a class that derives from tlx.weights.formats.Format")
    return form


def foreign_kinds(kind: type[Architecture] | None = None) -> dict[str, Format]:
    """Return the formats by the Hugging Face `model_type` that they read.

    These are the formats of the architectures of tlx, and of `kind`, which may be a user's architecture.
    """
    kinds = (*models.architectures(), *(() if kind is None else (kind,)))
    return {name: form for architecture in kinds for form in formats_of(architecture) for name in form.families}


def foreign(name: str, kind: type[Architecture] | None = None) -> Format:
    """Return the format that reads checkpoints of a `model_type`.

    Args:
        name: The `model_type` of config.json.
        kind: The architecture of the model, if it is a user's architecture.

    Raises:
        ValueError: No architecture reads it. The error has the nearest names.
    """
    formats = foreign_kinds(kind)
    if name not in formats:
        stated = [known for known, form in formats.items() if form.layout == Format.layout]
        raise ValueError(f"tlx has no architecture for model_type {name!r}{near_miss(name, stated)}")
    return formats[name]
