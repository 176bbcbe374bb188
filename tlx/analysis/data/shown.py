"""Show examples to people: before and after processing and augmentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from tlx.data.augment import augmented, augmented_example, begins_with_pictures
from tlx.processors.columns import LABEL
from tlx.processors.previews import data_uri, resized
from tlx.processors.sounds import draw_sound
from tlx.trees import Json

if TYPE_CHECKING:
    from tlx.data import Data, Examples
    from tlx.processors import Processor

# Characters of a text, the side of a picture in pixels, and augmented versions of an image.
LETTERS, SIDE, VERSIONS = 400, 160, 3


def shown(examples: Examples, data: Data, processor: Processor | None, count: int) -> list[Json]:
    """Return `count` examples, of every class in turn, as people and as the model see them.

    Each has its `place`, its `label` in words, its input (`text`, `image` as a data URI) as it lies on disk; where
    perturbations of the recipe change it, `perturbed`; and, with a processor, `after`: the `text` that is read, the
    number of `tokens` and of those `cut` off, or the `images` of the processed picture and of its augmentations.
    """
    rows = []
    for position in chosen(examples, count):
        entry = described(examples, position)
        example = examples[position]
        if examples.perturbation is not None and examples.perturbation.shifts:
            entry["perturbed"] = inputs_of(example)
        if processor is not None:
            entry["after"] = after(example, data, processor)
        rows.append(entry)
    return rows


def chosen(examples: Examples, count: int) -> list[int]:
    """Return the positions of `count` examples: the first of every class, then the second of every class, ..."""
    if not examples.labelled or examples.kind != "class":
        return list(range(min(count, len(examples))))
    labels = examples.labels()
    ranks = np.zeros(len(labels), int)
    for number in np.unique(labels):
        members = np.flatnonzero(labels == number)
        ranks[members] = np.arange(len(members))
    return np.lexsort((labels, ranks))[:count].tolist()


def described(examples: Examples, position: int) -> Json:
    """Return an example as it lies on disk: its `place`, its `label` in words, its texts and its picture."""
    row = int(examples.rows[position])
    plain = examples.view(np.array([position]))
    plain.perturbation = None
    example = plain[0]
    label = {"label": label_words(example[LABEL], examples)} if LABEL in example else {}
    return {"place": examples.place(row), **label, **inputs_of(example)}


def inputs_of(example: Mapping[str, Any]) -> Json:
    """Return the texts of an example, and its picture as a data URI."""
    shown: Json = {}
    for name in ("text", "text_pair"):
        if name in example:
            shown[name] = shortened(example[name])
    if "words" in example:
        shown["text"] = shortened(" ".join(example["words"]))
    if "image" in example:
        shown["image"] = uri(example["image"])
        shown["size"] = " × ".join(map(str, example["image"].shape))
    if "audio" in example:
        shown["image"] = uri(draw_sound(example["audio"]))
    return shown


def after(example: Mapping[str, Any], data: Data, processor: Processor) -> Json:
    """Return an example as the model reads it."""
    if text := processor.reading(example):
        length, whole = processor.measure([example])[0], processor.uncut([example])[0]
        return {"text": shortened(text), "tokens": length, "cut": whole - length}
    arrays = processor(example)
    picture = processor.picture(arrays["image"]) if "image" in arrays else None
    if picture is None:
        return {}
    images = [picture]
    if data.augment and processor.augments:
        index = int(example["index"])
        for step in range(VERSIONS):
            draw = {"seed": 0, "step": step, "index": index}
            if begins_with_pictures(data.augment):
                changed = augmented_example(example, processor, data.augment, **draw)
            else:
                changed = augmented(arrays["image"], data.augment, **draw)
            images.append(np.asarray(processor.picture(changed)))
    return {"images": [uri(image) for image in images], "size": " × ".join(map(str, picture.shape))}


def label_words(label: Any, examples: Examples) -> str:
    """Return a label in words."""
    classes = examples.classes
    if examples.kind == "class":
        return classes[label]
    if examples.kind in ("classes", "tags"):
        names = [classes[number] for number in label]
        return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "") or "none"
    if examples.kind == "text":
        return str(label)
    if examples.kind == "answers":
        return " / ".join(dict.fromkeys(label["text"])) or "(no answer)"
    return ", ".join(f"{number:g}" for number in np.ravel(label)[:12])


def shortened(text: str) -> str:
    """Return the beginning of a text."""
    return text if len(text) <= LETTERS else f"{text[:LETTERS]}…"


def uri(pixels: np.ndarray) -> str:
    """Return a small version of an image as a data URI."""
    scale = SIDE / max(pixels.shape[:2])
    if scale < 1:
        height, width = (max(1, round(side * scale)) for side in pixels.shape[:2])
        pixels = resized(pixels, height, width)
    return data_uri(pixels)
