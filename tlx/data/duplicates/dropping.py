"""Leave out of the training examples what repeats a held-out example or another training example.

Held-out examples stay: a test set is the same with and without this setting.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tlx.assets import cache_dir
from tlx.data.duplicates.groups import Groups, grouped
from tlx.data.duplicates.sketches import VERSION, computed
from tlx.data.examples import save_whole

if TYPE_CHECKING:
    from tlx.data.examples import Examples


def without_duplicates(
    held_out: Sequence[Examples], candidates: Mapping[str, Examples]
) -> tuple[dict[str, Examples], list[str]]:
    """Return the candidates without the examples that repeat an earlier one, exactly or nearly, and a note on each.

    Args:
        held_out: Examples that stay; they come first.
        candidates: Further examples by name, in their order: validation before training.

    Raises:
        ValueError: Nothing is left of a candidate.
    """
    parts = [*held_out, *candidates.values()]
    groups = all_groups(parts)
    edge = sum(map(len, held_out))
    start, notes = edge, list[str]()
    kept: dict[str, Examples] = {}
    for name, examples in candidates.items():
        places = start + np.arange(len(examples))
        exact, near = (side[places] < places for side in groups)
        if near.all() and len(examples):
            raise ValueError(
                f"data.drop_duplicates leaves no example of {name}: all {len(examples):,} repeat a held-out example or "
                "another one; look at them with: tlx data"
            )
        kept[name] = examples.view(np.flatnonzero(~near)) if near.any() else examples
        if near.any():
            count, equal, held = int(near.sum()), int(exact.sum()), int((groups.near[places] < start).sum())
            notes.append(
                f"data.drop_duplicates left out {count:,} of {len(examples):,} examples of {name} ({equal:,} exact and "
                f"{count - equal:,} near duplicates): {held:,} repeat a held-out example, {count - held:,} another one "
                f"of {name}"
            )
        start += len(examples)
    return kept, notes


def all_groups(parts: Sequence[Examples]) -> Groups:
    """Return the groups of all examples. Those of data on disk are stored there."""
    sha = hashlib.sha256(f"{VERSION}".encode())
    for part in parts:
        sha.update(f"{part.key} {part.split} {len(part)}".encode() + part.rows.astype(np.int64).tobytes())
    file = cache_dir() / "duplicates" / f"{sha.hexdigest()[:24]}.npy"
    stored = all(part.key for part in parts)
    if stored and file.is_file():
        return Groups(*np.load(file, allow_pickle=False))
    groups = grouped([computed(part, part.rows, looked_at=None) for part in parts])
    if stored:
        save_whole(file, np.stack(groups))
    return groups
