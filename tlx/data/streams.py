"""On what a recipe trains: which data sets, which part of them, in which form, and which labels it may read."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tlx.data import DATASETS
from tlx.data.augment import Augmentation
from tlx.data.datasets.splits import stratified
from tlx.processors import ImageProcessor, Processor, TextProcessor

if TYPE_CHECKING:
    from tlx.data.examples import Dataset, Examples, Features


@dataclass(frozen=True, kw_only=True)
class Data:
    """The data of a recipe.

    `target` names the data set (see `tlx.data.open_dataset`) on which all is measured, `source` another, whose labels
    are all known. The streams of a batch follow: `labelled` alone; with a `source`, or with `labels`, also `source` and
    `unlabelled`, all training examples of the target without their labels. `labels` grants those of so many examples
    of each class (an integer), or of a share of each (a float); 0 grants none, and there is no `labelled`. They are
    drawn as `shots` are, and no other label of the target's training split ever enters a batch. The classes of the
    source are the target's by their names, or, with `match` "position", by their order.

    `shots` keeps so many training examples of every class,
    `fraction` that share of every class; the subset is drawn by `subset_seed`, or the recipe's seed where it is None,
    and a smaller one lies inside a larger one of the same seed. `validation` is the share of the training split that is
    held out where the data set has no validation split; the same examples for every seed. Text is cut at `tokens` and a
    batch padded to the shortest of `buckets` that holds it; with `group` above 1, so many batches are drawn at a time
    and cut from the draw by length, so that less is padding. Images become `size` pixels a side with `channels` (None:
    as the pretrained processor says, else as they are). `augment` changes training images, afresh at every step; with
    `views` in so many fixed ways that the epochs take in turn.
    """

    target: str
    source: str | None = None
    labels: int | float | None = None
    match: Literal["name", "position"] = "name"
    shots: int | None = None
    fraction: float | None = None
    subset_seed: int | None = None
    validation: float = 0.1
    tokens: int = 128
    buckets: tuple[int, ...] = (32, 64, 128)
    group: int = 1
    size: int | None = None
    channels: int | None = None
    augment: tuple[Augmentation, ...] = ()
    views: int | None = None

    def __post_init__(self) -> None:
        if not self.target:
            raise ValueError("target is empty; name a data set, such as 'sentiment/movies'")
        if self.shots is not None and self.fraction is not None:
            raise ValueError(f"shots={self.shots} and fraction={self.fraction} are both given; choose one")
        if self.shots is not None and self.shots < 1:
            raise ValueError(f"shots={self.shots}; expected at least 1")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise ValueError(f"fraction={self.fraction}; expected more than 0 and at most 1")
        if self.labels is not None and not 0 <= self.labels < (1 if isinstance(self.labels, float) else math.inf):
            # 1.0 would be another experiment than 1, with the same fingerprint.
            told = "expected a number of examples of each class (0 is none), or a share below 1.0; all is None"
            raise ValueError(f"labels={self.labels}; {told}")
        if self.match not in ("name", "position"):
            raise ValueError(f"match={self.match!r}; expected 'name' or 'position'")
        if self.source == self.target:
            raise ValueError(f"source and target are both {self.target!r}; leave the source out")
        if not 0 < self.validation < 1:
            raise ValueError(f"validation={self.validation}; expected a share between 0 and 1")
        if self.tokens < 1 or not self.buckets or min(self.buckets) < 1:
            raise ValueError(f"tokens={self.tokens}, buckets={self.buckets}; expected lengths of at least 1")
        if self.group < 1:
            raise ValueError(f"group={self.group}; expected at least 1 batch")
        if self.views is not None and (self.views < 1 or not self.augment):
            raise ValueError(f"views={self.views}; expected at least 1, of images with augment=(...)")
        if self.size is not None and self.size < 1:
            raise ValueError(f"size={self.size}; expected at least 1 pixel")
        if self.channels not in (None, 1, 3):
            raise ValueError(f"channels={self.channels}; expected 1 (grey) or 3 (colour)")

    @property
    def streams(self) -> tuple[str, ...]:
        """What each step gets a batch of, by name; a pass over the first is an epoch."""
        source = () if self.source is None else ("source",)
        labelled = () if self.labels == 0 else ("labelled",)
        return (*source, *labelled, *(("unlabelled",) if source or self.labels is not None else ()))

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths that a batch of text may have, ascending: the buckets below `tokens`, and `tokens`."""
        return (*sorted({bucket for bucket in self.buckets if bucket < self.tokens}), self.tokens)


@dataclass(frozen=True)
class Splits:
    """What an experiment sees: the examples of each stream of training, and the target's held-out splits. `fingerprint`
    names the data and the very rows of each. `looked` are streams that are looked at once, before the first step."""

    streams: Mapping[str, Examples]
    validation: Examples
    test: Examples
    classes: tuple[str, ...]
    features: Features
    fingerprint: str
    looked: Mapping[str, Examples] = field(default_factory=dict)

    @property
    def train(self) -> Examples:
        """The examples of the first stream, whose number is an epoch's."""
        return next(iter(self.streams.values()))

    @property
    def labelled(self) -> Examples:
        """The training examples with labels: the target's, where some are granted, else the source's. ValueError where
        there are none."""
        for name in ("labelled", "source"):
            if name in self.streams:
                return self.streams[name]
        raise ValueError("no training example has a label here: the data grant none, and there is no source")

    @property
    def named(self) -> dict[str, Examples]:
        """All examples, those of training by stream."""
        return {**self.streams, "validation": self.validation, "test": self.test}


def load(data: Data, seed: int, test: bool = True) -> Splits:
    """The splits of `data.target`, views of what lies on disk; `seed` draws the subset unless `data.subset_seed` does.

    A data set without a test split, or whose test labels are withheld (-1), is tested on its validation split, and what
    chooses the checkpoint is then held out of train, so that no split does both. Without `test` that split is sealed:
    no label of it is read (but whether a data set that is not ours withholds its first). Raises as `open_dataset`, and
    ValueError for an empty split, a label out of range, or a class with too few examples.
    """
    from tlx.data.examples import open_dataset

    dataset = open_dataset(data.target)
    train, validation, tested = _three(dataset)
    if not test:
        tested = tested.seal()
    if validation is None:
        parts = stratified(_strata(train), "validation", {"train": 1 - data.validation, "validation": data.validation})
        train, validation = train.view(parts["train"]), train.view(parts["validation"])
    drawn = seed if data.subset_seed is None else data.subset_seed

    def some(examples: Examples, shots: int | None, fraction: float | None, named: str = "shots") -> Examples:
        numbers = dataset.features.target == "number"
        labels = _strata(examples) if numbers else examples.labels()
        classes = () if numbers else dataset.classes
        return examples.view(subset(labels, shots=shots, fraction=fraction, seed=drawn, classes=classes, named=named))

    if data.shots is not None or data.fraction is not None:
        train = some(train, data.shots, data.fraction)
    streams, origin = {}, ""
    for name in data.streams:
        if name == "source":
            streams[name], origin = _source(data, dataset)
        elif name == "unlabelled":
            streams[name] = train.unlabelled()
        elif data.labels is None:
            streams[name] = train
        else:
            share = isinstance(data.labels, float)
            count, fraction = (None, data.labels) if share else (int(data.labels), None)
            streams[name] = some(train, count, fraction, named="labels")
    digest = hashlib.sha256((dataset.fingerprint + origin).encode())
    for part in (*streams.values(), validation, tested):
        if not len(part):
            raise ValueError(f"data set {part.name!r} has no examples in its {part.split!r} split")
        if part.labelled:
            part.labels()
        digest.update(part.rows.astype(np.int64).tobytes() + part.split.encode())
    return Splits(streams, validation, tested, dataset.classes, dataset.features, digest.hexdigest()[:16])


def _source(data: Data, target: Dataset) -> tuple[Examples, str]:
    """The training split of the source, its labels as the target's classes, and the fingerprint of its data set."""
    from tlx.data.examples import open_dataset

    assert data.source is not None
    source = open_dataset(data.source)
    if source.fingerprint == target.fingerprint:
        raise ValueError(f"source {data.source!r} and target {data.target!r} are one data set; leave the source out")
    kinds = [(own.features.target, len(own.features.text)) for own in (source, target)]
    if kinds[0] != kinds[1]:
        told = [f"{('images', 'text', 'pairs of texts')[text]} with a {kind}" for kind, text in kinds]
        raise ValueError(f"source {data.source!r} is {told[0]} and target {data.target!r} is {told[1]}")
    if "train" not in source.splits:
        raise ValueError(f"source {data.source!r} has no 'train' split")
    train = source.splits["train"]
    if source.classes == target.classes:
        return train, source.fingerprint
    if data.match == "position":
        if len(source.classes) > len(target.classes):
            raise ValueError(
                f"source {data.source!r} has {len(source.classes)} classes and target {data.target!r} "
                f"{len(target.classes)}; by position every class of the source needs one of the target"
            )
        return train.renamed(target.classes, np.arange(len(source.classes))), source.fingerprint
    if strange := [name for name in source.classes if name not in target.classes]:
        raise ValueError(
            f"class {strange[0]!r} of source {data.source!r} is none of target {data.target!r} "
            f"({', '.join(target.classes[:12])}); Data(match='position') takes them in their order"
        )
    places = np.array([target.classes.index(name) for name in source.classes])
    return train.renamed(target.classes, places), source.fingerprint


def subset(
    labels: Sequence[int] | np.ndarray,
    *,
    shots: int | None = None,
    fraction: float | None = None,
    seed: int,
    classes: Sequence[str] = (),
    named: str = "shots",
) -> np.ndarray:
    """Positions, ascending, of `shots` examples of every class, or of a `fraction` of each (at least one).

    Every class is put in an order by `seed` and the first are taken, so subsets of one seed nest. `classes` names
    the classes, so that one without examples is noticed; `named` is what asked for `shots`, in the error. Raises
    ValueError for a class with fewer than `shots`.
    """
    if (shots is None) == (fraction is None):
        raise ValueError("give one of shots and fraction")
    labels = np.asarray(labels)
    chosen = []
    for label in range(len(classes)) if classes else np.unique(labels).tolist():
        members = np.flatnonzero(labels == label)
        if shots is not None and len(members) < shots:
            called = repr(classes[label]) if classes else label
            raise ValueError(f"class {called} has {len(members)} training examples, fewer than {named}={shots}")
        # Sorting uniform numbers, for the stream behind `random` is the same in every numpy and that behind
        # `permutation` is not.
        order = np.argsort(np.random.Generator(np.random.PCG64([seed, int(label)])).random(len(members)), kind="stable")
        count = shots if shots is not None else max(1, round((fraction or 0) * len(members)))
        chosen.append(members[order[:count]])
    return np.sort(np.concatenate(chosen)) if chosen else np.zeros(0, int)


def processor_for(data: Data, splits: Splits, pretrained: Processor | None = None) -> Processor:
    """The processor that the splits need: the pretrained model's, with the lengths and sizes that `data` gives.

    Raises ValueError for text without a tokenizer, and for a pretrained processor of the other kind.
    """
    if splits.features.text:
        if not isinstance(pretrained, TextProcessor):
            raise ValueError(f"{data.target!r} is text and the weights bring no tokenizer; name weights that do")
        return dataclasses.replace(pretrained, tokens=data.tokens)
    if isinstance(pretrained, TextProcessor):
        raise ValueError(f"{data.target!r} is images and the weights bring a tokenizer; name weights of an image model")
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


def _three(dataset: Dataset) -> tuple[Examples, Examples | None, Examples]:
    """Train, validation if there is one to spare, and test."""
    splits = dataset.splits
    if "train" not in splits:
        raise ValueError(f"data set {dataset.name!r} has no 'train' split; it has {', '.join(map(repr, splits))}")
    validation = splits.get("validation") or splits.get("valid") or splits.get("dev")
    test = splits.get("test")
    if test is not None and dataset.name not in DATASETS and _withheld(test):
        test = None
    if test is not None:
        return splits["train"], validation, test
    if validation is None:
        raise ValueError(f"data set {dataset.name!r} has neither a 'test' nor a 'validation' split to test on")
    return splits["train"], None, validation


def _withheld(test: Examples) -> bool:
    return test.features.target == "class" and len(test) > 0 and int(test.source[0][test.features.label]) == -1


def _strata(examples: Examples) -> np.ndarray:
    return examples.labels() if examples.features.target == "class" else np.zeros(len(examples), np.int32)
