"""Sentences of four domains with a human rating of sentiment.

Source: C. J. Hutto and E. Gilbert, "VADER: A parsimonious rule-based model for sentiment analysis of social media
text", ICWSM 2014; the ground-truth files lie in the package's source archive.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds

from tlx import assets
from tlx.data.datasets.splits import by_hash

FILES = {
    "tweets": "tweets_GroundTruth.txt",
    "movies": "movieReviewSnippets_GroundTruth.txt",
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "nyt": "nytEditorialSnippets_GroundTruth.txt",
}
CLASSES = ("negative", "positive")


class Sentence(NamedTuple):
    """`rating` is the mean of 20 people's, from -4 to 4; `document` is empty where the file names none."""

    id: str
    document: str
    rating: float
    text: str


def sentences(domain: str, text: str) -> Iterator[Sentence]:
    """Yield the clear sentences of a ground-truth file, which has lines of `id TAB rating TAB text`.

    Sentences rated between -0.5 and 0.5 are dropped. So is a repeated text, because it could be in the training and in
    the test split.
    """
    texts = set()
    for line in text.splitlines():
        if not line.strip():
            continue
        number, rating, words = line.split("\t", 2)
        words = words.strip()
        if abs(float(rating)) < 0.5 or words.lower() in texts:
            continue
        texts.add(words.lower())
        document = f"{domain}/{number.split('_')[0]}" if "_" in number else ""
        yield Sentence(f"{domain}/{number}", document, float(rating), words)


class Sentiment(tfds.core.GeneratorBasedBuilder):
    """Rating >= 0.5 is positive, <= -0.5 negative. Splits 70/10/20 by the hash of the id, by document where there is
    one.
    """

    name = "sentiment"
    VERSION = tfds.core.Version("1.0.0")
    # There are no URLs; TFDS would look for their checksums beside this file, by a package that it does not require.
    url_infos: ClassVar[dict[str, Any]] = {}
    BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [
        tfds.core.BuilderConfig(name=domain, description=domain) for domain in FILES
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "text": tfds.features.Text(),
                    "label": tfds.features.ClassLabel(names=list(CLASSES)),
                    "rating": np.float32,
                    "id": tfds.features.Text(),
                    "document": tfds.features.Text(),
                }
            ),
            supervised_keys=("text", "label"),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        inner = assets.open_member("vader", "additional_resources/hutto_ICWSM_2014.tar.gz")
        domain = self.builder_config.name
        with tarfile.open(fileobj=io.BytesIO(inner)) as archive:
            raw = archive.extractfile(f"hutto_ICWSM_2014/{FILES[domain]}").read()  # type: ignore[union-attr]
        rated = list(sentences(domain, raw.decode("utf-8", errors="replace")))
        return {split: self._generate_examples(rated, split) for split in ("train", "validation", "test")}

    def _generate_examples(self, rows: list[Sentence], split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for sentence in rows:
            if by_hash(sentence.document or sentence.id) == split:
                yield sentence.id, {**sentence._asdict(), "label": int(sentence.rating > 0)}
