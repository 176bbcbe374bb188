"""What terms share that look at the rows of whole batches, and at those of two streams."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import jax

from tlx.models import features, tap_shapes
from tlx.objectives.base import Term, check_weight
from tlx.objectives.ramp import Weight
from tlx.trees import Tree
from tlx.types import Array, Key, Model, View


@dataclass(frozen=True, kw_only=True)
class Between(Term):
    """A term between the streams `source` and `target`."""

    source: str = "source"
    target: str = "unlabelled"
    weight: Weight = 1.0

    def __post_init__(self) -> None:
        check_weight(self, "weight", "reversal")
        if self.source == self.target:
            raise ValueError(f"{type(self).__name__}: source and target are both the stream {self.source!r}")

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        """Raises ValueError for a model that does not give its features."""
        read_features(model)
        return params

    def reads(self, streams: Collection[str]) -> Collection[str]:
        return (self.source, self.target)


def read_features(model: Model) -> int:
    """The width of what the head reads; ValueError for a model that does not give it."""
    return features(tap_shapes(model)).shape[-1]


def check_scales(scales: Sequence[float], who: str) -> None:
    """ValueError for widths of kernels that are none."""
    if not scales or min(scales) <= 0:
        raise ValueError(f"{who}: scales are {scales}; give one or more, each above 0")


def check_singular(model: Model, k: int, who: str) -> None:
    """ValueError for a model that does not give its features, or of fewer than `k`."""
    width = read_features(model)
    if k > width:
        raise ValueError(f"{who}: k is {k}; {width} features have no more singular values than that, lower k")


def rows(view: View, stream: str) -> Array:
    """What the head reads of every example of a stream, [B, W], those on all devices."""
    return gathered(view, features(view.taps[stream]))


def over_devices(view: View, value: Array) -> Array:
    """The mean over the devices by `pmap` of what each has of its part of the batch."""
    return value if view.axis is None else jax.lax.pmean(value, view.axis)


def check_sources(sources: Collection[str], target: str, who: str) -> None:
    """ValueError for sources that are not each another stream than the target, and than one another."""
    if len({*sources, target}) <= len(sources):
        raise ValueError(f"{who}: sources are {sources} and the target is {target!r}; each is a stream of its own")


def gathered(view: View, values: Array) -> Array:
    """[B, ...] of the whole batch, where devices by `pmap` hold a part each."""
    return values if view.axis is None else jax.lax.all_gather(values, view.axis, tiled=True)
