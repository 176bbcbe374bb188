"""A head beside the model: a learned mixture of the features of all its stages."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from tlx.models import Pooled, summary, tap_shapes
from tlx.trees import Tree, added
from tlx.tuning.base import Tuning, check_inserts, with_head
from tlx.types import Key, Model, Phase


@dataclass(frozen=True, kw_only=True)
class SideHead(Tuning):
    """The backbone stays as it came; the logits are those of the head plus softmax(mixture)_j times a linear map of the
    normalised features of each stage j (after the scalar mixture of Peters et al., 2018).

    The maps begin at zero, so the model begins as it came; head, mixture and maps learn. The backbone being still, all
    that they read can be computed once.
    """

    unmergeable = (("side", "a side head"),)

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        """Raises ValueError for a model that has no stage below a head."""
        check_inserts(model, "SideHead")
        last = model.stages[-1]
        if last.output != "logits" or len(model.stages) < 2:
            raise ValueError("SideHead() needs a stage below the head, and a head")
        if model.head is not None and not isinstance(model.head, Pooled):
            raise ValueError(f"SideHead() adds logits of the whole example, and the model ends in {model.head}")
        taps = tap_shapes(model)
        rows = {stage.name: jax.eval_shape(summary, taps[stage.name]) for stage in model.stages[:-1]}
        leaves = {f"{last.name}/side/mixture": jnp.zeros(len(rows))}
        for name, row in rows.items():
            leaves[f"{last.name}/side/maps/{name}/kernel"] = jnp.zeros((row.shape[-1], model.outputs or 1))
        return added(params, leaves, "SideHead")

    def phases(self, model: Model) -> tuple[Phase, ...]:
        return with_head(model, "SideHead")
