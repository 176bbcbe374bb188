"""Find oddities in the data of a run that are not mistakes. Each is a note in its output, its result and its page.

Shapes: N examples.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from tlx.data.duplicates import Groups, Sketch, grouped, sample, sketched
from tlx.data.examples import Sealed
from tlx.data.members import first_mixture
from tlx.processors.base import Processor, format_source
from tlx.processors.columns import HEAVY

if TYPE_CHECKING:
    from tlx.data.examples import Examples
    from tlx.data.settings import Data
    from tlx.data.streams import Splits

# No more texts of a split than this are measured.
MEASURED = 500
# The stream of labelled examples beside that of all training examples.
LABELLED = ("labelled", True)
# A share of texts below this may be cut without a note.
FEW = 0.01


def notes(data: Data, splits: Splits, batch: int, processor: Processor | None = None) -> list[str]:
    """Return a sentence for every oddity of the data; none of them is certainly a mistake.

    Oddities are: the rates of a mixture; no test split, or another split in its place; a training stream with fewer
    examples than a `batch`; classes without examples, or one label for all; inputs that are all the same, that are
    empty, or that occur twice, exactly or nearly; and texts that the `processor` cuts. Of large splits a sample is
    compared, and the sentence says so. A sealed split is not read.
    """
    read = read_of(splits)
    sentences = [*splits.notes, *of_the_test(data, splits), *of_the_mixture(splits)]
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


def of_the_mixture(splits: Splits) -> list[str]:
    """Return a note with the rates at which training draws the members of a mixture."""
    mixture = first_mixture(splits.streams)
    if mixture is None or mixture.members is None:
        return []
    members = mixture.members
    listed = zip(members.names, members.rates.tolist(), members.counts.tolist(), strict=True)
    shares = ", ".join(f"{rate:.1%} {name} ({count:,} examples)" for name, rate, count in listed)
    return [f"training draws {shares}"]


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
    """Return notes on the inputs on disk, before they are perturbed: empty texts, and inputs that occur twice, exactly
    or nearly, in one split or in two (see `tlx.data.duplicates`)."""
    parts = compared(read)
    sentences: list[str] = []
    for name, part in parts.items():
        count, sampled = len(part.sketch.content), part.sampled(len(part.sketch.content))
        if part.sketch.empty.any():
            sentences.append(f"{int(part.sketch.empty.sum()):,} of {count:,} texts of {name}{sampled} are empty")
        elif count > 1 and (part.groups.exact == part.groups.exact[0]).all():
            sentences.append(f"all {count:,} inputs of {name}{sampled} are the same")
            continue
        sentences += within(name, part)
    # A test set may well be a part of another one.
    tested = {"test", *splits.tests}
    for held_out in ("validation", "test", *splits.tests):
        for name in parts if held_out in parts else ():
            if name != held_out and name not in tested:
                sentences += across(held_out, name, parts[held_out], parts[name])
    return sentences


class Compared(NamedTuple):
    """The inputs of a split that are compared: the `examples`, the positions of the compared ones, their sketch, and
    their groups over all splits."""

    examples: Examples
    positions: np.ndarray
    sketch: Sketch
    groups: Groups

    def sampled(self, count: int) -> str:
        """Return the size of the sample in words; empty where all examples are in it."""
        return "" if count == len(self.examples) else f" (in a sample of {count:,})"


def compared(read: Mapping[str, Examples]) -> dict[str, Compared]:
    """Return the inputs that are compared, by the name of their split. The stream `unlabelled` holds all training
    examples of the target, also the labelled ones."""
    chosen = {name: part for name, part in read.items() if len(part) and (name, "unlabelled" in read) != LABELLED}
    positions = [sample(examples) for examples in chosen.values()]
    sketches = [sketched(*pair) for pair in zip(chosen.values(), positions, strict=True)]
    if not sketches:
        return {}
    memory = next(iter(chosen.values())).measured
    key = ("groups", tuple(hash(sketch.content.tobytes()) for sketch in sketches))
    if key not in memory:
        memory[key] = grouped(sketches).split([len(sketch.content) for sketch in sketches])
    return {
        name: Compared(chosen[name], places[: len(sketch.content)], sketch, groups)
        for name, places, sketch, groups in zip(chosen, positions, sketches, memory[key], strict=True)
    }


def within(name: str, part: Compared) -> list[str]:
    """Return a note on the inputs of a split that repeat another one of it."""
    count, near_count = len(part.sketch.content), len(part.sketch.decoded)
    exact = repeated(part.groups.exact)
    near = repeated(part.groups.near[:near_count]) & ~exact[:near_count]
    if not exact.any() and not near.any():
        return []
    remedy = "" if name == "test" else ", which data.drop_duplicates=True leaves out"
    pieces = []
    if exact.any():
        labels = part.examples.labels()[part.positions] if part.examples.labelled and part.examples.scalar else None
        other = 0 if labels is None else int((labels != first_of(labels, part.groups.exact))[exact].sum())
        labelled = f", {other:,} of them with another label" if other else ""
        verb = "repeats" if exact.sum() == 1 else "repeat"
        pieces.append(
            f"{int(exact.sum()):,} of {count:,} inputs of {name}{part.sampled(count)} {verb} another one{labelled}"
        )
    if near.any():
        sampled = part.sampled(near_count)
        verb = "repeats" if near.sum() == 1 else "repeat"
        pieces.append(f"{int(near.sum()):,} of {near_count:,} inputs of {name}{sampled} nearly {verb} another one")
    return [f"{piece}{remedy}" for piece in pieces]


def repeated(groups: np.ndarray) -> np.ndarray:
    """Return bool[N], the members of a group beyond its first in this split."""
    is_repeated = np.ones(len(groups), bool)
    is_repeated[np.unique(groups, return_index=True)[1]] = False
    return is_repeated


def first_of(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return [N], the value of the first member of the group of each input."""
    _, first, of = np.unique(groups, return_index=True, return_inverse=True)
    return values[first[of]]


def across(held_out: str, name: str, part: Compared, other: Compared) -> list[str]:
    """Return notes on the inputs of a held-out split that are also in another split."""
    sentences = []
    counts = len(part.sketch.content), len(other.sketch.content)
    exact = np.isin(part.groups.exact, other.groups.exact)
    if exact.any():
        copies = f"{int(exact.sum()):,} of {counts[0]:,} inputs of {held_out} are also in {name}"
        sentences.append(f"{copies}{of_both(part, other, counts)}")
    near_counts = len(part.sketch.decoded), len(other.sketch.decoded)
    near = np.isin(part.groups.near[: near_counts[0]], other.groups.near[: near_counts[1]]) & ~exact[: near_counts[0]]
    if near.any():
        copies = f"{int(near.sum()):,} of {near_counts[0]:,} inputs of {held_out} are nearly the same as one in {name}"
        sentences.append(f"{copies}{of_both(part, other, near_counts)}")
    return sentences


def of_both(part: Compared, other: Compared, counts: tuple[int, int]) -> str:
    """Return the sizes of two samples in words; empty where all examples are in them."""
    if counts == (len(part.examples), len(other.examples)):
        return ""
    return f" (in samples of {counts[0]:,} and {counts[1]:,})"


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


def cut_share(examples: Examples, processor: Processor) -> float:
    """Return the share of texts, of at most `MEASURED`, that are longer than the processor reads."""
    key = ("cut", json.dumps(processor.identity, sort_keys=True))
    if key not in examples.measured:
        read = examples.light if not set(HEAVY) & set(processor.reads) else examples.__getitem__
        cut = [processor.cuts(read(int(position))) for position in sample(examples, MEASURED)]
        examples.measured[key] = float(np.mean(cut))
    return float(examples.measured[key])
