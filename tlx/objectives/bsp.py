"""BSP: penalise large singular values of the features of two streams."""

from collections.abc import Collection
from dataclasses import dataclass

from tlx.functional.losses import largest_squares
from tlx.objectives.base import Needs, Preview, weighed
from tlx.objectives.between import Between, check_singular, rows
from tlx.objectives.ramp import Weight
from tlx.types import Array, View


@dataclass(frozen=True, kw_only=True)
class Bsp(Between):
    """Batch spectral penalisation (Chen et al., 2019), for use beside an adversarial term.

    The loss is `weight` times the sum of the `k` largest squared singular values of two matrices, one for each stream.
    A matrix holds the inputs of the head, one row per example of the (global) batch.
    """

    k: int = 1
    weight: Weight = 2e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 1:
            raise ValueError(f"Bsp: k is {self.k}; expected 1 or more")

    def needs(self, streams: Collection[str]) -> Needs:
        return super().needs(streams)._replace(features=True)

    def check(self, preview: Preview) -> None:
        """Raise ValueError for a model with fewer than `k` features."""
        check_singular(preview.model, self.k, "Bsp")

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        """Return the loss and its metrics; raise ValueError where a batch has fewer than `k` examples."""
        source, target = (largest_squares(rows(view, stream), self.k) for stream in (self.source, self.target))
        return weighed(self.weight, source + target, view, squares_source=source, squares_target=target)
