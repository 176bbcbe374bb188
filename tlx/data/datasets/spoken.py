"""Prompts of a telephone exchange, spoken in several languages by professional voices, 8,000 samples a second.

Source: the sounds of Asterisk, as Debian packages them: one voice a language in `studio`, and others, two of three of
them kept by the GSM 06.10 codec, in `voices`. A prompt's file name says what is spoken, in every language the same.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from tlx import assets
from tlx.data.datasets.splits import by_hash
from tlx.processors import sounds

RATE = 8000
# The package of each language.
VOICES = {
    "studio": {"en": "sounds-en", "es": "sounds-es", "fr": "sounds-fr", "it": "sounds-it"},
    "voices": {"es": "sounds-es-co", "fr": "sounds-fr-armelle", "it": "sounds-it-menardi"},
}


class Spoken(tfds.core.GeneratorBasedBuilder):
    """Which language is it? Splits 70/10/20 by the hash of what is spoken, so that no prompt that is tested on was
    trained on in any language or voice. In `studio` a language is a voice, in `voices` it is another one."""

    name = "spoken"
    VERSION = tfds.core.Version("1.0.0")
    # As in sentiment.py.
    url_infos: ClassVar[dict[str, Any]] = {}
    BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [
        tfds.core.BuilderConfig(name=name, description=name) for name in VOICES
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        languages = list(VOICES[self.builder_config.name])
        return tfds.core.DatasetInfo(
            builder=self,
            description=__doc__,
            features=tfds.features.FeaturesDict(
                {
                    "audio": tfds.features.Text(doc="The bytes of a FLAC file."),
                    "label": tfds.features.ClassLabel(names=languages),
                    "prompt": tfds.features.Text(),
                }
            ),
            supervised_keys=("audio", "label"),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        voices = VOICES[self.builder_config.name]
        rows = [(language, *recording) for language, asset in voices.items() for recording in prompts(asset)]
        return {split: self._generate_examples(rows, split) for split in ("train", "validation", "test")}

    def _generate_examples(
        self, rows: list[tuple[str, str, bytes]], split: str
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        for language, prompt, content in rows:
            if by_hash(prompt) == split:
                yield f"{language}/{prompt}", {"audio": content, "label": language, "prompt": prompt}


def prompts(asset: str) -> Iterator[tuple[str, bytes]]:
    """Yield the prompts of a package, in order, each with the bytes of a FLAC file; silence is left out."""
    soundfile = sounds.soundfile()
    for member, content in sorted(assets.members(asset)):
        path = PurePosixPath(member)
        if path.suffix not in (".wav", ".gsm") or path.parts[0] == "silence":
            continue
        # A .gsm file has no header with its format.
        options = (
            {"format": "RAW", "subtype": "GSM610", "samplerate": RATE, "channels": 1} if path.suffix == ".gsm" else {}
        )
        samples, rate = soundfile.read(io.BytesIO(content), dtype="int16", **options)
        if rate != RATE:
            raise ValueError(f"{asset}: {member} has {rate} samples per second; expected {RATE}")
        if not len(samples) or not np.abs(samples).max():
            continue
        file = io.BytesIO()
        soundfile.write(file, samples, rate, format="FLAC", subtype="PCM_16")
        yield str(path.with_suffix("")), file.getvalue()
