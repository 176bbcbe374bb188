"""The model agrees with its own moving average."""

from collections.abc import Collection
from dataclasses import dataclass

import jax

from tlx.functional.losses import squared_error
from tlx.models import forward
from tlx.objectives.base import Needs, Term, mean_over, weighed
from tlx.objectives.ramp import Ramp, Weight
from tlx.types import Array, Variables, View


@dataclass(frozen=True, kw_only=True)
class MeanTeacher(Term):
    """Mean teacher (Tarvainen and Valpola, 2017): `weight` times the mean over the stream `on` of the mean over classes
    of (p_c - q_c)^2, p the model's probabilities and q those of the moving average of its parameters, which
    `Train(ema=...)` keeps. q has no gradient.

    The teacher is what the run evaluates and saves. It answers as it does there: without dropout and by the running
    statistics, where the paper's has noise of its own; and its average is corrected for its start, where the paper lets
    the share that is kept rise. The default weight ends at the paper's for images, 100.
    """

    on: str = "unlabelled"
    weight: Weight = Ramp(0.0, 100.0, shape="sigmoid", over=(0.0, 0.2))

    def needs(self, streams: Collection[str]) -> Needs:
        return Needs(forward=(self.on,), average=True, exclusive=True, features=False)

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        assert view.average is not None
        teacher = Variables(view.average, view.stats)
        theirs, _ = forward(view.model, teacher, view.batch[self.on], dtype=view.dtype)
        p, q = (jax.nn.softmax(logits, -1) for logits in (view.taps[self.on]["logits"], theirs["logits"]))
        apart = mean_over(view, self.on, squared_error(p, jax.lax.stop_gradient(q)))
        return weighed(self.weight, apart, view, distance=apart)
