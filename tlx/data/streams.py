"""On what a recipe trains: the examples of every stream and of the held-out splits, as its `Data` says."""

from __future__ import annotations

import dataclasses
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
from tlx.data.shifts import USUAL, Kind, check_kind
from tlx.data.subsets import long_tail, numbers_of, of_classes, subset
from tlx.functional.selection import SOURCE, TARGET
from tlx.processors import ImageProcessor, Processor, TextProcessor

if TYPE_CHECKING:
    from tlx.data.examples import Dataset, Examples, Features

# A criterion looks at no more examples than this, which suffice, for it looks at them at every evaluation.
LOOKED_AT = 2000


@dataclass(frozen=True)
class Splits:
    """What an experiment sees: the examples of each stream of training, and the target's held-out splits. `fingerprint`
    names the data and the very rows of each. `aside` is what criteria look at (see `tlx.functional.selection`),
    `looked` are streams that terms look at once, before the first step. Where there is nothing to test on, `untested`
    says why and `test` is empty."""

    streams: Mapping[str, Examples]
    validation: Examples
    test: Examples
    classes: tuple[str, ...]
    features: Features
    fingerprint: str
    aside: Mapping[str, Examples] = field(default_factory=dict)
    looked: Mapping[str, Examples] = field(default_factory=dict)
    untested: str = ""

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
        return {**self.streams, "validation": self.validation, "test": self.test, **self.aside}


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
    kind = dataset.features.kind
    for named in ("shift", "target_shift"):
        check_kind(named, getattr(data, named), kind, repr(data.target))
    kept = numbers_of(data.target_classes, dataset.classes, "target_classes", f"target {data.target!r}")
    train, validation, tested, untested = _three(dataset, data.test_on)
    if validation is None:
        train, validation = _parted(train, data.validation)
    held = [train, validation, tested]
    if kept:
        held = [own if untested and own is tested else of_classes(own, kept) for own in held]
        _check_each(held[0], kept, f"target_classes: the training split of target {data.target!r}")
    if data.target_shift:
        # By no seed of the recipe's, so that whatever is measured is measured on the same.
        of = [f"{dataset.fingerprint}/{own.split}" for own in held]
        held = [own.perturbed(Perturbation(0, name, inputs=1.0, shifts=data.target_shift))
                for own, name in zip(held, of, strict=True)]  # fmt: skip
    train, validation, tested = held
    if not test:
        tested = tested.seal()
    drawn = seed if data.subset_seed is None else data.subset_seed
    every = range(len(dataset.classes) if dataset.features.target == "class" else 0)
    names = {number: dataset.classes[number] for number in kept or every}

    def some(examples: Examples, shots: int | None, fraction: float | None, named: str = "shots") -> Examples:
        labels = _strata(examples)
        return examples.view(subset(labels, shots=shots, fraction=fraction, seed=drawn, classes=names, named=named))

    if data.shots is not None or data.fraction is not None:
        train = some(train, data.shots, data.fraction)
    streams: dict[str, Examples] = {}
    origins: dict[str, str] = {}
    looked_at: dict[str, Examples] = {TARGET: train.unlabelled()}
    for name in data.streams:
        if name in data.sources:
            streams[name], own, origin = _source(data, data.sources[name], dataset, kind, drawn, SOURCE in aside)
            looked_at.setdefault(SOURCE, own)
            if origin in origins:
                told = f"sources {origins[origin]!r} and {data.sources[name]!r} are one data set; leave one of them out"
                raise ValueError(told)
            origins[origin] = data.sources[name]
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
    looked = {name: _some(looked_at[name]) for name in aside}
    named = digest.hexdigest()[:16]
    return Splits(streams, validation, tested, dataset.classes, dataset.features, named, looked, untested=untested)


def _check(part: Examples) -> None:
    """ValueError for no examples, or a label out of range."""
    if not len(part):
        raise ValueError(f"data set {part.name!r} has no examples in its {part.split!r} split")
    if part.labelled:
        part.labels()


def _some(examples: Examples) -> Examples:
    """At most `LOOKED_AT` of these, always the same."""
    _check(examples)
    order = np.argsort(np.random.Generator(np.random.PCG64(0)).random(len(examples)), kind="stable")
    return examples.view(np.sort(order[:LOOKED_AT]))


def _parted(train: Examples, share: float) -> tuple[Examples, Examples]:
    """A training split without the share of every class that is held out, and that."""
    parts = stratified(_strata(train), "validation", {"train": 1 - share, "validation": share})
    return train.view(parts["train"]), train.view(parts["validation"])


def _source(
    data: Data, name: str, target: Dataset, kind: Kind, seed: int, held: bool
) -> tuple[Examples, Examples, str]:
    """The training examples of the source of this name, as `data` cuts and perturbs them by `seed`, what is held out of
    it (where that was asked for; else the same), their labels as the target's classes; and the fingerprint of its data
    set."""
    from tlx.data.examples import open_dataset

    source, what = open_dataset(name), f"source {name!r}"
    if source.fingerprint == target.fingerprint:
        raise ValueError(f"{what} and target {data.target!r} are one data set; leave the source out")
    told = [f"{own.features.spelled} with a {own.features.target}" for own in (source, target)]
    if told[0] != told[1]:
        raise ValueError(f"{what} is {told[0]} and target {data.target!r} is {told[1]}")
    if "train" not in source.splits:
        raise ValueError(f"{what} has no 'train' split")
    if source.features.target == "number" and (data.eps_y or data.imbalance > 1):
        noise = "eps_y" if data.eps_y else "imbalance"
        raise ValueError(f"{noise}={getattr(data, noise)} is of classes, and {what} has numbers for labels")
    train = held_out = source.splits["train"]
    if held:
        validation = _validation(source)
        train, held_out = (train, validation) if validation else _parted(train, data.validation)
    numbers = numbers_of(data.source_classes, source.classes, "source_classes", what)
    if numbers:
        train, held_out = (of_classes(own, numbers) for own in (train, held_out))
        _check_each(train, numbers, f"source_classes: the training split of {what}")
    places = _places(data, name, source, target, numbers or range(len(source.classes)))
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


def _places(data: Data, name: str, source: Dataset, target: Dataset, numbers: Sequence[int]) -> dict[int, int]:
    """By number of each of these classes of the source of this name, that of the target's which it counts as."""
    if data.match == "position" or source.classes == target.classes:
        if max(numbers, default=0) >= max(1, len(target.classes)):
            raise ValueError(
                f"source {name!r} has {len(source.classes)} classes and target {data.target!r} "
                f"{len(target.classes)}; by position every class of the source needs one of the target"
            )
        return {number: number for number in numbers}
    if strange := [source.classes[n] for n in numbers if source.classes[n] not in target.classes]:
        raise ValueError(
            f"class {strange[0]!r} of source {name!r} is none of target {data.target!r} "
            f"({', '.join(target.classes[:12])}); Data(match='position') takes them in their order, and "
            "Data(source_classes=...) takes only some"
        )
    return {number: target.classes.index(source.classes[number]) for number in numbers}


def _check_each(examples: Examples, numbers: Sequence[int], what: str) -> None:
    """ValueError where one of these classes has no example."""
    present = set(examples.labels().tolist())
    if missing := [examples.classes[number] for number in numbers if number not in present]:
        raise ValueError(f"{what} has no example of class {missing[0]!r}")


def processor_for(data: Data, splits: Splits, pretrained: Processor | None = None) -> Processor:
    """The processor that the splits need: the pretrained model's, with the lengths and sizes that `data` gives.

    Raises ValueError for text without a tokenizer, and for a pretrained processor of the other kind.
    """
    if splits.features.text:
        if not isinstance(pretrained, TextProcessor):
            raise ValueError(f"{data.target!r} is text and the weights bring no tokenizer; name weights that do")
        return dataclasses.replace(pretrained, tokens=data.tokens)
    if isinstance(pretrained, TextProcessor):
        told = splits.features.spelled
        raise ValueError(f"{data.target!r} is {told} and the weights bring a tokenizer; name weights of an image model")
    if splits.features.audio:
        from tlx.processors.sounds import SoundProcessor

        size = (data.size, data.size) if data.size else pretrained.shape[:2] if pretrained else (64, 64)
        return SoundProcessor(size=size, rate=splits.features.rate, seconds=data.seconds)
    given: dict[str, Any] = {}
    if pretrained is None:
        height, width, channels = splits.validation[0]["image"].shape
        pretrained = ImageProcessor(size=(height, width), channels=channels)
    if data.size is not None:
        given.update(size=(data.size, data.size), crop=None)
    if data.channels is not None and data.channels != pretrained.channels:
        mean, std = (float(np.mean(numbers)) for numbers in (pretrained.mean, pretrained.std))
        given.update(channels=data.channels, mean=(mean,), std=(std,))
    return dataclasses.replace(pretrained, **given)


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

    nothing = Sealed(dataset.name, "test", (), dataset.features, dataset.classes)
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
    first = float(test.source[0][test.features.label])
    if test.features.target == "class":
        return first == -1
    return math.isnan(first) or (first == -1 and not (train.labels() < 0).any())


def _strata(examples: Examples) -> np.ndarray:
    return examples.labels() if examples.features.target == "class" else np.zeros(len(examples), np.int32)
