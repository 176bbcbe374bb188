"""What a pretrained model is, and the form in which its numbers are written: a foreign family's, or our own."""

import hashlib
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from tlx.models import Head
from tlx.models.names import Name
from tlx.tasks import Task
from tlx.trees import flatten
from tlx.types import Model, Variables
from tlx.weights.formats import Format, foreign, foreign_kinds, formats_of
from tlx.weights.reconcile import Manifest

OWN = "tlx"
STATS = "stats:"


class Pretrained(NamedTuple):
    """A model with its numbers, what turns raw examples into its inputs, and where it all came from.

    A leaf of `variables.params` that `model.params` does not declare was inserted: it is an adapter's.
    """

    model: Model
    variables: Variables
    processor: Any
    manifest: Manifest
    task: Task | None = None


def foreign_kind(pretrained: Pretrained) -> str:
    """The `model_type` whose names the model's parameters have: the one that was read, the family's own, or ours."""
    model = pretrained.model
    return kind_of(pretrained.manifest.document, model.config, model.head)


def kind_of(document: Mapping[str, Any], settings: Any, head: Head | None) -> str:
    """As `foreign_kind`, of the `document` (config.json) that was read and the architecture's `settings`."""
    if (kind := document.get("model_type")) in foreign_kinds(type(settings)):
        return str(kind)
    for form in formats_of(type(settings)):
        kind = form.kind(settings)
        if kind not in form.families:
            continue
        try:
            form.write(settings, head, {})
        except ValueError:
            continue
        return kind
    return OWN


def format_of(kind: str, model: Model) -> Format:
    """The format of the `model_type` `kind`, which `foreign_kind` has returned for the model."""
    return foreign(kind, type(model.config))


def written_kind(pretrained: Pretrained) -> str:
    """The `model_type` to write: as `foreign_kind`, but ours for a model that the other library would open and answer
    otherwise with."""
    kind = foreign_kind(pretrained)
    return OWN if unanswered(kind, pretrained.model) else kind


def unanswered(kind: str, model: Model) -> str | None:
    """Why no class of the other library answers as the model does; None where one does, or where the form is ours."""
    return None if kind == OWN else format_of(kind, model).unanswered(model.config, model.head)


def prefixed_stats(model: Model) -> dict[str, Any]:
    """Running statistics beside the parameters, under names that no parameter has."""
    return {STATS + path: param for path, param in flatten(model.stats).items()}


def name_table(kind: str, model: Model) -> list[Name]:
    """A line for every parameter and statistic: its foreign name, or its own where the form is ours."""
    if kind != OWN:
        return list(format_of(kind, model).names(model.config, model.head))
    return [Name(path, path) for path in (*flatten(model.params), *prefixed_stats(model))]


def inserted(pretrained: Pretrained) -> dict[str, Any]:
    """The adapter's leaves by path: those that the model does not declare."""
    declared = flatten(pretrained.model.params).keys()
    return {path: leaf for path, leaf in flatten(pretrained.variables.params).items() if path not in declared}


def head_paths(model: Model) -> set[str]:
    """The declared parameters of the stage that gives the logits; none without a head."""
    last = model.stages[-1]
    return {path for path in flatten(model.params) if path.startswith(f"{last.name}/") and last.output == "logits"}


def fingerprint(pretrained: Pretrained, without: Collection[str]) -> str:
    """A hash of the base's numbers, by path, `without` some: those of a head, which an adapter brings along."""
    told = hashlib.sha256()
    leaves = flatten(pretrained.variables.params)
    for path in sorted(flatten(pretrained.model.params).keys() - set(without)):
        array = np.ascontiguousarray(np.asarray(leaves[path], np.float32))
        told.update(f"{path} {array.shape}\n".encode())
        told.update(array.tobytes())
    return told.hexdigest()[:32]
