"""Models beside the one that trains: the model as the run began, and others that a term loads (teachers, sources)."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from tlx.models import beside, example_inputs, forward, initialise, tap_shapes
from tlx.objectives.base import Term
from tlx.objectives.checks import head_of
from tlx.objectives.leaves import declared
from tlx.tasks.classes import match, shown
from tlx.trees import Tree, flatten, nest, subtree
from tlx.types import Array, Context, Model, Setting, Stage, Variables, View
from tlx.weights import Pretrained, load_pretrained, reorder, untrained


def load_references(terms: Sequence[Term], streams: Sequence[str]) -> dict[str, Pretrained]:
    """Load the models that the terms name in `Needs.models`, each once and with its own head."""
    names = dict.fromkeys(name for term in terms for name in term.needs(streams).models)
    return {name: load_pretrained(name) for name in names}


def structures(references: Mapping[str, Pretrained]) -> dict[str, Model]:
    """Return the models without their numbers: what a step is compiled with."""
    return {name: pretrained.model for name, pretrained in references.items()}


def in_order_of(teacher: Pretrained, names: Sequence[str], who: str) -> Pretrained:
    """Return the teacher with its classes in the order of the task's `names`.

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


def order_notes(source: str, teacher: Pretrained, names: Sequence[str]) -> list[str]:
    """Return a note if the classes of the teacher, loaded from `source`, are in another order than `names`, or cannot
    be compared with them."""
    theirs = teacher.task.names if teacher.task is not None else ()
    if not names or not theirs:
        return []
    order = match(theirs, names)
    if order.moves:
        return [f"the teacher's classes were reordered by name: {shown(theirs)} in {source}, {shown(names)} here"]
    if order.by_position:
        return [
            f"the teacher's classes {shown(theirs)} cannot be compared with {shown(names)}: they keep their position"
        ]
    return []


def with_head(pretrained: Pretrained, source: str, who: str) -> Model:
    """Return the model of `source`; ValueError if it has no head, or a head or a pooler that nobody trained."""
    if pretrained.model.outputs is None:
        raise ValueError(f"{who}: {source!r} has no head of its own; give a checkpoint of a classifier")
    if paths := untrained(pretrained):
        raise ValueError(
            f"{who}: {source!r} has no trained head: {paths[0]!r} is not in the checkpoint, or does not fit its "
            "config.json; give a checkpoint of a classifier"
        )
    return pretrained.model


def check_inputs(model: Model, other: Model, source: str, who: str) -> None:
    """Raise ValueError where the model of `source` cannot read what `model` reads."""
    ours, theirs = (example_inputs(each.config) for each in (model, other))
    for name, shape in theirs.items():
        same = ours.get(name)
        words = [getattr(each.config, "vocabulary", None) for each in (model, other)]
        if same is None:
            raise ValueError(f"{who}: {source!r} reads {name!r}, the model reads {', '.join(map(repr, ours))}")
        if words[0] != words[1]:
            raise ValueError(f"{who}: {source!r} has a vocabulary of {words[1]}, the model one of {words[0]}")
        if words[0] is None and same.shape[1:] != shape.shape[1:]:
            raise ValueError(f"{who}: {source!r} reads {name!r} of {shape.shape[1:]}, the model of {same.shape[1:]}")


def check_source(model: Model, source: Pretrained, name: str, who: str) -> None:
    """Raise ValueError for a model `source`, loaded from `name`, without a trained head on stages below it, or that
    cannot read what `model` reads, or whose head cannot read the features of `model`."""
    other = with_head(source, name, who)
    head_of(other, who)
    check_inputs(model, other, name, who)
    check_head(model, other, name, who)


def check_head(model: Model, source: Model, name: str, who: str) -> None:
    """Raise ValueError where the head of `source` cannot read the output of the model's stages below its own head."""
    head = source.stages[-1]
    params = jax.eval_shape(lambda key: initialise(source, key), jax.random.key(0)).params
    try:
        jax.eval_shape(lambda p, c: apply_head(head, p, c), subtree(params, head.name), tap_shapes(model)["carry"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"{who}: the head of {name!r}, {head_shapes(source)}, does not read the features of the model, "
            f"whose own head is {head_shapes(model)}"
        ) from None


def head_shapes(model: Model) -> str:
    """Return the kernels of a head, in words."""
    head = model.stages[-1].name
    kernels = declared(model, model.params, head).items()
    return " and ".join(f"{path} {leaf.shape}" for path, leaf in kernels if path.endswith("kernel"))


def remember(setting: Setting) -> Tree:
    """Return the numbers with which the run begins, of the leaves that learn; every view has those of the others."""
    params = flatten(setting.variables.params)
    trainable = params.keys() if setting.moving is None else setting.moving
    stages = tuple(f"{stage.name}/" for stage in setting.model.stages)
    kept = {path: leaf for path, leaf in params.items() if path in trainable and path.startswith(stages)}
    return {"params": nest(kept), "stats": setting.variables.stats}


def remembered(view: View) -> Variables:
    """Return the variables with which the run began, of which `remember` kept what learns: constants to the
    gradient."""
    params = jax.lax.stop_gradient(flatten(view.params)) | flatten(view.memory["params"])
    return Variables(nest(dict(sorted(params.items()))), view.memory["stats"])


def apply_head(head: Stage, params: Tree, carry: dict[str, Any], dtype: Any = "float32") -> Array:
    """Return the logits of a head, and of what a tuning put beside it, on the outputs of the stages below a model's
    own head, without noise."""
    after, _ = head.apply(params, {}, carry, Context(dtype=dtype))
    return (beside(params["side"], head, after, carry["side"]) if "side" in params else after)["logits"]


def compiled(model: Model) -> Any:
    """Return the forward pass in evaluation, compiled: `(variables, inputs) -> taps`."""
    return jax.jit(lambda variables, inputs: forward(model, variables, inputs)[0])
