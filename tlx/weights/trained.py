"""Find heads and poolers that were never trained, and refuse to use them."""

import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tlx.models.neck import NECK
from tlx.trees import flatten
from tlx.types import Array, Model, Variables
from tlx.weights.form import Pretrained
from tlx.weights.reconcile import Entry


def checksum(leaf: Array | np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(np.asarray(leaf, np.float32)).tobytes())


def checksum_new_leaves(entries: Iterable[Entry], variables: Variables, stages: Iterable[str]) -> dict[str, int]:
    """Return a checksum of every leaf of `stages` that was drawn at random, by path."""
    leaves, below = flatten(variables.params), tuple(f"{stage}/" for stage in stages)
    paths = [entry.path for entry in entries if entry.action == "reset" and entry.path.startswith(below)]
    return {path: checksum(leaves[path]) for path in paths if path in leaves}


def untrained(pretrained: Pretrained) -> list[str]:
    """Return the paths of the leaves of head and pooler that still have their random initial values.

    A stage counts as trained if one of its randomly drawn leaves has changed.
    """
    leaves = flatten(pretrained.variables.params)
    stages: dict[str, list[str]] = {}
    for path in pretrained.manifest.checksums:
        stages.setdefault(stage_of(pretrained.model, path), []).append(path)
    return [
        path
        for paths in stages.values()
        if all(path in leaves and checksum(leaves[path]) == pretrained.manifest.checksums[path] for path in paths)
        for path in paths
    ]


def stage_of(model: Model, path: str) -> str:
    """Return the name of the stage that a parameter belongs to; empty if there is none."""
    return next((stage.name for stage in model.stages if path.startswith(f"{stage.name}/")), "")


def check_trained(pretrained: Pretrained, advice: str) -> None:
    """Raise ValueError, with the leaves, the reason and the `advice`, if a head or a pooler was never trained."""
    if not (paths := untrained(pretrained)):
        return
    reasons = {entry.path: entry.note for entry in pretrained.manifest.entries}
    part = part_of(pretrained.model, paths[0])
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    raise ValueError(
        f"{pretrained.manifest.source} has an untrained {part}: {paths[0]!r}{more} drawn at random "
        f"({reasons.get(paths[0]) or 'not in the checkpoint'}). {advice}"
    )


def part_of(model: Model, path: str) -> str:
    """Return "pooler", "neck" or "head", the part of the model that a parameter belongs to."""
    stage = next((candidate for candidate in model.stages if path.startswith(f"{candidate.name}/")), None)
    if stage is not None and stage.name == NECK:
        return NECK
    return "pooler" if stage is not None and stage.output == "pooled" else "head"


def sentences(model: Model, entries: Iterable[Entry], moving: Mapping[str, Any] | frozenset[str]) -> list[str]:
    """Return the notes of a run on the head and the pooler that it starts with.

    They are: drawn at random, reordered by class name, or kept although the class names cannot be compared.

    Args:
        model: The model.
        entries: The entries of its manifest.
        moving: The paths of the parameters that learn in the run.
    """
    paths_by_note: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        stage = next((candidate for candidate in model.stages if entry.path.startswith(f"{candidate.name}/")), None)
        if stage is None or stage.output not in ("logits", "pooled"):
            continue
        if entry.action == "reset":
            paths_by_note.setdefault((f"the {part_of(model, entry.path)} was drawn at random", entry.note), []).append(
                entry.path
            )
        elif entry.action == "permuted":
            paths_by_note.setdefault(("the head was reordered by class name", entry.note), []).append(entry.path)
        elif "kept " in entry.note:
            paths_by_note.setdefault(("the head was not compared by class name", entry.note), []).append(entry.path)
    notes = []
    for (sentence, reason), paths in paths_by_note.items():
        frozen = sentence.endswith("random") and not any(path in moving for path in paths)
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        notes.append(f"{sentence}{' and is frozen' if frozen else ''}: {paths[0]}{more} ({reason})")
    return notes
