"""Mean teacher: train the model to agree with its own moving average."""

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
    """Mean teacher (Tarvainen and Valpola, 2017): `weight` times the mean over the stream `on` of mean_c (p_c - q_c)^2.

    p are the model's probabilities, and q those of the teacher, the moving average of its parameters that
    `Train(ema=...)` keeps. q has no gradient.

    The run evaluates and saves the teacher. The teacher predicts as in evaluation, without dropout and with the running
    statistics; the paper's teacher has independent noise. The average is corrected for its start; the paper increases
    the decay instead. The default weight ends at the paper's value for images, 100.
    """

    on: str = "unlabelled"
    weight: Weight = Ramp(0.0, 100.0, shape="sigmoid", over=(0.0, 0.2))

    def needs(self, streams: Collection[str]) -> Needs:
        return Needs(forward=(self.on,), average=True, exclusive=True, features=False)

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        assert view.average is not None
        teacher = Variables(view.average, view.stats)
        teacher_taps, _ = forward(view.model, teacher, view.batch[self.on], dtype=view.dtype)
        p, q = (jax.nn.softmax(logits, -1) for logits in (view.taps[self.on]["logits"], teacher_taps["logits"]))
        distance = mean_over(view, self.on, squared_error(p, jax.lax.stop_gradient(q)))
        return weighed(self.weight, distance, view, distance=distance)
