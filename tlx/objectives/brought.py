"""Models beside the one that learns: as it was brought, and others that a term loads (teachers, sources)."""

from collections.abc import Sequence
from typing import Any

import jax

from tlx.models import beside, example_inputs, forward
from tlx.trees import Tree, flatten, nest
from tlx.types import Array, Context, Model, Setting, Stage, Variables, View
from tlx.weights import Pretrained, load_pretrained

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


def class_names(source: str) -> tuple[str, ...]:
    """What the classes of `source` are called; empty where it has no head."""
    return getattr((KNOWN[source] if source in KNOWN else bring(source)).task, "names", ())


def check_names(ours: Sequence[str], theirs: Sequence[str], who: str) -> None:
    """ValueError where a teacher's classes are called otherwise than the task's, but for names that nobody gave (those
    that a library numbers) and for upper and lower case."""
    if not ours or not theirs:
        return
    plain, other = ([name.casefold() for name in names] for names in (ours, theirs))
    if plain != other and set(plain) == set(other):
        raise ValueError(f"{who}: the teacher's classes are {theirs}, the task's {ours}: another order")
    for n, (own, given) in enumerate(zip(plain, other, strict=True)):
        if own != given and not {own, given} & {f"label_{n}", f"class {n}"}:
            raise ValueError(
                f"{who}: the teacher's classes are {theirs}, the task's {ours}. Where they mean the same, call the "
                f"task's as the teacher's: tasks.Classification(names={theirs})"
            )


def with_head(pretrained: Pretrained, source: str, who: str) -> Model:
    """The model of `source`; ValueError where it has no head of its own."""
    if pretrained.model.outputs is None or any(
        entry.action == "reset" and entry.path.startswith(f"{pretrained.model.stages[-1].name}/")
        for entry in pretrained.manifest.entries
    ):
        raise ValueError(f"{who}: {source!r} has no head of its own; give a checkpoint of a classifier")
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
