"""AFN: let the norms of the features grow."""

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
    """Adaptive feature norm, stepwise version (Xu et al., 2019).

    The loss is `weight` times the sum, over the two streams, of the mean of (|f| - (sg(|f|) + `step`))^2. f is the
    input of the head, and sg stops the gradient. Every norm has to grow by `step`, because the small norms of the
    target transfer worse.
    """

    step: float = 1.0
    weight: Weight = 0.05

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        norms = {stream: norm(features(view.taps[stream])) for stream in (self.source, self.target)}
        gaps = {stream: (values - jax.lax.stop_gradient(values) - self.step) ** 2 for stream, values in norms.items()}
        source, target = (mean_over(view, stream, values) for stream, values in gaps.items())
        metrics = {f"norm_{name}": mean_over(view, getattr(self, name), norms[getattr(self, name)])
                for name in ("source", "target")}  # fmt: skip
        return weighed(self.weight, source + target, view, **metrics)
