"""No small singular values among the features."""

from dataclasses import dataclass
from typing import ClassVar

from tlx.functional.losses import smallest_squares
from tlx.objectives.apart import check_singular, rows
from tlx.objectives.base import Term, check_weight, weighed
from tlx.objectives.ramp import Weight
from tlx.trees import Tree
from tlx.types import Array, Key, Model, View


@dataclass(frozen=True, kw_only=True)
class Bss(Term):
    """Batch spectral shrinkage (Chen et al., 2019): `weight` times the sum of the `k` smallest squared singular values
    of the matrix of what the head reads, one row an example of the (global) batch."""

    k: int = 1
    on: str = "labelled"
    weight: Weight = 1e-3

    couples: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_weight(self, "weight")
        if self.k < 1:
            raise ValueError(f"Bss: k is {self.k}; it is 1 or more")

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        """Raises ValueError for a model that does not give its features, or of fewer than `k`."""
        check_singular(model, self.k, "Bss")
        return params

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        """Raises ValueError where the batch has fewer than `k` examples."""
        shrunk = smallest_squares(rows(view, self.on), self.k)
        return weighed(self.weight, shrunk, view, squares=shrunk)
