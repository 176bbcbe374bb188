"""Shared parts of the terms that compare the examples of whole batches, or the examples of two streams."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import jax

from tlx.models import features
from tlx.objectives.base import Needs, Term, check_weight
from tlx.objectives.checks import read_features
from tlx.objectives.ramp import Weight
from tlx.types import Array, Model, View


@dataclass(frozen=True, kw_only=True)
class Between(Term):
    """A term between the streams `source` and `target`, which reads the input of the head for both."""

    source: str = "source"
    target: str = "unlabelled"
    weight: Weight = 1.0

    def __post_init__(self) -> None:
        check_weight(self, "weight", "reversal")
        if self.source == self.target:
            raise ValueError(
                f"{type(self).__name__}: source and target are both the stream {self.source!r}; they must be two "
                "different streams"
            )

    def needs(self, streams: Collection[str]) -> Needs:
        return Needs(forward=(self.source, self.target), features=False, taps=("features",))


def check_scales(scales: Sequence[float], name: str) -> None:
    """Raise ValueError, for the term `name`, where `scales` is empty or has a width that is not above 0."""
    if not scales or min(scales) <= 0:
        raise ValueError(f"{name}: scales are {scales}; expected one scale or more, each above 0")


def check_singular(model: Model, k: int, name: str) -> None:
    """Raise ValueError, for the term `name`, for a model with fewer than `k` features."""
    width = read_features(model, name)
    if k > width:
        raise ValueError(f"{name}: k is {k}, but {width} features have only {width} singular values; lower k")


def rows(view: View, stream: str) -> Array:
    """Return the input of the head for every example of a stream on all devices, [B, W]."""
    return gathered(view, features(view.taps[stream]))


def over_devices(view: View, value: Array) -> Array:
    """Return the mean over the devices of a `value` that each device computes on its part of the batch (`pmap`)."""
    return value if view.axis is None else jax.lax.pmean(value, view.axis)


def check_sources(sources: Collection[str], target: str, name: str) -> None:
    """Raise ValueError, for the term `name`, where the sources are not all different or include the target."""
    if len({*sources, target}) <= len(sources):
        raise ValueError(
            f"{name}: sources are {sources} and the target is {target!r}; all of them must be different streams"
        )


def gathered(view: View, values: Array) -> Array:
    """Return `values` [B, ...] of the whole batch, where each device holds one part (`pmap`)."""
    return values if view.axis is None else jax.lax.all_gather(values, view.axis, tiled=True)
