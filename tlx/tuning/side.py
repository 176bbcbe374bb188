"""Add a head beside the model: a learned mixture of the features of all its stages."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from tlx.models import Pooled, summary, tap_shapes
from tlx.trees import Tree, added
from tlx.tuning.base import Tuning, check_inserts, with_head
from tlx.types import Key, Model, Phase


@dataclass(frozen=True, kw_only=True)
class SideHead(Tuning):
    """Freeze the backbone and train the head, a mixture of stages, and one linear map per stage.

    The logits are those of the head plus the sum over the stages j of softmax(mixture)_j times a linear map of the
    normalised features of stage j (after the scalar mixture of Peters et al., 2018).

    The maps start at zero, so the initial model computes the pretrained function. The backbone is frozen, so its
    features can be computed once.
    """

    unmergeable = (("side", "a side head"),)

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        """Return `params` with the mixture and the maps; raise ValueError for a model without a stage below a head."""
        check_inserts(model, "SideHead")
        head = model.stages[-1]
        if head.output != "logits" or len(model.stages) < 2:
            raise ValueError("SideHead() requires a head and a stage below the head")
        if model.head is not None and not isinstance(model.head, Pooled):
            raise ValueError(f"SideHead() adds logits for the whole example, but the head of the model is {model.head}")
        taps = tap_shapes(model)
        features = {stage.name: jax.eval_shape(summary, taps[stage.name]) for stage in model.stages[:-1]}
        leaves = {f"{head.name}/side/mixture": jnp.zeros(len(features))}
        for name, feature in features.items():
            leaves[f"{head.name}/side/maps/{name}/kernel"] = jnp.zeros((feature.shape[-1], model.outputs or 1))
        return added(params, leaves, "SideHead")

    def phases(self, model: Model) -> tuple[Phase, ...]:
        return with_head(model, "SideHead")
