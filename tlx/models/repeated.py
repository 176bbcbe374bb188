"""Find the consecutive stages of a chain that have one form, so that one loop can run them.

Stages have one form if they compute the same function of parameters and statistics of the same names, shapes and types.
Names of stages and classes of models do not matter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from types import FunctionType, MethodType
from typing import Any

import jax
import jax.numpy as jnp

from tlx.trees import flatten, subtree
from tlx.types import Model, Stage, Variables

# Values that are equal wherever they compare as equal.
PLAIN = (bool, int, float, complex, str, bytes, type(None))


def repeated_runs(
    model: Model,
    variables: Variables,
    stages: Sequence[Stage],
    marks: Mapping[str, Any],
    barrier: str | None = None,
) -> list[tuple[Stage, ...]]:
    """Divide consecutive stages into runs of stages that have one form.

    Args:
        model: The model.
        variables: Its parameters and running statistics, or their shapes.
        stages: Consecutive stages of the model.
        marks: By stage, a value that all stages of a run share, in addition to the form.
        barrier: A stage that begins a run.

    Returns:
        The stages in their order. A stage that is unlike its neighbours is a run of one.
    """
    runs: list[list[Stage]] = []
    for stage in stages:
        first = runs[-1][0] if runs and stage.name != barrier else None
        if first and marks[first.name] == marks[stage.name] and alike(model, variables, first, stage):
            runs[-1].append(stage)
        else:
            runs.append([stage])
    return [tuple(run) for run in runs]


def alike(model: Model, variables: Variables, stage: Stage, other: Stage) -> bool:
    """Return whether two stages have one form. The logical axes must agree, too, so that a mesh cuts both alike."""
    outputs = [(each.output, each.others, each.reads) for each in (stage, other)]
    if outputs[0] != outputs[1] or not same_function(stage.apply, other.apply):
        return False
    axes, other_axes = (
        {path: param.axes for path, param in flatten(subtree(model.params, name)).items()}
        for name in (stage.name, other.name)
    )
    return axes == other_axes and all(
        shapes(subtree(tree, stage.name)) == shapes(subtree(tree, other.name)) for tree in variables
    )


def shapes(tree: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Return the shape and type of every leaf by its path."""
    return {path: (jnp.shape(leaf), jax.dtypes.canonicalize_dtype(leaf.dtype)) for path, leaf in flatten(tree).items()}


def same_function(function: Any, other: Any) -> bool:
    """Return whether two callables, or two values that they hold, are the same: one object, or the same code with equal
    values. False where that is not certain."""
    if function is other:
        return True
    if type(function) is not type(other):
        return False
    if isinstance(function, PLAIN):
        return bool(function == other)
    if isinstance(function, FunctionType):
        cells = [[cell.cell_contents for cell in of.__closure__ or ()] for of in (function, other)]
        return function.__code__ is other.__code__ and same_values(
            [*cells[0], function.__defaults__, function.__kwdefaults__],
            [*cells[1], other.__defaults__, other.__kwdefaults__],
        )
    if isinstance(function, MethodType):
        return function.__func__ is other.__func__ and same_function(function.__self__, other.__self__)
    if isinstance(function, partial):
        return same_values([function.func, function.args, function.keywords], [other.func, other.args, other.keywords])
    if isinstance(function, tuple | list):
        return same_values(function, other)
    if isinstance(function, dict):
        return list(function) == list(other) and same_values(list(function.values()), list(other.values()))
    if is_dataclass(function):
        names = [field.name for field in fields(function)]
        return same_values([getattr(function, name) for name in names], [getattr(other, name) for name in names])
    return False


def same_values(values: Sequence[Any], others: Sequence[Any]) -> bool:
    """Return whether two sequences hold the same values (see `same_function`)."""
    return len(values) == len(others) and all(map(same_function, values, others))
