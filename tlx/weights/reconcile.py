"""Foreign tensors against declared parameters: what was loaded, renamed, transposed, reset, left unused, and why.

Anything that this cannot explain stops the load with both sides listed.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tlx.models.names import Name, inward
from tlx.partition import compile_rule, prefixes
from tlx.trees import flatten, near_miss

ACTIONS = ("loaded", "renamed", "transposed", "permuted", "reset", "unused")


class Entry(NamedTuple):
    """One line of a manifest. `path` is ours ("" for an unused tensor), `foreign` theirs ("" for a reset leaf)."""

    action: str
    path: str
    foreign: str
    note: str = ""


class Manifest(NamedTuple):
    """Where a model's numbers came from: `source`, the `document` (config.json) beside them, a line a tensor.

    `drawn` holds a checksum of every leaf of a head or pooler that was drawn at random (see `weights/trained.py`).
    """

    source: str
    document: Mapping[str, Any]
    entries: tuple[Entry, ...]
    drawn: Mapping[str, int] = {}

    def counts(self) -> dict[str, int]:
        found = Counter(entry.action for entry in self.entries)
        return {action: found[action] for action in ACTIONS if found[action]}

    def lines(self) -> list[dict[str, str]]:
        """The entries as JSON values."""
        return [entry._asdict() for entry in self.entries]

    def __str__(self) -> str:
        told = ", ".join(f"{count} {action}" for action, count in self.counts().items())
        return f"{self.source}: {told}"


def find(foreign: str, head: bool, tensors: Mapping[str, Any], prefix: str) -> str | None:
    """The key in `tensors` of a tensor that may be stored with or without the backbone's prefix."""
    old = foreign.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    candidates = [foreign, old] if head else [prefix + foreign, foreign, prefix + old, old]
    return next((name for name in candidates if name in tensors), None)


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
    reshape: Any = None,
) -> tuple[dict[str, np.ndarray], tuple[Entry, ...]]:
    """`(arrays by our path, entries)`; leaves that are reset are missing from the arrays.

    `declared` is the tree of `Param`s; `unused` are patterns of tensors that may stay unread; stages in `resettable`
    may be missing from the checkpoint or of another shape (a new head). `reset` are the user's own patterns over our
    paths. `reshape(path, array)` may mend a shape (position embeddings), or return None.

    Raises ValueError for a `reset` pattern that matches nothing and for tensors that are missing, extra or misshapen.
    """
    params = flatten(declared)
    wanted_fresh = matched(reset, params)
    arrays: dict[str, np.ndarray] = {}
    entries: list[Entry] = []
    missing: list[str] = []
    misshapen: list[str] = []
    read: set[str] = set()
    for name in names:
        key = find(name.foreign, name.head, tensors, prefix)
        shape = params[name.ours].shape
        may_reset = name.ours.split("/")[0] in resettable
        if key is not None:
            read.add(key)
        if name.ours in wanted_fresh:
            entries.append(Entry("reset", name.ours, key or "", "asked for"))
            continue
        if key is None:
            if may_reset:
                entries.append(Entry("reset", name.ours, "", "not in the checkpoint"))
            else:
                missing.append(f"{name.ours} {shape} (as {prefix + name.foreign!r})")
            continue
        theirs = tensors[key]
        array = inward(name, theirs) if theirs.ndim == len(shape) + name.squeeze else theirs
        note = ""
        if array.shape != shape and reshape is not None and (mended := reshape(name.ours, array)) is not None:
            note, array = f"resized from {array.shape}", mended
        if array.shape != shape:
            if may_reset:
                entries.append(Entry("reset", name.ours, key, f"the checkpoint's is {theirs.shape}, ours {shape}"))
            else:
                misshapen.append(f"{name.ours} wants {shape}, {key!r} gives {array.shape}")
            continue
        arrays[name.ours] = array
        action = "transposed" if name.layout != "same" else "loaded" if key == name.ours else "renamed"
        entries.append(Entry(action, name.ours, key, note))
    extra = []
    for key in sorted(tensors.keys() - read):
        bare = key.removeprefix(prefix)
        if any(re.fullmatch(pattern, key) or re.fullmatch(pattern, bare) for pattern in unused):
            entries.append(Entry("unused", "", key, "another head, or a constant"))
        else:
            extra.append(f"{key!r} {tensors[key].shape}")
    stop(source, missing, misshapen, extra)
    return arrays, tuple(entries)


def matched(patterns: Sequence[str], params: Mapping[str, Any]) -> set[str]:
    """The paths that any of `patterns` matches in full; each must match one."""
    paths: set[str] = set()
    for pattern in patterns:
        found = {path for path in params if compile_rule(pattern).fullmatch(path)}
        if not found:
            literal = pattern.removesuffix("/.*")
            raise ValueError(f"reset {pattern!r} matches no parameter{near_miss(literal, prefixes(params), n=2)}")
        paths |= found
    return paths


def stop(source: str, missing: list[str], misshapen: list[str], extra: list[str]) -> None:
    """Raises ValueError with both sides listed, unless all three lists are empty."""
    told = []
    for title, lines in (
        ("missing from the checkpoint", missing),
        ("misshapen", misshapen),
        ("extra in the checkpoint", extra),
    ):
        if lines:
            shown = lines[:8] + ([f"... and {len(lines) - 8} more"] if len(lines) > 8 else [])
            told.append(f"{title} ({len(lines)}):\n" + "\n".join(f"    {line}" for line in shown))
    if told:
        raise ValueError(f"{source} does not fit the model:\n  " + "\n  ".join(told))
