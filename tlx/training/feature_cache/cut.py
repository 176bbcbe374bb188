"""Find the stage where a phase may begin its pass: below it, nothing moves and nothing is random.

Shapes: B batch, T tokens.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import Literal

from tlx import partition
from tlx.data import Leaf
from tlx.models import forward
from tlx.training.prepare import Prepared
from tlx.training.state import Parts, initial_state
from tlx.training.step import eval_step, train_step
from tlx.trees import Tree, subtree
from tlx.types import Variables

Shapes = Mapping[str, jax.ShapeDtypeStruct]
Reads = tuple[tuple[tuple[str, ...], jax.ShapeDtypeStruct], ...]


class Cut(NamedTuple):
    """The `stage` that a phase begins with, None where it begins with the inputs, and `why`. `reads` are the entries of
    the carry that the later stages read, as paths of keys with their shapes and types; `leaves` are the columns of a
    table that holds them."""

    stage: str | None
    why: str
    reads: Reads = ()
    leaves: tuple[Leaf, ...] = ()


def find(ready: Prepared, phase: int, inputs: Shapes, memory: Tree | None = None) -> Cut:
    """Return the cut of one phase.

    The programs themselves decide: a prefix that uses a key is random, one that returns other statistics than it
    received trains them, and an objective that cannot be traced from the cut on reads something below it.

    Args:
        ready: The prepared recipe.
        phase: The number of the phase.
        inputs: The shapes [B, ...] of the model's inputs.
        memory: What the terms of the objective remember.
    """
    stages = [stage.name for stage in ready.model.stages]
    moved = {path for parts in ready.partitions[: phase + 1] for path, learn in parts.items() if learn is not None}
    stage = partition.first_trainable(stages, moved)
    if stage is None:
        return Cut(None, f"{stages[0]!r}, the first stage, is trainable")
    recipe = ready.recipe
    if recipe.data.augment and recipe.data.views is None:
        return Cut(
            None,
            (
                "every step draws new augmentations of the images; Data(views=k) draws k augmentations of each image "
                "once"
            ),
        )
    if jax.process_count() > 1:
        return Cut(None, f"{jax.process_count()} processes share a batch")
    now = partition.first_trainable(stages, ready.partitions[phase])
    below = [name for name in stages[: stages.index(stage)] if subtree(ready.variables.params, name)]
    if not below:
        return Cut(None, f"there are no parameters below {stage!r}, the first trainable stage")
    parts = ready.parts(phase)
    if reason := moving_below(ready, parts, stage, inputs):
        return Cut(None, reason)
    below_cut = partial(carried, ready, stage, parts.dtype)
    carry = jax.eval_shape(below_cut, jax.eval_shape(lambda: ready.variables), inputs)
    reads, reason = what_is_read(ready, parts._replace(start=stage), carry, memory)
    if reason:
        return Cut(None, reason)
    why = f"everything below {stage!r} is frozen"
    if now != stage:
        why += f"; everything below {now!r} is frozen in this phase, but an earlier phase trained a part of it"
    return Cut(stage, why, reads, tuple(leaves_of(ready, stage, reads)))


def carried(ready: Prepared, stage: str, dtype: Any, variables: Variables, inputs: Mapping[str, Any]) -> Any:
    """Return the carry at the cut."""
    return forward(ready.model, variables, inputs, stop=stage, dtype=dtype)[0]["carry"]


def moving_below(ready: Prepared, parts: Parts, stage: str, inputs: Shapes) -> str:
    """Return what changes from step to step below `stage`; empty where nothing does."""
    frozen = partition.frozen_stages([stage.name for stage in ready.model.stages], parts.partition)

    def prefix(key: Any, variables: Variables, given: Any) -> Any:
        taps, after = forward(ready.model, variables, given, key=key, train=True, stop=stage, still=frozen)
        return taps["carry"], after

    key, variables = jax.eval_shape(lambda: (jax.random.key(0), ready.variables))
    traced = jax.make_jaxpr(prefix)(key, variables, dict(inputs)).jaxpr
    if traced.invars[0] in used(traced):
        return f"there is dropout or other noise below {stage!r}"
    count, first = len(jax.tree.leaves(variables.stats)), 1 + len(jax.tree.leaves(variables.params))
    if count and list(traced.outvars[-count:]) != list(traced.invars[first : first + count]):
        return f"running statistics change below {stage!r}"
    return ""


def what_is_read(ready: Prepared, parts: Parts, carry: Any, memory: Tree | None) -> tuple[Any, str]:
    """Return the entries of the `carry` (shapes) that training and evaluation from `parts.start` on read; or the reason
    why the objective cannot begin there."""
    rows = jax.tree.leaves(carry)[0].shape[0]
    # A ragged label has an entry for each token.
    tokens = next((leaf.shape[1] for leaf in jax.tree.leaves(carry) if len(leaf.shape) > 1), 1)
    labels = {
        name: np.zeros((rows, *(tokens if size is None else size for size in field.shape)), field.dtype)
        for name, field in ready.task.fields().items()
    }

    def step(given: Any, variables: Variables) -> Any:
        state = initial_state(parts, variables, 1, jax.random.key(0), memory)
        batch = {**given, "index": np.arange(rows, dtype=np.int32)}
        labelled = {**batch, **labels}
        streams = {name: batch if name == "unlabelled" else labelled for name in ready.streams}
        return train_step(parts, state, streams), eval_step(parts, state, {**given, **labels})

    try:
        traced = jax.make_jaxpr(step)(carry, jax.eval_shape(lambda: ready.variables)).jaxpr
    except (KeyError, ValueError, TypeError) as error:
        return (), f"the objective depends on stages below {parts.start!r} ({type(error).__name__}: {error})"
    variables_read = used(traced)
    paths = [tuple(entry.key for entry in path) for path, _ in jax.tree_util.tree_flatten_with_path(carry)[0]]
    shapes = jax.tree.leaves(carry)
    entries = zip(paths, shapes, traced.invars[: len(shapes)], strict=True)
    return tuple((path, shape) for path, shape, variable in entries if variable in variables_read), ""


def used(traced: Any) -> set[Any]:
    """Return the variables of a program on which its results depend, walking back from them. All inputs of a used
    sub-program count as used."""
    variables = {variable for variable in traced.outvars if not isinstance(variable, Literal)}
    for equation in reversed(traced.eqns):
        if equation.effects or any(out in variables for out in equation.outvars):
            variables |= {variable for variable in equation.invars if not isinstance(variable, Literal)}
    return variables


def leaves_of(ready: Prepared, stage: str, reads: Reads) -> list[Leaf]:
    """Return the columns of a table, for every example."""
    extras = token_axes(ready, stage, reads)
    return [Leaf(path, extra is not None, extra or 0) for (path, _), extra in zip(reads, extras, strict=True)]


def token_axes(ready: Prepared, stage: str, reads: Reads) -> list[int | None]:
    """Return for each entry that is read how many tokens more than its text it has along axis 1, None where it has
    none.

    Raises:
        ValueError: Tokens lie along another axis.
    """
    fields = ready.processor.fields
    if not ready.processor.ragged:
        return [None] * len(reads)
    variables = jax.eval_shape(lambda: ready.variables)
    shapes = []
    longest = ready.processor.longest or max(ready.recipe.data.lengths)
    for length in (longest - 1, longest):
        inputs = {
            name: jax.ShapeDtypeStruct((2, *(length if side is None else side for side in field.shape)), field.dtype)
            for name, field in fields.items()
        }
        outputs = jax.eval_shape(partial(prefix, ready, stage, reads), variables, inputs)
        shapes.append([leaf.shape for leaf in outputs])
    extras: list[int | None] = []
    for short, long in zip(*shapes, strict=True):
        axes = [n for n, (a, b) in enumerate(zip(short, long, strict=True)) if a != b]
        if axes not in ([], [1]):
            raise ValueError(f"the input of {stage!r} has tokens along the axes {axes}; expected axis 1")
        extras.append(short[1] - longest + 1 if axes else None)
    return extras


def prefix(ready: Prepared, stage: str, reads: Reads, variables: Any, inputs: Mapping[str, Any]) -> list[Any]:
    """Return the entries of the carry at the cut, in the order of `reads`."""
    carry = carried(ready, stage, ready.recipe.train.dtype, variables, inputs)
    arrays = []
    for path, _ in reads:
        node = carry
        for entry in path:
            node = node[entry]
        arrays.append(node)
    return arrays
