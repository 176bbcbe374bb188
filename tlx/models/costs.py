"""What a model costs: its parameters, and the operations of one forward pass, without computing either."""

from functools import partial
from typing import NamedTuple

import jax

from tlx.models.base import Architecture, as_head, build, count, example_inputs
from tlx.models.chain import forward, initialise
from tlx.models.heads import Head

# The tokens of a text or steps of a sequence whose length is free.
TOKENS = 128


class ModelCost(NamedTuple):
    """The number of `parameters`; `flops` of a forward pass over one example; the names of the `stages`."""

    parameters: int
    flops: float
    stages: tuple[str, ...]


def cost_of(config: Architecture, head: Head | int | None = None) -> ModelCost:
    """Return what a model costs. Nothing is computed: the model is traced, and XLA counts its operations.

    Args:
        config: The architecture.
        head: As in `build`.

    Returns:
        The number of parameters, the floating-point operations of a forward pass in evaluation over one example (a
        multiplication and an addition are two operations, products with the zeros around an image are left out, and a
        text has 128 tokens), and the stages.
    """
    head = as_head(head)
    model = build(config, head)
    variables = jax.eval_shape(partial(initialise, model), jax.random.key(0))
    compiled = jax.jit(lambda leaves, arrays: forward(model, leaves, arrays)[0])
    traced = compiled.trace(variables, example_inputs(config, batch=1, tokens=TOKENS))
    # Convolutions on a CPU save products (see `layers.winograd`), so the program of another device is counted.
    counts = traced.lower(lowering_platforms=("tpu",)).cost_analysis() or {}
    return ModelCost(count(config, head), float(counts["flops"]), tuple(stage.name for stage in model.stages))
