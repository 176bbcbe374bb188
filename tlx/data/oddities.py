"""Find oddities in the data of a run that are not mistakes. Each is a note in its output, its result and its page.

Shapes: N examples.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tlx.assets import cache_dir
from tlx.data.examples import Sealed, many, save_whole
from tlx.processors.base import Processor, format_source
from tlx.processors.columns import HEAVY, inputs
from tlx.trees import Example

if TYPE_CHECKING:
    from tlx.data.examples import Examples
    from tlx.data.settings import Data
    from tlx.data.streams import Splits

# No more inputs of a split than this are compared, and no more of its texts are measured.
COMPARED, MEASURED = 10_000, 500
# A share of texts below this may be cut without a note.
FEW = 0.01


def notes(data: Data, splits: Splits, batch: int, processor: Processor | None = None) -> list[str]:
    """Return a sentence for every oddity of the data; none of them is certainly a mistake.

    Oddities are: no test split, or another split in its place; a training stream with fewer examples than a `batch`;
    classes without examples, or one label for all; inputs that are all the same, that are empty, or that lie in two
    splits; and texts that the `processor` cuts. Of large splits a sample is compared, and the sentence says so. A
    sealed split is not read.
    """
    read = read_of(splits)
    sentences = [*splits.notes, *of_the_test(data, splits)]
    for name, examples in read.items():
        sentences += of_labels(data, splits, name, examples, batch)
    sentences += of_inputs(splits, read)
    return sentences + (of_lengths(read, processor) if processor is not None and processor.longest else [])


def read_of(splits: Splits) -> dict[str, Examples]:
    """Return the examples that a run may read, by their name in a sentence."""
    alone = list(splits.streams) == ["labelled"]
    streams = {"train": splits.train} if alone else dict(splits.streams)
    held_out = {"validation": splits.validation, "test": splits.test, **splits.tests}
    return streams | {name: examples for name, examples in held_out.items() if not isinstance(examples, Sealed)}


def take_over(splits: Splits, previous: Splits) -> None:
    """Share the measurements of `notes` between runs on the same examples, so that each is made once.

    Args:
        splits: The splits of the new run; its examples get the measurements of `previous`.
        previous: The splits of an earlier run. Examples with other rows or another perturbation share nothing.
    """
    if splits.fingerprint != previous.fingerprint:
        return
    for name, examples in splits.by_name.items():
        earlier = previous.by_name.get(name)
        if earlier is not None and (examples.split, examples.identity) == (earlier.split, earlier.identity):
            examples.measured = earlier.measured


def of_the_test(data: Data, splits: Splits) -> list[str]:
    """Return a note where the measured test is not the test split of the data set."""
    if splits.untested:
        return [f"this run has no test score: {splits.untested}"]
    if data.test_on == "validation":
        return [
            (
                f"the test examples are the validation split of {format_source(data.target)}, because "
                f"data.test_on='validation'; the checkpoint is chosen on {len(splits.validation):,} held-out training "
                "examples"
            )
        ]
    return []


def of_labels(data: Data, splits: Splits, name: str, examples: Examples, batch: int) -> list[str]:
    """Return notes on the number and the labels of some examples."""
    batch = data.batches.get(name) or batch
    sentences, held_out, source = [], name in ("validation", "test", *splits.tests), name in data.sources
    if not held_out and len(examples) < batch:
        count = f"{len(examples)} example{'s' if len(examples) > 1 else ''}"
        sentences.append(
            f"{name} has {count}, fewer than the batch size {batch}: one step uses some examples more than once"
        )
    if not examples.labelled or not examples.scalar:
        return sentences
    labels = examples.labels()
    present = set(labels.tolist())
    if examples.kind == "number":
        if len(present) == 1 and len(labels) > 1:
            sentences.append(f"all {len(labels):,} labels of {name} are {labels[0]:g}")
        return sentences
    if len(present) == 1 and len(labels) > 1:
        sentences.append(f"all {len(labels):,} labels of {name} are {splits.classes[int(labels[0])]!r}")
    if not (data.source_classes if source else data.target_classes):
        missing = [repr(class_name) for number, class_name in enumerate(splits.classes) if number not in present]
        if missing:
            more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
            which = f"class{'es' if len(missing) > 1 else ''} {', '.join(missing[:8])}{more}"
            sentences.append(f"{name} has no example of {which} (of {len(splits.classes)} classes)")
    return sentences


def of_inputs(splits: Splits, read: Mapping[str, Examples]) -> list[str]:
    """Return notes on the inputs on disk, before they are perturbed.

    They are compared byte by byte, texts without the space around them.
    """
    sentences: list[str] = []
    by_name: dict[str, tuple[np.ndarray, str]] = {}
    columns = inputs(splits.columns)
    empty = digest([b""] * len(columns)) if {column.kind for column in columns.values()} == {"text"} else None
    for name, examples in read.items():
        if name == "labelled" and "unlabelled" in read:
            # The stream `unlabelled` holds all training examples of the target, also the labelled ones.
            continue
        hashes = digests(examples)
        sampled = "" if len(hashes) == len(examples) else f" (in a sample of {len(hashes):,})"
        filled = hashes[hashes != empty] if empty is not None else hashes
        by_name[name] = filled, sampled
        if len(filled) < len(hashes):
            sentences.append(f"{len(hashes) - len(filled):,} of {len(hashes):,} texts of {name}{sampled} are empty")
        elif len(hashes) > 1 and (hashes == hashes[0]).all():
            sentences.append(f"all {len(hashes):,} inputs of {name}{sampled} are the same")
    # A test set may well be a part of another one.
    tested = {"test", *splits.tests}
    for held_out in ("validation", "test", *splits.tests):
        for name in by_name if held_out in by_name else ():
            if name == held_out or name in tested:
                continue
            hashes, sampled = by_name[held_out]
            other_hashes, other_sampled = by_name[name]
            if copies := int(np.isin(hashes, other_hashes).sum()):
                looked = (
                    f" (in samples of {len(hashes):,} and {len(other_hashes):,})" if sampled or other_sampled else ""
                )
                sentences.append(f"{copies:,} of {len(hashes):,} inputs of {held_out} are also in {name}{looked}")
    return sentences


def of_lengths(read: Mapping[str, Examples], processor: Processor) -> list[str]:
    """Return notes where a share of the texts is longer than the processor reads."""
    sentences = []
    for name, examples in read.items():
        if (share := cut_share(examples, processor)) >= FEW:
            count = min(len(examples), MEASURED)
            which, verb = ("every text", "is") if share == 1 else (f"{share:.0%} of the texts", "are")
            sampled = f" (in a sample of {count:,})" if count < len(examples) else ""
            sentences.append(f"{which} of {name} {verb} cut at {processor.longest} tokens (data.tokens){sampled}")
    return sentences


def sample(examples: Examples, most: int) -> np.ndarray:
    """Return at most `most` positions of the examples, always the same, ascending."""
    if len(examples) <= most:
        return np.arange(len(examples))
    order = np.argsort(np.random.Generator(np.random.PCG64(0)).random(len(examples)), kind="stable")
    return np.sort(order[:most])


def cut_share(examples: Examples, processor: Processor) -> float:
    """Return the share of texts, of at most `MEASURED`, that are longer than the processor reads."""
    key = ("cut", json.dumps(processor.identity, sort_keys=True))
    if key not in examples.measured:
        read = examples.light if not set(HEAVY) & set(processor.reads) else examples.__getitem__
        cut = [processor.cuts(read(int(position))) for position in sample(examples, MEASURED)]
        examples.measured[key] = float(np.mean(cut))
    return float(examples.measured[key])


def digest(parts: Sequence[bytes]) -> int:
    """Return a 64-bit hash of the inputs of one example."""
    hasher = hashlib.blake2b(digest_size=8)
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little") + part)
    return int.from_bytes(hasher.digest(), "little")


def digests(examples: Examples) -> np.ndarray:
    """Return uint64[N], the digest of the inputs of each example, of at most `COMPARED`. They are stored on disk like
    labels."""
    if "digests" in examples.measured:
        return np.asarray(examples.measured["digests"])
    rows = examples.rows[sample(examples, COMPARED)]
    rows_hash = hashlib.sha256(rows.astype(np.int64).tobytes()).hexdigest()[:16]
    file = cache_dir() / "digests" / f"{examples.key}-{examples.split}-{rows_hash}.npy"
    if examples.key and file.is_file():
        hashes = np.load(file, allow_pickle=False)
    else:
        hashes = np.array([digest(raw(record, examples)) for record in records(examples, rows)], np.uint64)
        if examples.key:
            save_whole(file, hashes)
    examples.measured["digests"] = hashes
    return np.asarray(hashes)


def records(examples: Examples, rows: np.ndarray) -> Iterator[Example]:
    """Return the records at these rows, as they lie on disk."""
    for start in range(0, len(rows), 1024):
        yield from many(examples.source, rows[start : start + 1024].tolist())


def raw(record: Example, examples: Examples) -> list[bytes]:
    """Return the inputs of a record as bytes."""
    parts = []
    for name, column in inputs(examples.columns).items():
        # A missing cell is an error where the example is read.
        content = record.get(name)
        if content is None:
            continue
        if column.kind == "text":
            parts.append((content.encode() if isinstance(content, str) else bytes(content)).strip())
        elif isinstance(content, str | bytes):
            parts.append(content.encode() if isinstance(content, str) else content)
        elif isinstance(content, np.ndarray):
            parts += [str((content.dtype, content.shape)).encode(), content.tobytes()]
        else:
            parts.append(repr(content).encode())
    return parts
