"""Attention maps: the attention scores of a transformer block, from the tap of the stage before it.

Shapes: B batch, T tokens, W width, H heads, D head size.
"""

import jax.numpy as jnp

from tlx.layers import dense
from tlx.trees import Tree, subtree
from tlx.types import Array, ArrayMap, Model


def attention_stages(model: Model) -> list[str]:
    """Return the names of the stages with attention over all tokens; empty if the model has no attention maps."""
    if not model.config.has_attention_maps():
        return []
    return [stage.name for stage in model.stages if "query" in subtree(model.params, f"{stage.name}/attention")]


def attention_scores(model: Model, params: Tree, taps: ArrayMap, stage: str) -> Array:
    """Return the attention scores of a stage before the softmax, [B, H, T, T] in float32.

    The scores of masked tokens are the lowest float32. The two products are recomputed, because a forward pass keeps
    the hidden states only. A learned prefix is left out.

    Args:
        model: The model.
        params: Its parameters.
        taps: The taps of a forward pass.
        stage: The name of the stage.
    """
    names = [link.name for link in model.stages]
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
