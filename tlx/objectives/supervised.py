"""The task's own risk on a labelled stream."""

from dataclasses import dataclass

from tlx.losses import weighted_mean
from tlx.objectives.base import Term
from tlx.types import Array, View


@dataclass(frozen=True, kw_only=True)
class Supervised(Term):
    """`weight` times the mean loss of the task over the stream `on`."""

    on: str = "labelled"
    weight: float = 1.0

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        """Raises ValueError where the stream does not exist or has no labels."""
        batch = view.batch.get(self.on)
        if batch is None or "label" not in batch:
            have = ", ".join(name for name, stream in view.batch.items() if "label" in stream)
            raise ValueError(f"Supervised(on={self.on!r}): no labelled stream of that name; there are: {have}")
        risk = weighted_mean(view.task.loss(view.taps[self.on]["logits"], batch), batch.get("weight"))
        return self.weight * risk, {"risk": risk}
