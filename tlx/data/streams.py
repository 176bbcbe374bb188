"""On what a recipe trains: the examples of every stream and of the held-out splits, as its `Data` says."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tlx.data import DATASETS
from tlx.data.datasets.splits import stratified
from tlx.data.perturbation import Perturbation
from tlx.data.settings import Data
from tlx.data.shifts import USUAL, check_kind
from tlx.data.subsets import long_tail, numbers_of, of_classes, subset
from tlx.functional.selection import SOURCE, TARGET
from tlx.processors.base import shown
from tlx.processors.columns import LABEL, kind_of, spelled
from tlx.trees import near_miss

if TYPE_CHECKING:
    from tlx.data.examples import Examples
    from tlx.data.settings import Stream, Test
    from tlx.data.sources import Dataset, Source
    from tlx.processors.columns import Columns

# A criterion looks at no more examples than this, which suffice, for it looks at them at every evaluation.
LOOKED_AT = 2000


@dataclass(frozen=True)
class Splits:
    """What an experiment sees: the examples of each stream of training, and the target's held-out splits. `fingerprint`
    names the data and the very rows of each. `aside` is what criteria look at (see `tlx.functional.selection`),
    `looked` are streams that terms look at once, before the first step. Where there is nothing to test on, `untested`
    says why and `test` is empty. `tests` are further test sets by name; `notes` is what the sources said."""

    streams: Mapping[str, Examples]
    validation: Examples
    test: Examples
    columns: Columns
    fingerprint: str
    aside: Mapping[str, Examples] = field(default_factory=dict)
    looked: Mapping[str, Examples] = field(default_factory=dict)
    tests: Mapping[str, Examples] = field(default_factory=dict)
    untested: str = ""
    notes: tuple[str, ...] = ()

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes of the label; () where it has none."""
        return self.columns[LABEL].classes if LABEL in self.columns else ()

    @property
    def measured(self) -> dict[str, Examples]:
        """All that a finished run is tested on, by name."""
        return {**({} if self.untested else {"test": self.test}), **self.tests}

    @property
    def train(self) -> Examples:
        """The examples of the first stream, whose number is an epoch's."""
        return next(iter(self.streams.values()))

    @property
    def shown(self) -> str:
        """The split that a run's page is about: the test split, where there is one."""
        return "validation" if self.untested else "test"

    @property
    def labelled(self) -> Examples:
        """The training examples with labels: the target's, where some are granted, else the first source's. ValueError
        where there are none."""
        for name in ("labelled", *self.streams):
            if name in self.streams and self.streams[name].labelled:
                return self.streams[name]
        raise ValueError("no training example has a label here: the data grant none, and there is no source")

    @property
    def named(self) -> dict[str, Examples]:
        """All examples, those of training by stream."""
        return {**self.streams, "validation": self.validation, "test": self.test, **self.tests, **self.aside}


def load(data: Data, seed: int, test: bool = True, aside: Collection[str] = ()) -> Splits:
    """The splits of `data.target`, views of what lies on disk; `seed` draws the subset unless `data.subset_seed` does.

    A data set without a test split, or whose test labels are withheld (-1), has an empty one, unless `data.test_on`
    asks for its validation split; what chooses the checkpoint is then held out of train, so that no split does both.
    Without `test` that split is sealed:
    no label of it is read (but whether a data set that is not ours withholds its first, and where
    `data.target_classes` choose its rows). `aside` names what criteria look at, at most `LOOKED_AT` of each, which no
    seed draws: training examples of the target without their labels, and the validation split of the source (the first
    of several), or, where it has none, the same share of its training split as of a target's, which is then not trained
    on. Raises as `open_dataset`, and ValueError for an empty split, a label out of range, a class with too few
    examples, or a shift of another kind than the data.
    """
    from tlx.data.examples import open_dataset

    dataset = open_dataset(data.target)
    kind, target = kind_of(dataset.columns), f"target {shown(data.target)}"
    for named in ("shift", "target_shift"):
        check_kind(named, getattr(data, named), kind, shown(data.target))
    kept = numbers_of(data.target_classes, dataset.classes, "target_classes", target)
    train, validation, tested, untested = _three(dataset, data.test_on)
    if validation is None:
        train, validation = _parted(train, data.validation)
    parts = [train, validation, tested]
    if kept:
        parts = [part if untested and part is tested else of_classes(part, kept) for part in parts]
        _check_each(parts[0], kept, f"target_classes: the training split of {target}")
    train, validation, tested = (_shifted(part, dataset, data.target_shift) for part in parts)
    if not test:
        tested = tested.seal()
    drawn = seed if data.subset_seed is None else data.subset_seed
    every = range(len(dataset.classes) if train.kind == "class" else 0)
    names = {number: dataset.classes[number] for number in kept or every}

    def some(examples: Examples, shots: int | None, fraction: float | None, named: str = "shots") -> Examples:
        labels = examples.strata()
        return examples.view(subset(labels, shots=shots, fraction=fraction, seed=drawn, classes=names, named=named))

    if data.shots is not None or data.fraction is not None:
        train = some(train, data.shots, data.fraction)
    streams: dict[str, Examples] = {}
    origins: dict[str, str] = {}
    looked_at: dict[str, Examples] = {TARGET: train.unlabelled()}
    further = {stream.name: stream for stream in data.streams}
    for name in data.stream_names:
        if name in data.sources:
            streams[name], own, origin = _source(data, data.sources[name], dataset, kind, drawn, SOURCE in aside)
            looked_at.setdefault(SOURCE, own)
            if origin in origins:
                told = f"sources {origins[origin]} and {shown(data.sources[name])} are one data set"
                raise ValueError(f"{told}; leave one of them out")
            origins[origin] = shown(data.sources[name])
        elif name in further:
            streams[name], origin = _further(f"stream {name!r}", further[name], data, dataset)
            origins[f"{name} {origin}"] = name
        elif name == "unlabelled":
            streams[name] = train.unlabelled()
        elif data.labels is None:
            streams[name] = train
        else:
            share = isinstance(data.labels, float)
            count, fraction = (None, data.labels) if share else (int(data.labels), None)
            streams[name] = some(train, count, fraction, named="labels")
    digest = hashlib.sha256("".join((dataset.fingerprint, *origins)).encode())
    for part in (*streams.values(), validation, tested):
        if part is not tested or not untested:
            _check(part)
        digest.update(part.identity + part.split.encode())
    tests = {}
    for settings in data.tests:
        examples, origin = _further(f"test set {settings.name!r}", settings, data, dataset, read=test)
        tests[settings.name] = examples if test else examples.seal()
        digest.update(f"{settings.name} {origin} {tests[settings.name].split}".encode() + tests[settings.name].identity)
    looked = {name: _some(looked_at[name]) for name in aside}
    return Splits(
        streams, validation, tested, dataset.columns, digest.hexdigest()[:16], looked, tests=tests, untested=untested,
        notes=dataset.notes,
    )  # fmt: skip


def _shifted(examples: Examples, dataset: Dataset, shifts: tuple[Any, ...]) -> Examples:
    """The examples of a data set, all shifted. No seed of a recipe has a part in it, so every run measures the same."""
    if not shifts:
        return examples
    return examples.perturbed(Perturbation(0, f"{dataset.fingerprint}/{examples.split}", inputs=1.0, shifts=shifts))


def _further(
    what: str, settings: Stream | Test, data: Data, target: Dataset, *, read: bool = True
) -> tuple[Examples, str]:
    """The examples of a further stream or test set (`what` in an error), their labels as the target's classes, and the
    fingerprint of their data set. Without `read` no label is looked at."""
    from tlx.data.examples import open_dataset

    dataset = target if settings.source is None else open_dataset(settings.source)
    check_kind(f"the shift of {what}", settings.shift, kind_of(dataset.columns), shown(settings.source or data.target))
    _check_like(dataset, target, what, data)
    if settings.split not in dataset.splits:
        raise ValueError(
            f"{what}: {dataset.name} has no split {settings.split!r}; it has {', '.join(map(repr, dataset.splits))}"
            f"{near_miss(settings.split, dataset.splits)}"
        )
    examples = dataset.splits[settings.split]
    if not len(examples):
        raise ValueError(f"{what}: the split {settings.split!r} of {dataset.name} has no examples")
    if dataset.classes != target.classes:
        places = _places(data, what, dataset, target, range(len(dataset.classes)))
        mapping = np.array([places[number] for number in range(len(dataset.classes))])
        examples = examples.renamed(target.classes, mapping)
    if read:
        examples.check_labels()
    return _shifted(examples, dataset, settings.shift), dataset.fingerprint


def _check_like(dataset: Dataset, target: Dataset, what: str, data: Data) -> None:
    """ValueError where a data set has other inputs, or another kind of label, than the target."""
    told = [f"{spelled(own.columns)} with a {_label_of(own)}" for own in (dataset, target)]
    if told[0] != told[1]:
        raise ValueError(f"{what} is {told[0]} and target {shown(data.target)} is {told[1]}")


def _label_of(dataset: Dataset) -> str:
    """The kind of a data set's label, in words."""
    words = {"classes": "list of classes", "tags": "list of tags", "numbers": "list of numbers"}
    kind = dataset.columns[LABEL].kind if LABEL in dataset.columns else "label that is not there"
    return words.get(kind, kind)


def _check(part: Examples) -> None:
    """ValueError for no examples, or a label out of range."""
    if not len(part):
        raise ValueError(f"data set {part.name!r} has no examples in its {part.split!r} split")
    if part.labelled:
        part.check_labels()


def _some(examples: Examples) -> Examples:
    """At most `LOOKED_AT` of these, always the same."""
    _check(examples)
    order = np.argsort(np.random.Generator(np.random.PCG64(0)).random(len(examples)), kind="stable")
    return examples.view(np.sort(order[:LOOKED_AT]))


def _parted(train: Examples, share: float) -> tuple[Examples, Examples]:
    """A training split without the share of every class that is held out, and that."""
    parts = stratified(train.strata(), "validation", {"train": 1 - share, "validation": share})
    return train.view(parts["train"]), train.view(parts["validation"])


def _source(
    data: Data, name: str | Source, target: Dataset, kind: str, seed: int, held: bool
) -> tuple[Examples, Examples, str]:
    """The training examples of a source, as `data` cuts and perturbs them by `seed`, what is held out of it (where that
    was asked for; else the same), their labels as the target's classes; and the fingerprint of its data set."""
    from tlx.data.examples import open_dataset

    source, what = open_dataset(name), f"source {shown(name)}"
    if source.fingerprint == target.fingerprint:
        raise ValueError(f"{what} and target {shown(data.target)} are one data set; leave the source out")
    _check_like(source, target, what, data)
    if "train" not in source.splits:
        raise ValueError(f"{what} has no 'train' split")
    train = held_out = source.splits["train"]
    if train.kind != "class" and (data.eps_y or data.imbalance > 1):
        noise, has = "eps_y" if data.eps_y else "imbalance", "numbers" if train.kind == "number" else train.kind
        raise ValueError(f"{noise}={getattr(data, noise)} is of classes, and {what} has {has} for labels")
    if held:
        validation = _validation(source)
        train, held_out = (train, validation) if validation else _parted(train, data.validation)
    numbers = numbers_of(data.source_classes, source.classes, "source_classes", what)
    if numbers:
        train, held_out = (of_classes(own, numbers) for own in (train, held_out))
        _check_each(train, numbers, f"source_classes: the training split of {what}")
    places = _places(data, what, source, target, numbers or range(len(source.classes)))
    if source.classes != target.classes:
        mapping = np.full(len(source.classes), -1)
        mapping[list(places)] = list(places.values())
        train, held_out = (own.renamed(target.classes, mapping) for own in (train, held_out))
    if data.imbalance > 1 and len(train):
        train = train.view(long_tail(train.labels(), data.imbalance, seed))
    if data.eps_y or data.eps_x:
        train, held_out = (
            own.perturbed(
                Perturbation(
                    seed,
                    f"{source.fingerprint}/{own.split}",
                    labels=data.eps_y,
                    classes=tuple(sorted(places.values())) if data.eps_y else (),
                    inputs=data.eps_x,
                    shifts=(data.shift or USUAL[kind]) if data.eps_x else (),
                )
            )
            for own in (train, held_out)
        )
    return train, held_out, source.fingerprint


def _places(data: Data, what: str, source: Dataset, target: Dataset, numbers: Sequence[int]) -> dict[int, int]:
    """By number of each of these classes of a source (`what` in an error), that of the target's which it counts as."""
    if data.match == "position" or source.classes == target.classes:
        if max(numbers, default=0) >= max(1, len(target.classes)):
            raise ValueError(
                f"{what} has {len(source.classes)} classes and target {shown(data.target)} "
                f"{len(target.classes)}; by position every class of the source needs one of the target"
            )
        return {number: number for number in numbers}
    if strange := [source.classes[n] for n in numbers if source.classes[n] not in target.classes]:
        raise ValueError(
            f"class {strange[0]!r} of {what} is none of target {shown(data.target)} "
            f"({', '.join(target.classes[:12])}); Data(match='position') takes them in their order, and "
            "Data(source_classes=...) takes only some"
        )
    return {number: target.classes.index(source.classes[number]) for number in numbers}


def _check_each(examples: Examples, numbers: Sequence[int], what: str) -> None:
    """ValueError where one of these classes has no example."""
    present = set(examples.labels().tolist())
    if missing := [examples.classes[number] for number in numbers if number not in present]:
        raise ValueError(f"{what} has no example of class {missing[0]!r}")


def _three(dataset: Dataset, test_on: str) -> tuple[Examples, Examples | None, Examples, str]:
    """Train, validation if there is one to spare, test, and why that is empty where it is."""
    splits = dataset.splits
    if "train" not in splits:
        raise ValueError(f"data set {dataset.name!r} has no 'train' split; it has {', '.join(map(repr, splits))}")
    train, validation, test = splits["train"], _validation(dataset), splits.get("test")
    if test_on == "validation":
        if validation is None:
            raise ValueError(f"data.test_on is 'validation', and data set {dataset.name!r} has no such split")
        return train, None, validation, ""
    untested = ""
    if test is None:
        untested = f"data set {dataset.name!r} has no test split"
    elif dataset.name not in DATASETS and _withheld(test, train):
        untested = f"data set {dataset.name!r} withholds the labels of its test split"
    if not untested:
        assert test is not None
        return train, validation, test, ""
    if validation is None:
        raise ValueError(f"data set {dataset.name!r} has neither a 'test' nor a 'validation' split to measure on")
    from tlx.data.examples import Sealed

    nothing = Sealed(dataset.name, "test", (), dataset.columns)
    return train, validation, nothing, f"{untested} (data.test_on='validation' tests on its validation split)"


def has_test(data: Data) -> bool:
    """Whether there is a split to test on. Raises as `open_dataset`, and ValueError for nothing to measure on."""
    from tlx.data.examples import open_dataset

    return not _three(open_dataset(data.target), data.test_on)[-1]


def _validation(dataset: Dataset) -> Examples | None:
    """The validation split by any of its names, unless it is empty."""
    splits = dataset.splits
    return splits.get("validation") or splits.get("valid") or splits.get("dev")


def _withheld(test: Examples, train: Examples) -> bool:
    """Whether the first test label says that there is none: -1 (for numbers, where no training label is negative), or
    no number."""
    if not len(test):
        return False
    if not test.scalar:
        return False
    first = float(test.source[0][LABEL])
    if test.kind == "class":
        return first == -1
    return math.isnan(first) or (first == -1 and not (train.labels() < 0).any())
