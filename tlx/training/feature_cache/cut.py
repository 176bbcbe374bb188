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
from tlx.data.readers import limits
from tlx.models import forward
from tlx.training.prepare import Prepared
from tlx.training.state import Parts, initial_state
from tlx.training.step import eval_step, train_step
from tlx.trees import Tree, subtree
from tlx.types import ArrayMap, Variables

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
    now = partition.first_trainable(stages, ready.partitions[phase])
    below = [name for name in stages[: stages.index(stage)] if subtree(ready.variables.params, name)]
    if not below:
        return Cut(None, f"there are no parameters below {stage!r}, the first trainable stage")
    parts = ready.parts(phase)
    if reason := moving_below(ready, parts, stage, inputs):
        return Cut(None, reason)
    below_cut = partial(carried, ready, stage, parts.dtype)
    carry = jax.eval_shape(below_cut, jax.eval_shape(lambda: ready.variables), inputs)
    reads, reason = what_is_read(ready, parts._replace(start=stage), carry, memory, tokens_of(ready, inputs))
    if reason:
        return Cut(None, reason)
    extras, reason = token_axes(ready, stage, reads)
    if reason:
        return Cut(None, reason)
    leaves = tuple(Leaf(path, extra is not None, extra or 0) for (path, _), extra in zip(reads, extras, strict=True))
    why = f"everything below {stage!r} is frozen"
    if now != stage:
        why += f"; everything below {now!r} is frozen in this phase, but an earlier phase trained a part of it"
    return Cut(stage, why, reads, leaves)


def carried(ready: Prepared, stage: str, dtype: Any, variables: Variables, inputs: ArrayMap) -> Any:
    """Return the carry at the cut."""
    return forward(ready.model, variables, inputs, stop=stage, dtype=dtype)[0]["carry"]


def moving_below(ready: Prepared, parts: Parts, stage: str, inputs: Shapes) -> str:
    """Return what changes from step to step below `stage`; empty where nothing does."""
    evaluation = parts.evaluation_mode._asdict()

    def prefix(key: Any, variables: Variables, batch: Any) -> Any:
        taps, after = forward(ready.model, variables, batch, key=key, train=True, stop=stage, **evaluation)
        return taps["carry"], after

    key, variables = jax.eval_shape(lambda: (jax.random.key(0), ready.variables))
    traced = jax.make_jaxpr(prefix)(key, variables, dict(inputs)).jaxpr
    if traced.invars[0] in used(traced):
        return f"there is dropout or other noise below {stage!r}"
    count, first = len(jax.tree.leaves(variables.stats)), 1 + len(jax.tree.leaves(variables.params))
    if count and list(traced.outvars[-count:]) != list(traced.invars[first : first + count]):
        return f"running statistics change below {stage!r}"
    return ""


def tokens_of(ready: Prepared, inputs: Shapes) -> int:
    """Return the length of the ragged axes of these inputs; 1 where nothing is ragged."""
    sides = (
        size
        for name, field in ready.processor.fields.items()
        if name in inputs
        for size, side in zip(inputs[name].shape[1:], field.shape, strict=False)
        if side is None
    )
    return next(sides, 1)


def what_is_read(ready: Prepared, parts: Parts, carry: Any, memory: Tree | None, tokens: int) -> tuple[Any, str]:
    """Return the entries of the `carry` (shapes) that training and evaluation from `parts.start` on read; or the reason
    why the objective cannot begin there. A ragged label has an entry for each of the `tokens`."""
    rows = jax.tree.leaves(carry)[0].shape[0]
    labels = {
        name: np.zeros((rows, *(tokens if size is None else size for size in field.shape)), field.dtype)
        for name, field in ready.task.fields().items()
    }

    def step(stage_inputs: Any, variables: Variables) -> Any:
        state = initial_state(parts, variables, 1, jax.random.key(0), memory)
        batch = {**stage_inputs, "index": np.arange(rows, dtype=np.int32)}
        labelled = {**batch, **labels}
        streams = {name: batch if name == "unlabelled" else labelled for name in ready.streams}
        return train_step(parts, state, streams), eval_step(parts, state, {**stage_inputs, **labels})

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


def token_axes(ready: Prepared, stage: str, reads: Reads) -> tuple[list[int | None], str]:
    """Find the entries that have a row for each token of the text.

    A table stores only the rows of real tokens, so it can hold an entry with all tokens of the text and a fixed number
    of further ones, but not an entry with fewer tokens than the text, such as the output of a stage that takes every
    second token. The shapes at several lengths decide.

    Args:
        ready: The prepared recipe.
        stage: The stage of the cut.
        reads: The entries that are read.

    Returns:
        For each entry the number of tokens more than its text that it has along axis 1, None where it has no axis of
        tokens; and the reason why a table cannot hold the entries, empty where it can.
    """
    fields = ready.processor.fields
    if not ready.processor.ragged:
        return [None] * len(reads), ""
    variables = jax.eval_shape(lambda: ready.variables)
    longest = ready.processor.longest or max(ready.recipe.data.lengths)
    # Neighbours of the longest, because a rounded quotient of the length may agree with the length at a few of them.
    if ready.task.written:
        return [], "an answer has another length than its text, and the rows of a table have one length"
    if ready.processor.window:
        return [], "a long text is a row of windows, which the stages read separately"
    lengths = sorted({*limits(ready.recipe.data.lengths, ready.processor), *range(max(1, longest - 3), longest + 1)})
    shapes = []
    for length in lengths:
        inputs = {
            name: jax.ShapeDtypeStruct((2, *(length if side is None else side for side in field.shape)), field.dtype)
            for name, field in fields.items()
        }
        try:
            outputs = jax.eval_shape(partial(prefix, ready, stage, reads), variables, inputs)
        except (ValueError, TypeError) as error:
            return [], f"the stages below {stage!r} do not read {length} tokens ({type(error).__name__}: {error})"
        shapes.append([leaf.shape for leaf in outputs])
    extras: list[int | None] = []
    for (path, _), sizes in zip(reads, zip(*shapes, strict=True), strict=True):
        axes = [axis for axis, counts in enumerate(zip(*sizes, strict=True)) if len(set(counts)) > 1]
        differences = {size[1] - length for size, length in zip(sizes, lengths, strict=True)} if axes == [1] else set()
        if axes and (len(differences) > 1 or min(differences, default=-1) < 0):
            return [], (
                f"{'/'.join(path)!r} below {stage!r} has the shape {list(sizes[-1])} for {lengths[-1]} tokens and "
                f"{list(sizes[-2])} for {lengths[-2]}; a table needs every token along axis 1"
            )
        extras.append(differences.pop() if axes else None)
    return extras, ""


def prefix(ready: Prepared, stage: str, reads: Reads, variables: Any, inputs: ArrayMap) -> list[Any]:
    """Return the entries of the carry at the cut, in the order of `reads`."""
    carry = carried(ready, stage, ready.recipe.train.dtype, variables, inputs)
    arrays = []
    for path, _ in reads:
        node = carry
        for entry in path:
            node = node[entry]
        arrays.append(node)
    return arrays
