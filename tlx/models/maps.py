"""Where a transformer block looks: the scores of its attention, from the tap of the stage before it.

Shapes: B batch, T tokens, W width, H heads, D head size.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from tlx.layers import dense
from tlx.trees import Tree, subtree
from tlx.types import Array, Model


def attention_stages(model: Model) -> list[str]:
    """The stages that attend: none in a model that is no transformer."""
    return [stage.name for stage in model.stages if "query" in subtree(model.params, f"{stage.name}/attention")]


def attention_scores(model: Model, params: Tree, taps: Mapping[str, Any], stage: str) -> Array:
    """Scores before the softmax, [B, H, T, T] in float32: those of masked tokens are the least number there is.

    The two products are done again, for a pass keeps hidden states alone. A learned prefix is left out.
    """
    names = [each.name for each in model.stages]
    layer = subtree(params, stage)["attention"]
    x = model.config.attention_input(layer, taps[names[names.index(stage) - 1]])
    batch, tokens, width = x.shape
    heads = model.config.heads

    def split(name: str) -> Array:
        return dense(layer[name], x).reshape(batch, tokens, heads, width // heads)

    query = split("query") * (width // heads) ** -0.5
    scores = jnp.einsum("BTHD,BSHD->BHTS", query, split("key"), preferred_element_type=jnp.float32)
    mask = taps["carry"].get("mask")
    if mask is None:
        return scores
    return scores + jnp.where(mask[:, None, None, :] > 0, 0.0, jnp.finfo(jnp.float32).min)
