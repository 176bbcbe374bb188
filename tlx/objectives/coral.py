"""CORAL: match the covariances of the features of two streams."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from tlx.config import check_choice
from tlx.functional.discrepancy import coral, mean_coral
from tlx.objectives.base import Needs, weighed
from tlx.objectives.between import Between, rows
from tlx.types import Array, View

FORMS = {"paper": coral, "mean": mean_coral}


@dataclass(frozen=True, kw_only=True)
class Coral(Between):
    """`weight` times the distance between the covariances C and C' of the inputs of the head for the two streams.

    With `form` "paper" the distance is |C - C'|^2 / (4 W^2) (Sun and Saenko, 2016). With "mean" it is the mean squared
    difference of the entries of the covariances, plus the mean squared difference of the means. Several libraries call
    the second form CORAL; it is at least four times as large.
    """

    form: Literal["paper", "mean"] = "paper"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("Coral: form", self.form, FORMS)

    def needs(self, streams: Collection[str]) -> Needs:
        return super().needs(streams)._replace(features=True)

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        """Return the loss and its metrics; raise ValueError for a batch of one example."""
        distance = FORMS[self.form](rows(view, self.source), rows(view, self.target))
        return weighed(self.weight, distance, view, distance=distance)
