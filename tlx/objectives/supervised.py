"""The task's own risk on a labelled stream."""

from dataclasses import dataclass
from typing import ClassVar

from tlx.objectives.base import Term, mean_over, task_losses, weighed
from tlx.objectives.ramp import Weight
from tlx.types import Array, View


@dataclass(frozen=True, kw_only=True)
class Supervised(Term):
    """`weight` times the mean loss of the task over the stream `on`."""

    on: str = "labelled"
    labels: ClassVar[bool] = True
    weight: Weight = 1.0

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        """Raises ValueError where the stream does not exist or has no labels."""
        batch = view.batch.get(self.on)
        if batch is None or "label" not in batch:
            have = ", ".join(name for name, stream in view.batch.items() if "label" in stream)
            raise ValueError(f"Supervised(on={self.on!r}): no labelled stream of that name; there are: {have}")
        risk = mean_over(view, self.on, task_losses(view, self.on))
        return weighed(self.weight, risk, view, risk=risk)
