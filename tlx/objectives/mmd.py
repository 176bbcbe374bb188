"""Features of two streams whose kernel means agree."""

from dataclasses import dataclass
from typing import ClassVar

from tlx.functional.discrepancy import SCALES, linear_mmd, mmd
from tlx.objectives.apart import Between, check_scales, rows
from tlx.objectives.base import weighed
from tlx.types import Array, View


@dataclass(frozen=True, kw_only=True)
class Mmd(Between):
    """`weight` times the unbiased squared maximum mean discrepancy between what the head reads of the two streams,
    under a sum of Gaussian kernels (as in DAN; Long et al., 2015). `scales` are the kernels' squared widths as shares
    of the mean squared distance of the batch; `linear` takes disjoint pairs of rows alone, in linear time and with
    more noise.
    """

    scales: tuple[float, ...] = SCALES
    linear: bool = False

    couples: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_scales(self.scales, "Mmd")

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        """Raises ValueError for a batch of one example."""
        measure = linear_mmd if self.linear else mmd
        found = measure(rows(view, self.source), rows(view, self.target), self.scales)
        return weighed(self.weight, found, view, distance=found)
