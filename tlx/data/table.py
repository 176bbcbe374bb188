"""Rows of numbers by example, in the place of inputs: the outputs of a frozen prefix of a model, computed once.

A table lies on disk in shards that are never changed. A shard holds `indices.npy` int64[N] (places in the whole split),
`lengths.npy` int32[N] for text, and `leaf-0.npy`, `leaf-1.npy`, ..., read through memory maps. A leaf has either one
row for each example, [N, ...], or one row for each token, all examples end to end, [sum of lengths + extra N, ...].
`checksums.json` has the sha256 of each of these files. Each process compares them once, and does not read a shard that
differs.

Shapes: B batch, T tokens, N rows of a shard.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tlx.data.collate import stacked
from tlx.files.durable import sha256_of, sha256_once, sync_path, sync_tree
from tlx.types import Field

CHECKSUMS = "checksums.json"


class Leaf(NamedTuple):
    """An entry of a batch: its `path` of keys, whether it has a row for each token, and how many `extra` tokens it has
    beyond the text."""

    path: tuple[str, ...]
    tokens: bool
    extra: int = 0


class DamagedShard(ValueError):
    """A file of a shard is missing or differs from its checksum."""


class Shard:
    """One shard. Its arrays are mapped at construction: a deleted file stays readable for a process that has it open.

    Raises:
        DamagedShard: A file is missing or differs from its checksum; the message names it.
    """

    def __init__(self, folder: Path, leaves: Sequence[Leaf]):
        self.folder, self.leaves = folder, leaves
        check_files(folder)
        try:
            self.arrays = [np.load(folder / f"leaf-{n}.npy", mmap_mode="r") for n in range(len(leaves))]
            self.indices = np.load(folder / "indices.npy")
            lengths = folder / "lengths.npy"
            self.lengths = np.load(lengths) if lengths.is_file() else None
        except (ValueError, EOFError, FileNotFoundError) as error:
            raise DamagedShard(f"{folder} is damaged: {error}") from error

    @cached_property
    def starts(self) -> list[np.ndarray]:
        """Return, for every leaf, the row at which the tokens of each example begin."""
        lengths = np.zeros(len(self.indices), np.int64) if self.lengths is None else self.lengths.astype(np.int64)
        starts = []
        for leaf in self.leaves:
            sizes = lengths + leaf.extra
            starts.append(np.cumsum(sizes) - sizes)
        return starts


def check_files(folder: Path) -> None:
    """Compare every file of a shard with its checksum. Raises DamagedShard where one is missing, cut or changed."""
    try:
        checksums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        for name, digest in checksums.items():
            if sha256_once(folder / name) != digest:
                raise DamagedShard(f"{folder / name} is damaged: its checksum does not match")
    except FileNotFoundError as error:
        raise DamagedShard(f"{folder} is damaged: {error.filename} is missing") from error
    except PermissionError:
        raise
    except OSError as error:
        raise DamagedShard(f"{folder} is not readable: {error.strerror}") from error
    except (ValueError, AttributeError, TypeError) as error:
        if isinstance(error, DamagedShard):
            raise
        raise DamagedShard(f"{folder / CHECKSUMS} is damaged: {error}") from error


class Table:
    """The rows of one split, in the place of a processor.

    With `views` above 1 an example has this many rows, numbered `index * views + view`. `processor` is the processor
    that made the inputs, for labels that depend on it.
    """

    # The rows are augmented already, in fixed ways.
    augments = True

    def __init__(self, folder: Path, leaves: Sequence[Leaf], views: int = 1, processor: Any = None):
        self.folder, self.leaves, self.views, self.processor = folder, tuple(leaves), views, processor
        self.shards: list[Shard] = []
        self.damaged: dict[Path, str] = {}
        for path in sorted(folder.glob("shard-*")) if folder.is_dir() else []:
            try:
                self.shards.append(Shard(path, self.leaves))
            except DamagedShard as error:
                self.damaged[path] = str(error)
        # By index: the number of the shard and the row in it, -1 where there is none, and the length of the text.
        most = max((int(shard.indices.max()) for shard in self.shards if len(shard.indices)), default=-1)
        self.places = np.full((most + 1, 2), -1, np.int64)
        self.sizes = np.zeros(most + 1, np.int32)
        for number, shard in reversed(list(enumerate(self.shards))):
            self.places[shard.indices] = np.stack(
                [np.full(len(shard.indices), number), np.arange(len(shard.indices))], 1
            )
            if shard.lengths is not None:
                self.sizes[shard.indices] = shard.lengths

    def missing(self, indices: np.ndarray) -> np.ndarray:
        """Return the entries of `indices` that the table does not have."""
        indices = np.asarray(indices, np.int64)
        present = indices < len(self.places)
        present[present] = self.places[indices[present], 0] >= 0
        return indices[~present]

    @property
    def ragged(self) -> bool:
        """Return whether the size of a row depends on its text."""
        return any(leaf.tokens for leaf in self.leaves)

    @property
    def texts(self) -> bool:
        """Return whether the examples are texts, which have lengths."""
        return any(shard.lengths is not None for shard in self.shards)

    def lengths(self, indices: np.ndarray) -> np.ndarray:
        """Return the number of tokens of each of these texts, int32."""
        return self.sizes[indices]

    def gather(self, indices: np.ndarray, length: int = 0) -> dict[str, Any]:
        """Return the rows of these examples as the entries of a batch: [B, ...], and for token leaves [B, length +
        extra, ...] with zeros behind the text."""
        places = self.places[indices]
        batch: dict[str, Any] = {}
        for n, leaf in enumerate(self.leaves):
            array = self._tokens(n, places, length) if leaf.tokens else self._rows(n, places)
            node = batch
            for name in leaf.path[:-1]:
                node = node.setdefault(name, {})
            node[leaf.path[-1]] = array
        return batch

    def _rows(self, n: int, places: np.ndarray) -> np.ndarray:
        first = self.shards[0].arrays[n]
        rows = np.empty((len(places), *first.shape[1:]), first.dtype)
        for number in np.unique(places[:, 0]).tolist():
            mine = places[:, 0] == number
            rows[mine] = self.shards[number].arrays[n][places[mine, 1]]
        return rows

    def _tokens(self, n: int, places: np.ndarray, length: int) -> np.ndarray:
        first, extra = self.shards[0].arrays[n], self.leaves[n].extra
        rows = []
        for number, row in places.tolist():
            shard = self.shards[number]
            start = int(shard.starts[n][row])
            count = (0 if shard.lengths is None else int(shard.lengths[row])) + extra
            rows.append(shard.arrays[n][start : start + count])
        field = Field((None, *first.shape[1:]), first.dtype)
        return stacked("/".join(self.leaves[n].path), rows, field, length + extra)

    def opened_again(self) -> Table:
        """Return the table with all shards that its folder has now."""
        return Table(self.folder, self.leaves, self.views, self.processor)

    @property
    def next_number(self) -> int:
        """Return the number of the next shard."""
        numbers = [int(path.name.removeprefix("shard-")) for path in self.folder.glob("shard-*")]
        return max(numbers, default=-1) + 1

    def remove_damaged(self) -> None:
        """Delete the damaged shards."""
        for path in self.damaged:
            shutil.rmtree(path, ignore_errors=True)

    def grown(
        self,
        indices: np.ndarray,
        lengths: np.ndarray | None,
        arrays: Sequence[np.ndarray],
        number: int | None = None,
    ) -> Table:
        """Return the table with one more shard. The shard is written whole or not at all, and synced before it counts.

        The caller holds the lock of the folder. Damaged shards are deleted. `number` is the number of the shard, by
        default the next one.

        Raises:
            OSError: The disk cannot store the shard; no part of it stays.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.remove_damaged()
        partial = Path(tempfile.mkdtemp(dir=self.folder, prefix=".partial-"))
        try:
            np.save(partial / "indices.npy", indices.astype(np.int64))
            if lengths is not None:
                np.save(partial / "lengths.npy", lengths.astype(np.int32))
            for n, array in enumerate(arrays):
                np.save(partial / f"leaf-{n}.npy", array)
            checksums = {path.name: sha256_of(path) for path in sorted(partial.iterdir())}
            (partial / CHECKSUMS).write_text(json.dumps(checksums, indent=2) + "\n", encoding="utf-8")
            sync_tree(partial)
            os.replace(partial, self.folder / f"shard-{self.next_number if number is None else number:05d}")
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        sync_path(self.folder)
        return self.opened_again()
