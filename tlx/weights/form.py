"""What a pretrained model is, and the form in which its numbers are written: a foreign family's, or our own."""

import hashlib
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np

from tlx import models
from tlx.models.names import Name
from tlx.tasks import Task
from tlx.trees import flatten
from tlx.types import Model, Variables
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
    return kind_of(pretrained.manifest.document, model.config, model.outputs)


def kind_of(document: Mapping[str, Any], settings: Any, outputs: int | None) -> str:
    """As `foreign_kind`, of the `document` (config.json) that was read and the architecture's `settings`."""
    if (kind := document.get("model_type")) in models.FOREIGN:
        return kind
    if (kind := getattr(settings, "family", None)) not in models.FOREIGN:
        return OWN
    try:
        models.foreign(kind).write(settings, outputs, {})
    except ValueError:
        return OWN
    return kind


def written_kind(pretrained: Pretrained) -> str:
    """The `model_type` to write: as `foreign_kind`, but ours for a head that no class of `transformers` has.

    Its class for the family would open the directory, draw the layers that it misses at random, and answer by them.
    """
    model = pretrained.model
    return OWN if model.outputs is not None and mean_pooled(model) else foreign_kind(pretrained)


def mean_pooled(model: Model) -> bool:
    """Whether the head of a text model stands on the mean over tokens."""
    return getattr(model.config, "pooling", "first") == "mean"


def silent_pooler(kind: str, model: Model) -> dict[str, np.ndarray]:
    """The pooler that a class of `transformers` has and an encoder with `pooling="mean"` has not: zeros, by name.

    `transformers` would draw one at random, so that `pooler_output` would differ from one load to the next.
    """
    config = model.config
    if kind == OWN or not mean_pooled(model) or config.family not in ("bert", "roberta"):
        return {}
    width = config.width
    return {
        "pooler.dense.weight": np.zeros((width, width), np.float32),
        "pooler.dense.bias": np.zeros(width, np.float32),
    }


def prefixed_stats(model: Model) -> dict[str, Any]:
    """Running statistics beside the parameters, under names that no parameter has."""
    return {STATS + path: param for path, param in flatten(model.stats).items()}


def name_table(kind: str, settings: Any, outputs: int | None, model: Model) -> list[Name]:
    """A line for every parameter and statistic: its foreign name, or its own where the form is ours."""
    if kind != OWN:
        return list(models.foreign(kind).names(settings, outputs))
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
