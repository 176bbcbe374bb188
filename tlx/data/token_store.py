"""Keep the tokens of examples on disk: they are made once, in parallel, and mapped into memory afterwards.

A store holds the inputs of every example of a view end to end. It is made where all examples of a view are needed, by
its content, its rows and the processor, so the next run on the same data tokenises nothing.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlx.data.waiting import Waiting
from tlx.processors.base import Inputs, Processor
from tlx.processors.columns import HEAVY

if TYPE_CHECKING:
    from tlx.data.examples import Examples

log = logging.getLogger(__name__)

# Examples that are tokenised together.
CHUNK = 4096
# A view with fewer examples is tokenised as it is read.
FEWEST = 512


def can_store(examples: Examples, processor: Processor) -> bool:
    """Return whether a store can keep these inputs: sequences of integers, of light examples with a known content."""
    fields = processor.fields.values()
    sequences = all(field.shape == (None,) and np.issubdtype(np.dtype(field.dtype), np.integer) for field in fields)
    return bool(examples.key) and len(examples) >= FEWEST and sequences and not set(HEAVY) & set(processor.reads)


class TokenStore:
    """The inputs of the examples of a view: `store[position]` returns arrays that are mapped into memory."""

    def __init__(self, folder: Path):
        document = json.loads((folder / "store.json").read_text(encoding="utf-8"))
        self.offsets = np.load(folder / "offsets.npy", allow_pickle=False)
        self.types: dict[str, np.dtype[Any]] = {name: np.dtype(kind) for name, kind in document["fields"].items()}
        # A field with one value everywhere, such as a mask of ones, has no file.
        self.constants: dict[str, int] = document["constants"]
        self.arrays = {
            name: np.memmap(folder / f"{name}.bin", dtype=document["stored"][name], mode="r")
            for name in self.types
            if name not in self.constants
        }

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, position: int) -> Inputs:
        first, last = int(self.offsets[position]), int(self.offsets[position + 1])
        return {
            name: np.full(last - first, self.constants[name], kind)
            if name in self.constants
            else np.asarray(self.arrays[name][first:last], kind)
            for name, kind in self.types.items()
        }

    @property
    def lengths(self) -> np.ndarray:
        """Return int32[N], the length of each example."""
        return np.diff(self.offsets).astype(np.int32)


def opened_store(examples: Examples, processor: Processor, folder: Path) -> TokenStore | None:
    """Return the store in a folder, made first where it is missing; None where the disk does not take it."""
    try:
        if not (folder / "store.json").is_file():
            write_store(examples, processor, folder)
        return TokenStore(folder)
    except OSError as error:
        # The store only saves time: a full or read-only disk must not stop a run.
        log.warning("the tokens of %s %s are not kept (%s)", examples.name, examples.split, error)
        return None


def write_store(examples: Examples, processor: Processor, folder: Path) -> None:
    """Tokenise all examples of a view and write the store at once: it is complete, or it does not exist."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    say = Waiting(f"tokenising {examples.name} {examples.split} once", "examples", len(examples))
    part = Path(tempfile.mkdtemp(dir=folder.parent, suffix=".part"))
    try:
        types = {name: np.dtype(field.dtype) for name, field in processor.fields.items()}
        stored = {name: str(smallest(name, processor) or kind) for name, kind in types.items()}
        lowest, highest = dict.fromkeys(types, 2**62), dict.fromkeys(types, -(2**62))
        lengths = []
        streams = {name: (part / f"{name}.bin").open("wb") for name in types}
        for start in range(0, len(examples), CHUNK):
            positions = range(start, min(start + CHUNK, len(examples)))
            rows = processor.many([examples.light(position) for position in positions])
            lengths += [len(row[next(iter(types))]) for row in rows]
            for name, stream in streams.items():
                values = np.concatenate([row[name] for row in rows])
                if values.size:
                    lowest[name] = min(lowest[name], int(values.min()))
                    highest[name] = max(highest[name], int(values.max()))
                values.astype(stored[name]).tofile(stream)
            say(start + len(positions))
        for stream in streams.values():
            stream.close()
        constants = {name: lowest[name] for name in types if lowest[name] == highest[name]}
        for name in constants:
            (part / f"{name}.bin").unlink()
        np.save(part / "offsets.npy", np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
        fields = {name: str(kind) for name, kind in types.items()}
        document = {"fields": fields, "stored": stored, "constants": constants}
        (part / "store.json").write_text(json.dumps(document), encoding="utf-8")
        if not folder.exists():
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def smallest(name: str, processor: Processor) -> np.dtype[Any] | None:
    """Return the smallest type for the numbers below the limit of a field, None where the processor states none."""
    limits = processor.limits
    return np.dtype(np.min_scalar_type(limits[name] - 1)) if name in limits else None
