"""Foreign forms of checkpoints, one file for each family: names of tensors, and config.json read and written.

An architecture names its formats (`Architecture.formats`); nothing else lists them.
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
    """The format at a `place`: a class, or "module:Class"."""
    if isinstance(place, str):
        module, _, name = place.partition(":")
        place = getattr(import_module(module), name)
    form = place()
    if not isinstance(form, Format):
        raise TypeError(f"{place!r} is no format; expected a class that derives from tlx.weights.formats.Format")
    return form


def foreign_kinds(kind: type[Architecture] | None = None) -> dict[str, Format]:
    """Return the formats by the Hugging Face `model_type` that they read: those of the architectures that come with
    tlx, and those of `kind`, which may be a user's own."""
    kinds = (*models.architectures(), *(() if kind is None else (kind,)))
    return {name: form for each in kinds for form in formats_of(each) for name in form.families}


def foreign(name: str, kind: type[Architecture] | None = None) -> Format:
    """Return the format that reads checkpoints of a `model_type`.

    Args:
        name: The `model_type` of config.json.
        kind: The architecture of the model, where it is a user's own.

    Raises:
        ValueError: No architecture reads it. The error names the nearest ones.
    """
    known = foreign_kinds(kind)
    if name not in known:
        raise ValueError(f"no architecture for model_type {name!r}{near_miss(name, known)}")
    return known[name]
