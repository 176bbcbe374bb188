"""Models beside the one that learns: as it was brought, and others that a term loads (teachers, sources)."""

from collections.abc import Sequence
from typing import Any

import jax

from tlx.models import beside, example_inputs, forward
from tlx.tasks.classes import match, shown
from tlx.trees import Tree, flatten, nest
from tlx.types import Array, Context, Model, Setting, Stage, Variables, View
from tlx.weights import Pretrained, load_pretrained, reorder, untrained

# Every model that was loaded, without its numbers: a trace of the step reads no file.
KNOWN: dict[str, Pretrained] = {}


def bring(source: str) -> Pretrained:
    """The model of a directory, run, asset or hub id, with its own head."""
    pretrained = load_pretrained(source)
    KNOWN[source] = pretrained._replace(variables=Variables({}, {}))
    return pretrained


def structure(source: str) -> Model:
    """The model of `source` without its numbers, which are in the state."""
    return (KNOWN[source] if source in KNOWN else bring(source)).model


def in_order_of(teacher: Pretrained, names: Sequence[str], who: str) -> Pretrained:
    """The teacher with its classes in the order of the task's `names`.

    Names that are placeholders (those that a library numbers), or absent, leave the order as it is. Raises ValueError,
    with both lists, for other classes, and for a teacher whose classes tlx cannot reorder.
    """
    theirs = teacher.task.names if teacher.task is not None else ()
    if not names or not theirs:
        return teacher
    if match(theirs, names).take is None:
        raise ValueError(
            f"{who}: the teacher's classes are {theirs}, the task's {tuple(names)}. Where they mean the same, call the "
            f"task's as the teacher's: tasks.Classification(names={theirs})"
        )
    return reorder(teacher, names)


def order_notes(source: str, names: Sequence[str]) -> list[str]:
    """A note if the classes of the teacher `source` are in another order than `names`, or cannot be compared."""
    task = (KNOWN[source] if source in KNOWN else bring(source)).task
    theirs = task.names if task is not None else ()
    if not names or not theirs:
        return []
    found = match(theirs, names)
    if found.moves:
        return [f"the teacher's classes were reordered by name: {shown(theirs)} in {source}, {shown(names)} here"]
    if found.by_position:
        return [
            f"the teacher's classes {shown(theirs)} cannot be compared with {shown(names)}: they keep their position"
        ]
    return []


def with_head(pretrained: Pretrained, source: str, who: str) -> Model:
    """The model of `source`; ValueError if it has no head, or a head or a pooler that nobody trained."""
    if pretrained.model.outputs is None:
        raise ValueError(f"{who}: {source!r} has no head of its own; give a checkpoint of a classifier")
    if paths := untrained(pretrained):
        raise ValueError(
            f"{who}: {source!r} has no trained head: {paths[0]!r} is not in the checkpoint, or does not fit its "
            "config.json; give a checkpoint of a classifier"
        )
    return pretrained.model


def check_inputs(model: Model, other: Model, source: str, who: str) -> None:
    """ValueError where the model of `source` cannot read what `model` reads."""
    ours, theirs = (example_inputs(one.config) for one in (model, other))
    for name, shape in theirs.items():
        own = ours.get(name)
        words = [getattr(one.config, "vocabulary", None) for one in (model, other)]
        if own is None:
            raise ValueError(f"{who}: {source!r} reads {name!r}, the model reads {', '.join(map(repr, ours))}")
        if words[0] != words[1]:
            raise ValueError(f"{who}: {source!r} has a vocabulary of {words[1]}, the model one of {words[0]}")
        if words[0] is None and own.shape[1:] != shape.shape[1:]:
            raise ValueError(f"{who}: {source!r} reads {name!r} of {shape.shape[1:]}, the model of {own.shape[1:]}")


def remember(setting: Setting) -> Tree:
    """The numbers that were brought, of the leaves that learn; those of the others are in every view."""
    params = flatten(setting.variables.params)
    moving = params.keys() if setting.moving is None else setting.moving
    stages = tuple(f"{stage.name}/" for stage in setting.model.stages)
    kept = {path: leaf for path, leaf in params.items() if path in moving and path.startswith(stages)}
    return {"params": nest(kept), "stats": setting.variables.stats}


def remembered(view: View) -> Variables:
    """The variables that were brought, of which `remember` kept what moves: constants to the gradient."""
    params = jax.lax.stop_gradient(flatten(view.params)) | flatten(view.memory["params"])
    return Variables(nest(dict(sorted(params.items()))), view.memory["stats"])


def apply_head(head: Stage, params: Tree, carry: dict[str, Any], dtype: Any = "float32") -> Array:
    """The logits of a head, and of what a tuning put beside it, over what a model's stages below its own head gave,
    without noise."""
    after, _ = head.apply(params, {}, carry, Context(dtype=dtype))
    return (beside(params["side"], head, after, carry["side"]) if "side" in params else after)["logits"]


def compiled(model: Model) -> Any:
    """The forward pass in evaluation, compiled: `(variables, inputs) -> taps`."""
    return jax.jit(lambda variables, inputs: forward(model, variables, inputs)[0])
