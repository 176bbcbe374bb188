"""A multilayer perceptron over images or features. Stages: `stem` (the first layer), `blocks/00` ..., `head`."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import jax.numpy as jnp

from tlx.layers import ACTIVATIONS, as_dtype, declare_dense, dense, dropout, example, he
from tlx.models.base import Architecture
from tlx.models.heads import Head
from tlx.models.sizes import check_ranges
from tlx.trees import Tree, near_miss
from tlx.types import Array, Carry, Context, Field, Model, Stage


@dataclass(frozen=True, kw_only=True)
class Mlp(Architecture):
    """A multilayer perceptron.

    Attributes:
        inputs: The shape of `input` for one example, which is flattened.
        widths: The width of each hidden layer.
        activation: The activation function.
        dropout: The dropout rate after each hidden layer.
        input: The name of the input.
    """

    inputs: tuple[int, ...] = (28, 28, 1)
    widths: tuple[int, ...] = (256, 256)
    activation: str = "relu"
    dropout: float = 0.0
    input: str = "image"

    def __post_init__(self) -> None:
        check_ranges(self, ("inputs", "widths"), ("dropout",))
        if not self.widths:
            raise ValueError("widths is empty; expected at least one number, one for each hidden layer")
        if self.activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {self.activation!r}{near_miss(self.activation, ACTIVATIONS)}")

    def build(self, head: Head | None) -> Model:
        """Return the chain of stages, with a linear head."""
        return chain(self, head)

    def input_fields(self) -> Mapping[str, Field]:
        return {self.input: Field(self.inputs, "float32")}


def chain(config: Mlp, head: Head | None) -> Model:
    """Build the chain of stages, with a linear head."""

    def layer(params: Tree, x: Array, context: Context) -> tuple[Carry, Tree]:
        hidden = ACTIVATIONS[config.activation](dense(params, x, context, 1))
        hidden = dropout(hidden, config.dropout, context, 0)
        return {"hidden": hidden, "pooled": hidden}, {}

    def stem(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        x = example(carry, config.input, config.inputs)
        return layer(params, as_dtype(x.reshape(x.shape[0], -1), context), context)

    def block(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        return layer(params, carry["hidden"], context)

    def classifier(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        return carry | {"logits": dense(params, carry["pooled"], context, 1).astype(jnp.float32)}, stats

    fans = (math.prod(config.inputs), *config.widths)
    first, *blocks = (declare_dense(inputs, outputs, ("width", "mlp"), he) for inputs, outputs in pairwise(fans))
    params: Tree = {"stem": first} | (
        {"blocks": {f"{n:02d}": layer for n, layer in enumerate(blocks)}} if blocks else {}
    )
    stages = [
        Stage("stem", stem, others=("pooled",)),
        *(Stage(f"blocks/{n:02d}", block, others=("pooled",)) for n in range(len(blocks))),
    ]
    if head is not None:
        params["head"] = declare_dense(config.widths[-1], head.outputs, ("width", None))
        stages.append(Stage("head", classifier, "logits"))
    return Model(tuple(stages), params, {}, config, head)
