"""Reference models: the model at the start of the run, and others that a term loads (teachers, sources)."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

from tlx.models import beside, example_inputs, forward, initialise, tap_shapes
from tlx.objectives.base import Term
from tlx.objectives.checks import head_of
from tlx.objectives.leaves import declared
from tlx.tasks.classes import format_names, match
from tlx.trees import Tree, flatten, nest, subtree
from tlx.types import Array, Context, Model, Setting, Stage, Variables, View
from tlx.weights import Pretrained, load_pretrained, reorder, untrained


def load_references(terms: Sequence[Term], streams: Sequence[str]) -> dict[str, Pretrained]:
    """Load the models that the terms name in `Needs.models`, each once and with its own head."""
    names = dict.fromkeys(name for term in terms for name in term.needs(streams).models)
    return {name: load_pretrained(name) for name in names}


def structures(references: Mapping[str, Pretrained]) -> dict[str, Model]:
    """Return the models without their parameters; a step is compiled with these."""
    return {name: pretrained.model for name, pretrained in references.items()}


def in_order_of(teacher: Pretrained, names: Sequence[str], who: str) -> Pretrained:
    """Return the teacher with its classes in the order of the task's `names`.

    Placeholder names (which a library numbers) and missing names leave the order unchanged.

    Raises:
        ValueError: the classes differ (the message has both lists), or tlx cannot reorder the teacher's classes.
    """
    labels = teacher.task.names if teacher.task is not None else ()
    if not names or not labels:
        return teacher
    if match(labels, names).take is None:
        raise ValueError(
            f"{who}: the teacher's classes are {labels}, but the task's classes are {tuple(names)}. If they mean "
            f"the same, give the task the names of the teacher: tasks.Classification(names={labels})"
        )
    return reorder(teacher, names)


def order_notes(source: str, teacher: Pretrained, names: Sequence[str]) -> list[str]:
    """Return a note where the teacher's classes were reordered, or cannot be compared with `names`."""
    labels = teacher.task.names if teacher.task is not None else ()
    if not names or not labels:
        return []
    order = match(labels, names)
    if order.moves:
        return [
            f"the teacher's classes were reordered by name: {format_names(labels)} in {source}, {format_names(names)} "
            "in the task"
        ]
    if order.by_position:
        return [
            f"tlx cannot match the teacher's classes {format_names(labels)} with the task's classes "
            f"{format_names(names)} by name, so they keep their positions"
        ]
    return []


def with_head(pretrained: Pretrained, source: str, who: str) -> Model:
    """Return the model of `source`; raise ValueError where it has no head, or an untrained head or pooler."""
    if pretrained.model.outputs is None:
        raise ValueError(f"{who}: {source!r} has no head; give a checkpoint of a classifier")
    if paths := untrained(pretrained):
        raise ValueError(
            f"{who}: {source!r} has no trained head: {paths[0]!r} is not in the checkpoint, or does not fit its "
            "config.json; give a checkpoint of a classifier"
        )
    return pretrained.model


def check_inputs(model: Model, other: Model, source: str, who: str) -> None:
    """Raise ValueError where the model of `source` cannot read the inputs of `model`."""
    model_inputs, source_inputs = (example_inputs(side.config) for side in (model, other))
    for name, shape in source_inputs.items():
        model_input = model_inputs.get(name)
        vocabularies = [getattr(side.config, "vocabulary", None) for side in (model, other)]
        if model_input is None:
            raise ValueError(
                f"{who}: {source!r} reads {name!r}, but the model reads {', '.join(map(repr, model_inputs))}"
            )
        if vocabularies[0] != vocabularies[1]:
            raise ValueError(
                f"{who}: {source!r} has a vocabulary of {vocabularies[1]}, but the model has a vocabulary of "
                f"{vocabularies[0]}"
            )
        if vocabularies[0] is None and model_input.shape[1:] != shape.shape[1:]:
            raise ValueError(
                f"{who}: {source!r} reads {name!r} of shape {shape.shape[1:]}, but the model reads the shape "
                f"{model_input.shape[1:]}"
            )


def check_source(model: Model, source: Pretrained, name: str, who: str) -> None:
    """Check that the head of `source` can read the features of `model`.

    Args:
        model: the model that trains.
        source: the loaded model.
        name: the name from which it was loaded.
        who: the term, for messages.

    Raises:
        ValueError: `source` has no trained head with a stage below it, cannot read the inputs of `model`, or has a head
            that cannot read the features of `model`.
    """
    source_model = with_head(source, name, who)
    head_of(source_model, who)
    check_inputs(model, source_model, name, who)
    check_head(model, source_model, name, who)


def check_head(model: Model, source: Model, name: str, who: str) -> None:
    """Raise ValueError where the head of `source` cannot read the output of the model's stages below its own head."""
    head = source.stages[-1]
    params = jax.eval_shape(lambda key: initialise(source, key), jax.random.key(0)).params
    try:
        jax.eval_shape(lambda p, c: apply_head(head, p, c), subtree(params, head.name), tap_shapes(model)["carry"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"{who}: the head of {name!r}, {head_shapes(source)}, cannot read the features of the model; the head "
            f"of the model is {head_shapes(model)}"
        ) from None


def head_shapes(model: Model) -> str:
    """Return the shapes of the kernels of a head as text."""
    head = model.stages[-1].name
    kernels = declared(model, model.params, head).items()
    return " and ".join(f"{path} {leaf.shape}" for path, leaf in kernels if path.endswith("kernel"))


def remember(setting: Setting) -> Tree:
    """Return the initial values of the trainable leaves and statistics; every view contains the frozen leaves."""
    params = flatten(setting.variables.params)
    trainable = params.keys() if setting.trainable is None else setting.trainable
    stages = tuple(f"{stage.name}/" for stage in setting.model.stages)
    initial = {path: leaf for path, leaf in params.items() if path in trainable and path.startswith(stages)}
    return {"params": nest(initial), "stats": setting.variables.stats}


def remembered(view: View) -> Variables:
    """Return the variables at the start of the run, without gradient.

    `remember` stored the leaves that learn; the frozen ones come from the view.
    """
    params = jax.lax.stop_gradient(flatten(view.params)) | flatten(view.memory["params"])
    return Variables(nest(dict(sorted(params.items()))), view.memory["stats"])


def apply_head(head: Stage, params: Tree, carry: dict[str, Any], dtype: Any = "float32") -> Array:
    """Return the logits of a head on the outputs of the stages below a model's own head, without noise.

    Args:
        head: the stage of the head.
        params: its parameters, and those of a side head where a tuning added one.
        carry: the outputs of the stages below.
        dtype: the type of the computation.

    Returns:
        The logits, [B, C].
    """
    outputs, _ = head.apply(params, {}, carry, Context(dtype=dtype))
    return (beside(params["side"], head, outputs, carry["side"]) if "side" in params else outputs)["logits"]


def compiled(model: Model) -> Any:
    """Return the compiled forward pass in evaluation mode: `(variables, inputs) -> taps`."""
    return jax.jit(lambda variables, inputs: forward(model, variables, inputs)[0])
