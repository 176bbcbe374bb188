"""Match foreign tensors with declared parameters: loaded, renamed, transposed, reset or unused, each with a reason.

Missing, misshapen and extra tensors stop the load with an error that lists them all.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tlx.models.names import LAYOUTS, STATS, Name, inward
from tlx.partition import compile_rule, near_pattern
from tlx.trees import Json, flatten

ACTIONS = ("loaded", "renamed", "transposed", "permuted", "reset", "unused")
# Returns the array of a path in the right shape; None if its shape does not depend on a size.
Reshape = Callable[[str, np.ndarray], np.ndarray | None]


class Entry(NamedTuple):
    """One line of a manifest.

    `path` is our name ("" for an unused tensor), `foreign` the name in the checkpoint ("" for a reset leaf).
    """

    action: str
    path: str
    foreign: str
    note: str = ""


class Manifest(NamedTuple):
    """The origin of the weights of a model.

    Attributes:
        source: The checkpoint.
        document: The config.json of the checkpoint.
        entries: A line for each tensor.
        checksums: A checksum of every leaf of a head or pooler that was drawn at random (see `weights/trained.py`).
    """

    source: str
    document: Json
    entries: tuple[Entry, ...]
    checksums: Mapping[str, int] = {}

    def counts(self) -> dict[str, int]:
        counts = Counter(entry.action for entry in self.entries)
        return {action: counts[action] for action in ACTIONS if counts[action]}

    def lines(self) -> list[dict[str, str]]:
        """Return the entries as JSON values."""
        return [entry._asdict() for entry in self.entries]

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {action}" for action, count in self.counts().items())
        return f"{self.source}: {counts}"


def find(name: Name, tensors: Mapping[str, Any], prefix: str) -> str | None:
    """Return the key in `tensors` of a tensor that may be stored with or without the prefix of the backbone."""
    candidates: list[str] = []
    for foreign in (name.foreign, *name.others):
        older_name = foreign.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        both = (foreign, older_name)
        candidates += both if name.head else [begin + end for end in both for begin in (prefix, "")]
    return next((key for key in candidates if key in tensors), None)


def reconcile(
    declared: Mapping[str, Any],
    names: Iterable[Name],
    tensors: Mapping[str, np.ndarray],
    *,
    source: str,
    prefix: str = "",
    unused: Sequence[str] = (),
    resettable: Sequence[str] = ("head",),
    reset: Sequence[str] = (),
    reshape: Reshape | None = None,
) -> tuple[dict[str, np.ndarray], tuple[Entry, ...]]:
    """Match foreign tensors with declared parameters.

    Args:
        declared: The tree of `Param`s.
        names: The foreign name of each parameter.
        tensors: The foreign tensors by name.
        source: The checkpoint, for the errors.
        prefix: The prefix of the backbone in foreign names.
        unused: Patterns of tensors that may stay unread.
        resettable: Stages that may be missing from the checkpoint. The first one may also have another shape there (a
            new head).
        reset: Patterns of the user over our paths.
        reshape: `reshape(path, array)` returns an array of the right shape (position embeddings), or None.

    Returns:
        The arrays by our path, without the leaves that are reset, and the entries of the manifest.

    Raises:
        ValueError: A `reset` pattern matches nothing, or tensors are missing, extra or misshapen.
    """
    params = flatten(declared)
    reset_paths = matched(reset, params)
    arrays: dict[str, np.ndarray] = {}
    entries: list[Entry] = []
    missing, misshapen = [], []
    keys: dict[str, str | None] = {}
    for name in names:
        key = keys[name.ours] = find(name, tensors, prefix)
        shape, stage = params[name.ours].shape, name.ours.removeprefix(STATS).split("/")[0]
        if name.ours in reset_paths:
            entries.append(Entry("reset", name.ours, key or "", "matches Weights(reset=...)"))
        elif key is not None:
            array, note = in_our_layout(name, tensors[key], shape, reshape)
            if array.shape == shape:
                arrays[name.ours] = array
                entries.append(loaded(name, key, note))
            elif stage == resettable[0]:
                entries.append(
                    Entry(
                        "reset",
                        name.ours,
                        key,
                        f"the checkpoint has the shape {tensors[key].shape}, the model has {shape}",
                    )
                )
            else:
                misshapen.append(f"{name.ours} expects {shape}, but {key!r} is {array.shape}")
        elif name.absent is not None:
            arrays[name.ours] = np.full(shape, name.absent, np.float32)
            entries.append(Entry("loaded", name.ours, "", f"not in the checkpoint, which means {name.absent:g}"))
        elif stage in resettable:
            entries.append(Entry("reset", name.ours, "", "not in the checkpoint"))
        else:
            missing.append(f"{name.ours} {shape} (as {prefix + name.foreign!r})")
    unused_entries, extra = unread(tensors, set(keys.values()), prefix, unused)
    stop(source, missing, misshapen, extra)
    return arrays, (*entries, *unused_entries)


def loaded(name: Name, key: str, note: str) -> Entry:
    """Return the entry of a tensor that fits the parameter `name`."""
    action = "transposed" if LAYOUTS[name.layout] is not None else "loaded" if key == name.ours else "renamed"
    return Entry(action, name.ours, key, note)


def in_our_layout(
    name: Name, tensor: np.ndarray, shape: tuple[int, ...], reshape: Reshape | None
) -> tuple[np.ndarray, str]:
    """Return a foreign tensor in our layout, if possible in our `shape`, and the note on a change of its size."""
    axes = len(shape) + name.squeeze + len(name.fold) + 2 * (name.layout == "pointwise")
    array = inward(name, tensor) if tensor.ndim == axes else tensor
    if array.shape != shape and reshape is not None and (reshaped := reshape(name.ours, array)) is not None:
        return reshaped, f"resized from {array.shape}"
    return array, ""


def unread(
    tensors: Mapping[str, np.ndarray], read_keys: set[str | None], prefix: str, unused: Sequence[str]
) -> tuple[list[Entry], list[str]]:
    """Return the entries of the tensors that may stay unread, by the patterns of `unused`, and a line for each other
    unread tensor."""
    entries: list[Entry] = []
    extra = []
    for key in sorted(tensors.keys() - read_keys):
        bare = key.removeprefix(prefix)
        if any(re.fullmatch(pattern, key) or re.fullmatch(pattern, bare) for pattern in unused):
            entries.append(Entry("unused", "", key, "another head, or a constant"))
        else:
            extra.append(f"{key!r} {tensors[key].shape}")
    return entries, extra


def matched(patterns: Sequence[str], params: Mapping[str, Any]) -> set[str]:
    """Return the paths that any of `patterns` matches in full. Raises ValueError for a pattern without a match."""
    paths: set[str] = set()
    for pattern in patterns:
        matches = {path for path in params if compile_rule(pattern).fullmatch(path)}
        if not matches:
            raise ValueError(f"the reset pattern {pattern!r} matches no parameter{near_pattern(pattern, params)}")
        paths |= matches
    return paths


def stop(source: str, missing: list[str], misshapen: list[str], extra: list[str]) -> None:
    """Raise ValueError with all three lists, unless they are empty."""
    sections = []
    for title, lines in (
        ("missing from the checkpoint", missing),
        ("misshapen", misshapen),
        ("extra in the checkpoint", extra),
    ):
        if lines:
            excerpt = lines[:8] + ([f"... and {len(lines) - 8} more"] if len(lines) > 8 else [])
            sections.append(f"{title} ({len(lines)}):\n" + "\n".join(f"    {line}" for line in excerpt))
    if sections:
        raise ValueError(f"{source} does not fit the model:\n  " + "\n  ".join(sections))
