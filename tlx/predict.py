"""Predict with a finished run, or with any saved model that has a head."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tlx import config, models
from tlx.data.collate import collate
from tlx.processors.base import FILE, Processor, users_class
from tlx.records.run_directory import RECIPE, RESULT, read
from tlx.tasks import Task
from tlx.types import Column, Variables
from tlx.weights import Pretrained, check_trained, load_pretrained
from tlx.weights.pretrained import ADVICE
from tlx.weights.source import MODEL_IN_RUN

log = logging.getLogger(__name__)

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
SOUNDS = (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".au")
BATCH = 64


def predict(
    source: str | Path,
    examples: Sequence[str],
    model: models.Architecture | None = None,
    processor: Processor | None = None,
    task: Task | None = None,
) -> list[Any]:
    """Return the predictions for texts, or for image or sound files.

    Args:
        source: The folder of a run, or a saved model.
        examples: The texts, or the paths of files.
        model: The architecture's dataclass, where the run cannot name it (a bridged module).
        processor: A processor of a user's class; it opens the files that the run saved.
        task: The task, where it has a user's class.

    Returns:
        One prediction for each entry of `examples`; for classes a dict of probabilities by class name, most probable
        first.

    Raises:
        ValueError: The model has no head, has an untrained head or pooler, or reads another kind of input.
    """
    pretrained = opened(source, model, processor, task)
    if pretrained.task is None and pretrained.model.head is not None:
        raise ValueError(
            f"{source} was trained for a task that tlx does not know; give the config file of the run: --config FILE"
        )
    if pretrained.task is None:
        raise ValueError(f"{source} has no trained head, so it cannot predict; fine-tune it first: tlx run CONFIG")
    check_trained(pretrained, ADVICE)
    reader = processor_of(pretrained, Path(source))
    for note in [*reader.cut_notes(map(reader.read, examples)), *reader.notes()]:
        log.warning("note: %s", note)

    def taps(variables: Variables, inputs: Any) -> Any:
        outputs = models.forward(pretrained.model, variables, inputs)[0]
        return {name: array for name, array in outputs.items() if name in ("logits", "hidden", "pooled")}

    forward, answers = jax.jit(taps), []
    for start in range(0, len(examples), BATCH):
        inputs = prepare_inputs(pretrained, examples[start : start + BATCH])
        outputs = jax.device_get(forward(pretrained.variables, inputs))
        answers += pretrained.task.answers(outputs, inputs)
    return answers


def opened(
    source: str | Path, model: Any = None, processor: Processor | None = None, task: Task | None = None
) -> Pretrained:
    """Return the model of a run or of another folder, as in `predict`.

    The class of the `processor` opens the files that were saved; where it opens none, the `processor` itself is used.
    """
    check_code(Path(source), model)
    pretrained = load_pretrained(
        source,
        None if task is None else resolved(Path(source), task),
        model=model,
        processors=() if processor is None else (type(processor),),
    )
    if processor is not None and not isinstance(pretrained.processor, type(processor)):
        pretrained = pretrained._replace(processor=processor)
    if pretrained.processor is None:
        check_class(Path(source))
    return pretrained


def resolved(source: Path, task: Task) -> Task | None:
    """Return the task with the classes of the run in `source`; where that is not a run, the task unchanged if it knows
    its outputs."""
    if not (source / RESULT).is_file():
        return None if task.outputs is None else task
    result = read(source)
    classes = tuple(result["classes"])
    task = task.resolve({"label": Column(result.get("label", "class" if classes else "number"), classes)})
    return task.with_kept(result["task"]) if "task" in result else task


def check_code(source: Path, model: models.Architecture | None) -> None:
    """Raise ValueError where the code of a user's model differs from the code that the run in `source` trained."""
    if model is None or not (source / RECIPE).is_file():
        return
    recorded = read(source, RECIPE).get("sources") or {}
    digests = {*recorded.values()}
    changed = [path for path, digest in config.sources(model).items() if digest not in digests]
    if recorded and changed:
        names = ", ".join(dict.fromkeys(Path(path.partition("::")[0]).name for path in changed))
        raise ValueError(f"{source} is stale: {names} changed since it ran; restore the code, or run it again")


def prepare_inputs(pretrained: Pretrained, examples: Sequence[str]) -> dict[str, np.ndarray]:
    """Return the model's inputs for a batch of texts, or of image or sound files.

    Returns:
        Arrays [B, ...] by name, B the length of `examples`.

    Raises:
        ValueError: The model has no processor, a file does not exist or cannot be read, or the model has no embedding
            for a token.
    """
    processor = processor_of(pretrained, Path(pretrained.manifest.source))
    processor.check_shape(models.image_shape(pretrained.model.config), pretrained.manifest.source)
    return collate([processor(processor.read(argument)) for argument in examples], processor.fields)


def processor_of(pretrained: Pretrained, source: Path) -> Processor:
    """Return the processor of a model; raise ValueError where it has none, or one of a user's class."""
    if pretrained.processor is not None:
        return pretrained.processor
    check_class(source)
    raise ValueError("the model has no processor, so tlx cannot convert raw examples to its inputs")


def check_class(source: Path) -> None:
    """Raise ValueError where the processor of a run or of another folder is of a user's class."""
    for folder in (source, source / MODEL_IN_RUN):
        if name := users_class(folder):
            raise ValueError(
                f"{folder / FILE} uses your own class {name!r}; give the file that defines it: --config FILE"
            )


def read_examples(arguments: Sequence[str]) -> list[str]:
    """Return texts as they are, image and sound files as their paths, and every line of any other file.

    Raises:
        ValueError: A file is not UTF-8, or holds no text.
        IsADirectoryError: A path is a directory.
    """
    examples: list[str] = []
    for argument in arguments:
        path = Path(argument) if len(argument) < 1024 and "\n" not in argument else None
        if path is not None and os.sep in argument and path.is_dir():
            raise IsADirectoryError(f"{path} is a directory; expected a text, or a file with one text per line")
        if path is None or not path.is_file() or path.suffix.lower() in (*IMAGES, *SOUNDS):
            examples.append(argument)
            continue
        try:
            # Some editors write a byte order mark before the text.
            text = path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path} is not UTF-8 text (byte {error.object[error.start]:#04x} at {error.start}); convert it, for "
                f"example: iconv -f latin1 -t utf-8 {path}"
            ) from None
        lines = [line for line in text.splitlines() if line.strip()]
        if not lines:
            raise ValueError(f"{path} is empty; expected one text per line")
        examples += lines
    return examples
