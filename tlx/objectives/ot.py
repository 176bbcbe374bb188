"""Optimal transport: move the features of two streams together under a transport plan."""

from collections.abc import Collection
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from tlx.functional.discrepancy import squared_distances, transport
from tlx.objectives.base import Needs, weighed
from tlx.objectives.between import Between, gathered, rows
from tlx.objectives.ramp import Weight
from tlx.types import Array, View


@dataclass(frozen=True, kw_only=True)
class Ot(Between):
    """`weight` times the cost of transporting the source's batch to the target's, sum_ij P_ij C_ij.

    C_ij = |f_i - f_j|^2 for the inputs f of the head, and P is the plan with the least cost.

    With `label_cost`, C_ij also contains `label_cost` times the task's loss of the target's prediction j against the
    source's label i (DeepJDOT; Damodaran et al., 2018: alpha in the paper is `weight`, lambda is `weight` times
    `label_cost`, and the paper uses 0.001 and 0.1). As in the paper, the plan has no gradient.

    The plan is the entropic plan of `tlx.functional.discrepancy.transport`, with `epsilon` as a share of the mean cost.
    It is more even than the plan of least cost, and converges to it as `epsilon` goes to 0. The metric `missed` is the
    share of the mass that is still in the wrong place after the `iterations`.
    """

    label_cost: float | None = None
    epsilon: float = 0.05
    iterations: int = 100
    weight: Weight = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label_cost is not None and self.label_cost < 0:
            raise ValueError(f"Ot: label_cost is {self.label_cost}; expected 0 or more, or None")
        if self.epsilon <= 0:
            raise ValueError(f"Ot: epsilon is {self.epsilon}; expected a number above 0")
        if self.iterations < 1:
            raise ValueError(f"Ot: iterations is {self.iterations}; expected 1 or more")

    def needs(self, streams: Collection[str]) -> Needs:
        labels = () if self.label_cost is None else (self.source,)
        return super().needs(streams)._replace(labels=labels, features=True)

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        cost = squared_distances(rows(view, self.source), rows(view, self.target))
        if self.label_cost is not None:
            logits = gathered(view, view.taps[self.target]["logits"])
            labels = gathered(view, view.batch[self.source]["label"])

            def risks(label: Array) -> Array:
                """Return the loss of every prediction of the target against one label of the source, [M]."""
                return view.task.loss(
                    {"logits": logits}, {"label": jnp.broadcast_to(label, (len(logits), *label.shape))}
                )[0]

            cost += self.label_cost * jax.vmap(risks)(labels)
        plan = transport(cost, self.epsilon, self.iterations)
        transported = (plan * cost).sum()
        missed = 0.5 * jnp.abs(plan.sum(0) - 1.0 / plan.shape[1]).sum()
        return weighed(self.weight, transported, view, cost=transported, missed=missed)
