"""Which features of a TFDS data set are what goes into a model, and what is to come out."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np

Kind = Literal["image", "text", "audio"]
PLURAL: dict[Kind, str] = {"image": "images", "text": "text", "audio": "sounds"}


class Features(NamedTuple):
    """Which features of a TFDS data set are the inputs (`text`, one or a pair, `image`, or `audio`, the bytes of sound
    files with `rate` samples a second) and the target."""

    text: tuple[str, ...]
    image: str | None
    label: str
    target: Literal["class", "number"]
    audio: str | None = None
    rate: int = 0

    @property
    def kind(self) -> Kind:
        """What the inputs are."""
        return "text" if self.text else "image" if self.image else "audio"

    @property
    def spelled(self) -> str:
        """The same in words."""
        at = f" at {self.rate:,} samples a second" if self.audio else ""
        return "pairs of texts" if len(self.text) > 1 else PLURAL[self.kind] + at


def found_in(name: str, info: Any) -> Features:
    """What to feed and what to predict: `supervised_keys` where it says so, else the only ones of their kind."""
    import tensorflow_datasets as tfds

    # TFDS gives the features of a folder in an order that changes from run to run.
    kinds = dict(sorted(info.features.items(), key=lambda item: (item[0] != "premise", item[0])))
    keys = info.supervised_keys or ()
    named = [key for key in keys if isinstance(key, str)]
    if unknown := [key for key in named if key not in kinds]:
        raise ValueError(
            f"data set {name!r} has supervised keys {', '.join(named)}, of which {unknown[0]!r} is no feature; its "
            f"features are {', '.join(kinds)}; prepare the data set again"
        )
    inputs = named[:-1] if len(named) == len(keys) and named else list(kinds)
    labels = named[-1:] if len(named) == len(keys) and named else [key for key in kinds if "label" in key]
    audio = "audio" if isinstance(kinds.get("audio"), tfds.features.Text) and "audio" in inputs else None
    words = [key for key in inputs if isinstance(kinds[key], tfds.features.Text) and key != audio]
    text = tuple(key for key in words if not key.endswith("id")) if audio is None else ()
    image = next((key for key in inputs if isinstance(kinds[key], tfds.features.Image)), None)
    shapes = {key: getattr(feature, "shape", None) for key, feature in kinds.items()}
    classes = [key for key in labels if isinstance(kinds[key], tfds.features.ClassLabel)]
    numbers = [key for key in labels if shapes[key] == () and np.issubdtype(kinds[key].np_dtype, np.floating)]
    if sum(map(bool, (image, text, audio))) != 1 or len(text) > 2 or len(classes + numbers) != 1:
        raise ValueError(
            f"data set {name!r} has features {', '.join(kinds)}; expected an image, one or two texts, or the bytes of a"
            " sound file called 'audio', and a class label or number"
        )
    return Features(text, image, (classes + numbers)[0], "class" if classes else "number", audio)
