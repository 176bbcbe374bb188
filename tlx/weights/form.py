"""Pretrained models, and the form in which their weights are written: that of a foreign family, or our own."""

import hashlib
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
import numpy as np

from tlx.config import source
from tlx.models import Architecture, Head, initialise
from tlx.models.names import STATS, Name
from tlx.models.neck import HEAD, neck_names, neck_of
from tlx.tasks import Task
from tlx.trees import Json, flatten, nest, size
from tlx.types import Model, Variables
from tlx.weights.formats import Format, foreign, foreign_kinds, formats_of
from tlx.weights.mapped import is_half, widened
from tlx.weights.reconcile import Manifest

OWN = "tlx"
# The characters of a task that the description of a model shows; the names of 1,000 classes have more.
LONGEST_TASK = 200
# Returns a parameter on the devices, given its path and its numbers.
Place = Callable[[str, Any], Any]


class Pretrained(NamedTuple):
    """A model with its weights.

    Attributes:
        model: The chain of stages.
        variables: The weights. A leaf of `variables.params` that `model.params` does not declare belongs to an adapter.
        processor: Turns raw examples into inputs; None if there is none.
        manifest: The origin of every leaf.
        task: The task of the head, if any.
    """

    model: Model
    variables: Variables
    processor: Any
    manifest: Manifest
    task: Task | None = None

    def __repr__(self) -> str:
        """Return the architecture, the number of parameters, the task, and the origin of the weights."""
        count = sum(map(size, flatten(self.variables.params).values()))
        parts = [f"{type(self.model.config).__name__} with {len(self.model.stages)} stages, {count:,} parameters"]
        if self.task is not None:
            text = source(self.task)
            parts.append(text if len(text) <= LONGEST_TASK else f"{text[:LONGEST_TASK]}...")
        parts += [] if self.processor is None else [type(self.processor).__name__]
        return f"Pretrained({', '.join(parts)}; {self.manifest})"


def foreign_kind(pretrained: Pretrained) -> str:
    """Return the `model_type` of transformers for a model's parameter names: the one that was read, or that of its
    family; ours if there is none."""
    model = pretrained.model
    return kind_of(pretrained.manifest.document, model.config, model.head)


def kind_of(document: Json, settings: Architecture, head: Head | None) -> str:
    """Return `foreign_kind` for the `document` (config.json) that was read and the architecture `settings`."""
    if neck_of(head) is not None:
        return OWN
    form = foreign_kinds(type(settings)).get(str(document.get("model_type")))
    if form is not None and form.layout == Format.layout:
        return str(document["model_type"])
    for form in formats_of(type(settings)):
        kind = form.kind(settings)
        if form.layout != Format.layout or kind not in form.families:
            continue
        try:
            form.write(settings, head, {})
        except ValueError:
            continue
        return kind
    return OWN


def format_of(kind: str, model: Model) -> Format:
    """Return the format of the `model_type` `kind`, which `foreign_kind` has returned for the model."""
    return foreign(kind, type(model.config))


def written_kind(pretrained: Pretrained) -> str:
    """Return the `model_type` to write: `foreign_kind`, or ours if the other library would compute other outputs."""
    kind = foreign_kind(pretrained)
    return OWN if unanswered(kind, pretrained.model) else kind


def unanswered(kind: str, model: Model) -> str | None:
    """Return why no class of the other library computes the same outputs; None if one does, or if the form is ours."""
    return None if kind == OWN else format_of(kind, model).unanswered(model.config, model.head)


def prefixed_stats(model: Model) -> dict[str, Any]:
    """Return the running statistics of a model, under names that no parameter has."""
    return {STATS + path: param for path, param in flatten(model.stats).items()}


def fill(model: Model, arrays: dict[str, np.ndarray], seed: int, place: Place | None = None) -> Variables:
    """Return variables from `arrays` (by path; statistics under `stats:`), with missing leaves drawn from `seed`.

    `place(path, leaf)` returns a parameter on the devices, if there is room for it there only. It gets the parameters
    that are drawn or have 16 bits one after the other, so that one of them at a time is whole on the host.
    """
    params, key = {}, jax.random.key(seed)
    for path, param in flatten(model.params).items():
        leaf = arrays.get(path)
        if leaf is None:
            leaf = flatten(initialise(Model((), nest({path: param}), {}), key).params)[path]
        elif place is None or not is_half(leaf):
            params[path] = np.asarray(leaf)
            continue
        params[path] = leaf if place is None else place(path, leaf)
    needed = {path: param for path, param in flatten(model.stats).items() if STATS + path not in arrays}
    stats = flatten(initialise(Model((), {}, nest(needed)), key).stats)
    stats |= {path.removeprefix(STATS): widened(leaf) for path, leaf in arrays.items() if path.startswith(STATS)}
    return Variables(nest(params), nest(dict(sorted(stats.items()))))


def name_table(kind: str, model: Model) -> list[Name]:
    """Return the foreign name of every parameter and statistic, or our name if the form is ours."""
    if kind != OWN:
        form = format_of(kind, model)
        names = form.names(model.config, model.head)
        if neck_of(model.head) is None:
            return list(names)
        return [*(name for name in names if not name.ours.startswith(f"{HEAD}/")), *neck_names(model)]
    return [Name(path, path) for path in (*flatten(model.params), *prefixed_stats(model))]


def inserted(pretrained: Pretrained) -> dict[str, Any]:
    """Return the leaves of the adapter by path: those that the model does not declare."""
    declared = flatten(pretrained.model.params).keys()
    return {path: leaf for path, leaf in flatten(pretrained.variables.params).items() if path not in declared}


def head_paths(model: Model) -> set[str]:
    """Return the paths of the declared parameters of the stage that computes the logits; empty without a head."""
    last = model.stages[-1]
    return {path for path in flatten(model.params) if path.startswith(f"{last.name}/") and last.output == "logits"}


def fingerprint(pretrained: Pretrained, without: Collection[str]) -> str:
    """Return a hash of the declared parameters, except the paths in `without`: the head that an adapter replaces."""
    digest = hashlib.sha256()
    leaves = flatten(pretrained.variables.params)
    for path in sorted(flatten(pretrained.model.params).keys() - set(without)):
        array = np.ascontiguousarray(np.asarray(leaves[path], np.float32))
        digest.update(f"{path} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:32]
