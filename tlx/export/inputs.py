"""Describe how the inputs of an exported model are made without tlx: the files beside it, and Python code."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tlx.export.markdown import code
from tlx.processors import ImageProcessor, Processor, TextProcessor
from tlx.types import Field

TOKENIZER = "tokenizer.json"


class Preparation(NamedTuple):
    """How the inputs of a program are made.

    Attributes:
        fields: The inputs by name. A ragged axis is None in the shape.
        longest: The length at which the processor cuts ragged inputs; None if it cuts none.
        lines: Lines of Python that make `inputs`, the dict of arrays; empty if only tlx makes them.
        words: A sentence about the inputs.
    """

    fields: Mapping[str, Field]
    longest: int | None
    lines: tuple[str, ...]
    words: str


def prepare(processor: Processor, directory: Path, length: int | None = None) -> Preparation:
    """Write the files that the inputs are made with, and describe how.

    Args:
        processor: The processor of the model.
        directory: The directory of the exported model.
        length: The length to which every example is padded; None pads to the longest of a batch.

    Returns:
        The inputs, and the code that makes them.
    """
    # A subclass may change any part of the computation, so only the classes themselves have code without tlx.
    if type(processor) is TextProcessor:
        return of_texts(processor, directory, length)
    if type(processor) is ImageProcessor:
        return of_images(processor, directory)
    processor.save(directory)
    words = f"Only tlx makes the inputs of an example, with {code(str(processor))}."
    return Preparation(processor.fields, processor.longest or None, (), words)


def of_texts(processor: TextProcessor, directory: Path, length: int | None) -> Preparation:
    """Write the tokenizer of a model of texts with its length and its padding, and describe how it is used."""
    tokenizer = type(processor.tokenizer).from_str(processor.tokenizer.to_str())
    pad = tokenizer.id_to_token(processor.pad_id) or "[PAD]"
    tokenizer.enable_padding(direction="right", pad_id=processor.pad_id, pad_token=pad, length=length)
    tokenizer.save(str(directory / TOKENIZER))
    check_tokenizer(processor, directory / TOKENIZER)
    # A model without token types computes with zeros, as it does where the input is missing.
    fields = {name: field for name, field in processor.fields.items() if name != "token_type_ids"}
    attributes = {"input_ids": "ids", "attention_mask": "attention_mask"}
    if processor.token_types:
        fields, attributes = dict(processor.fields), attributes | {"token_type_ids": "type_ids"}
    lines = [
        "from tokenizers import Tokenizer",
        "",
        'tokenizer = Tokenizer.from_file("tokenizer.json")',
        'rows = tokenizer.encode_batch(["the first text", "a second text"])',
        "inputs = {",
        *(
            f'    "{name}": np.array([row.{attribute} for row in rows], np.int32),'
            for name, attribute in attributes.items()
        ),
        "}",
    ]
    words = f"`{TOKENIZER}` cuts texts at {processor.tokens} tokens and pads them. A pair of texts is a tuple."
    return Preparation(fields, processor.longest, tuple(lines), words)


def check_tokenizer(processor: TextProcessor, file: Path) -> None:
    """Raise ValueError if the tokenizer in `file` alone makes other token ids than the processor."""
    tokenizer = type(processor.tokenizer).from_file(str(file))
    for example in processor.trials():
        texts = (example["text"], example.get("text_pair"))
        encoding, ids = tokenizer.encode(*texts), processor.tokenizer.encode(*texts).ids
        if encoding.ids[: int(np.sum(encoding.attention_mask))] != ids:
            raise ValueError(
                f"{file} makes other token ids than the tokenizer of the run for {texts}: {encoding.ids}, expected "
                f"{ids}; please report this"
            )


def of_images(processor: ImageProcessor, directory: Path) -> Preparation:
    """Write the sizes of a model of images, and describe how its pixels are made."""
    processor.save(directory)
    height, width, channels = processor.shape
    convert = '.convert("RGB")' + ('.convert("L")' if channels == 1 else "")
    resize = []
    if isinstance(processor.size, int):
        resize = [
            "    width, height = picture.size",
            f"    long = int({processor.size} * max(width, height) / min(width, height))",
            f"    size = (long, {processor.size}) if width > height else ({processor.size}, long)",
        ]
    elif processor.size is not None:
        resize = [f"    size = {(processor.size[1], processor.size[0])}"]
    if processor.size is not None:
        resize.append(f"    picture = picture.resize(size, Image.Resampling.{processor.resample.upper()})")
    if processor.crop is not None:
        resize += [
            f"    left, top = (picture.width - {width}) // 2, (picture.height - {height}) // 2",
            f"    picture = picture.crop((left, top, left + {width}, top + {height}))",
        ]
    lines = [
        "from PIL import Image, ImageOps",
        "",
        "",
        "def pixels(path):",
        f"    picture = ImageOps.exif_transpose(Image.open(path)){convert}",
        *resize,
        f"    array = np.asarray(picture, np.float32).reshape({height}, {width}, {channels})",
        f"    mean, std = np.array({list(processor.mean)}, np.float32), np.array({list(processor.std)}, np.float32)",
        f"    return (array * np.float32({processor.scale!r}) - mean) / std",
        "",
        "",
        'inputs = {"image": np.stack([pixels(path) for path in ["first.png", "second.png"]])}',
    ]
    return Preparation(processor.fields, None, tuple(lines), "The code makes the pixels as in training.")
