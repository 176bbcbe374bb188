"""The named outputs of the stages of a model, and the places of a text of which a model computes logits.

Shapes: B batch, M places, T tokens, W width.
"""

import jax.numpy as jnp

from tlx.trees import Tree
from tlx.types import Apply, Array, Carry, Context, Model, Stage

# An input: the places [B, M] of the tokens of which a head over the vocabulary computes logits; by default all.
PLACES = "predicted_places"
# The outputs that every stage may write without declaring them.
CUSTOMARY = frozenset(("hidden", "pooled", "logits"))


def at_places(apply: Apply, places: Array) -> Apply:
    """Return the computation of a head over the vocabulary at the `places` [B, M] of the text alone: logits [B, M, V].

    Tokens of a learned prompt lie before the text and are passed on, as the head expects them.
    """

    def head(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        hidden = carry["hidden"]
        chosen = jnp.take_along_axis(hidden[:, context.prompt :], places[..., None], axis=1)
        inner = jnp.concatenate([hidden[:, : context.prompt], chosen], axis=1)
        after, stats = apply(params, stats, carry | {"hidden": inner}, context)
        return after | {"hidden": hidden}, stats

    return head


def stage_taps(stage: Stage, carry: Carry) -> Carry:
    """Return the named outputs of a stage: the main output under its name, each one under `stage/output`."""
    outputs = {f"{stage.name}/{name}": carry[name] for name in (stage.output, *stage.others)}
    return {stage.name: carry[stage.output], **outputs}


def last_outputs(model: Model, carry: Carry) -> Carry:
    """Return the last value of every output that a stage of the model writes, and of the `CUSTOMARY` ones."""
    names = {name for stage in model.stages for name in (stage.output, *stage.others)} | CUSTOMARY
    return {name: carry[name] for name in sorted(names) if name in carry}
