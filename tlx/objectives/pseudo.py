"""Pseudo-labels: train on the model's own predictions as labels."""

from collections.abc import Collection
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from tlx.functional.losses import cross_entropy
from tlx.objectives.base import Needs, Term, check_weight, mean_over, weighed
from tlx.objectives.ramp import Weight
from tlx.types import Array, View


@dataclass(frozen=True, kw_only=True)
class PseudoLabel(Term):
    """Self-training on the stream `on` (Lee, 2013).

    The loss is `weight` times the mean over the examples of the cross-entropy to the most likely class where its
    probability is at least `threshold`, and of 0 elsewhere. The class has no gradient. The metric `kept` is the share
    of the examples above the threshold.

    Lee keeps all examples (threshold 0) and increases the weight: `Ramp(0.0, 3.0, over=...)`.
    """

    on: str = "unlabelled"
    threshold: float = 0.95
    weight: Weight = 1.0

    def __post_init__(self) -> None:
        check_weight(self, "weight")
        check_share(self, "threshold")

    def needs(self, streams: Collection[str]) -> Needs:
        return Needs(forward=(self.on,), exclusive=True, features=False)

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        logits = view.taps[self.on]["logits"]
        return self_taught(self, view, logits, logits)


def self_taught(term: PseudoLabel, view: View, teaching: Array, taught: Array) -> tuple[Array, dict[str, Array]]:
    """Return the loss for confident predictions as labels, and its metrics.

    Args:
        term: the term, with its threshold and weight.
        view: the view of the current step.
        teaching: the logits that predict the classes, [B, C].
        taught: the logits that learn these classes, [B, C].
    """
    p = jax.nn.softmax(jax.lax.stop_gradient(teaching).astype(jnp.float32), -1)
    confident = (p.max(-1) >= term.threshold).astype(jnp.float32)
    risk = mean_over(view, term.on, confident * cross_entropy(taught, p.argmax(-1)))
    return weighed(term.weight, risk, view, risk=risk, kept=mean_over(view, term.on, confident))


def check_share(term: Term, *names: str) -> None:
    """Raise ValueError for a field outside [0, 1]."""
    for name in names:
        if not 0.0 <= (value := getattr(term, name)) <= 1.0:
            raise ValueError(f"{type(term).__name__}: {name} is {value}; expected a number in [0, 1]")
