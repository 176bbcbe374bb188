"""The model's own predictions as labels."""

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
    """Self-training on the stream `on` (Lee, 2013): `weight` times the mean over its examples of the cross-entropy to
    the likeliest class, where that has a probability of `threshold` or more, and of 0 elsewhere. The class has no
    gradient. `kept` is logged, the share of the examples that count.

    Lee keeps all of them (threshold 0) and lets the weight rise, which is `Ramp(0.0, 3.0, over=...)` there.
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
    """Return the loss by which the logits `taught` [B, C] learn the classes that the logits `teaching` predict with
    confidence."""
    p = jax.nn.softmax(jax.lax.stop_gradient(teaching).astype(jnp.float32), -1)
    kept = (p.max(-1) >= term.threshold).astype(jnp.float32)
    risk = mean_over(view, term.on, kept * cross_entropy(taught, p.argmax(-1)))
    return weighed(term.weight, risk, view, risk=risk, kept=mean_over(view, term.on, kept))


def check_share(term: Term, *names: str) -> None:
    """Raise ValueError for a number outside [0, 1]."""
    for name in names:
        if not 0.0 <= (value := getattr(term, name)) <= 1.0:
            raise ValueError(f"{type(term).__name__}: {name} is {value}; it lies in [0, 1]")
