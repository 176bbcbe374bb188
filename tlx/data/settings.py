"""The data settings of a recipe: its data sets, the part and the form of them, and the labels that it may read."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from tlx.config import check_choice, check_seed
from tlx.data.augment import Augmentation, begins_with_pictures
from tlx.data.augment_pictures import OfPictures
from tlx.data.shifts import Shift
from tlx.data.sources.base import Source
from tlx.processors.base import Processor

# The defaults of the settings that only a source has.
OF_SOURCE = {"eps_y": 0.0, "eps_x": 0.0, "shift": (), "imbalance": 1.0, "source_classes": ()}


# Names that a run uses for other examples.
TAKEN = ("train", "validation", "test", "source", "target", "labelled", "unlabelled", "criterion")


@dataclass(frozen=True, kw_only=True)
class Test:
    """A further test set, measured at the end of a run as `NAME/accuracy`, ... beside `test/accuracy`.

    `source` is another data set with the same inputs and the classes of the target. None is the target itself, with
    its `target_classes` and its `target_shift`. `split` names its split. All its examples go through `shift`, each in
    the same way in every run.
    """

    name: str
    source: str | Source | None = None
    split: str = "test"
    shift: tuple[Shift, ...] = ()

    # pytest takes a class of this name for tests.
    __test__: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", _short(self.source))
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,63}", self.name) or self.name in TAKEN:
            raise ValueError(
                f"a test set has the name {self.name!r}; expected letters, digits, _, - and dots, and a name other "
                f"than {', '.join(TAKEN)}"
            )


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A further stream of training examples with their labels: a replay memory, or the data of another task.

    Every step gets a batch of it under `name`, for the terms that read it, such as `Supervised(on="memory")`. `source`
    is a data set with the same inputs and the classes of the target, `split` names its split, and `batch` is the number
    of its examples in a step (None: as many as `train.batch`). All examples go through `shift`.
    """

    name: str
    source: str | Source
    split: str = "train"
    batch: int | None = None
    shift: tuple[Shift, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "source", _short(self.source))
        if not re.fullmatch(r"[A-Za-z][\w.-]{0,63}", self.name) or self.name in TAKEN:
            raise ValueError(
                f"a stream has the name {self.name!r}; expected letters, digits, _, - and dots, and a name other than "
                f"{', '.join(TAKEN)}"
            )
        if isinstance(self.batch, int) and self.batch < 1:
            raise ValueError(f"the stream {self.name!r} has batch={self.batch}; expected 1 or more")


@dataclass(frozen=True, kw_only=True)
class Data:
    """The data of a recipe.

    `target` is the data set on which everything is measured: a name (see `tlx.data.Tfds`), or another `Source`, such as
    `Csv("reviews.csv")`. `source` is another data set, with all labels known. They determine the streams of a batch:
    `labelled` alone; with a `source`, or with `labels`, also `source` and `unlabelled`, which is all training examples
    of the target without their labels. `labels` grants the labels of a number of examples of each class (an integer),
    or of a share of each class (a float); 0 grants none, and there is no stream `labelled`. They are drawn as `shots`
    are, and no other label of the target's training split ever enters a batch. The classes of the source are matched
    with those of the target by name, or, with `match` "position", by their order. Several sources, a tuple of names,
    are the streams `source/0`, `source/1`, ... in their order; every setting of the source applies to each of them.

    `shots` keeps this many training examples of every class, `fraction` this share of every class. The subset is drawn
    by `subset_seed`, or by the recipe's seed where it is None; with one seed a smaller subset lies inside a larger one.
    `validation` is the share of the training split that is held out where the data set has no validation split: the
    same examples for every seed. `test_on` names the split that is measured as the test. A data set without a test
    split, or with withheld test labels (-1), has no test metrics. With "validation" its validation split is tested on,
    and the examples that choose the checkpoint are held out of the training split. `folds` divides the training split
    into this many parts, the same for every seed; the part `fold` (from 0) is tested, the others are trained on (see
    `tlx.data.folds`). `drop_duplicates` leaves out the training and validation examples, of the target and of other
    streams, that repeat a held-out example or another one, exactly or nearly (see `tlx.data.duplicates`); test sets
    stay. `streams` are further streams of
    training, `tests` further test sets. `processor` is a user's processor in the place of that of the weights. Text is
    cut at `tokens`, and a batch is padded to the shortest of `buckets` that holds it. With `group` above 1, this many
    batches are drawn at a time and cut from the draw by length, so that less is padding. Images become `size` pixels a
    side with `channels` (None: as the pretrained processor states, else unchanged). With `before_crop` they are resized
    to it first, and `size` pixels a side are cut from the middle; one number is the shortest side, a pair the height
    and the width. A sound becomes an image of `size`
    mel bands by `size` frames of its first `seconds` (see `tlx.processors.sounds`). `augment` changes training images,
    differently at every step; with `views` in this many fixed ways, which the epochs take in turn. With `sampling`
    "balanced", every class of a stream with labels is drawn equally often, so that examples of a rare class return
    sooner; an epoch keeps its number of steps.

    The other settings make a source less like its target (Wang et al., 2019), drawn by the seed of the subset. With
    probability `eps_y` a label of the source is replaced by a class drawn uniformly over all classes of the source, so
    1 leaves labels without information about the inputs. With probability `eps_x` an input goes through the shifts
    `shift` (see `tlx.data.shifts`), by default Gaussian noise of 0.5 on images, half the words of a text dropped, and
    noise as loud as a sound. Examples that are perturbed at 0.3 are also perturbed at 0.7. `imbalance` cuts the source
    to an exponential long tail (Cui et al., 2019): the rarest class has 1 / imbalance of the examples of the most
    frequent class. `source_classes` are the only classes, by the names of the source, whose examples are kept;
    `target_classes` are those of the target, in all of its splits. The head has all classes of the target's data set in
    any case. All examples of the target, held out or not, go through `target_shift`, each in the same way in every run.
    """

    target: str | Source
    source: str | Source | tuple[str | Source, ...] | None = None
    labels: int | float | None = None
    match: Literal["name", "position"] = "name"
    shots: int | None = None
    fraction: float | None = None
    subset_seed: int | None = None
    validation: float = 0.1
    test_on: Literal["test", "validation"] = "test"
    folds: int | None = None
    fold: int = 0
    drop_duplicates: bool = False
    tokens: int = 128
    buckets: tuple[int, ...] = (32, 64, 128)
    group: int = 1
    size: int | None = None
    before_crop: int | tuple[int, int] | None = None
    channels: int | None = None
    seconds: float = 2.0
    augment: tuple[Augmentation | OfPictures, ...] = ()
    views: int | None = None
    sampling: Literal["shuffled", "balanced"] = "shuffled"
    eps_y: float = 0.0
    eps_x: float = 0.0
    shift: tuple[Shift, ...] = ()
    imbalance: float = 1.0
    source_classes: tuple[str, ...] = ()
    target_classes: tuple[str, ...] = ()
    target_shift: tuple[Shift, ...] = ()
    streams: tuple[Stream, ...] = ()
    tests: tuple[Test, ...] = ()
    processor: Processor | None = None

    def __post_init__(self) -> None:
        for name in ("target", "source"):
            object.__setattr__(self, name, _short(getattr(self, name)))
        if isinstance(self.tests, tuple) and isinstance(self.streams, tuple):
            further: tuple[Stream | Test, ...] = (*self.streams, *self.tests)
            names = [part.name for part in further]
            if duplicates := [name for name in names if names.count(name) > 1]:
                raise ValueError(
                    f"two streams or test sets have the name {duplicates[0]!r}; choose a different name for each"
                )
        if not self.target:
            raise ValueError("target is empty; name a data set, such as 'sentiment/movies'")
        if isinstance(self.subset_seed, int):
            check_seed(self.subset_seed, "subset_seed")
        self._check_chosen_examples()
        self._check_inputs()
        self._check_perturbations()

    def _check_chosen_examples(self) -> None:
        """Raise ValueError for invalid subsets, labels, sources or splits."""
        if self.shots is not None and self.fraction is not None:
            raise ValueError(f"shots={self.shots} and fraction={self.fraction} are both set; set only one of them")
        if self.shots is not None and self.shots < 1:
            raise ValueError(f"shots={self.shots}; expected at least 1")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise ValueError(f"fraction={self.fraction}; expected more than 0 and at most 1")
        if self.labels is not None and not 0 <= self.labels < (1 if isinstance(self.labels, float) else math.inf):
            # 1.0 would be another experiment than 1, with the same fingerprint.
            expected = (
                "expected the number of examples per class (0 = no labels), or a share below 1.0; None = all labels"
            )
            raise ValueError(f"labels={self.labels}; {expected}")
        check_choice("match", self.match, ("name", "position"))
        check_choice("test_on", self.test_on, ("test", "validation"))
        if self.folds is not None and self.folds < 2:
            raise ValueError(f"folds={self.folds}; expected 2 parts or more")
        if not 0 <= self.fold < (1 if self.folds is None else self.folds):
            expected = "set folds=... first" if self.folds is None else f"expected 0 to {self.folds - 1}"
            raise ValueError(f"fold={self.fold} with folds={self.folds}; {expected}")
        if self.folds is not None and self.test_on == "validation":
            raise ValueError(
                f"folds={self.folds} and test_on='validation' are both set; set only one of them: a fold is the test "
                "split"
            )
        if self.source == () or len(set(self.sources.values())) < len(self.sources):
            raise ValueError(f"source={self.source}; expected one data set, or several different data sets")
        if self.target in self.sources.values():
            raise ValueError(f"source and target are both {self.target!r}; remove the source")
        if not 0 < self.validation < 1:
            raise ValueError(f"validation={self.validation}; expected a share between 0 and 1")

    def _check_inputs(self) -> None:
        """Raise ValueError for invalid lengths, groups, views or sizes."""
        if self.tokens < 1 or not self.buckets or min(self.buckets) < 1:
            raise ValueError(f"tokens={self.tokens}, buckets={self.buckets}; expected lengths of at least 1")
        if self.sampling not in ("shuffled", "balanced"):
            raise ValueError(f"sampling={self.sampling!r}; expected 'shuffled' or 'balanced'")
        if self.group < 1:
            raise ValueError(f"group={self.group}; expected at least 1 batch")
        begins_with_pictures(self.augment)
        if self.views is not None and (self.views < 1 or not self.augment):
            raise ValueError(f"views={self.views}; expected at least 1, and augment=(...) for images")
        if self.size is not None and self.size < 1:
            raise ValueError(f"size={self.size}; expected at least 1 pixel")
        if self.before_crop is not None and (self.size is None or not self._holds_crop(self.size)):
            raise ValueError(
                f"before_crop={self.before_crop} and size={self.size}; expected sides of at least `size` pixels, which "
                "are cut from the middle"
            )
        if not 0 < self.seconds < math.inf:
            raise ValueError(f"seconds={self.seconds}; expected more than 0")
        if self.channels not in (None, 1, 3):
            raise ValueError(f"channels={self.channels}; expected 1 (grey) or 3 (colour)")

    def _holds_crop(self, size: int) -> bool:
        """Return whether pictures of `before_crop` have at least `size` pixels a side."""
        sides = self.before_crop if isinstance(self.before_crop, tuple) else (self.before_crop,)
        return min(side or 0 for side in sides) >= size

    def _check_perturbations(self) -> None:
        """Raise ValueError for invalid noise, imbalance or classes, and for settings of a source that is not there."""
        for name in ("eps_y", "eps_x"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)}; expected a probability, 0 to 1")
        if not 1 <= self.imbalance < math.inf:
            raise ValueError(
                f"imbalance={self.imbalance}; expected 1 (no change) or more: the ratio of the largest class size to "
                "the smallest class size"
            )
        if self.source is None:
            for name, usual in OF_SOURCE.items():
                if getattr(self, name) != usual:
                    raise ValueError(
                        f"{name}={getattr(self, name)} applies to the source, but the data have no source: set "
                        "source=..."
                    )
        for name in ("source_classes", "target_classes"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)} lists a class twice; list each class once")

    @property
    def sources(self) -> dict[str, str | Source]:
        """Return every source by its stream: `source`, or `source/0`, `source/1`, ... where there are several."""
        sources = self.source if isinstance(self.source, tuple) else () if self.source is None else (self.source,)
        return {"source" if len(sources) == 1 else f"source/{n}": name for n, name in enumerate(sources)}

    @property
    def stream_names(self) -> tuple[str, ...]:
        """Return the names of the streams of which each step gets a batch. A pass over the first is an epoch."""
        labelled = () if self.labels == 0 else ("labelled",)
        unlabelled = ("unlabelled",) if self.sources or self.labels is not None else ()
        return (*self.sources, *labelled, *unlabelled, *(stream.name for stream in self.streams))

    @property
    def processors(self) -> tuple[type[Processor], ...]:
        """Return the user's classes of processors that the recipe names; they open the files of a run."""
        return () if self.processor is None else (type(self.processor),)

    @property
    def batches(self) -> dict[str, int | None]:
        """Return the number of examples per step of each further stream; None is as many as `train.batch`."""
        return {stream.name: stream.batch for stream in self.streams}

    @property
    def lengths(self) -> tuple[int, ...]:
        """Return the lengths that a batch of text may have, ascending: the buckets below `tokens`, and `tokens`."""
        return (*sorted({bucket for bucket in self.buckets if bucket < self.tokens}), self.tokens)


def _short(value: object) -> Any:
    """Return a source, or each of several, as the shortest value with the same meaning, so that one recipe has one
    fingerprint. `config.check` checks values of another type."""
    if isinstance(value, tuple):
        return tuple(map(_short, value))
    return value.short if isinstance(value, Source) else value
