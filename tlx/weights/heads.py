"""Compare a stored head with a task: keep it, reorder it by class name, draw it at random again, or refuse it.

Shapes: I inputs, C classes, R rank.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tlx import config as records
from tlx.models import Head
from tlx.tasks import Task
from tlx.tasks.classes import format_names, match
from tlx.trees import flatten, nest
from tlx.types import Model
from tlx.weights.form import Pretrained, head_paths
from tlx.weights.reconcile import Entry, Manifest

# The leaves of a dense layer whose last axis is that of its outputs (see `layers/dense.py`).
BY_OUTPUT = ("kernel", "bias", "lora/b", "lora/magnitude", "vera/b", "vera/outer", "ia3/output")
# The entry of config.json that names the class of a task that transformers has no word for.
TASK = "tlx_task"
# The entry of config.json with the fields that follow from the data of the task (see `Task.kept`).
FIELDS = "tlx_task_fields"


class Stated(NamedTuple):
    """The head that a checkpoint's config.json states.

    Attributes:
        task: The tlx task that it states, if any.
        names: The class names of `id2label`; empty if it is absent.
        architecture: The class that config.json names.
        head: The head, if any.
        kind: The name of the class of the task, which may be a user's own class.
    """

    task: Task | None
    names: tuple[str, ...]
    architecture: str = ""
    head: Head | None = None
    kind: str = ""


class Reordered(NamedTuple):
    """A checkpoint's leaves after their head was compared with the task.

    Attributes:
        arrays: As `reconcile` returns them.
        entries: As `reconcile` returns them.
        task: The task, with the stored class names if it had none.
        order: The new order of the leaves that a tuning inserted into the head, as in `Match.take`; None if they stay.
    """

    arrays: dict[str, np.ndarray]
    entries: tuple[Entry, ...]
    task: Task
    order: tuple[int, ...] | None = None


def class_axis(model: Model) -> Callable[[str], bool]:
    """Return a function that says whether the last axis of the leaf at a path is the axis of the classes.

    It is in every dense layer of the head except a hidden one (`dense`), in the maps of a side head, and in the
    adapters beside their kernels. It never is in a bridged module: tlx does not know which of its leaves compute the
    logits.
    """
    if not model.inserts or model.stages[-1].output != "logits":
        return lambda path: False
    head = model.stages[-1].name
    layers = {path.rpartition("/")[0] for path in head_paths(model)} - {f"{head}/dense"}
    class_paths = {f"{layer}/{name}" for layer in layers for name in BY_OUTPUT}
    return lambda path: path in class_paths or (path.startswith(f"{head}/side/maps/") and path.endswith("/kernel"))


def in_order(leaves: Mapping[str, Any], model: Model, order: Sequence[int]) -> dict[str, Any]:
    """Return leaves by path with the classes in another order: class n is the one that was at `order[n]`.

    This reorders the logits in the same way: kernels [I, C], biases [C], and adapters beside them.
    """
    classes, places = class_axis(model), np.asarray(order)
    return dict(leaves) | {
        path: np.ascontiguousarray(np.asarray(leaf)[..., places]) for path, leaf in leaves.items() if classes(path)
    }


def reorder(pretrained: Pretrained, names: Sequence[str]) -> Pretrained:
    """Return a classifier with its classes in the order of `names`, matched by name.

    Args:
        pretrained: The classifier.
        names: The class names in the new order.

    Raises:
        ValueError: `names` are other classes (the error has both lists), or the model is a bridged module, whose leaves
            that compute the logits are unknown.
    """
    task = pretrained.task
    stored = task.names if task is not None and task.by_class else ()
    matching = match(stored, names)
    if matching.take is None:
        raise ValueError(
            f"{pretrained.manifest.source} has the classes {format_names(stored)}; the new order names "
            f"{format_names(names)}: name the same classes"
        )
    if not matching.moves:
        return pretrained
    check_known(pretrained.model, pretrained.manifest.source, orders(stored, names))
    leaves = in_order(flatten(pretrained.variables.params), pretrained.model, matching.take)
    return pretrained._replace(
        variables=pretrained.variables._replace(params=nest(leaves)),
        manifest=permuted(pretrained.manifest, leaves, pretrained.model, orders(stored, names)),
        task=None if task is None else records.replace(task, names=tuple(names)),
    )


def permuted(manifest: Manifest, paths: Collection[str], model: Model, note: str) -> Manifest:
    """Return the manifest after the classes of the leaves at `paths` were reordered, with the `note` added."""
    classes = class_axis(model)
    return manifest._replace(
        entries=tuple(
            entry._replace(action="permuted", note=joined(entry.note, note))
            if entry.action != "reset" and entry.path in paths and classes(entry.path)
            else entry
            for entry in manifest.entries
        )
    )


def joined(*notes: str) -> str:
    return "; ".join(filter(None, notes))


def orders(theirs: Sequence[str], ours: Sequence[str]) -> str:
    return f"classes {format_names(theirs)} in the checkpoint, {format_names(ours)} in the task"


def check_known(model: Model, source: str, why: str) -> None:
    """Raise ValueError if tlx does not know which leaves of the model compute the logits."""
    if not model.inserts:
        raise ValueError(
            f"the head of {source} does not fit the task: {why}. tlx does not know which parameters of a "
            f"{type(model.config).__name__} module compute the logits: number the classes of the data as in the "
            "checkpoint, or name the parameters to reset, Weights(reset=('module/NAME/.*',))"
        )


def fit(
    model: Model,
    arrays: dict[str, np.ndarray],
    entries: Sequence[Entry],
    stated: Stated,
    task: Task,
    source: str,
) -> Reordered:
    """Compare the head of a checkpoint with the task, as far as its shape allowed to keep it.

    Classes in another order are reordered by name. A head for other classes, or for another kind of task, is removed
    from the arrays, so that it is drawn at random again. A head with placeholder names, or without names, stays
    unchanged, and the manifest says so.

    Args:
        model: The model with the head of the task.
        arrays: The arrays that `reconcile` returned.
        entries: The entries that `reconcile` returned.
        stated: The head that the checkpoint states.
        task: The task.
        source: The checkpoint, for the errors.

    Raises:
        ValueError: The classes of a bridged module would have to be reordered.
    """
    head = head_paths(model)
    classes = class_axis(model)
    kept_paths = {path for path in head if path in arrays and (classes(path) or not model.inserts)}
    unchanged = Reordered(arrays, tuple(entries), task)
    if not kept_paths:
        return unchanged
    if reason := misfit(stated, task):
        return drawn_again(model, unchanged, kept_paths, source, reason)
    if not task.by_class:
        return unchanged
    stored, task_names = stated.names, task.names
    if not task_names:
        complete = stored and len(set(stored)) == len(stored) and head <= arrays.keys()
        return unchanged._replace(task=records.replace(task, names=stored)) if complete else unchanged
    if not stored:
        note = f"kept by position: config.json has no id2label to compare with the classes {format_names(task_names)}"
        return unchanged._replace(entries=noted(entries, kept_paths, note))
    matching = match(stored, task_names)
    if matching.take is not None and matching.moves:
        note = orders(stored, task_names)
        if not model.inserts:
            return drawn_again(model, unchanged, kept_paths, source, note)
        permuted_entries = noted(entries, kept_paths, note, "permuted")
        return Reordered(in_order(arrays, model, matching.take), permuted_entries, task, matching.take)
    if matching.by_position:
        class_names = f"{format_names(stored)} in the checkpoint, {format_names(task_names)} in the task"
        note = f"kept by position: the classes {class_names}"
        return unchanged._replace(entries=noted(entries, kept_paths, note))
    return unchanged


def misfit(stated: Stated, task: Task) -> str:
    """Return why a stored head is not for the task; empty if it is, perhaps with its classes in another order."""
    if reason := other_kind(stated, task):
        return reason
    if not task.by_class:
        # Heads whose outputs are no classes may still be for named classes.
        stored = stated.task.names if stated.task is not None else ()
        return other_classes(stored, task.names) if stored and task.names and stored != task.names else ""
    if not stated.names:
        return ""
    stored, task_names = stated.names, task.names
    if len(stored) != task.outputs:
        names = f"{len(stored)} classes {format_names(stored)}"
        return f"config.json names {names}, but its classifier has {task.outputs} outputs"
    if task_names and match(stored, task_names).take is None:
        return other_classes(stored, task_names)
    return ""


def other_classes(stored: Sequence[str], names: Sequence[str]) -> str:
    return f"other classes: {format_names(stored)} in the checkpoint, {format_names(names)} in the task"


def drawn_again(model: Model, leaves: Reordered, kept_paths: Collection[str], source: str, note: str) -> Reordered:
    """Return the leaves without the head, for the reason `note`. `kept_paths` are those of its leaves in `leaves`.

    A head stays if tlx does not know which of its leaves compute the logits and the user has reset a leaf of them.
    Raises ValueError if the user has reset none.
    """
    head = head_paths(model)
    # For a module that tlx does not know, the user has named the leaves of the head in `reset`.
    shapes = {path: param.shape for path, param in flatten(model.params).items()}
    reset_paths = {entry.path for entry in leaves.entries if entry.action == "reset"} & head
    if not model.inserts and any(shapes[path][-1:] == (model.outputs,) for path in reset_paths):
        reason = f"kept, while other leaves of the head were drawn again: {note}"
        return leaves._replace(entries=noted(leaves.entries, kept_paths, reason))
    check_known(model, source, note)
    return Reordered(*left_out(model, leaves.arrays, leaves.entries, note), leaves.task)


def noted(entries: Iterable[Entry], paths: Collection[str], note: str, action: str | None = None) -> tuple[Entry, ...]:
    """Return the manifest entries with the `note` added to those of `paths`, and with the new `action` if given."""
    return tuple(
        entry._replace(action=action or entry.action, note=joined(entry.note, note)) if entry.path in paths else entry
        for entry in entries
    )


def left_out(
    model: Model, arrays: Mapping[str, np.ndarray], entries: Sequence[Entry], why: str
) -> tuple[dict[str, np.ndarray], tuple[Entry, ...]]:
    """Return the arrays without the layers that compute the logits, and the manifest entries with the reason `why`."""
    classes = class_axis(model)
    return (
        {path: array for path, array in arrays.items() if not classes(path)},
        tuple(
            Entry("reset", entry.path, entry.foreign, why) if entry.action != "reset" and classes(entry.path) else entry
            for entry in entries
        ),
    )


def other_kind(stated: Stated, task: Task) -> str:
    """Return why a stored head is for another kind of task; empty if it is not."""
    if not stated.kind:
        architecture = stated.architecture
        return f"config.json names {architecture}, which has no head for a whole example" if architecture else ""
    kind = type(task).__name__
    return "" if stated.kind == kind else f"the checkpoint's head is for {stated.kind}, but the task is {kind}"
