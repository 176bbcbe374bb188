"""From a raw example to the inputs of a model: tokens of text, pixels of an image.

The files read and written are those of Hugging Face directories (`tokenizer.json`, `preprocessor_config.json`, ...), so
a model saved with its processor opens in transformers and the other way round.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from tlx.documents import read_json
from tlx.processors import files
from tlx.processors.encoded import open_picture

if TYPE_CHECKING:
    from PIL.Image import Image
    from tokenizers import Tokenizer

Inputs = dict[str, np.ndarray]
Resample = Literal["nearest", "lanczos", "bilinear", "bicubic"]

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
# The numbers of PIL.Image.Resampling, which preprocessor_config.json holds.
_RESAMPLE: tuple[Resample, ...] = ("nearest", "lanczos", "bilinear", "bicubic")


@dataclass(frozen=True, eq=False)
class TextProcessor:
    """Text to token ids, at most `tokens` of them, special tokens included.

    `files` is the directory that the tokenizer was read from; `pad_id` fills `input_ids` up to a batch's length.
    """

    tokenizer: Tokenizer
    tokens: int = 128
    files: Path | None = None
    pad_id: int = 0

    def __post_init__(self) -> None:
        room = self.tokenizer.num_special_tokens_to_add(is_pair=False)
        if self.tokens <= room:
            raise ValueError(f"tokens={self.tokens} leaves no room for text: {room} are special; give more")
        cut = self.tokenizer.truncation or {}
        if cut.get("max_length") != self.tokens or self.tokenizer.padding:
            # A copy, for another processor may hold the same tokenizer with another length.
            object.__setattr__(self, "tokenizer", type(self.tokenizer).from_str(self.tokenizer.to_str()))
            _set_length(self.tokenizer, self.tokens, cut.get("direction", "right"))

    @classmethod
    def load(cls, directory: str | Path, tokens: int = 128) -> Self:
        """The tokenizer of a Hugging Face directory; never runs code from it.

        Raises FileNotFoundError where there is none, ValueError where it has no fast form.
        """
        directory = Path(directory)
        files.check_files(directory)
        tokenizer = _fast_tokenizer(directory, tokens) or _auto_tokenizer(directory, tokens)
        return cls(tokenizer, tokens, directory, _pad_id(directory, tokenizer))

    def __call__(self, example: Mapping[str, Any]) -> Inputs:
        """`{"text": str, "text_pair"?: str}` to int32[tokens] `input_ids`, `token_type_ids` and `attention_mask`, not
        padded.
        """
        encoding = self.tokenizer.encode(example["text"], example.get("text_pair"))
        return {
            "input_ids": np.asarray(encoding.ids, np.int32),
            "token_type_ids": np.asarray(encoding.type_ids, np.int32),
            "attention_mask": np.asarray(encoding.attention_mask, np.int32),
        }

    def pad(self, examples: Sequence[Inputs], length: int) -> Inputs:
        """Arrays int32[batch, length] of examples that are no longer than `length` (ValueError)."""
        longest = max((len(example["input_ids"]) for example in examples), default=0)
        if longest > length:
            raise ValueError(f"an example of {longest} tokens does not fit into {length}")
        batch = {
            "input_ids": np.full((len(examples), length), self.pad_id, np.int32),
            "token_type_ids": np.zeros((len(examples), length), np.int32),
            "attention_mask": np.zeros((len(examples), length), np.int32),
        }
        for row, example in enumerate(examples):
            for name, array in batch.items():
                array[row, : len(example[name])] = example[name]
        return batch

    def save(self, directory: str | Path) -> None:
        """Writes what `load` and `transformers.AutoTokenizer.from_pretrained` read: the files as they came."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        present = [self.files / name for name in TOKENIZER_FILES if (self.files / name).is_file()] if self.files else []
        for file in present:
            if file.resolve() != (directory / file.name).resolve():
                shutil.copyfile(file, directory / file.name)
        if not present:
            self.tokenizer.save(str(directory / "tokenizer.json"))


@dataclass(frozen=True, kw_only=True)
class ImageProcessor:
    """An image to float32[height, width, channels]: resize, crop, scale, normalise, in the order of transformers.

    `size` is (height, width), or the length of the shortest edge with the proportions kept (then `crop` must say what
    is cut from the middle, so that all images are of one shape), or None to leave it. A pixel becomes `(pixel * scale -
    mean) / std`.
    """

    size: tuple[int, int] | int | None
    channels: Literal[1, 3] = 3
    mean: tuple[float, ...] = (0.5,)
    std: tuple[float, ...] = (0.5,)
    scale: float = 1 / 255
    resample: Resample = "bilinear"
    crop: tuple[int, int] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"channels={self.channels}; expected 1 (grey) or 3 (colour)")
        if self.resample not in _RESAMPLE:
            raise ValueError(f"resample={self.resample!r}; expected one of {', '.join(_RESAMPLE)}")
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, self.channels):
                raise ValueError(f"{name} has {len(getattr(self, name))} numbers for {self.channels} channels")
        if self.crop is None and not isinstance(self.size, tuple):
            raise ValueError(f"size={self.size} leaves images of different shapes; give (height, width), or a crop")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels) of what comes out."""
        height, width = self.crop or self.size  # type: ignore[misc]
        return height, width, self.channels

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        """From `preprocessor_config.json`. Raises FileNotFoundError, and ValueError where the sizes are missing."""
        settings = files.read_preprocessor(Path(directory))
        size = _extent(settings.get("size", 224), shortest=True) if settings.get("do_resize", True) else None
        # The older form of the file has no do_center_crop and no crop_size for the models that do not crop.
        cropped = settings.get("do_center_crop", False) and (settings.get("crop_size") or settings.get("size"))
        crop = _extent(cropped, shortest=False) if cropped else None
        mean, std = settings.get("image_mean") or (0.5,), settings.get("image_std") or (0.5,)
        mean, std = (np.atleast_1d(numbers).tolist() for numbers in (mean, std))
        normalise = settings.get("do_normalize", True)
        return cls(
            size=size,
            channels=1 if len(mean) == 1 and settings.get("image_mean") else 3,
            mean=tuple(mean) if normalise else (0.0,),
            std=tuple(std) if normalise else (1.0,),
            scale=settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0,
            resample=_RESAMPLE[settings.get("resample", 2)],
            crop=crop,  # type: ignore[arg-type]
            extra={
                name: settings[name] for name in ("image_processor_type", "feature_extractor_type") if name in settings
            },
        )

    def __call__(self, example: Mapping[str, Any]) -> Inputs:
        """`{"image": uint8[H, W, C] or a PNG's or JPEG's bytes}` to `{"image": float32[height, width, channels]}`."""
        from PIL.Image import fromarray

        image = example["image"]
        if isinstance(image, bytes):
            picture: Image = open_picture(image, example.get("name", "this image"))
        else:
            array = np.asarray(image)
            if array.dtype != np.uint8 or array.ndim not in (2, 3):
                raise ValueError(f"an image is uint8[height, width, channels], not {array.dtype}{list(array.shape)}")
            picture = fromarray(array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array)
        mode = "L" if self.channels == 1 else "RGB"
        picture = self._crop(self._resize(picture if picture.mode == mode else picture.convert(mode)))
        pixels = np.asarray(picture, np.float32).reshape(*self.shape)
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return {"image": (pixels * np.float32(self.scale) - mean) / std}

    def save(self, directory: str | Path) -> None:
        """Writes `preprocessor_config.json`, which `load` and `transformers.AutoImageProcessor` read."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        size = {"shortest_edge": self.size} if isinstance(self.size, int) else _named(self.size or self.crop)
        settings = {
            "image_processor_type": "ViTImageProcessor",
            **self.extra,
            "do_resize": self.size is not None,
            "size": size,
            "resample": _RESAMPLE.index(self.resample),
            "do_center_crop": self.crop is not None,
            **({"crop_size": _named(self.crop)} if self.crop else {}),
            "do_rescale": True,
            "rescale_factor": self.scale,
            "do_normalize": True,
            "image_mean": list(self.mean) * (self.channels if len(self.mean) == 1 else 1),
            "image_std": list(self.std) * (self.channels if len(self.std) == 1 else 1),
        }
        (directory / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    def _resize(self, picture: Image) -> Image:
        if self.size is None:
            return picture
        width, height = picture.size
        if isinstance(self.size, int):
            short, long = min(width, height), max(width, height)
            other = int(self.size * long / short)
            new = (other, self.size) if width > height else (self.size, other)
        else:
            new = (self.size[1], self.size[0])
        return picture if new == picture.size else picture.resize(new, _RESAMPLE.index(self.resample))

    def _crop(self, picture: Image) -> Image:
        if self.crop is None:
            return picture
        height, width = self.crop
        # Floor division also for the negative margins of an image smaller than the crop, which Pillow fills with black.
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        return picture.crop((left, top, left + width, top + height))


Processor = TextProcessor | ImageProcessor


def load(directory: str | Path, tokens: int = 128) -> Processor | None:
    """The processor whose files lie in a directory, None where there is none. An image processor goes before a
    tokenizer.
    """
    directory = Path(directory)
    if (directory / "preprocessor_config.json").is_file():
        from tlx.processors import sounds

        kind = _json(directory / "preprocessor_config.json").get("feature_extractor_type")
        return (sounds.SoundProcessor if kind == sounds.KIND else ImageProcessor).load(directory)
    if any((directory / name).is_file() for name in TOKENIZER_FILES):
        return TextProcessor.load(directory, tokens)
    return None


def _json(file: Path) -> dict[str, Any]:
    return read_json(file, most_bytes=files.MOST_BYTES) if file.is_file() else {}


def _fast_tokenizer(directory: Path, tokens: int) -> Tokenizer | None:
    """The tokenizer of tokenizer.json, ten times as quick to open as by transformers.

    None where tokenizer_config.json asks for something else than tokenizer.json says: transformers then changes the
    tokenizer as it opens it, and must be left to do it.
    """
    if not (directory / "tokenizer.json").is_file():
        return None
    tokenizer = files.open_tokenizer(directory / "tokenizer.json")
    settings = _json(directory / "tokenizer_config.json")
    normalizer = _json(directory / "tokenizer.json").get("normalizer") or {}
    if normalizer.get("type") == "BertNormalizer":
        asked = {
            "do_lower_case": "lowercase",
            "strip_accents": "strip_accents",
            "tokenize_chinese_chars": "handle_chinese_chars",
        }
        if any(name in settings and settings[name] != normalizer.get(key) for name, key in asked.items()):
            return None
    added = (token["content"] for token in settings.get("added_tokens_decoder", {}).values())
    if any(tokenizer.token_to_id(token) is None for token in added):
        return None
    if any(settings.get(name) is not None for name in ("add_bos_token", "add_eos_token")):
        return None
    _set_length(tokenizer, tokens, settings.get("truncation_side", "right"))
    return tokenizer


def _auto_tokenizer(directory: Path, tokens: int) -> Tokenizer:
    if not any((directory / name).is_file() for name in TOKENIZER_FILES):
        raise FileNotFoundError(f"{directory} has no tokenizer; expected tokenizer.json or vocab.txt")
    from transformers import AutoTokenizer

    tokenizer = files.refused(
        lambda: AutoTokenizer.from_pretrained(directory, trust_remote_code=False, local_files_only=True), directory
    )
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None:
        raise ValueError(
            f"the tokenizer of {directory} has no fast form; save it with transformers as tokenizer.json first"
        )
    _set_length(fast, tokens, tokenizer.truncation_side)
    return fast


def _set_length(tokenizer: Tokenizer, tokens: int, side: str) -> None:
    # tokenizer.json carries the lengths of the last person who used it. Too few tokens get their error from
    # TextProcessor.
    if tokens > tokenizer.num_special_tokens_to_add(is_pair=False):
        tokenizer.enable_truncation(tokens, strategy="longest_first", direction=side)
    tokenizer.no_padding()


def _pad_id(directory: Path, tokenizer: Tokenizer) -> int:
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        token = _json(directory / name).get("pad_token")
        token = token["content"] if isinstance(token, dict) else token
        if token is not None and (found := tokenizer.token_to_id(token)) is not None:
            return found
    return _json(directory / "config.json").get("pad_token_id") or 0


def _extent(size: Any, *, shortest: bool) -> tuple[int, int] | int:
    """A size of preprocessor_config.json, which may be a number or a dict, as (height, width) or the shortest edge."""
    if isinstance(size, int):
        return (size, size)
    if size and "height" in size and "width" in size:
        return (size["height"], size["width"])
    if size and shortest and "shortest_edge" in size:
        return size["shortest_edge"]
    raise ValueError(
        f"preprocessor_config.json: size is {size}; expected height and width, or shortest_edge with a crop"
    )


def _named(size: Any) -> dict[str, int]:
    return {"height": size[0], "width": size[1]}
