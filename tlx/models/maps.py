"""Where a transformer block looks: the scores of its attention, from the tap of the stage before it.

Shapes: B batch, T tokens, W width, H heads, D head size.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from tlx.layers import dense, layer_norm
from tlx.models.bert import Bert
from tlx.models.vit import Vit
from tlx.trees import Tree, subtree
from tlx.types import Array, Model


def attention_stages(model: Model) -> list[str]:
    """The stages that attend: none in a model that is no transformer."""
    if not isinstance(model.config, Bert | Vit):
        return []
    return [stage.name for stage in model.stages if stage.name.startswith("blocks/")]


def attention_scores(model: Model, params: Tree, taps: Mapping[str, Any], stage: str) -> Array:
    """Scores before the softmax, [B, H, T, T] in float32: those of masked tokens are the least number there is.

    The two products are done again, for a pass keeps hidden states alone. A learned prefix is left out.
    """
    names = [own.name for own in model.stages]
    x, own = taps[names[names.index(stage) - 1]], subtree(params, stage)["attention"]
    if isinstance(model.config, Vit):
        x = layer_norm(own["norm"], x, model.config.epsilon)
    batch, tokens, width = x.shape
    heads = model.config.heads

    def split(name: str) -> Array:
        return dense(own[name], x).reshape(batch, tokens, heads, width // heads)

    query = split("query") * (width // heads) ** -0.5
    scores = jnp.einsum("BTHD,BSHD->BHTS", query, split("key"), preferred_element_type=jnp.float32)
    mask = taps["carry"].get("mask")
    if mask is None:
        return scores
    return scores + jnp.where(mask[:, None, None, :] > 0, 0.0, jnp.finfo(jnp.float32).min)
