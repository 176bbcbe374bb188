"""What the terms that bring two streams together share."""

from collections.abc import Collection
from dataclasses import dataclass

import jax

from tlx.models import features, tap_shapes
from tlx.objectives.base import Term
from tlx.objectives.ramp import Weight
from tlx.types import Array, Model, View


@dataclass(frozen=True, kw_only=True)
class Between(Term):
    """A term between the streams `source` and `target`."""

    source: str = "source"
    target: str = "unlabelled"
    weight: Weight = 1.0

    def reads(self, streams: Collection[str]) -> Collection[str]:
        return (self.source, self.target)


def read_features(model: Model) -> int:
    """The width of what the head reads; ValueError for a model that does not give it."""
    return features(tap_shapes(model)).shape[-1]


def rows(view: View, stream: str) -> Array:
    """What the head reads of every example of a stream, [B, W], those on all devices."""
    return gathered(view, features(view.taps[stream]))


def gathered(view: View, values: Array) -> Array:
    """[B, ...] of the whole batch, where devices by `pmap` hold a part each."""
    return values if view.axis is None else jax.lax.all_gather(values, view.axis, tiled=True)
