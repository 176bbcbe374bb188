"""A small layer between the features and the head."""

from dataclasses import dataclass

import jax.numpy as jnp

from tlx.layers import he
from tlx.models import features, tap_shapes
from tlx.trees import Tree, added
from tlx.tuning.base import Tuning, check_inserts, key_of, with_head
from tlx.types import Key, Model, Phase


@dataclass(frozen=True, kw_only=True)
class Bottleneck(Tuning):
    """The head reads x + up(gelu(down(x))) of the frozen features x, with `width` units in the middle.

    Bottleneck and head learn. Terms between domains read the output of the bottleneck.

    This is the bottleneck of domain adaptation (256 units between a network and a new head; Long et al., 2015) as a
    residual adapter (Houlsby et al., 2019). `up` starts at zero, so the initial model computes the pretrained function.
    Everything below the bottleneck is computed once. For the layer of the paper see `models.Neck`.
    """

    unmergeable = (("neck", "a bottleneck"),)

    width: int = 256

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width is {self.width}; expected 1 or more")

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        """Return `params` with the bottleneck; raise ValueError for a model without a head on features."""
        check_inserts(model, "Bottleneck")
        head = model.stages[-1]
        if head.output != "logits" or len(model.stages) < 2:
            raise ValueError("Bottleneck() requires a head and a stage below the head")
        inputs = features(tap_shapes(model)).shape[-1]
        path = f"{head.name}/neck"
        down = he(key_of(key, path), (inputs, self.width))
        leaves = {f"{path}/down/kernel": down, f"{path}/down/bias": jnp.zeros(self.width)}
        leaves |= {f"{path}/up/kernel": jnp.zeros((self.width, inputs)), f"{path}/up/bias": jnp.zeros(inputs)}
        return added(params, leaves, "Bottleneck")

    def phases(self, model: Model) -> tuple[Phase, ...]:
        return with_head(model, "Bottleneck")
