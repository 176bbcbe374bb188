"""The chain of stages of a model: initial values, and the forward pass over any part of the chain."""

import zlib
from collections.abc import Callable, Collection, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from tlx.layers import bottleneck, dense
from tlx.models.again import again, gathering
from tlx.trees import Tree, flatten, map_named, near_miss, nest, subtree
from tlx.types import Array, ArrayMap, Carry, Context, Key, Model, Param, Stage, Variables

# Returns the whole parameters of a stage, given its name and what is there of them.
Gather = Callable[[str, Tree], Tree]
# The outputs that every stage may write without declaring them.
CUSTOMARY = frozenset(("hidden", "pooled", "logits"))


def initialise(model: Model, key: Key) -> Variables:
    """Draw initial variables. A leaf depends on `key` and its path only, so adding a leaf changes no other leaf."""

    def fresh(path: str, param: Param) -> Array:
        return param.init(leaf_key(key, path), param.shape)

    return Variables(map_named(fresh, model.params), map_named(fresh, model.stats))


def leaf_key(key: Key, path: str) -> Key:
    """Return the key of a leaf. It depends on `key` and the path only."""
    return jax.random.fold_in(key, zlib.crc32(path.encode()))


def stage_key(key: Key, name: str) -> Key:
    """Return the noise key of a stage. It depends on `key` and `name` only, so adding a stage changes no other."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def position(model: Model, name: str | None, default: int) -> int:
    """Return the place of the stage `name` in the chain. Raises ValueError, with near names, if it is unknown."""
    if name is None:
        return default
    names = [stage.name for stage in model.stages]
    if name not in names:
        raise ValueError(f"the model has no stage {name!r}{near_miss(name, names)}")
    return names.index(name)


def forward(
    model: Model,
    variables: Variables,
    inputs: ArrayMap,
    *,
    key: Key | None = None,
    train: bool = False,
    start: str | None = None,
    stop: str | None = None,
    barrier: str | None = None,
    still: Collection[str] = (),
    remat: Mapping[str, str] = MappingProxyType({}),
    dtype: Any = "float32",
    offset: Any = 0,
    axis: str | None = None,
    gather: Gather | None = None,
) -> tuple[Carry, Tree]:
    """Run the chain of stages.

    Args:
        model: The model.
        variables: The parameters and running statistics.
        inputs: A dict with fixed names: `input_ids`, `attention_mask`, `token_type_ids`, `position_ids` [batch,
            tokens]; `image` [batch, height, width, channels]. With `start`, the `carry` of an earlier pass.
        key: The key of dropout, needed only for `train`.
        train: Whether dropout is on and batch norm uses the moments of the batch.
        start: The first stage to run; None for the first stage of the chain.
        stop: The stage before which the pass ends; None runs the chain to its end.
        barrier: The compiler fuses nothing across the start of this stage, so that one pass computes the same bits as
            two passes that meet there.
        still: Stages that run as in evaluation.
        remat: For each stage, the values that the backward pass recomputes instead of keeping: "stage" for all of them,
            "dots" for all except the large products.
        dtype: The dtype of activations.
        offset, axis: See `types.Context`, for `jax.pmap`.
        gather: Returns the whole parameters of a stage, which a mesh has cut; the backward pass gathers them again.

    Returns:
        `taps` and `stats`. `taps` holds every named output of every stage: the main output under the name of the stage,
        each output under `stage/output`, and the last one written under the name of the output: `hidden` (the last
        hidden state), `pooled`, `logits` (float32). Its `carry` is the input of a later pass with `start`. `stats` are
        the running statistics after the pass.

    Raises:
        ValueError: A stage does not exist, the model does not read an input, or an index has no row in an embedding.
            Inside a compiled function such an index results in NaN.
    """
    stages = model.stages[position(model, start, 0) : position(model, stop, len(model.stages))]
    learned_tokens = prefix_length(model, variables.params), prompt_length(model, variables.params)
    carry: Carry = dict(inputs)
    taps: Carry = {}
    new_stats: dict[str, Tree] = {}
    for stage in stages:
        if stage.name == barrier and stage is not stages[0]:
            carry = jax.lax.optimization_barrier(carry)
        training = train and stage.name not in still
        noise = stage_key(key, stage.name) if training and key is not None else None
        context = Context(noise, training, dtype, offset, axis, *learned_tokens)
        carry, stage_stats = run_stage(model, variables, stage, carry, context, remat.get(stage.name), gather)
        taps |= stage_taps(stage, carry)
        new_stats |= stage_stats
    return taps | last_outputs(model, carry) | {"carry": carry}, updated(variables.stats, new_stats)


def run_stage(
    model: Model,
    variables: Variables,
    stage: Stage,
    carry: Carry,
    context: Context,
    recompute: str | None,
    gather: Gather | None = None,
) -> tuple[Carry, dict[str, Tree]]:
    """Return the carry after a stage, with the side network and the neck that a tuning inserted, and the new statistics
    of the stage under its name; none where it has none. `recompute` is its entry in the `remat` of `forward`, and
    `gather` is as there."""
    head, old_stats, rows = model.stages[-1], subtree(variables.stats, stage.name), carry.get("side", {})
    side, neck = (subtree(variables.params, f"{head.name}/{name}") for name in ("side", "neck"))
    if neck and stage is head:
        carry = narrowed(neck, carry)
    apply = stage.apply if gather is None else gathering(stage.apply, partial(gather, stage.name))
    if recompute is not None or gather is not None:
        apply = again(apply, recompute or "all but gathered")
    carry, stage_stats = apply(subtree(variables.params, stage.name), old_stats, carry, context)
    if side:
        carry = beside(side, stage, carry, rows)
    return carry, {stage.name: stage_stats} if old_stats else {}


def stage_taps(stage: Stage, carry: Carry) -> Carry:
    """Return the named outputs of a stage: the main output under its name, each one under `stage/output`."""
    outputs = {f"{stage.name}/{name}": carry[name] for name in (stage.output, *stage.others)}
    return {stage.name: carry[stage.output], **outputs}


def last_outputs(model: Model, carry: Carry) -> Carry:
    """Return the last value of every output that a stage of the model writes, and of the `CUSTOMARY` ones."""
    names = {name for stage in model.stages for name in (stage.output, *stage.others)} | CUSTOMARY
    return {name: carry[name] for name in sorted(names) if name in carry}


def prompt_length(model: Model, params: Tree) -> int:
    """Return the number of learned tokens that a tuning put before the text, 0 for none."""
    return len(subtree(params, f"{model.stages[0].name}/prompt").get("tokens", ()))


def prefix_length(model: Model, params: Tree) -> int:
    """Return the largest number of learned keys that a tuning put before the tokens of a block, 0 for none."""
    rows = (subtree(params, f"{stage.name}/attention/prefix").get("key") for stage in model.stages)
    return max((len(keys) for keys in rows if keys is not None), default=0)


def updated(stats: Tree, moved: Mapping[str, Tree]) -> Tree:
    """Return `stats` with the sub-trees in `moved` (by stage name) in place of the old ones."""
    leaves = flatten(stats)
    for name, tree in moved.items():
        leaves |= flatten(tree, f"{name}/")
    return nest(leaves)


def summary(tap: Array, mask: Array | None = None) -> Array:
    """Return one row per example, in float32.

    [B, W] stays as it is, [B, T, W] is averaged over the tokens (where `mask` [B, T] is 1), [B, I, J, C] over places.
    """
    wide = tap.astype(jnp.float32)
    if tap.ndim == 3 and mask is not None and mask.shape == tap.shape[:2]:
        weight = mask.astype(jnp.float32)[..., None]
        return (wide * weight).sum(1) / jnp.maximum(weight.sum(1), 1.0)
    return wide.mean(tuple(range(1, tap.ndim - 1))) if tap.ndim > 2 else wide


def features(taps: ArrayMap) -> Array:
    """Return the features [B, W] that the head reads: `pooled`, or the first token of `hidden` or its mean over places.

    Raises ValueError if a (bridged) model returns neither.
    """
    if "pooled" in taps:
        return taps["pooled"]
    if "hidden" not in taps:
        raise ValueError(
            "the model returns neither 'pooled' nor 'hidden': change its module to return a dict with one of them"
        )
    hidden = taps["hidden"]
    return hidden[:, 0] if hidden.ndim == 3 else summary(hidden)


def narrowed(neck: Tree, carry: Carry) -> Carry:
    """Return the carry with the features x that the head reads (see `features`) replaced by x + up(gelu(down(x))).

    A head may read several tokens (DeiT, DINOv2), so every token is replaced; the compiler drops those that no stage
    reads.
    """
    feature_names = [name for name in ("pooled", "hidden") if name in carry]
    if len(feature_names) == 2 and carry["hidden"].ndim != 3:
        feature_names.remove("hidden")
    return carry | {name: carry[name] + bottleneck(neck, carry[name]) for name in feature_names}


def beside(side: Tree, stage: Stage, carry: Carry, rows: Mapping[str, Array]) -> Carry:
    """Return the carry with the summary of `stage` added for a side head, or, at the last stage, with its logits added.

    logits += sum_j softmax(mixture)_j norm(summary_j) @ kernel_j over the stages j: a learned mixture of the features
    of all stages (after Peters et al., 2018, where all stages have one width and share one kernel).

    Args:
        side: The parameters of the side head.
        stage: The stage that was just run.
        carry: The carry after the stage.
        rows: The summaries of the earlier stages by name.
    """
    if stage.output != "logits":
        return carry | {"side": {**rows, stage.name: summary(carry[stage.output], carry.get("mask"))}}
    shares = jax.nn.softmax(side["mixture"])
    total = jnp.zeros_like(carry["logits"])
    for number, (name, row) in enumerate(sorted(rows.items())):
        centred = row - row.mean(-1, keepdims=True)
        normed = centred * jax.lax.rsqrt((centred * centred).mean(-1, keepdims=True) + 1e-6)
        total += shares[number] * dense(subtree(side["maps"], name), normed)
    return carry | {"logits": carry["logits"] + total}
