"""What `tlx list` prints, made from the classes themselves: names, first sentences, papers and fields."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from tlx.trees import Json

if TYPE_CHECKING:
    from tlx.files.class_names import Classes

# Authors and a year, as the docstrings write them: "Hu et al., 2022", "Wang et al. (2019)".
PAPER = re.compile(
    r"((?:Ben )?[A-Z][\w'’-]+(?: [A-Z][\w'’-]+)*(?: et al\.| and (?:[A-Z][\w'’-]+ ?)+)?)(?:,| \(|\() ?((?:19|20)\d\d)\b"
)
SENTENCE = re.compile(r"(?<! al)\.\s+(?=[A-Z`\"(])")


class Parameter(NamedTuple):
    """A field of a class: its type as text, and its default as Python text (None: the field is required)."""

    name: str
    type: str
    default: str | None

    @property
    def text(self) -> str:
        """Return the field as a call would set it; `...` for the value of a required field."""
        return f"{self.name}={'...' if self.default is None else self.default}"


class ListItem(NamedTuple):
    """One item of a list.

    Attributes:
        name: The name, as a recipe or a command writes it.
        about: What it is, in one sentence.
        papers: The papers that its documentation names.
        fields: The fields of its class.
        text: The whole documentation.
        place: The module of its class.
    """

    name: str
    about: str
    papers: tuple[str, ...] = ()
    fields: tuple[Parameter, ...] = ()
    text: str = ""
    place: str = ""

    @property
    def document(self) -> Json:
        """Return the entry as a JSON object."""
        return self._asdict() | {"fields": [field._asdict() for field in self.fields]}


class Subject(NamedTuple):
    """One list: what it holds, how a recipe or a command uses an item, and the function that returns the items."""

    about: str
    use: str
    entries: Callable[[Classes], Iterable[ListItem]]


def papers_of(text: str) -> tuple[str, ...]:
    """Return the papers that a text names.

    >>> papers_of("LoRA (Hu et al., 2022) and DANN of Ganin and Lempitsky (2015)")
    ('Hu et al., 2022', 'Ganin and Lempitsky, 2015')
    """
    return tuple(dict.fromkeys(f"{names.strip()}, {year}" for names, year in PAPER.findall(" ".join(text.split()))))


def first_sentence(text: str) -> str:
    """Return the first sentence of a documentation, without its full stop.

    >>> first_sentence("Freeze all.\\n\\nMore.")
    'Freeze all'
    """
    return SENTENCE.split(" ".join(text.split("\n\n", maxsplit=1)[0].split()))[0].rstrip(".")


def entry_of(kind: type) -> ListItem:
    """Return the entry of a class."""
    text = inspect.cleandoc(kind.__doc__ or "")
    if text.startswith(f"{kind.__name__}("):
        # dataclass writes the signature where a class has no documentation.
        text = ""
    papers = papers_of(text) or papers_of(sys.modules[kind.__module__].__doc__ or "")
    return ListItem(kind.__name__, first_sentence(text), papers, parameters_of(kind), text, kind.__module__)


def parameters_of(kind: type) -> tuple[Parameter, ...]:
    """Return the fields of a class of records, with their types and defaults."""
    from tlx.config import source
    from tlx.config.hints import name_of
    from tlx.files.class_names import defaults, is_record_class

    if not is_record_class(kind):
        return ()
    hints, values = typing.get_type_hints(kind), defaults(kind)
    names = getattr(kind, "_fields", None) or [field.name for field in dataclasses.fields(kind) if field.init]
    return tuple(
        Parameter(name, name_of(hints[name]), source(values[name]) if name in values else None) for name in names
    )


def subclasses_of(base: Callable[[], type]) -> Callable[[Classes], list[ListItem]]:
    """Return the function that lists the classes of a recipe that derive from `base()`."""

    def entries(classes: Classes) -> list[ListItem]:
        from tlx.config.fixes import kinds_of

        kinds = kinds_of(base(), classes.values())
        # Other classes may be loaded by accident.
        return [entry_of(kind) for name, kind in sorted(kinds.items()) if name in classes]

    return entries


def base(place: str) -> Callable[[Classes], list[ListItem]]:
    """Return the function that lists the classes that derive from the class `module:Class`, imported when called."""

    def imported() -> type:
        from importlib import import_module

        module, _, name = place.partition(":")
        return getattr(import_module(module), name)

    return subclasses_of(imported)


def models(classes: Classes) -> Iterable[ListItem]:
    """Yield the architectures, with the checkpoints that each reads."""
    from tlx.weights.formats import formats_of

    for entry in base("tlx.models:Architecture")(classes):
        reads = ", ".join(name for form in formats_of(classes[entry.name]) for name in form.families)
        yield entry._replace(about=f"{entry.about}; reads model_type {reads}" if reads else entry.about)


def augmentations(classes: Classes) -> list[ListItem]:
    """Return the augmentations; shifts and processors can be called as well, and have their own lists."""
    from tlx.config.fixes import implements, kinds_of
    from tlx.data import Augmentation, Shift
    from tlx.processors import Processor

    kinds = kinds_of(Augmentation, classes.values()).values()
    others = (Shift, Processor)
    return sorted(entry_of(kind) for kind in kinds if not any(implements(kind, other) for other in others))


def optimisers(classes: Classes) -> Iterable[ListItem]:
    """Yield the optimisers that a recipe can name, and the user's."""
    from tlx.optim import Optim
    from tlx.optim.directions import BY_NAME

    for name, optimiser in BY_NAME.items():
        yield ListItem(name, optimiser.about, papers_of(optimiser.about), text=optimiser.about, place="tlx.optim")
    yield from (entry for entry in base("tlx.optim:Optim")(classes) if entry.name != Optim.__name__)
    yield entry_of(Optim)


def datasets(classes: Classes) -> Iterable[ListItem]:
    """Yield the data sets of tlx, and those prepared on disk."""
    from tlx.data import DATASETS
    from tlx.data.sources.tfds import prepared

    for name, shipped in DATASETS.items():
        origin = ", ".join(shipped.assets) or "scikit-learn"
        about = f"{shipped.about}: {shipped.task}, {len(shipped.classes)} classes; made from {origin}"
        yield ListItem(name, about, text=f"{about}\nclasses: {', '.join(shipped.classes)}", place=shipped.builder)
    for name in prepared():
        if name.partition(":")[0] not in DATASETS:
            yield ListItem(name, "prepared on disk")


def assets(classes: Classes) -> Iterable[ListItem]:
    """Yield the pinned packages, with their sizes and licences."""
    from tlx.assets import ASSETS, path

    for name, asset in ASSETS.items():
        cached = "in the cache" if path(name).is_file() else "not in the cache"
        text = f"{asset.about}; {asset.bytes / 1e6:.1f} MB, {asset.licence}, {cached}"
        package = f"{asset.package} {asset.version} ({asset.kind}), sha256 {asset.sha256}"
        yield ListItem(name, text, papers_of(asset.about), text=f"{text}\n{package}")


def weights(classes: Classes) -> Iterable[ListItem]:
    """Yield the pretrained weights that have a name; any hub id and any directory can be loaded too."""
    from tlx.weights.source import MODEL_ASSETS

    yield from (entry for entry in assets(classes) if entry.name in MODEL_ASSETS)


# The subjects of `tlx list`, in their order.
SUBJECTS: dict[str, Subject] = {
    "tunings": Subject("which parameters are trainable, and when", "tuning={}", base("tlx.tuning:Tuning")),
    "terms": Subject("what to minimise", "objective=({},)", base("tlx.objectives:Term")),
    "updates": Subject("how the losses become one step", "update={}", base("tlx.updates:Update")),
    "optimisers": Subject("how gradients become steps", "optim.name={}", optimisers),
    "tasks": Subject("targets, losses, scores and metrics", "task={}", base("tlx.tasks:Task")),
    "models": Subject("architectures, with the checkpoints that they read", "model={}", models),
    "weights": Subject("named pretrained weights", 'weights=Weights("{}")', weights),
    "datasets": Subject("data sets of tlx, and those on disk", "data.target={}", datasets),
    "sources": Subject("where data come from", "data.target={}", base("tlx.data:Source")),
    "shifts": Subject("controlled changes of the inputs", "data.shift=({},)", base("tlx.data:Shift")),
    "augmentations": Subject("random changes of training images", "data.augment=({},)", augmentations),
    "assets": Subject("pinned packages of weights and data", "tlx fetch {}", assets),
}
