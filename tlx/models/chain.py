"""A model is a chain of stages: initial values, and the forward pass over any stretch of the chain."""

import zlib
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp

from tlx.layers import bottleneck, dense
from tlx.models.again import again
from tlx.trees import Tree, flatten, map_named, near_miss, nest, subtree
from tlx.types import Array, Context, Key, Model, Variables

# The outputs that every stage may write without saying so.
CUSTOMARY = frozenset(("hidden", "pooled", "logits"))


def initialise(model: Model, key: Key) -> Variables:
    """Fresh variables. A leaf's value depends on `key` and its own path alone: adding a leaf changes no other."""

    def fresh(path: str, param: Any) -> Array:
        return param.init(jax.random.fold_in(key, zlib.crc32(path.encode())), param.shape)

    return Variables(map_named(fresh, model.params), map_named(fresh, model.stats))


def stage_key(key: Key, name: str) -> Key:
    """The key of a stage's noise. It depends on `key` and the stage's name alone: adding a stage changes no other."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def position(model: Model, name: str | None, default: int) -> int:
    """Where in the chain the stage `name` stands; ValueError names the near misses."""
    if name is None:
        return default
    names = [stage.name for stage in model.stages]
    if name not in names:
        raise ValueError(f"no stage {name!r} in this model{near_miss(name, names)}")
    return names.index(name)


def forward(
    model: Model,
    variables: Variables,
    inputs: Mapping[str, Any],
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
) -> tuple[dict[str, Any], Tree]:
    """Runs the chain: `(taps, stats)`.

    `inputs` is a dict in fixed names: `input_ids`, `attention_mask`, `token_type_ids`, `position_ids` [batch, tokens];
    `image` [batch, height, width, channels]. `taps` holds every named output of every stage: under the stage's name its
    main one, under `stage/output` each, and under an output's own name the last one that was written: `hidden` (the
    last hidden state), `pooled`, `logits` (float32). `carry` is what a later `start` goes on from.
    `stats` are the running statistics after the pass.

    `start` and `stop` name stages: the pass runs from `start` (its `inputs` then are the `carry` of an earlier pass)
    up to, not including, `stop`. `barrier` names a stage below which the compiler may mix nothing with what comes from
    there on, so that a pass gives the same bits as the two halves by themselves. `key` feeds dropout and is needed
    only when `train`. Stages named in `still` run as in evaluation. `remat` says, by stage, what the backward pass
    computes again instead of keeping: "stage", all of it, or "dots", all but the large products. `dtype` is that of
    activations. `offset` and `axis` belong to `jax.pmap` (see `types.Context`).

    Raises ValueError for a stage that does not exist, for an input that the model does not read, and for an index that
    has no row in an embedding; inside of a compiled function such an index gives NaN.
    """
    first, last = position(model, start, 0), position(model, stop, len(model.stages))
    side, neck = (subtree(variables.params, f"{model.stages[-1].name}/{name}") for name in ("side", "neck"))
    before_text = prefix_length(model, variables.params), prompt_length(model, variables.params)
    carry: dict[str, Any] = dict(inputs)
    taps: dict[str, Any] = {}
    moved: dict[str, Tree] = {}
    for index, stage in enumerate(model.stages[first:last], first):
        if stage.name == barrier and index > first:
            carry = jax.lax.optimization_barrier(carry)
        training = train and stage.name not in still
        noise = stage_key(key, stage.name) if training and key is not None else None
        context = Context(noise, training, dtype, offset, axis, *before_text)
        before = subtree(variables.stats, stage.name)
        rows = carry.get("side", {})
        if neck and index == len(model.stages) - 1:
            carry = narrowed(neck, carry)
        apply = again(stage.apply, remat[stage.name]) if stage.name in remat else stage.apply
        carry, after = apply(subtree(variables.params, stage.name), before, carry, context)
        if side:
            carry = beside(side, stage, carry, rows)
        taps[stage.name] = carry[stage.output]
        taps |= {f"{stage.name}/{name}": carry[name] for name in (stage.output, *stage.others)}
        if before:
            moved[stage.name] = after
    stats = updated(variables.stats, moved)
    named = {name for stage in model.stages for name in (stage.output, *stage.others)}
    taps |= {name: carry[name] for name in sorted(named | CUSTOMARY) if name in carry}
    taps["carry"] = carry
    return taps, stats


def prompt_length(model: Model, params: Tree) -> int:
    """How many learned tokens a tuning put before those of the text, 0 for none."""
    return len(subtree(params, f"{model.stages[0].name}/prompt").get("tokens", ()))


def prefix_length(model: Model, params: Tree) -> int:
    """How many learned keys a tuning put before the tokens of the blocks (the most of any block), 0 for none."""
    rows = (subtree(params, f"{stage.name}/attention/prefix").get("key") for stage in model.stages)
    return max((len(own) for own in rows if own is not None), default=0)


def updated(stats: Tree, moved: Mapping[str, Tree]) -> Tree:
    """`stats` with the sub-trees in `moved` (by stage name) in place of the old ones."""
    leaves = flatten(stats)
    for name, tree in moved.items():
        leaves |= flatten(tree, f"{name}/")
    return nest(leaves)


def summary(tap: Array, mask: Array | None = None) -> Array:
    """One row an example, in float32: [B, W] as it is, [B, T, W] by the mean over tokens (where `mask` [B, T] is 1),
    [B, I, J, C] by the mean over places."""
    wide = tap.astype(jnp.float32)
    if tap.ndim == 3 and mask is not None and mask.shape == tap.shape[:2]:
        weight = mask.astype(jnp.float32)[..., None]
        return (wide * weight).sum(1) / jnp.maximum(weight.sum(1), 1.0)
    return wide.mean(tuple(range(1, tap.ndim - 1))) if tap.ndim > 2 else wide


def features(taps: Mapping[str, Any]) -> Array:
    """What the head reads, [B, W]: `pooled`, else the first token of `hidden` or its mean over places.

    Raises ValueError where a model (a bridged one) gives neither.
    """
    if "pooled" in taps:
        return taps["pooled"]
    if "hidden" not in taps:
        raise ValueError("the model gives neither 'pooled' nor 'hidden': let its module return a dict with one of them")
    hidden = taps["hidden"]
    return hidden[:, 0] if hidden.ndim == 3 else summary(hidden)


def narrowed(neck: Tree, carry: dict[str, Any]) -> dict[str, Any]:
    """The carry with x + up(gelu(down(x))) in the place of the features x that the head reads (see `features`).

    A head may read several tokens, such as DeiT's and DINOv2's, so tokens are narrowed each; the compiler drops those
    that nobody reads.
    """
    read = [name for name in ("pooled", "hidden") if name in carry]
    if len(read) == 2 and carry["hidden"].ndim != 3:
        read.remove("hidden")
    return carry | {name: carry[name] + bottleneck(neck, carry[name]) for name in read}


def beside(side: Tree, stage: Any, carry: dict[str, Any], rows: Mapping[str, Array]) -> dict[str, Any]:
    """The carry with what a side head reads of `stage` beside the `rows` of those before it, or, after the last stage,
    with what it adds to the logits.

    logits += sum_j softmax(mixture)_j norm(summary_j) @ kernel_j over the stages j: a learned mixture of all stages'
    features (after Peters et al., 2018, whose stages are all of one width and share one kernel).
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
