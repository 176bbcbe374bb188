"""MMD: match the kernel means of the features of two streams."""

from collections.abc import Collection
from dataclasses import dataclass

from tlx.functional.discrepancy import SCALES, linear_mmd, mmd
from tlx.objectives.base import Needs, weighed
from tlx.objectives.between import Between, check_scales, rows
from tlx.types import Array, View


@dataclass(frozen=True, kw_only=True)
class Mmd(Between):
    """`weight` times the unbiased squared maximum mean discrepancy between the inputs of the head for the two streams.

    The kernel is a sum of Gaussian kernels (as in DAN; Long et al., 2015). `scales` are the kernels' squared widths as
    shares of the mean squared distance of the batch. `linear` uses disjoint pairs of rows only, in linear time and with
    more noise.
    """

    scales: tuple[float, ...] = SCALES
    linear: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scales(self.scales, "Mmd")

    def needs(self, streams: Collection[str]) -> Needs:
        return super().needs(streams)._replace(features=True)

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        """Return the loss and its metrics; raise ValueError for a batch of one example."""
        measure = linear_mmd if self.linear else mmd
        distance = measure(rows(view, self.source), rows(view, self.target), self.scales)
        return weighed(self.weight, distance, view, distance=distance)
