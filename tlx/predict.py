"""Answers from a finished run, or from any saved model that has a head."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tlx import config, models
from tlx.folder import RECIPE, read
from tlx.processors import ImageProcessor, TextProcessor
from tlx.processors.sounds import SoundProcessor
from tlx.weights import Pretrained, load_pretrained

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
SOUNDS = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".au")
BATCH = 64


def predict(source: str | Path, given: Sequence[str], model: Any = None) -> list[dict[str, float]]:
    """Probabilities by class name, most probable first, one dict a text (or image file) in `given`.

    `model` is the architecture's dataclass where the run cannot name it (a bridged module). Raises ValueError where
    the model has no head, or reads another kind of input.
    """
    check_code(Path(source), model)
    pretrained = load_pretrained(source, model=model)
    if pretrained.task is None:
        raise ValueError(f"{source} has no head to answer with; fine-tune it first: tlx run CONFIG")
    forward = jax.jit(lambda variables, inputs: models.forward(pretrained.model, variables, inputs)[0]["logits"])
    answers: list[dict[str, float]] = []
    for start in range(0, len(given), BATCH):
        inputs = prepare_inputs(pretrained, given[start : start + BATCH], tokens_of(source))
        answers += pretrained.task.decode(np.asarray(forward(pretrained.variables, inputs)))
    return answers


def check_code(source: Path, model: Any) -> None:
    """Raise ValueError where the code of a model of the user's is not that which the run in `source` trained."""
    if model is None or not (source / RECIPE).is_file():
        return
    recorded = read(source, RECIPE).get("sources") or {}
    known = {*recorded.values()}
    changed = [path for path, digest in config.sources(model).items() if digest not in known]
    if recorded and changed:
        names = ", ".join(dict.fromkeys(Path(path.partition("::")[0]).name for path in changed))
        raise ValueError(f"{source} is stale: {names} changed since it ran; restore the code, or run it again")


def tokens_of(source: str | Path) -> int | None:
    """The text length that a run was trained with, None where `source` is no run."""
    path = Path(source) / RECIPE
    if not path.is_file():
        return None
    return json.loads(path.read_text(encoding="utf-8"))["recipe"]["data"]["tokens"]


def prepare_inputs(pretrained: Pretrained, given: Sequence[str], tokens: int | None) -> dict[str, np.ndarray]:
    """The model's inputs for a batch of texts, or of files of images or sounds."""
    processor = pretrained.processor
    if isinstance(processor, TextProcessor):
        processor = replace(processor, tokens=tokens) if tokens else processor
        rows = [processor({"text": text}) for text in given]
        return processor.pad(rows, max(len(row["input_ids"]) for row in rows))
    if not isinstance(processor, ImageProcessor):
        raise ValueError("the model came without a processor; tlx cannot turn raw examples into its inputs")
    heard = isinstance(processor, SoundProcessor)
    if strangers := [name for name in given if not Path(name).is_file()]:
        told = "sounds" if heard else "images"
        raise ValueError(f"the model reads {told}; {strangers[0]!r} is not a file")
    kind = "audio" if heard else "image"
    return {"image": np.stack([processor({kind: Path(name).read_bytes()})["image"] for name in given])}


def read_examples(arguments: Sequence[str]) -> list[str]:
    """Texts as they are, files of images and sounds as their paths, and every line of any other file.

    Raises ValueError for a file that is not UTF-8.
    """
    found: list[str] = []
    for argument in arguments:
        path = Path(argument) if len(argument) < 1024 and "\n" not in argument else None
        if path is None or not path.is_file() or path.suffix.lower() in (*IMAGES, *SOUNDS):
            found.append(argument)
            continue
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path} is not UTF-8 text (byte {error.object[error.start]:#04x} at {error.start}); convert it, for "
                f"example: iconv -f latin1 -t utf-8 {path}"
            ) from None
        found += [line for line in text.splitlines() if line.strip()]
    return found
