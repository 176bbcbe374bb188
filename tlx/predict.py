"""Answers from a finished run, or from any saved model that has a head."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tlx import config, models
from tlx.data.collate import collate
from tlx.processors.base import FILE, Processor
from tlx.processors.opening import read_json
from tlx.records.run_directory import RECIPE, RESULT, read
from tlx.tasks import Task
from tlx.types import Column
from tlx.weights import Pretrained, check_trained, load_pretrained
from tlx.weights.pretrained import ADVICE
from tlx.weights.source import MODEL_IN_RUN

log = logging.getLogger(__name__)

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
SOUNDS = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".au")
BATCH = 64


def predict(
    source: str | Path,
    given: Sequence[str],
    model: Any = None,
    processor: Processor | None = None,
    task: Task | None = None,
) -> list[Any]:
    """Probabilities by class name, most probable first, one dict a text (or image file) in `given`.

    `model` is the architecture's dataclass where the run cannot name it (a bridged module), `processor` one of the
    user's own class, which opens what the run has kept, `task` the task where that is a class of the user's own.

    Raises ValueError where the model has no head, a head or pooler that nobody trained, or reads another kind of input.
    """
    check_code(Path(source), model)
    pretrained = load_pretrained(source, None if task is None else resolved(Path(source), task), model=model)
    if processor is not None:
        pretrained = pretrained._replace(processor=opened(processor, Path(source)))
    if pretrained.task is None and pretrained.model.head is not None:
        raise ValueError(
            f"{source} was trained for a task that tlx does not know; give the config file of the run: --config FILE"
        )
    if pretrained.task is None:
        raise ValueError(f"{source} has no head to answer with; fine-tune it first: tlx run CONFIG")
    check_trained(pretrained, ADVICE)
    reader = processor_of(pretrained, Path(source))
    for note in [*reader.cut_notes(map(reader.read, given)), *reader.notes()]:
        log.warning("note: %s", note)

    def taps(variables: Any, inputs: Any) -> Any:
        outputs = models.forward(pretrained.model, variables, inputs)[0]
        return {name: array for name, array in outputs.items() if name in ("logits", "hidden", "pooled")}

    forward, answers = jax.jit(taps), []
    for start in range(0, len(given), BATCH):
        inputs = prepare_inputs(pretrained, given[start : start + BATCH])
        outputs = jax.device_get(forward(pretrained.variables, inputs))
        answers += pretrained.task.answers(outputs, inputs)
    return answers


def resolved(source: Path, task: Task) -> Task | None:
    """The task with the classes of the run in `source`; where that is no run, the task itself if it knows them."""
    if not (source / RESULT).is_file():
        return None if task.outputs is None else task
    result = read(source)
    classes = tuple(result["classes"])
    return task.resolve({"label": Column(result.get("label", "class" if classes else "number"), classes)})


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


def prepare_inputs(pretrained: Pretrained, given: Sequence[str]) -> dict[str, np.ndarray]:
    """Make the model's inputs for a batch of texts, or of files of images or sounds.

    Raises ValueError for a model without a processor, for a file that is none or cannot be read, and for a token that
    the model has no embedding for.
    """
    processor = processor_of(pretrained, Path(pretrained.manifest.source))
    processor.check_shape(models.image_shape(pretrained.model.config), pretrained.manifest.source)
    return collate([processor(processor.read(argument)) for argument in given], processor.fields)


def processor_of(pretrained: Pretrained, source: Path) -> Processor:
    """The processor of a model. Raises ValueError where it came without one, or with one of a class of the user's."""
    if pretrained.processor is not None:
        return pretrained.processor
    for folder in (source, source / MODEL_IN_RUN):
        if (folder / FILE).is_file():
            name = read_json(folder / FILE).get("kind")
            raise ValueError(f"{folder / FILE} is of the class {name!r} of your own; give its file: --config FILE")
    raise ValueError("the model came without a processor; tlx cannot turn raw examples into its inputs")


def opened(processor: Processor, source: Path) -> Processor:
    """The processor that the run has kept, opened by the user's class; the user's value where nothing was kept."""
    kind = type(processor)
    for folder in (source / MODEL_IN_RUN, source):
        if kind.opens(folder):
            return kind.load(folder)
    return processor


def read_examples(arguments: Sequence[str]) -> list[str]:
    """Texts as they are, files of images and sounds as their paths, and every line of any other file.

    Raises ValueError for a file that is not UTF-8, or holds no text, IsADirectoryError for a directory.
    """
    found: list[str] = []
    for argument in arguments:
        path = Path(argument) if len(argument) < 1024 and "\n" not in argument else None
        if path is not None and os.sep in argument and path.is_dir():
            raise IsADirectoryError(f"{path} is a directory; expected a text, or a file with a text on each line")
        if path is None or not path.is_file() or path.suffix.lower() in (*IMAGES, *SOUNDS):
            found.append(argument)
            continue
        try:
            # Some editors put a mark before the text, which is no part of it.
            text = path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path} is not UTF-8 text (byte {error.object[error.start]:#04x} at {error.start}); convert it, for "
                f"example: iconv -f latin1 -t utf-8 {path}"
            ) from None
        lines = [line for line in text.splitlines() if line.strip()]
        if not lines:
            raise ValueError(f"{path} is empty; expected a text on each line")
        found += lines
    return found
