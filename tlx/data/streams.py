"""Load the data of a recipe: the examples of every stream and of the held-out splits, as its `Data` declares."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from tlx.data.duplicates import without_duplicates
from tlx.data.folds import fold_notes, of_fold
from tlx.data.held_out import divided, held_out_splits, validation_split
from tlx.data.overlap import check_apart
from tlx.data.perturbation import Perturbation
from tlx.data.settings import Data
from tlx.data.shifts import check_kind, usual
from tlx.data.subsets import long_tail, numbers_of, of_classes, strata_names, subset
from tlx.functional.selection import SOURCE, TARGET
from tlx.processors.base import format_source
from tlx.processors.columns import LABEL, kind_of, spelled
from tlx.trees import near_miss

if TYPE_CHECKING:
    from tlx.data.examples import Examples
    from tlx.data.settings import Stream, Test
    from tlx.data.sources import Dataset, Source
    from tlx.processors.columns import Columns

# The most examples that a criterion reads: it reads them at every evaluation.
LOOKED_AT = 2000


@dataclass(frozen=True)
class Splits:
    """The examples of an experiment: each stream of training, and the held-out splits of the target.

    `fingerprint` identifies the data and the exact rows of each split. `aside` holds the examples that criteria read
    (see `tlx.functional.selection`), `looked` the streams that terms read once, before the first step. Where there is
    nothing to test on, `untested` gives the reason and `test` is empty. `tests` are further test sets by name; `notes`
    are the notes of the sources.
    """

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
        """Return the names of the classes of the label; () where it has none."""
        return self.columns[LABEL].classes if LABEL in self.columns else ()

    @property
    def measured(self) -> dict[str, Examples]:
        """Return all test sets that a finished run is measured on, by name."""
        return {**({} if self.untested else {"test": self.test}), **self.tests}

    @property
    def first(self) -> str:
        """Return the name of the first stream."""
        return next(iter(self.streams))

    @property
    def train(self) -> Examples:
        """Return the examples of the first stream. Their number is the length of an epoch."""
        return self.streams[self.first]

    @property
    def page_split(self) -> str:
        """Return the split that the page of a run shows: the test split, where there is one."""
        return "validation" if self.untested else "test"

    @property
    def labelled(self) -> Examples:
        """Return the training examples with labels: those of the target where some are granted, else those of the first
        source. Raises ValueError where there are none."""
        for name in ("labelled", *self.streams):
            if name in self.streams and self.streams[name].labelled:
                return self.streams[name]
        raise ValueError("no training example has a label: the setting provides no labels, and the data have no source")

    @property
    def by_name(self) -> dict[str, Examples]:
        """Return all examples by name; training examples have the name of their stream."""
        return {**self.streams, "validation": self.validation, "test": self.test, **self.tests, **self.aside}


def load(data: Data, seed: int, test: bool = True, aside: Collection[str] = ()) -> Splits:
    """Return the splits of `data.target`, as views of the data on disk.

    A data set without a test split, or with withheld test labels (-1), has an empty test split, unless `data.test_on`
    asks for its validation split. The examples that choose the checkpoint are then held out of train, so that no split
    does both.

    Args:
        data: The data of the recipe.
        seed: Draws the subset, unless `data.subset_seed` does.
        test: False seals the test split: none of its labels is read, except the labels by which a data set that is not
            ours withholds them (`tlx.data.held_out.withheld`), and except where `data.target_classes` choose its rows.
        aside: Names what criteria read, at most `LOOKED_AT` examples of each. No seed draws them. They are training
            examples of the target without their labels, and the validation split of the source (the first of several).
            A source without one holds out the same share of its training split as a target does, and that share is not
            trained on.

    Raises:
        ValueError: A split is empty, a label is out of range, a class has too few examples, a shift is for another kind
            of data, or a source holds rows that the target is measured on. Errors of `open_dataset` are raised too.
    """
    dataset = _opened(data, data.target)
    for setting in ("shift", "target_shift"):
        check_kind(setting, getattr(data, setting), kind_of(dataset.columns), format_source(data.target))
    class_numbers = numbers_of(
        data.target_classes, dataset.classes, "target_classes", f"target {format_source(data.target)}"
    )
    train, validation, tested, untested = _target_splits(data, dataset, class_numbers)
    further = _further_tests(data, dataset, read=test)
    notes = [*dataset.notes, *fold_notes(data, dataset, tested)]
    tests = [*([] if untested else [tested]), *(examples for examples, _ in further.values())]
    if data.drop_duplicates:
        kept = _distinct(tests, {"validation": validation, "train": train}, notes)
        validation, train = kept["validation"], kept["train"]
    measured = {"validation": validation, "test": tested}
    if not test:
        tested = tested.seal()
    subset_seed = seed if data.subset_seed is None else data.subset_seed
    draw = partial(subset, seed=subset_seed, classes=strata_names(train, class_numbers))
    if data.shots is not None or data.fraction is not None:
        train = train.view(draw(train.strata(), shots=data.shots, fraction=data.fraction, setting="shots"))
    streams, held_out, origins = _streams(data, train, dataset, draw, subset_seed, SOURCE in aside)
    if data.drop_duplicates:
        for name in (name for name in data.stream_names if name not in ("labelled", "unlabelled")):
            streams |= _distinct([*tests, validation], {name: streams[name]}, notes)
    check_apart(data, {**streams, **(held_out if SOURCE in aside else {})}, measured)
    digest = hashlib.sha256("".join((dataset.fingerprint, *origins)).encode())
    for part in (*streams.values(), validation, tested):
        if part is not tested or not untested:
            _check(part)
        digest.update(part.identity + part.split.encode())
    for name, (examples, origin) in further.items():
        digest.update(f"{name} {origin} {examples.split}".encode() + examples.identity)
    looked_at = {TARGET: train.unlabelled(), **held_out}
    looked = {name: _some(looked_at[name]) for name in aside}
    by_name = {name: examples if test else examples.seal() for name, (examples, _) in further.items()}
    return Splits(
        streams, validation, tested, dataset.columns, digest.hexdigest()[:16], looked, tests=by_name,
        untested=untested, notes=tuple(notes),
    )  # fmt: skip


def _opened(data: Data, source: str | Source) -> Dataset:
    """Open a data set; where folds divide the data, it divides off no test split."""
    from tlx.data.examples import open_dataset

    return open_dataset(source) if data.folds is None else open_dataset(source, whole=True)


def _distinct(
    held_out: Sequence[Examples], candidates: Mapping[str, Examples], notes: list[str]
) -> dict[str, Examples]:
    """Return the candidates without duplicates, in their order; add a note on what is left out to `notes`."""
    kept, dropped = without_duplicates(held_out, candidates)
    notes += dropped
    return kept


def _further_tests(data: Data, dataset: Dataset, *, read: bool) -> dict[str, tuple[Examples, str]]:
    """Return the examples of each further test set, and the fingerprint of their data set, by name."""
    return {
        settings.name: _further(f"test set {settings.name!r}", settings, data, dataset, read=read)
        for settings in data.tests
    }


def _target_splits(
    data: Data, dataset: Dataset, class_numbers: Sequence[int]
) -> tuple[Examples, Examples, Examples, str]:
    """Return the shifted training, validation and test splits of the target, and why the test split is empty ("" where
    it is not). With `class_numbers` they hold these classes alone."""
    if data.folds is not None:
        train, tested = of_fold(dataset, data.folds, data.fold)
        validation, untested = validation_split(dataset), ""
    else:
        train, validation, tested, untested = held_out_splits(dataset, data.test_on)
    if validation is None:
        train, validation = divided(train, data.validation)
    parts = [train, validation, tested]
    if class_numbers:
        parts = [part if untested and part is tested else of_classes(part, class_numbers) for part in parts]
        what = f"target_classes: the training split of target {format_source(data.target)}"
        _check_each(parts[0], class_numbers, what)
    train, validation, tested = (_shifted(part, dataset, data.target_shift) for part in parts)
    return train, validation, tested, untested


def _streams(
    data: Data, train: Examples, target: Dataset, draw: Callable[..., np.ndarray], seed: int, hold_out: bool
) -> tuple[dict[str, Examples], dict[str, Examples], list[str]]:
    """Return the streams by name, the held-out examples of the first source under `SOURCE`, and the fingerprints of the
    data sets of the streams beside the target.

    `train` is the training split of the target, of which `draw` (as `subset`) chooses the labelled examples. `seed` and
    `hold_out` are as in `_source`.
    """
    streams: dict[str, Examples] = {}
    held_out: dict[str, Examples] = {}
    origins: dict[str, str] = {}
    further = {stream.name: stream for stream in data.streams}
    for name in data.stream_names:
        if name in data.sources:
            streams[name], examples, origin = _source(data, data.sources[name], target, seed, hold_out)
            held_out.setdefault(SOURCE, examples)
            if origin in origins:
                message = f"sources {origins[origin]} and {format_source(data.sources[name])} are the same data set"
                raise ValueError(f"{message}; remove one of them")
            origins[origin] = format_source(data.sources[name])
        elif name in further:
            streams[name], origin = _further(f"stream {name!r}", further[name], data, target)
            origins[f"{name} {origin}"] = name
        elif name == "unlabelled":
            streams[name] = train.unlabelled()
        elif data.labels is None:
            streams[name] = train
        else:
            share = isinstance(data.labels, float)
            count, fraction = (None, data.labels) if share else (int(data.labels), None)
            streams[name] = train.view(draw(train.strata(), shots=count, fraction=fraction, setting="labels"))
    return streams, held_out, list(origins)


def _shifted(examples: Examples, dataset: Dataset, shifts: tuple[Any, ...]) -> Examples:
    """Return the examples of a data set, all shifted. The seed of the recipe has no effect, so every run measures the
    same."""
    if not shifts:
        return examples
    return examples.perturbed(Perturbation(0, f"{dataset.fingerprint}/{examples.split}", inputs=1.0, shifts=shifts))


def _further(
    what: str, settings: Stream | Test, data: Data, target: Dataset, *, read: bool = True
) -> tuple[Examples, str]:
    """Return the examples of a further stream or test set, and the fingerprint of their data set.

    The labels are the classes of the target. `what` names the stream or the test set in an error. Without `read` no
    label is read.
    """
    from tlx.data.examples import open_dataset

    dataset = target if settings.source is None else open_dataset(settings.source)
    check_kind(
        f"the shift of {what}", settings.shift, kind_of(dataset.columns), format_source(settings.source or data.target)
    )
    _check_like(dataset, target, what, data)
    if settings.split not in dataset.splits:
        raise ValueError(
            f"{what}: {dataset.name} has no split {settings.split!r}; it has {', '.join(map(repr, dataset.splits))}"
            f"{near_miss(settings.split, dataset.splits)}"
        )
    examples = dataset.splits[settings.split]
    if not len(examples):
        raise ValueError(
            f"{what}: the split {settings.split!r} of {dataset.name} is empty; expected at least one example"
        )
    if dataset.classes != target.classes:
        places = _places(data, what, dataset, target, range(len(dataset.classes)))
        mapping = np.array([places[number] for number in range(len(dataset.classes))])
        examples = examples.renamed(target.classes, mapping)
    if read:
        examples.check_labels()
    shifts = settings.shift
    if settings.source is None:
        # A further test set of the target has the classes and the shift of the target, as its other splits have.
        shifts = (*data.target_shift, *shifts)
        numbers = numbers_of(data.target_classes, dataset.classes, "target_classes", what)
        examples = of_classes(examples, numbers) if numbers else examples
        if not len(examples):
            raise ValueError(
                f"{what}: the split {settings.split!r} has no example of target_classes={data.target_classes}"
            )
    return _shifted(examples, dataset, shifts), dataset.fingerprint


def _check_like(dataset: Dataset, target: Dataset, what: str, data: Data) -> None:
    """Raise ValueError where a data set has other inputs, or another kind of label, than the target."""
    descriptions = [f"{spelled(compared.columns)} with a {_label_of(compared)}" for compared in (dataset, target)]
    if descriptions[0] != descriptions[1]:
        raise ValueError(
            f"{what} has {descriptions[0]}, but target {format_source(data.target)} has {descriptions[1]}; expected "
            "the same inputs and the same kind of label"
        )


def _label_of(dataset: Dataset) -> str:
    """Return the kind of a data set's label in words."""
    kind = dataset.columns[LABEL].kind if LABEL in dataset.columns else "missing label"
    return f"list of {kind}" if kind in ("classes", "tags", "numbers", "answers") else kind


def _check(part: Examples) -> None:
    """Raise ValueError where a split has no examples, or a label is out of range."""
    if not len(part):
        raise ValueError(f"data set {part.name!r} has no examples in its split {part.split!r}")
    if part.labelled:
        part.check_labels()


def _some(examples: Examples) -> Examples:
    """Return at most `LOOKED_AT` of the examples, always the same ones."""
    _check(examples)
    order = np.argsort(np.random.Generator(np.random.PCG64(0)).random(len(examples)), kind="stable")
    return examples.view(np.sort(order[:LOOKED_AT]))


def _source(
    data: Data, name: str | Source, target: Dataset, seed: int, hold_out: bool
) -> tuple[Examples, Examples, str]:
    """Return the training examples of a source, its held-out examples, and the fingerprint of its data set.

    `data` cuts and perturbs the examples by `seed`; their labels are the classes of the target. Without `hold_out` the
    held-out examples are the training examples.
    """
    from tlx.data.examples import open_dataset

    source, what = open_dataset(name), f"source {format_source(name)}"
    if _opened(data, name).fingerprint == target.fingerprint:
        raise ValueError(f"{what} and target {format_source(data.target)} are the same data set; remove the source")
    _check_like(source, target, what, data)
    if "train" not in source.splits:
        raise ValueError(f"{what} has no 'train' split")
    train = held_out = source.splits["train"]
    if train.kind != "class" and (data.eps_y or data.imbalance > 1):
        noise, has = "eps_y" if data.eps_y else "imbalance", "numbers" if train.kind == "number" else train.kind
        raise ValueError(f"{noise}={getattr(data, noise)} applies to classes, but the labels of {what} are {has}")
    if hold_out:
        validation = validation_split(source)
        train, held_out = (train, validation) if validation else divided(train, data.validation)
    numbers = numbers_of(data.source_classes, source.classes, "source_classes", what)
    if numbers:
        train, held_out = (of_classes(examples, numbers) for examples in (train, held_out))
        _check_each(train, numbers, f"source_classes: the training split of {what}")
    places = _places(data, what, source, target, numbers or range(len(source.classes)))
    if source.classes != target.classes:
        mapping = np.full(len(source.classes), -1)
        mapping[list(places)] = list(places.values())
        train, held_out = (examples.renamed(target.classes, mapping) for examples in (train, held_out))
    if data.imbalance > 1 and len(train):
        train = train.view(long_tail(train.labels(), data.imbalance, seed))
    if data.eps_y or data.eps_x:
        train, held_out = (
            examples.perturbed(
                Perturbation(
                    seed,
                    f"{source.fingerprint}/{examples.split}",
                    labels=data.eps_y,
                    classes=tuple(sorted(places.values())) if data.eps_y else (),
                    inputs=data.eps_x,
                    shifts=(data.shift or usual(kind_of(target.columns), data.eps_x, what)) if data.eps_x else (),
                )
            )
            for examples in (train, held_out)
        )
    return train, held_out, source.fingerprint


def _places(data: Data, what: str, source: Dataset, target: Dataset, numbers: Sequence[int]) -> dict[int, int]:
    """Return, for the number of each of these classes of a source, the number of the matching class of the target.
    `what` names the source in an error."""
    if data.match == "position" or source.classes == target.classes:
        if max(numbers, default=0) >= max(1, len(target.classes)):
            raise ValueError(
                f"{what} has {len(source.classes)} classes, but target {format_source(data.target)} has "
                f"{len(target.classes)}; with match='position', every class of the source needs a class of the target"
            )
        return {number: number for number in numbers}
    if unmatched := [source.classes[n] for n in numbers if source.classes[n] not in target.classes]:
        raise ValueError(
            f"class {unmatched[0]!r} of {what} is not a class of target {format_source(data.target)} "
            f"({', '.join(target.classes[:12])}); Data(match='position') matches the classes by their order, and "
            "Data(source_classes=...) uses only the classes that you list"
        )
    return {number: target.classes.index(source.classes[number]) for number in numbers}


def _check_each(examples: Examples, numbers: Sequence[int], what: str) -> None:
    """Raise ValueError where one of these classes has no example."""
    present = set(examples.labels().tolist())
    if missing := [examples.classes[number] for number in numbers if number not in present]:
        raise ValueError(f"{what} has no example of class {missing[0]!r}")
