"""Shifts of sounds: the effects of a line, a room or a recorder. See `tlx.data.shifts`.

Shapes: T samples.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, Literal

import numpy as np

from tlx.config import check_choice
from tlx.processors.sounds import resampled, soundfile

Law = Literal["gsm", "mu-law", "a-law"]
# The names of libsndfile.
LAWS: dict[str, str] = {"gsm": "GSM610", "mu-law": "ULAW", "a-law": "ALAW"}


class OfSounds:
    """The base class of shifts of sounds."""

    kind: ClassVar[str] = "audio"


@dataclass(frozen=True, kw_only=True)
class BackgroundNoise(OfSounds):
    """Adds white noise at a signal-to-noise ratio of `snr` decibels: at 0 the noise is as loud as the sound. Silence
    stays silent, and samples are clipped to -1 to 1."""

    snr: float

    def __call__(self, sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        scale = np.sqrt(np.mean(sound.astype(np.float64) ** 2) / 10 ** (self.snr / 10)) if len(sound) else 0.0
        return np.clip(sound + scale * rng.standard_normal(len(sound)), -1, 1).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Speed(OfSounds):
    """Plays the sound `factor` times as fast, so that its pitch changes too (Ko et al., 2015): [T] to [T / factor], by
    scipy's polyphase filter."""

    factor: float

    def __post_init__(self) -> None:
        if not 0.25 <= self.factor <= 4:
            raise ValueError(f"factor={self.factor}; expected 0.25 (four times as slow) to 4")

    def __call__(self, sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        ratio = Fraction(self.factor).limit_denominator(100)
        return resampled(sound, ratio.numerator, ratio.denominator)


@dataclass(frozen=True, kw_only=True)
class Codec(OfSounds):
    """Encodes and decodes the sound by a telephone's codec, with libsndfile: "gsm" (GSM 06.10, 13 kbit/s at 8,000
    samples a second), "mu-law" or "a-law" (G.711, 8 bits a sample)."""

    law: Law = "gsm"

    def __post_init__(self) -> None:
        check_choice("law", self.law, LAWS)

    def __call__(self, sound: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        library, file = soundfile(), io.BytesIO()
        # The codecs do not use a rate; only the header of the file has this one.
        options = {"format": "RAW", "subtype": LAWS[self.law], "samplerate": 8000}
        library.write(file, sound, **options)
        file.seek(0)
        decoded, _ = library.read(file, dtype="float32", channels=1, **options)
        # GSM keeps whole frames of 160 samples.
        return np.pad(decoded[: len(sound)], (0, max(0, len(sound) - len(decoded))))
