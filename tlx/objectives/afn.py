"""Features of growing norm."""

from dataclasses import dataclass

import jax

from tlx.functional.discrepancy import norm
from tlx.models import features
from tlx.objectives.base import mean_over, weighed
from tlx.objectives.between import Between
from tlx.objectives.ramp import Weight
from tlx.types import Array, View


@dataclass(frozen=True, kw_only=True)
class Afn(Between):
    """Adaptive feature norm (Xu et al., 2019, stepwise): `weight` times the mean over each of the two streams of (|f| -
    (|f| as it is + `step`))^2, f being the input of the head: every norm has to grow by `step`, the smaller norms of
    the target more safely."""

    step: float = 1.0
    weight: Weight = 0.05

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        norms = {stream: norm(features(view.taps[stream])) for stream in (self.source, self.target)}
        short = {stream: (own - jax.lax.stop_gradient(own) - self.step) ** 2 for stream, own in norms.items()}
        source, target = (mean_over(view, stream, own) for stream, own in short.items())
        told = {f"norm_{name}": mean_over(view, getattr(self, name), norms[getattr(self, name)])
                for name in ("source", "target")}  # fmt: skip
        return weighed(self.weight, source + target, view, **told)
