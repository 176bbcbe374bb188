"""R-Drop: two passes with different dropout agree."""

from collections.abc import Collection
from dataclasses import dataclass

from tlx.functional.losses import divergence
from tlx.objectives.base import Needs, Streams, Term, check_weight, mean_over, task_losses, weighed
from tlx.objectives.ramp import Weight, current
from tlx.types import Array, Tick, View

# The stream of the second pass.
STREAM = "rdrop"


@dataclass(frozen=True, kw_only=True)
class RDrop(Term):
    """R-Drop (Liang et al., 2021): a second pass over the stream `on` with different dropout, and the two passes agree.

    The loss is `weight` times (CE of the second pass + `alpha` (KL(p1 || p2) + KL(p2 || p1)) / 2). `Supervised()` adds
    the CE of the first pass; the sum is the paper's loss, with the same alpha. Without dropout the sum is `Supervised`
    counted twice.
    """

    on: str = "labelled"
    alpha: Weight = 1.0
    weight: Weight = 1.0

    def __post_init__(self) -> None:
        check_weight(self, "weight", "alpha")

    def needs(self, streams: Collection[str]) -> Needs:
        return Needs(
            forward=(self.on, STREAM),
            batch=(self.on,),
            labels=(self.on,),
            creates=(STREAM,),
            exclusive=True,
            features=False,
        )

    def streams(self, batch: Streams, tick: Tick) -> Streams:
        return {**batch, STREAM: batch[self.on]}

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        first, second = (view.taps[stream]["logits"] for stream in (self.on, STREAM))
        risk = mean_over(view, self.on, task_losses(view, self.on, {"logits": second}))
        divergences = mean_over(view, self.on, 0.5 * (divergence(first, second) + divergence(second, first)))
        total = risk + current(self.alpha, view.tick) * divergences
        return weighed(self.weight, total, view, risk=risk, divergence=divergences)
