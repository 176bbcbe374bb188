"""From a sound to a picture: a log-mel spectrogram, which every model of images reads.

Shapes: T samples, M mel bands (rows, from the lowest), F frames (columns).
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from tlx.files.documents.processors import SOUNDS
from tlx.processors.base import Inputs, Processor
from tlx.processors.files import read_preprocessor
from tlx.processors.opening import read_json
from tlx.processors.pictures import FILE, ImageProcessor, check_model, file_of, refuse_other

if TYPE_CHECKING:
    from tlx.processors.columns import Columns

# What `preprocessor_config.json` calls it; no class of transformers reads it.
KIND = "TlxSpectrogram"
# The width of a frame in seconds, as is usual for speech.
WINDOW = 0.025
# Samples a second that resampling takes, and samples that memory holds.
RATES = (1_000, 1_000_000)
MOST_SAMPLES = 2**28


@dataclass(frozen=True, kw_only=True)
class SoundProcessor(ImageProcessor):
    """A sound to float32[M, F, 1], (M, F) being `size`: its first `seconds`, or all of it and silence, at `rate`
    samples a second; frames of 25 ms, equally far apart; power in mel bands (Slaney's); log10, no less than the largest
    minus 8, plus 4, over 4, as Whisper has it (Radford et al., 2023).
    """

    size: tuple[int, int]
    channels: Any = 1
    rate: int = 8000
    seconds: float = 2.0

    reads: ClassVar[tuple[str, ...]] = ("audio",)
    noun: ClassVar[str] = "a processor of sounds"
    augments: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.channels != 1:
            raise ValueError(f"channels={self.channels}; the picture of a sound has 1")
        if self.samples < self.size[1]:
            raise ValueError(f"seconds={self.seconds} are {self.samples} samples, fewer than {self.size[1]} frames")

    @property
    def samples(self) -> int:
        """How many samples are looked at."""
        return round(self.rate * self.seconds)

    @classmethod
    def fit(
        cls,
        brought: Processor | None,
        data: Any,
        columns: Columns,
        shape: tuple[int, ...] | None = None,
        example: Callable[[], Mapping[str, Any]] | None = None,
    ) -> Processor:
        """Return a processor of the sounds' rate, at the size that the data ask for, else that of the weights or of the
        model. Raises ValueError for weights of texts, and for a shape that is not the model's."""
        refuse_other(brought, data, columns, ("image", "audio"))
        like: Any = brought or (cls.of_shape(shape) if shape else None)
        size = (data.size, data.size) if data.size else like.shape[:2] if like else (64, 64)
        (rate,) = {column.rate for column in columns.values() if column.kind == "audio"}
        after = cls(size=size, rate=rate, seconds=data.seconds)
        check_model(after, shape)
        return after

    def trials(self) -> list[dict[str, Any]]:
        return [{"audio": np.random.default_rng(0).normal(0, 0.1, self.samples).astype(np.float32)}]

    def check_shape(self, shape: tuple[int, ...] | None, directory: str) -> None:
        """Nothing is checked: the size is that of the run."""

    def read(self, argument: str) -> dict[str, Any]:
        """Return the example of a sound file."""
        return {"audio": file_of(argument, "sounds").read_bytes(), "name": argument}

    @classmethod
    def opens(cls, directory: Path) -> bool:
        return super().opens(directory) and read_json(directory / FILE).get("feature_extractor_type") == KIND

    def __call__(self, example: Mapping[str, Any]) -> Inputs:
        """`{"audio": float32[T] from -1 to 1, or the bytes of a sound file}` to `{"image": float32[M, F, 1]}`."""
        from transformers.audio_utils import spectrogram, window_function

        audio = example["audio"]
        name = example.get("name", "this sound")
        sound = decoded(audio, self.rate, name) if isinstance(audio, bytes) else np.asarray(audio, np.float32)
        if sound.ndim != 1:
            raise ValueError(f"a sound is float32[samples], not {sound.dtype}{list(sound.shape)}")
        sound = np.pad(sound[: self.samples], (0, max(0, self.samples - len(sound))))
        width = round(WINDOW * self.rate)
        power = spectrogram(
            sound,
            window_function(width, "hann"),
            frame_length=width,
            hop_length=self.samples // self.size[1],
            fft_length=fft_length(width),
            power=2.0,
            mel_filters=mel_filters(self.rate, self.size[0], fft_length(width)),
            log_mel="log10",
        )[:, : self.size[1]]
        return {"image": ((np.maximum(power, power.max() - 8) + 4) / 4).astype(np.float32)[..., None]}

    def save(self, directory: str | Path) -> None:
        """Writes `preprocessor_config.json`, which `processors.load` reads."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        told = {"feature_extractor_type": KIND, "size": list(self.size), "rate": self.rate, "seconds": self.seconds}
        (directory / "preprocessor_config.json").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: str | Path, tokens: int | None = None, room: int | None = None) -> Self:
        """From the file that `save` writes."""
        settings = read_preprocessor(Path(directory), SOUNDS)
        return cls(size=tuple(settings["size"]), rate=settings["rate"], seconds=settings["seconds"])


def drawn(sound: np.ndarray) -> np.ndarray:
    """The picture of a sound for whoever looks at it: uint8[64, 128, 1], low tones below, black silence."""
    picture = SoundProcessor(size=(64, 128), seconds=max(len(sound), 128) / 8000)({"audio": sound})["image"]
    loud = (picture - picture.min()) / max(float(np.ptp(picture)), 1e-6)
    return np.rint(255 * loud[::-1]).astype(np.uint8)


def fft_length(width: int) -> int:
    """The power of two that holds a frame of `width` samples."""
    return 2 ** math.ceil(math.log2(width))


def mel_filters(rate: int, bands: int, length: int) -> np.ndarray:
    """Slaney's triangles, [length / 2 + 1, M]."""
    from transformers.audio_utils import mel_filter_bank

    return mel_filter_bank(length // 2 + 1, bands, 0.0, rate / 2, rate, norm="slaney", mel_scale="slaney")


def decoded(content: bytes, rate: int, what: str) -> np.ndarray:
    """float32[T] of a sound file, its channels averaged, at `rate` samples a second. Raises ValueError for what is no
    sound, ModuleNotFoundError that names the extra where soundfile is not installed."""
    sound = soundfile()
    check_sound(content, what)
    try:
        samples, found = sound.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except (sound.LibsndfileError, ValueError, MemoryError) as error:
        raise ValueError(f"{what} is no sound that can be read: {error}; expected a whole sound file") from None
    if not np.isfinite(samples).all():
        raise ValueError(f"{what} holds samples that are not finite; expected numbers from -1 to 1: convert it again")
    mono = samples.mean(1)
    return mono if found == rate else resampled(mono, found, rate)


def rate_of(content: bytes, what: str) -> int:
    """Samples a second of a sound file; raises as `decoded`."""
    return check_sound(content, f"the first sound of {what}")


def check_sound(content: bytes, what: str) -> int:
    """Return the samples a second of a sound file; ValueError where its header describes what nothing can hold."""
    sound = soundfile()
    try:
        header = sound.info(io.BytesIO(content))
    except (sound.LibsndfileError, ValueError) as error:
        raise ValueError(f"{what} is no sound that can be read: {error}; expected a whole sound file") from None
    if not RATES[0] <= header.samplerate <= RATES[1]:
        raise ValueError(
            f"{what} has {header.samplerate:,} samples a second; expected {RATES[0]:,} to {RATES[1]:,}: convert it"
        )
    if header.frames * header.channels > MOST_SAMPLES:
        raise ValueError(
            f"{what} has {header.frames:,} samples in {header.channels} channels; expected at most {MOST_SAMPLES:,}: "
            "cut it"
        )
    return int(header.samplerate)


def resampled(sound: np.ndarray, before: int, after: int) -> np.ndarray:
    """A sound of `before` samples a second at `after`, by scipy's polyphase filter."""
    from scipy.signal import resample_poly

    common = math.gcd(before, after)
    return resample_poly(sound, after // common, before // common).astype(np.float32)


def soundfile() -> Any:
    """The library that reads and writes sound files."""
    try:
        import soundfile as found
    except ModuleNotFoundError:
        raise ModuleNotFoundError("sounds are read by soundfile: pip install 'tlx[audio]'") from None
    return found
