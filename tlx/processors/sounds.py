"""Turn a sound into a picture: a log-mel spectrogram, which every model of images reads.

Shapes: T samples, M mel bands (rows, from the lowest), F frames (columns).
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from tlx.files.documents.processors import SOUNDS
from tlx.processors.base import Inputs, Processor
from tlx.processors.files import read_preprocessor
from tlx.processors.opening import read_json
from tlx.processors.pictures import FILE, ImageProcessor, check_model, file_of, refuse_other
from tlx.trees import Example

if TYPE_CHECKING:
    from tlx.processors.columns import Columns

# The type in `preprocessor_config.json`; no class of transformers reads it.
KIND = "TlxSpectrogram"
# The width of a frame in seconds, as is usual for speech.
WINDOW = 0.025
# Samples a second that resampling takes, and samples that memory holds.
RATES = (1_000, 1_000_000)
MOST_SAMPLES = 2**28


@dataclass(frozen=True, kw_only=True)
class SoundProcessor(ImageProcessor):
    """Turns a sound into float32[M, F, 1], where `size` is (M, F).

    It reads the first `seconds` of the sound, filled with silence where the sound is shorter, at `rate` samples a
    second. Frames have 25 ms and equal distances. Power in mel bands (Slaney's) becomes log10, limited to the largest
    value minus 8, plus 4, divided by 4, as in Whisper (Radford et al., 2023).
    """

    size: tuple[int, int]
    channels: Any = 1
    rate: int = 8000
    seconds: float = 2.0

    reads: ClassVar[tuple[str, ...]] = ("audio",)
    noun: ClassVar[str] = "a sound processor"
    augments: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.channels != 1:
            raise ValueError(
                f"channels={self.channels}; expected 1, because the spectrogram of a sound has one channel"
            )
        if self.samples < self.size[1]:
            raise ValueError(
                f"seconds={self.seconds} is {self.samples} samples; expected at least {self.size[1]}, one for each "
                "frame"
            )

    @property
    def samples(self) -> int:
        """Return the number of samples that are read."""
        return round(self.rate * self.seconds)

    @classmethod
    def fit(
        cls,
        base: Processor | None,
        data: Any,
        columns: Columns,
        shape: tuple[int, ...] | None = None,
        example: Callable[[], Example] | None = None,
    ) -> Processor:
        """Return a processor with the rate of the sounds, at the size of the data, else that of the weights or of the
        model.

        Raises ValueError for weights of texts, for a shape that is not that of the model, and for a crop.
        """
        refuse_other(base, data, columns, ("image", "audio"))
        if data.before_crop is not None:
            raise ValueError(f"before_crop={data.before_crop} is for pictures, but the data have sounds; remove it")
        template: Any = base or (cls.of_shape(shape) if shape else None)
        size = (data.size, data.size) if data.size else template.shape[:2] if template else (64, 64)
        (rate,) = {column.rate for column in columns.values() if column.kind == "audio"}
        processor = cls(size=size, rate=rate, seconds=data.seconds)
        check_model(processor, shape)
        return processor

    def trials(self) -> list[dict[str, Any]]:
        return [{"audio": np.random.default_rng(0).normal(0, 0.1, self.samples).astype(np.float32)}]

    def check_shape(self, shape: tuple[int, ...] | None, directory: str) -> None:
        """Check nothing: a run determines the size."""

    def read(self, argument: str) -> dict[str, Any]:
        """Return the example of a sound file."""
        return {"audio": file_of(argument, "sounds").read_bytes(), "name": argument}

    @classmethod
    def opens(cls, directory: Path) -> bool:
        return super().opens(directory) and read_json(directory / FILE).get("feature_extractor_type") == KIND

    def __call__(self, example: Example) -> Inputs:
        """Return `{"image": float32[M, F, 1]}` of `{"audio": float32[T] from -1 to 1, or bytes of a sound file}`."""
        from transformers.audio_utils import spectrogram, window_function

        audio = example["audio"]
        name = example.get("name", "this sound")
        sound = decoded(audio, self.rate, name) if isinstance(audio, bytes) else np.asarray(audio, np.float32)
        if sound.ndim != 1:
            raise ValueError(f"the sound is {sound.dtype}{list(sound.shape)}; expected float32[samples]")
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

    def picture(self, image: np.ndarray) -> np.ndarray | None:
        """Return the spectrogram with low tones below and silence black."""
        loud = (image - image.min()) / max(float(np.ptp(image)), 1e-6)
        return np.rint(255 * loud[::-1]).astype(np.uint8)

    def save(self, directory: str | Path) -> None:
        """Write `preprocessor_config.json`, which `processors.load` reads."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        settings = {"feature_extractor_type": KIND, "size": list(self.size), "rate": self.rate, "seconds": self.seconds}
        (directory / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, directory: str | Path, tokens: int | None = None, room: int | None = None) -> Self:
        """Read the file that `save` writes."""
        settings = read_preprocessor(Path(directory), SOUNDS)
        return cls(size=tuple(settings["size"]), rate=settings["rate"], seconds=settings["seconds"])


def draw_sound(sound: np.ndarray) -> np.ndarray:
    """Return a picture of a sound for people to look at: uint8[64, 128, 1], low tones below, black silence."""
    processor = SoundProcessor(size=(64, 128), seconds=max(len(sound), 128) / 8000)
    picture = processor.picture(processor({"audio": sound})["image"])
    assert picture is not None
    return picture


def fft_length(width: int) -> int:
    """Return the smallest power of two that holds a frame of `width` samples."""
    return 2 ** math.ceil(math.log2(width))


def mel_filters(rate: int, bands: int, length: int) -> np.ndarray:
    """Return Slaney's triangular filters, [length / 2 + 1, M]."""
    from transformers.audio_utils import mel_filter_bank

    return mel_filter_bank(length // 2 + 1, bands, 0.0, rate / 2, rate, norm="slaney", mel_scale="slaney")


def decoded(content: bytes, rate: int, what: str) -> np.ndarray:
    """Return float32[T] of a sound file, its channels averaged, at `rate` samples a second.

    Raises ValueError for bytes that are no sound, and ModuleNotFoundError, which names the extra, where soundfile is
    not installed.
    """
    sound = soundfile()
    check_sound(content, what)
    try:
        samples, found_rate = sound.read(io.BytesIO(content), dtype="float32", always_2d=True)
    except (sound.LibsndfileError, ValueError, MemoryError) as error:
        raise ValueError(f"{what} is not a readable sound: {error}; expected a complete sound file") from None
    if not np.isfinite(samples).all():
        raise ValueError(
            f"{what} contains samples that are not finite; expected numbers from -1 to 1: convert it again"
        )
    mono = samples.mean(1)
    return mono if found_rate == rate else resampled(mono, found_rate, rate)


def rate_of(content: bytes, what: str) -> int:
    """Return the samples a second of a sound file. Raises as `decoded`."""
    return check_sound(content, f"the first sound of {what}")


def check_sound(content: bytes, what: str) -> int:
    """Return the samples a second of a sound file. Raises ValueError where its header states an impossible size."""
    sound = soundfile()
    try:
        header = sound.info(io.BytesIO(content))
    except (sound.LibsndfileError, ValueError) as error:
        raise ValueError(f"{what} is not a readable sound: {error}; expected a complete sound file") from None
    if not RATES[0] <= header.samplerate <= RATES[1]:
        raise ValueError(
            f"{what} has {header.samplerate:,} samples per second; expected {RATES[0]:,} to {RATES[1]:,}: convert it"
        )
    if header.frames * header.channels > MOST_SAMPLES:
        raise ValueError(
            f"{what} has {header.frames:,} samples in {header.channels} channels; expected at most {MOST_SAMPLES:,} in "
            "total: shorten it"
        )
    return int(header.samplerate)


def resampled(sound: np.ndarray, before: int, after: int) -> np.ndarray:
    """Return a sound of `before` samples a second at `after` samples a second, by scipy's polyphase filter."""
    from scipy.signal import resample_poly

    common = math.gcd(before, after)
    return resample_poly(sound, after // common, before // common).astype(np.float32)


def soundfile() -> Any:
    """Return the library that reads and writes sound files."""
    try:
        import soundfile as found
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "the package soundfile is missing; tlx reads sounds with it: pip install 'tlx[audio]'"
        ) from None
    return found
