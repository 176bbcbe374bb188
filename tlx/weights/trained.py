"""Heads and poolers that nobody trained: which they are, and the refusal to answer with them."""

import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tlx.trees import flatten
from tlx.types import Model, Variables
from tlx.weights.form import Pretrained
from tlx.weights.reconcile import Entry


def checksum(leaf: Any) -> int:
    return zlib.crc32(np.ascontiguousarray(np.asarray(leaf, np.float32)).tobytes())


def drawn(entries: Iterable[Entry], variables: Variables, stages: Iterable[str]) -> dict[str, int]:
    """Return a checksum of every leaf below the given stages that was drawn at random, by path."""
    leaves, below = flatten(variables.params), tuple(f"{stage}/" for stage in stages)
    paths = [entry.path for entry in entries if entry.action == "reset" and entry.path.startswith(below)]
    return {path: checksum(leaves[path]) for path in paths if path in leaves}


def untrained(pretrained: Pretrained) -> list[str]:
    """Return the paths of a head's and a pooler's leaves that are still as they were drawn at random.

    A stage counts as trained as soon as one of its drawn leaves has changed.
    """
    leaves = flatten(pretrained.variables.params)
    stages: dict[str, list[str]] = {}
    for path in pretrained.manifest.drawn:
        stages.setdefault(stage_of(pretrained.model, path), []).append(path)
    return [
        path
        for paths in stages.values()
        if all(path in leaves and checksum(leaves[path]) == pretrained.manifest.drawn[path] for path in paths)
        for path in paths
    ]


def stage_of(model: Model, path: str) -> str:
    """The name of the stage that a parameter belongs to."""
    return next((stage.name for stage in model.stages if path.startswith(f"{stage.name}/")), "")


def check_trained(pretrained: Pretrained, advice: str) -> None:
    """Raise ValueError, with the leaves, the reason and the `advice`, if a head or a pooler was never trained."""
    if not (paths := untrained(pretrained)):
        return
    reasons = {entry.path: entry.note for entry in pretrained.manifest.entries}
    what = part_of(pretrained.model, paths[0])
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    raise ValueError(
        f"{pretrained.manifest.source} has an untrained {what}: {paths[0]!r}{more} drawn at random "
        f"({reasons.get(paths[0]) or 'not in the checkpoint'}). {advice}"
    )


def part_of(model: Model, path: str) -> str:
    """The field's word for the stage that a parameter belongs to."""
    stage = next((own for own in model.stages if path.startswith(f"{own.name}/")), None)
    return "pooler" if stage is not None and stage.output == "pooled" else "head"


def sentences(model: Model, entries: Iterable[Entry], moving: Mapping[str, Any] | frozenset[str]) -> list[str]:
    """Return what a run must say of the head and the pooler that it starts with: drawn at random, reordered by class
    name, or kept although the class names cannot be compared. `moving` are the parameters that learn in the run."""
    found: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        stage = next((own for own in model.stages if entry.path.startswith(f"{own.name}/")), None)
        if stage is None or stage.output not in ("logits", "pooled"):
            continue
        if entry.action == "reset":
            found.setdefault((f"the {part_of(model, entry.path)} was drawn at random", entry.note), []).append(
                entry.path
            )
        elif entry.action == "permuted":
            found.setdefault(("the head was reordered by class name", entry.note), []).append(entry.path)
        elif "kept " in entry.note:
            found.setdefault(("the head was not compared by class name", entry.note), []).append(entry.path)
    told = []
    for (what, why), paths in found.items():
        still = what.endswith("random") and not any(path in moving for path in paths)
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        told.append(f"{what}{' and does not learn' if still else ''}: {paths[0]}{more} ({why})")
    return told
