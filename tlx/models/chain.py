"""The chain of stages of a model: initial values, and the forward pass over any part of the chain."""

import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tlx.layers import FIXED, bottleneck, dense
from tlx.models.again import again, gathering
from tlx.models.folding import folded, folded_offset, unfolded, windows_of
from tlx.models.heads import Vocabulary
from tlx.models.repeated import repeated_runs
from tlx.models.taps import PLACES, at_places, last_outputs, stage_taps
from tlx.trees import Tree, flatten, map_named, near_miss, nest, subtree
from tlx.types import Apply, Array, ArrayMap, Carry, Context, Key, Model, Param, Stage, Variables

# Returns the whole parameters of a stage, given its name and what is there of them.
Gather = Callable[[str, Tree], Tree]


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
    return jax.random.fold_in(key, salt(name))


def salt(name: str) -> int:
    """Return the number of a stage from which its noise key is drawn."""
    return zlib.crc32(name.encode())


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
    moving: Collection[str] = (),
    fixed: Collection[str] = (),
    remat: Mapping[str, str] = MappingProxyType({}),
    dtype: Any = "float32",
    offset: Any = 0,
    axis: str | None = None,
    gather: Gather | None = None,
    loop: Mapping[str, Any] | None = None,
) -> tuple[Carry, Tree]:
    """Run the chain of stages.

    Args:
        model: The model.
        variables: The parameters and running statistics.
        inputs: A dict with fixed names: `input_ids`, `attention_mask`, `token_type_ids`, `position_ids` [batch,
            tokens]; `image` [batch, height, width, channels]; `predicted_places` [batch, places], the tokens of which a
            head over the vocabulary computes logits. With `start`, the `carry` of an earlier pass.
        key: The key of dropout, needed only for `train`.
        train: Whether dropout is on and batch norm uses the moments of the batch.
        start: The first stage to run; None for the first stage of the chain.
        stop: The stage before which the pass ends; None runs the chain to its end.
        barrier: The compiler fuses nothing across the start of this stage, so that one pass computes the same bits as
            two passes that meet there.
        still: Stages that run as in evaluation.
        moving: Stages among `still` that have no noise, but whose batch norm computes as in training.
        fixed: Batch norms, by the path of their statistics, that compute as in evaluation.
        remat: For each stage, the values that the backward pass recomputes instead of keeping: "stage" for all of them,
            "dots" for all except the large products.
        dtype: The dtype of activations.
        offset, axis: See `types.Context`, for `jax.pmap`.
        gather: Returns the whole parameters of a stage, which a mesh has cut; the backward pass gathers them again.
        loop: Consecutive stages of one form (see `repeated.repeated_runs`) run as one loop if they also have equal
            values here, by stage; stages that are missing have None. None runs every stage separately. The results
            agree to rounding. Use it in compiled functions only: elsewhere every call compiles the loop again.

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
    modes = frozenset(still), frozenset(moving), frozenset(fixed)
    links = Links(model, variables, key, train, *modes, remat, dtype, offset, axis, gather, inputs.get(PLACES))
    windows = windows_of(model.head, inputs) if start is None else 1
    if windows > 1:
        links, inputs = links._replace(offset=folded_offset(offset, windows)), folded(inputs, windows)
    carry: Carry = dict(inputs)
    taps: Carry = {}
    new_stats: dict[str, Tree] = {}
    for run in [(stage,) for stage in stages] if loop is None else links.runs(stages, loop, barrier):
        if run[0].name == barrier and run[0] is not stages[0]:
            carry = jax.lax.optimization_barrier(carry)
        carry, run_taps, run_stats = links.through(run, carry)
        taps, new_stats = taps | run_taps, new_stats | run_stats
    taps |= last_outputs(model, carry)
    if windows > 1:
        taps = unfolded(taps, windows)
    return taps | {"carry": carry}, updated(variables.stats, new_stats)


class Links(NamedTuple):
    """What the stages of one pass share; the fields are as in `forward`."""

    model: Model
    variables: Variables
    key: Key | None
    train: bool
    still: frozenset[str]
    moving: frozenset[str]
    fixed: frozenset[str]
    remat: Mapping[str, str]
    dtype: Any
    offset: Any
    axis: str | None
    gather: Gather | None
    places: Array | None

    def runs(self, stages: Sequence[Stage], loop: Mapping[str, Any], barrier: str | None) -> list[tuple[Stage, ...]]:
        """Divide the stages into runs that one loop may run; `loop` and `barrier` are as in `forward`."""
        # The last stage may also read the parameters of a neck or a side network.
        last = self.model.stages[-1]
        marks = {
            stage.name: (
                self.trains(stage),
                stage.name in self.still,
                self.fixed_in(stage),
                self.remat.get(stage.name),
                loop.get(stage.name),
                stage is last,
            )
            for stage in stages
        }
        return repeated_runs(self.model, self.variables, stages, marks, barrier)

    def through(self, run: Sequence[Stage], carry: Carry) -> tuple[Carry, Carry, dict[str, Tree]]:
        """Return the carry after a run of stages of one form, their taps and their new statistics."""
        if len(run) == 1:
            return self.alone(run[0], carry)
        if self.keeps_form(run, carry):
            return self.looped(run, carry)
        # The first stage may write an output that the others find there.
        carry, taps, stats = self.alone(run[0], carry)
        carry, more_taps, more_stats = self.through(run[1:], carry)
        return carry, taps | more_taps, stats | more_stats

    def trains(self, stage: Stage) -> bool:
        """Return whether a stage runs as in training."""
        return self.train and (stage.name not in self.still or stage.name in self.moving)

    def noise(self, stage: Stage) -> Key | None:
        """Return the key of the noise of this pass where a stage has noise, else None."""
        return self.key if self.train and stage.name not in self.still else None

    def context(self, stage: Stage, noise: Key | None) -> Context:
        """Return the context of a stage with the key `noise`."""
        learned_tokens = (
            prefix_length(self.model, self.variables.params),
            prompt_length(self.model, self.variables.params),
        )
        return Context(noise, self.trains(stage), self.dtype, self.offset, self.axis, *learned_tokens)

    def statistics(self, stage: Stage) -> Tree:
        """Return the statistics of a stage, with a mark in those that are fixed."""
        marks = {f"{path}/{FIXED}".lstrip("/"): None for path in self.fixed_in(stage)}
        stats = subtree(self.variables.stats, stage.name)
        return nest(flatten(stats) | marks) if marks else stats

    def fixed_in(self, stage: Stage) -> frozenset[str]:
        """Return the paths, in the stage, of the batch norms that compute as in evaluation."""
        return frozenset(
            path.removeprefix(stage.name).lstrip("/")
            for path in self.fixed
            if f"{path}/".startswith(f"{stage.name}/") and self.trains(stage)
        )

    def params_of(self, stage: Stage) -> Tree:
        """Return the parameters that a stage computes with: those under its name, and under `shared` those that it
        reads of other stages."""
        params = subtree(self.variables.params, stage.name)
        return params | {"shared": self.shared(stage)} if stage.reads else params

    def shared(self, stage: Stage) -> Tree:
        """Return the parameters of other stages that a stage reads, by their paths."""
        leaves: dict[str, Any] = {}
        for path in stage.reads:
            leaves |= flatten(subtree(self.variables.params, path), f"{path}/")
        return nest(leaves)

    def gathered(self, gather: Gather, stage: Stage, params: Tree) -> Tree:
        """Return the whole parameters of a stage, where a mesh has cut them."""
        whole = gather(stage.name, {name: leaf for name, leaf in params.items() if name != "shared"})
        if not stage.reads:
            return whole
        # A leaf belongs to the stage under whose name it is declared.
        leaves: dict[str, Any] = {}
        for path in stage.reads:
            leaves |= flatten(gather(path, subtree(params["shared"], path)), f"{path}/")
        return whole | {"shared": nest(leaves)}

    def head_part(self, name: str) -> Tree:
        """Return the parameters that a tuning inserted into the head under `name`, and that other stages read, too."""
        return subtree(self.variables.params, f"{self.model.stages[-1].name}/{name}")

    def applied(self, stage: Stage, in_loop: bool = False) -> Apply:
        """Return the computation of a stage with the gathering and the rematerialisation of this pass."""
        recompute, apply = self.remat.get(stage.name), stage.apply
        if self.gather is not None:
            apply = gathering(apply, partial(self.gathered, self.gather, stage))
        if recompute is not None or self.gather is not None:
            apply = again(apply, recompute or "all but gathered", in_loop)
        return apply

    def alone(self, stage: Stage, carry: Carry) -> tuple[Carry, Carry, dict[str, Tree]]:
        """Return the carry after a stage, with the side network and the neck that a tuning inserted, its taps, and its
        new statistics under its name; none where it has none."""
        old_stats, rows, side = self.statistics(stage), carry.get("side", {}), self.head_part("side")
        if (neck := self.head_part("neck")) and stage is self.model.stages[-1]:
            carry = narrowed(neck, carry)
        key = self.noise(stage)
        noise = None if key is None else stage_key(key, stage.name)
        apply = self.applied(stage)
        if self.places is not None and isinstance(self.model.head, Vocabulary) and stage is self.model.stages[-1]:
            apply = at_places(apply, self.places)
        carry, stage_stats = apply(self.params_of(stage), old_stats, carry, self.context(stage, noise))
        if side:
            carry = beside(side, stage, carry, rows)
        return carry, stage_taps(stage, carry), {stage.name: stage_stats} if old_stats else {}

    def keeps_form(self, run: Sequence[Stage], carry: Carry) -> bool:
        """Return whether the first stage of a run returns a carry of the form that it takes."""
        body, items, carry = self.body(run, carry)
        item = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), jax.eval_shape(items))
        before, (after, _) = jax.eval_shape(lambda carry: carry, carry), jax.eval_shape(body, carry, item)
        forms = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree) for tree in (before, after)]
        return bool(forms[0] == forms[1])

    def body(self, run: Sequence[Stage], carry: Carry) -> tuple[Callable[..., Any], Callable[[], Any], Carry]:
        """Return the body of the loop over a run of stages, the function that stacks the arrays of each round, and the
        carry of the first round. A round returns the taps and statistics of its stage, and its row for a side head."""
        stage, side = run[0], self.head_part("side")
        apply, key = self.applied(stage, in_loop=True), self.noise(stage)
        # The same arrays in every round.
        shared = {"shared": self.shared(stage)} if stage.reads else {}

        def items() -> Any:
            layers = [[subtree(self.variables.params, stage.name), self.statistics(stage)] for stage in run]
            salts = jnp.array([salt(stage.name) for stage in run], jnp.uint32)
            noise = jax.vmap(jax.random.fold_in, (None, 0))(key, salts) if key is not None else None
            return *jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers), noise

        def round_of(carry: Carry, item: Any) -> tuple[Carry, Any]:
            params, old_stats, noise = item
            carry, stage_stats = apply(params | shared, old_stats, carry, self.context(stage, noise))
            row = summary(carry[stage.output], carry.get("mask")) if side else None
            return carry, ({name: carry[name] for name in (stage.output, *stage.others)}, stage_stats, row)

        return round_of, items, {name: entry for name, entry in carry.items() if name != "side"}

    def looped(self, run: Sequence[Stage], carry: Carry) -> tuple[Carry, Carry, dict[str, Tree]]:
        """Return what `alone` returns, for a run of stages in one loop: the last carry, and all taps and statistics."""
        body, items, first = self.body(run, carry)
        after, (outputs, stats, rows) = jax.lax.scan(body, first, items(), len(run))
        taps: Carry = {}
        new_stats: dict[str, Tree] = {}
        for number, stage in enumerate(run):

            def of_stage(leaf: Array, number: int = number) -> Array:
                return leaf[number]

            taps |= stage_taps(stage, after if stage is run[-1] else jax.tree.map(of_stage, outputs))
            if stats:
                new_stats[stage.name] = jax.tree.map(of_stage, stats)
        if rows is not None:
            after["side"] = {**carry.get("side", {}), **{stage.name: row for stage, row in zip(run, rows, strict=True)}}
        return after, taps, new_stats


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
