"""Supervised loss of the task on a labelled stream."""

from collections.abc import Collection
from dataclasses import dataclass

from tlx.objectives.base import Needs, Term, mean_over, task_losses, weighed
from tlx.objectives.ramp import Weight
from tlx.types import Array, View


@dataclass(frozen=True, kw_only=True)
class Supervised(Term):
    """`weight` times the mean loss of the task over the stream `on`."""

    on: str = "labelled"
    weight: Weight = 1.0

    def needs(self, streams: Collection[str]) -> Needs:
        return Needs(forward=(self.on,), labels=(self.on,), features=False)

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        risk = mean_over(view, self.on, task_losses(view, self.on))
        return weighed(self.weight, risk, view, risk=risk)
