"""CMD: match the central moments of the features of two streams."""

from collections.abc import Collection
from dataclasses import dataclass

import jax.numpy as jnp

from tlx.functional.discrepancy import central_moments
from tlx.objectives.base import Needs, weighed
from tlx.objectives.between import Between, rows
from tlx.types import Array, View


@dataclass(frozen=True, kw_only=True)
class Cmd(Between):
    """`weight` times the central moment discrepancy up to the order `moments` (Zellinger et al., 2017).

    It compares the inputs of the head of the two streams after a tanh, because the measure is defined for bounded
    features.
    """

    moments: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.moments < 1:
            raise ValueError(f"Cmd: moments is {self.moments}; expected 1 or more")

    def needs(self, streams: Collection[str]) -> Needs:
        return super().needs(streams)._replace(features=True)

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        """Return the loss and its metrics; raise ValueError for a batch of one example."""
        source, target = (jnp.tanh(rows(view, stream)) for stream in (self.source, self.target))
        distance = central_moments(source, target, self.moments)
        return weighed(self.weight, distance, view, distance=distance)
