"""A hidden layer between the features of a model and its classifier, as in the networks of domain adaptation.

Shapes: B batch, C features of the backbone, W width of the neck.
"""

import math
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp

from tlx.layers import batch_norm, declare_dense, declare_norm, declare_statistics, dense, dropout, uniform
from tlx.models.chain import features, forward, initialise
from tlx.models.heads import Head, Neck, Pooled
from tlx.models.names import STATS, Name
from tlx.trees import Tree, flatten, subtree
from tlx.types import Carry, Context, Model, Stage

NECK, HEAD = "neck", "head"


def neck_of(head: Head | None) -> Neck | None:
    """Return the neck below a head; None if there is none."""
    return head.neck if isinstance(head, Pooled) else None


def with_neck(model: Model, head: Head, neck: Neck, inputs: Mapping[str, jax.ShapeDtypeStruct]) -> Model:
    """Return a classifier whose head is replaced by a neck, which reads the features, and a linear head over the neck.

    `inputs` are the shapes of example inputs. Neck and head count as one layer where stages freeze or learn by depth.
    Their kernels and biases start as those of torch's `Linear`.

    Raises:
        ValueError: The model has no stage for its head.
    """
    last = model.stages[-1]
    if len(model.stages) < 2 or (last.name, last.output) != (HEAD, "logits"):
        raise ValueError(
            f"{type(model.config).__name__} has no stage named {HEAD!r} at its end, so no neck fits below it; remove "
            f"{neck} from the task"
        )
    backbone = model._replace(
        stages=model.stages[:-1], params={name: leaf for name, leaf in model.params.items() if name != HEAD}
    )

    def hidden(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        y = dense(params, features(carry), context, 1)
        if neck.norm:
            y, norm = batch_norm(params["norm"], stats["norm"], y, context, unbiased=True)
            stats = {"norm": norm}
        return carry | {"pooled": dropout(jax.nn.relu(y), neck.dropout, context, 0)}, stats

    def classifier(params: Tree, stats: Tree, carry: Carry, context: Context) -> tuple[Carry, Tree]:
        return carry | {"logits": dense(params, carry["pooled"], context, 1).astype(jnp.float32)}, stats

    depth = model.depths[HEAD]
    stages = (Stage(NECK, hidden, "pooled", depth=depth), Stage(HEAD, classifier, "logits", depth=depth))
    below, stats = linear(width_of(backbone, inputs), neck.width, "mlp"), {}
    if neck.norm:
        below["norm"], stats[NECK] = declare_norm(neck.width), {"norm": declare_statistics(neck.width)}
    return backbone._replace(
        stages=(*backbone.stages, *stages),
        params=backbone.params | {NECK: below, HEAD: linear(neck.width, head.outputs, None)},
        stats=backbone.stats | stats,
        head=head,
    )


def linear(inputs: int, outputs: int, axis: str | None) -> Tree:
    """Declare a dense layer that starts as torch's `Linear`: uniform within 1 / sqrt(inputs)."""
    init = uniform(1 / math.sqrt(inputs))
    params = declare_dense(inputs, outputs, ("width", axis), init)
    return params | {"bias": params["bias"]._replace(init=init)}


def width_of(backbone: Model, inputs: Mapping[str, jax.ShapeDtypeStruct]) -> int:
    """Return the number of features of a model without a head."""

    def read(arrays: Mapping[str, jax.Array]) -> jax.Array:
        return features(forward(backbone, initialise(backbone, jax.random.key(0)), arrays)[0])

    return int(jax.eval_shape(read, inputs).shape[-1])


def neck_names(model: Model) -> Iterator[Name]:
    """Yield the names of the neck and of the head above it, which no other library has: they are ours."""
    for tree, prefix in ((model.params, ""), (model.stats, STATS)):
        for stage in (NECK, HEAD):
            for path in flatten(subtree(tree, stage)):
                yield Name(f"{prefix}{stage}/{path}", f"{prefix}{stage}/{path}", head=True)
