"""Turn inputs into rows of numbers: by the pretrained model of a recipe, else words, small pictures or spectra.

Shapes: N examples, W width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tlx.analysis.data.sizes import text_of
from tlx.assets import cache_dir
from tlx.data.examples import save_whole
from tlx.processors.columns import inputs
from tlx.processors.previews import resized
from tlx.processors.sounds import SoundProcessor
from tlx.trees import flatten

if TYPE_CHECKING:
    from tlx.data import Examples
    from tlx.training.prepare import Prepared

SIDE = 12


class FeatureSource:
    """Compute the features of examples.

    `words` says what they are. With a prepared recipe that has pretrained weights they are the inputs of its head,
    which are stored in the cache; without one texts stay texts (see `vectors`).
    """

    def __init__(self, ready: Prepared | None, kind: str):
        self.ready = ready if ready is not None and ready.manifest.entries else None
        self.kind = kind
        plain = {
            "text": "words and pairs of words (TF-IDF)", "words": "words and pairs of words (TF-IDF)",
            "image": f"pixels of small pictures ({SIDE} by {SIDE})", "audio": "log-mel spectra",
        }  # fmt: skip
        self.words = "features of the pretrained model" if self.ready is not None else plain.get(kind, "")

    @property
    def of_texts(self) -> bool:
        """Return whether the features of an example are its text."""
        return self.ready is None and self.kind in ("text", "words")

    def of(self, examples: Examples) -> np.ndarray:
        """Return the features of examples: float32[N, W], or texts [N]."""
        if self.ready is not None:
            return of_model(self.ready, examples)
        rows: list[Any] = []
        for position in range(len(examples)):
            if self.of_texts:
                rows.append(" ".join(text_of(examples.light(position), examples)))
            else:
                rows.append(spectrum(examples, position) if self.kind == "audio" else small(examples[position]))
        return np.array(rows, object) if self.of_texts else np.array(of_one_width(rows), np.float32)


def of_one_width(rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return arrays [..., W] of one width: the pixels of a grey picture are repeated where others have colours."""
    widest = max((row.shape[-1] for row in rows), default=0)
    return [np.repeat(row, widest // row.shape[-1], axis=-1) if widest % row.shape[-1] == 0 else row for row in rows]


def of_model(ready: Prepared, examples: Examples) -> np.ndarray:
    """Return the inputs of the head, float32[N, W], of the initial weights. Those of data on disk are stored there."""
    from tlx import config
    from tlx.training.evaluate import feature_reader

    sha = hashlib.sha256(repr((examples.key, examples.split, ready.processor.identity)).encode() + examples.identity)
    sha.update(repr(config.dump(ready.recipe.train.dtype)).encode())
    for path, leaf in flatten(ready.variables.params).items():
        sha.update(f"{path} {leaf.shape}".encode() + np.asarray(leaf).tobytes())
    file = cache_dir() / "features" / f"{sha.hexdigest()[:24]}.npy"
    if examples.key and file.is_file():
        return np.asarray(np.load(file, allow_pickle=False))
    features = feature_reader(ready)(ready.variables, examples)["features"]
    if examples.key:
        save_whole(file, features)
    return features


def small(example: dict[str, Any]) -> np.ndarray:
    """Return the pixels of a small version of an image, float32[SIDE * SIDE * channels]."""
    return resized(example["image"], SIDE, SIDE).astype(np.float32).ravel() / 255


def spectrum(examples: Examples, position: int) -> np.ndarray:
    """Return the log-mel spectrum of a sound, float32[16 * 16]."""
    rate = inputs(examples.columns)["audio"].rate or 8000
    sound = examples[position]["audio"]
    processor = SoundProcessor(size=(16, 16), rate=rate, seconds=max(len(sound), rate // 10) / rate)
    return np.asarray(processor({"audio": sound})["image"]).ravel()


def classifier(of_texts: bool) -> Any:
    """Return a logistic regression that is not fitted yet, on texts or on rows of numbers."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if of_texts:
        return make_pipeline(
            TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), max_features=50_000, token_pattern=r"\S+"),
            LogisticRegression(C=10.0, tol=1e-3),
        )
    return make_pipeline(StandardScaler(), LogisticRegression(C=0.1, tol=1e-3))


def vectors(sides: Sequence[np.ndarray], of_texts: bool) -> list[np.ndarray]:
    """Return rows of numbers of several sides, [N, W] each; texts become 64 singular directions of their TF-IDF."""
    if not of_texts:
        return [np.asarray(side, np.float32) for side in of_one_width(sides)]
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = np.concatenate(list(sides)).tolist()
    counts = TfidfVectorizer(sublinear_tf=True, max_features=50_000, token_pattern=r"\S+").fit_transform(texts)
    width = min(64, counts.shape[1] - 1, len(texts) - 1)
    rows = TruncatedSVD(width, random_state=0).fit_transform(counts) if width > 0 else counts.toarray()
    return list(np.split(rows.astype(np.float32), np.cumsum([len(side) for side in sides])[:-1]))
