"""Label smoothing: cross-entropy to smoothed labels."""

from collections.abc import Collection
from dataclasses import dataclass

from tlx.functional.losses import cross_entropy
from tlx.objectives.base import Needs, Term, check_weight, mean_over, weighed
from tlx.objectives.ramp import Weight
from tlx.types import Array, View


@dataclass(frozen=True, kw_only=True)
class LabelSmoothing(Term):
    """Cross-entropy to smoothed labels (Szegedy et al., 2016), in the place of `Supervised`.

    The loss is `weight` times the mean of -sum_c q_c log p_c with q = (1 - smoothing) one-hot + smoothing / C. The
    task's own smoothing is ignored.
    """

    smoothing: float = 0.1
    on: str = "labelled"
    weight: Weight = 1.0

    def __post_init__(self) -> None:
        check_weight(self, "weight")
        if not 0.0 <= self.smoothing < 1.0:
            raise ValueError(f"LabelSmoothing: smoothing is {self.smoothing}; expected a number in [0, 1)")

    def needs(self, streams: Collection[str]) -> Needs:
        return Needs(forward=(self.on,), labels=(self.on,), exclusive=True, features=False)

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        values = cross_entropy(view.taps[self.on]["logits"], view.batch[self.on]["label"], self.smoothing)
        risk = mean_over(view, self.on, values)
        return weighed(self.weight, risk, view, risk=risk)
