"""Entropy minimisation: train confident predictions."""

from collections.abc import Collection
from dataclasses import dataclass

from tlx.functional.losses import entropy
from tlx.objectives.base import Needs, Term, mean_over, weighed
from tlx.objectives.ramp import Weight
from tlx.types import Array, View


@dataclass(frozen=True, kw_only=True)
class Entropy(Term):
    """`weight` times the mean over the stream `on` of -sum_c p_c log p_c (Grandvalet and Bengio, 2005).

    The stream needs no labels.
    """

    on: str = "labelled"
    weight: Weight = 0.1

    def needs(self, streams: Collection[str]) -> Needs:
        return Needs(forward=(self.on,), exclusive=True, features=False)

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        mean = mean_over(view, self.on, entropy(view.taps[self.on]["logits"]))
        return weighed(self.weight, mean, view, entropy=mean)
