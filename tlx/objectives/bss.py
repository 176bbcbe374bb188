"""BSS: penalise small singular values of the features."""

from collections.abc import Collection
from dataclasses import dataclass

from tlx.functional.losses import smallest_squares
from tlx.objectives.base import Needs, Preview, Term, check_weight, weighed
from tlx.objectives.between import check_singular, rows
from tlx.objectives.ramp import Weight
from tlx.types import Array, View


@dataclass(frozen=True, kw_only=True)
class Bss(Term):
    """Batch spectral shrinkage (Chen et al., 2019).

    The loss is `weight` times the sum of the `k` smallest squared singular values of the matrix of the inputs of the
    head, one row per example of the (global) batch.
    """

    k: int = 1
    on: str = "labelled"
    weight: Weight = 1e-3

    def __post_init__(self) -> None:
        check_weight(self, "weight")
        if self.k < 1:
            raise ValueError(f"Bss: k is {self.k}; expected 1 or more")

    def needs(self, streams: Collection[str]) -> Needs:
        return Needs(forward=(self.on,), features=True, taps=("features",))

    def check(self, preview: Preview) -> None:
        """Raise ValueError for a model with fewer than `k` features."""
        check_singular(preview.model, self.k, "Bss")

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        """Return the loss and its metrics; raise ValueError where the batch has fewer than `k` examples."""
        squares = smallest_squares(rows(view, self.on), self.k)
        return weighed(self.weight, squares, view, squares=squares)
