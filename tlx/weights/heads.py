"""Heads and the names of their classes: a stored head is kept, reordered by name, drawn again, or refused.

Shapes: I inputs, C classes, R rank.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from tlx.tasks import Classification, Task
from tlx.tasks.classes import match, shown
from tlx.trees import flatten, nest
from tlx.types import Model
from tlx.weights.form import Pretrained, head_paths
from tlx.weights.reconcile import Entry, Manifest

# The leaves of a dense layer whose last axis is that of its outputs (see `layers/dense.py`).
BY_OUTPUT = ("kernel", "bias", "lora/b", "lora/magnitude", "vera/b", "vera/outer", "ia3/output")
MULTI_LABEL = "multi_label_classification"


class Stated(NamedTuple):
    """The head that a checkpoint's config.json states.

    `task` is None if the config names no class with a head for a whole example, `names` are the class names of
    `id2label` (none if it is absent), `problem` is its `problem_type`, `architecture` the class that it names.
    """

    task: Task | None
    names: tuple[str, ...]
    problem: str | None
    architecture: str = ""


class Reordered(NamedTuple):
    """A checkpoint's leaves after their head was compared with the task.

    `arrays` and `entries` are as `reconcile` returns them; `task` has the stored class names if it gave none. `order`,
    as in `Match.take`, is how leaves that a tuning inserted into the head are to be reordered, None if they stay.
    """

    arrays: dict[str, np.ndarray]
    entries: tuple[Entry, ...]
    task: Task
    order: tuple[int, ...] | None = None


def class_axis(model: Model) -> Callable[[str], bool]:
    """Return whether the last axis of the leaf at a path is that of the classes.

    That is so in every dense layer of the head but a hidden one (`dense`), in the maps of a side head, and in what a
    tuning inserts there beside a kernel. It is never so in a bridged module, where nobody knows which leaf gives the
    logits.
    """
    if not model.inserts or model.stages[-1].output != "logits":
        return lambda path: False
    head = model.stages[-1].name
    layers = {path.rpartition("/")[0] for path in head_paths(model)} - {f"{head}/dense"}
    known = {f"{layer}/{name}" for layer in layers for name in BY_OUTPUT}
    return lambda path: path in known or (path.startswith(f"{head}/side/maps/") and path.endswith("/kernel"))


def in_order(leaves: Mapping[str, Any], model: Model, order: Sequence[int]) -> dict[str, Any]:
    """Return leaves by path with the classes in another order: class n is the one that was at `order[n]`.

    The logits are reordered alike: kernels [I, C], biases [C], and what is inserted beside them.
    """
    classes, places = class_axis(model), np.asarray(order)
    return dict(leaves) | {
        path: np.ascontiguousarray(np.asarray(leaf)[..., places]) for path, leaf in leaves.items() if classes(path)
    }


def reorder(pretrained: Pretrained, names: Sequence[str]) -> Pretrained:
    """Return a classifier with its classes in the order of `names`, matched by name.

    Raises ValueError, with both lists, if `names` are other classes, or if the model is a bridged module, of which
    nobody knows which leaf gives the logits.
    """
    task = pretrained.task
    stored = task.names if isinstance(task, Classification) else ()
    found = match(stored, names)
    if found.take is None:
        raise ValueError(f"{pretrained.manifest.source} has the classes {shown(stored)}, not {shown(names)}")
    if not found.moves:
        return pretrained
    check_known(pretrained.model, pretrained.manifest.source, orders(stored, names))
    leaves = in_order(flatten(pretrained.variables.params), pretrained.model, found.take)
    return pretrained._replace(
        variables=pretrained.variables._replace(params=nest(leaves)),
        manifest=permuted(pretrained.manifest, leaves, pretrained.model, orders(stored, names)),
        task=replace(task, names=tuple(names)) if isinstance(task, Classification) else task,
    )


def permuted(manifest: Manifest, paths: Collection[str], model: Model, note: str) -> Manifest:
    """The manifest after the classes of the leaves at `paths` were reordered, as the `note` says."""
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
    return f"classes {shown(theirs)} in the checkpoint, {shown(ours)} here"


def check_known(model: Model, source: str, why: str) -> None:
    """Raise ValueError if nobody knows which leaves of the model give the logits."""
    if not model.inserts:
        raise ValueError(
            f"the head of {source} does not fit the task: {why}. tlx does not know which parameters of a "
            f"{type(model.config).__name__} module give the logits: number the data's classes as the checkpoint does, "
            "or name the parameters to draw again, Weights(reset=('module/NAME/.*',))"
        )


def fit(
    model: Model,
    arrays: dict[str, np.ndarray],
    entries: Sequence[Entry],
    stated: Stated,
    task: Task,
    source: str,
) -> Reordered:
    """Compare a checkpoint's head, as far as it was kept by its shape, with the task.

    Classes in another order are reordered by name. A head for other classes, or for another kind of task, is left out
    of the arrays, so that it is drawn again. Names that are placeholders, or absent, leave the head as it is, and the
    manifest says so. Raises ValueError for a bridged module whose classes would have to be reordered.
    """
    head = head_paths(model)
    classes = class_axis(model)
    kept = {path for path in head if path in arrays and (classes(path) or not model.inserts)}
    # Of a module that tlx does not know, whoever had a part drawn again has said which part that is.
    shapes = {path: param.shape for path, param in flatten(model.params).items()}
    again = {entry.path for entry in entries if entry.action == "reset"} & head
    named = not model.inserts and any(shapes[path][-1:] == (model.outputs,) for path in again)
    unchanged = Reordered(arrays, tuple(entries), task)
    if not kept:
        return unchanged

    def noted(note: str, action: str | None = None) -> tuple[Entry, ...]:
        return tuple(
            entry._replace(action=action or entry.action, note=joined(entry.note, note))
            if entry.path in kept
            else entry
            for entry in entries
        )

    def drawn_again(note: str) -> Reordered:
        if named:
            return unchanged._replace(entries=noted(f"kept beside the leaves that were drawn again: {note}"))
        check_known(model, source, note)
        return Reordered(*left_out(model, arrays, entries, note), task)

    if other := other_kind(stated, task):
        return drawn_again(other)
    if not isinstance(task, Classification):
        return unchanged
    stored, ours = stated.names, task.names
    if stored and len(stored) != task.classes:
        return drawn_again(
            f"config.json names {len(stored)} classes {shown(stored)}, its classifier has {task.classes}"
        )
    if not ours:
        whole = stored and len(set(stored)) == len(stored) and head <= arrays.keys()
        return unchanged._replace(task=replace(task, names=stored)) if whole else unchanged
    if not stored:
        note = f"kept by position: config.json has no id2label to compare with the classes {shown(ours)}"
        return unchanged._replace(entries=noted(note))
    found = match(stored, ours)
    if found.take is None:
        return drawn_again(f"other classes: {shown(stored)} in the checkpoint, {shown(ours)} here")
    if found.moves:
        note = orders(stored, ours)
        if not model.inserts:
            return drawn_again(note)
        return Reordered(in_order(arrays, model, found.take), noted(note, "permuted"), task, found.take)
    if found.by_position:
        note = f"kept by position: the classes {shown(stored)} in the checkpoint, {shown(ours)} here"
        return unchanged._replace(entries=noted(note))
    return unchanged


def left_out(
    model: Model, arrays: Mapping[str, np.ndarray], entries: Sequence[Entry], why: str
) -> tuple[dict[str, np.ndarray], tuple[Entry, ...]]:
    """The arrays without the layers that give the logits, and the manifest's entries, which say why."""
    classes = class_axis(model)
    return (
        {path: array for path, array in arrays.items() if not classes(path)},
        tuple(
            Entry("reset", entry.path, entry.foreign, why) if entry.action != "reset" and classes(entry.path) else entry
            for entry in entries
        ),
    )


def other_kind(stated: Stated, task: Task) -> str:
    """Say why a stored head answers another kind of question than the task; empty if nothing says so."""
    if stated.task is None:
        named = stated.architecture
        return f"config.json names {named}, which has no head for a whole example" if named else ""
    if stated.problem == MULTI_LABEL:
        return f"the checkpoint's head gives several labels an example (problem_type {MULTI_LABEL})"
    kinds = [type(own).__name__ for own in (stated.task, task)]
    return "" if kinds[0] == kinds[1] else f"the checkpoint's head is for {kinds[0]}, the task is {kinds[1]}"
