"""Weight source examples once, by their similarity to the target in the pretrained features."""

from abc import abstractmethod
from collections.abc import Collection
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from tlx.data import inputs_of
from tlx.functional.reweight import effective
from tlx.models import features
from tlx.objectives.base import Needs, Term, mean_over, task_losses, weighed
from tlx.objectives.ramp import Weight
from tlx.objectives.reference import compiled
from tlx.trees import Tree
from tlx.types import Array, Setting, View


@dataclass(frozen=True, kw_only=True)
class Reweighted(Term):
    """`weight` times the mean over the stream `on` of w times each example's loss, in the place of `Supervised`.

    The weights w are computed before the first step, from the input of the head for every example of `on` and of
    `target`, in the model at the start of the run. No label of the target is read. The metric `effective` is the
    effective share of the examples, (sum w)^2 / (N sum w^2).
    """

    on: str = "source"
    target: str = "unlabelled"
    weight: Weight = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.on == self.target:
            raise ValueError(
                f"{type(self).__name__}: on and target are both the stream {self.on!r}; they must be two different "
                "streams"
            )

    def needs(self, streams: Collection[str]) -> Needs:
        return Needs(
            forward=(self.on,),
            once=(self.on, self.target),
            labels=(self.on,),
            features=False,
            taps=("features",),
        )

    @abstractmethod
    def counts(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Return the weight of each row of the source: [N, W], [M, W] -> [N]."""

    def memory(self, setting: Setting) -> Tree:
        """Return `counts`, the weights w by example index, and `effective`, their effective share.

        Without data all weights are equal.
        """
        (index, source), (_, target) = (features_of(setting, stream) for stream in (self.on, self.target))
        if not len(source) or not len(target):
            return {"counts": np.ones(1, np.float32), "effective": np.ones((), np.float32)}
        weights = self.counts(source, target)
        counts = np.zeros(index.max() + 1, np.float32)
        counts[index] = weights
        return {"counts": counts, "effective": np.asarray(effective(weights), np.float32)}

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        counts = jnp.take(view.memory["counts"], view.batch[self.on]["index"], mode="clip")
        losses = task_losses(view, self.on)
        risk = mean_over(view, self.on, counts * losses)
        return weighed(self.weight, risk, view, risk=risk, effective=view.memory["effective"])


def features_of(setting: Setting, stream: str) -> tuple[np.ndarray, np.ndarray]:
    """Compute the input of the head for every example of a stream.

    Returns:
        The index of every example, ascending, [N], and the features, [N, W].
    """
    compute_taps, parts = compiled(setting.model), []
    variables = jax.device_put(setting.variables)
    for batch in setting.inputs(stream):
        present = np.asarray(batch.get("weight", np.ones(len(batch["index"])))) > 0
        rows = np.asarray(features(compute_taps(variables, inputs_of(batch))), np.float64)
        parts.append((np.asarray(batch["index"])[present], rows[present]))
    if not parts:
        return np.zeros(0, int), np.zeros((0, 0))
    index, rows = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.argsort(index)
    return index[order], rows[order]
