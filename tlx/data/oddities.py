"""What is odd about the data of a run and yet no mistake: each is a note in its output, its result and its page.

Shapes: N examples.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tlx.assets import cache_dir
from tlx.data.examples import Sealed, many, save_whole
from tlx.processors.base import Processor, shown
from tlx.processors.columns import HEAVY, inputs

if TYPE_CHECKING:
    from tlx.data.examples import Examples
    from tlx.data.settings import Data
    from tlx.data.streams import Splits

# No more inputs of a split than this are compared, and no more of its texts are measured.
COMPARED, MEASURED = 10_000, 500
# A share of texts below this may be cut without a note.
FEW = 0.01


def notes(data: Data, splits: Splits, batch: int, processor: Processor | None = None) -> list[str]:
    """Return a sentence for everything that is odd about the data, none of which is a mistake for certain.

    That is: no test split, or another in its place; a training stream of fewer examples than a `batch`; classes without
    examples, or one label for all; inputs that are all the same, that are empty, or that lie in two splits; and texts
    that the `processor` cuts. Of large splits a sample is compared, and the sentence says so. A sealed split is not
    looked at.
    """
    read = read_of(splits)
    found = [*splits.notes, *of_the_test(data, splits)]
    for name, examples in read.items():
        found += of_labels(data, splits, name, examples, batch)
    found += of_inputs(splits, read)
    return found + (of_lengths(read, processor) if processor is not None and processor.longest else [])


def read_of(splits: Splits) -> dict[str, Examples]:
    """The examples that a run may read, by what they are called in a sentence."""
    alone = list(splits.streams) == ["labelled"]
    streams = {"train": splits.train} if alone else dict(splits.streams)
    held = {"validation": splits.validation, "test": splits.test, **splits.tests}
    return streams | {name: own for name, own in held.items() if not isinstance(own, Sealed)}


def take_over(splits: Splits, known: Splits) -> None:
    """Let runs on the same examples share the measurements that `notes` makes, so that each is made once.

    Args:
        splits: The splits of the new run; its examples get the measurements of `known`.
        known: The splits of an earlier run. Examples with other rows or another perturbation share nothing.
    """
    if splits.fingerprint != known.fingerprint:
        return
    for name, examples in splits.named.items():
        other = known.named.get(name)
        if other is not None and (examples.split, examples.identity) == (other.split, other.identity):
            examples.measured = other.measured


def of_the_test(data: Data, splits: Splits) -> list[str]:
    """What is measured as the test, where that is not the test split of the data set."""
    if splits.untested:
        return [f"nothing is measured as test: {splits.untested}"]
    if data.test_on == "validation":
        return [
            f"test is the validation split of {shown(data.target)}, as data.test_on asks; the checkpoint is chosen on "
            f"{len(splits.validation):,} training examples that are held out"
        ]
    return []


def of_labels(data: Data, splits: Splits, name: str, examples: Examples, batch: int) -> list[str]:
    """What is odd about the number and the labels of some examples."""
    found, held_out, source = [], name in ("validation", "test", *splits.tests), name in data.sources
    if not held_out and len(examples) < batch:
        count = f"{len(examples)} example{'s' if len(examples) > 1 else ''}"
        found.append(f"{name} has {count}, fewer than a batch of {batch}: a step takes some more than once")
    if not examples.labelled or not examples.scalar:
        return found
    labels = examples.labels()
    present = set(labels.tolist())
    if examples.kind == "number":
        if len(present) == 1 and len(labels) > 1:
            found.append(f"all {len(labels):,} labels of {name} are {labels[0]:g}")
        return found
    if len(present) == 1 and len(labels) > 1:
        found.append(f"all {len(labels):,} labels of {name} are {splits.classes[int(labels[0])]!r}")
    if not (data.source_classes if source else data.target_classes):
        missing = [repr(own) for number, own in enumerate(splits.classes) if number not in present]
        if missing:
            more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
            which = f"class{'es' if len(missing) > 1 else ''} {', '.join(missing[:8])}{more}"
            found.append(f"{name} has no example of {which} of {len(splits.classes)}")
    return found


def of_inputs(splits: Splits, read: Mapping[str, Examples]) -> list[str]:
    """What is odd about the inputs as they lie on disk, before they are perturbed: compared byte by byte, texts without
    the space around them."""
    found: list[str] = []
    known: dict[str, tuple[np.ndarray, str]] = {}
    columns = inputs(splits.columns)
    empty = digest([b""] * len(columns)) if {column.kind for column in columns.values()} == {"text"} else None
    for name, examples in read.items():
        if name == "labelled" and "unlabelled" in read:
            # That stream is of all training examples of the target, these among them.
            continue
        own = digests(examples)
        sampled = "" if len(own) == len(examples) else f" of the {len(own):,} looked at"
        filled = own[own != empty] if empty is not None else own
        known[name] = filled, sampled
        if len(filled) < len(own):
            found.append(f"{len(own) - len(filled):,} of {len(own):,} texts of {name}{sampled} are empty")
        elif len(own) > 1 and (own == own[0]).all():
            found.append(f"all {len(own):,} inputs of {name}{sampled} are the same")
    # A test set may well be a part of another one.
    tested = {"test", *splits.tests}
    for held in ("validation", "test", *splits.tests):
        for name in known if held in known else ():
            if name == held or name in tested:
                continue
            own, sampled = known[held]
            other, also = known[name]
            if copies := int(np.isin(own, other).sum()):
                looked = f" (of those looked at: {len(own):,} and {len(other):,})" if sampled or also else ""
                found.append(f"{copies:,} of {len(own):,} inputs of {held} are also in {name}{looked}")
    return found


def of_lengths(read: Mapping[str, Examples], processor: Processor) -> list[str]:
    """Where a share of the texts is longer than the processor reads."""
    found = []
    for name, examples in read.items():
        if (share := cut_share(examples, processor)) >= FEW:
            looked = min(len(examples), MEASURED)
            which, verb = ("every text", "is") if share == 1 else (f"{share:.0%} of the texts", "are")
            sampled = f" (of {looked:,} looked at)" if looked < len(examples) else ""
            found.append(f"{which} of {name} {verb} cut at {processor.longest} tokens (data.tokens){sampled}")
    return found


def sample(examples: Examples, most: int) -> np.ndarray:
    """At most so many positions of the examples, always the same, ascending."""
    if len(examples) <= most:
        return np.arange(len(examples))
    order = np.argsort(np.random.Generator(np.random.PCG64(0)).random(len(examples)), kind="stable")
    return np.sort(order[:most])


def cut_share(examples: Examples, processor: Processor) -> float:
    """The share of texts, of at most `MEASURED`, that are longer than the processor reads."""
    key = ("cut", json.dumps(processor.identity, sort_keys=True))
    if key not in examples.measured:
        read = examples.light if not set(HEAVY) & set(processor.reads) else examples.__getitem__
        cut = [processor.cuts(read(int(position))) for position in sample(examples, MEASURED)]
        examples.measured[key] = float(np.mean(cut))
    return float(examples.measured[key])


def digest(parts: Sequence[bytes]) -> int:
    """64 bits of the inputs of one example."""
    told = hashlib.blake2b(digest_size=8)
    for part in parts:
        told.update(len(part).to_bytes(8, "little") + part)
    return int.from_bytes(told.digest(), "little")


def digests(examples: Examples) -> np.ndarray:
    """uint64[N]: the digest of the inputs of each example, of at most `COMPARED`. Kept on disk, as labels are."""
    if "digests" in examples.measured:
        return np.asarray(examples.measured["digests"])
    rows = examples.rows[sample(examples, COMPARED)]
    told = hashlib.sha256(rows.astype(np.int64).tobytes()).hexdigest()[:16]
    file = cache_dir() / "digests" / f"{examples.key}-{examples.split}-{told}.npy"
    if examples.key and file.is_file():
        found = np.load(file, allow_pickle=False)
    else:
        found = np.array([digest(raw(record, examples)) for record in records(examples, rows)], np.uint64)
        if examples.key:
            save_whole(file, found)
    examples.measured["digests"] = found
    return np.asarray(found)


def records(examples: Examples, rows: np.ndarray) -> Iterator[Mapping[str, Any]]:
    """The records at these rows, as they lie on disk."""
    for start in range(0, len(rows), 1024):
        yield from many(examples.source, rows[start : start + 1024].tolist())


def raw(record: Mapping[str, Any], examples: Examples) -> list[bytes]:
    """The inputs of a record as bytes."""
    parts = []
    for name, column in inputs(examples.columns).items():
        content = record[name]
        if column.kind == "text":
            parts.append((content.encode() if isinstance(content, str) else bytes(content)).strip())
        elif isinstance(content, str | bytes):
            parts.append(content.encode() if isinstance(content, str) else content)
        elif isinstance(content, np.ndarray):
            parts += [str((content.dtype, content.shape)).encode(), content.tobytes()]
        else:
            parts.append(repr(content).encode())
    return parts
