"""Take a model to `transformers`, and prove that it arrives: write it, open it again, compare.

Torch is not needed. What a class of `transformers` reads is known (`tlx.weights.expected`), so a directory that holds
exactly that leaves nothing for `transformers` to draw at random.
"""

import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tlx import models
from tlx.processors.base import Processor
from tlx.weights.expected import expected
from tlx.weights.files import read_config, read_tensors
from tlx.weights.form import OWN, Pretrained, foreign_kind, inserted, unanswered, written_kind
from tlx.weights.pretrained import load_pretrained, save_pretrained

TOLERANCE = 1e-5


def export_pretrained(pretrained: Pretrained, directory: str | os.PathLike[str]) -> Path:
    """Write a model for `transformers`, open the directory again, and compare both; then put it in its place.

    A model that has no class in `transformers` at all (a CNN, say) is written for `load_pretrained`. Nothing is left in
    `directory` where the comparison fails.

    Returns:
        The directory.

    Raises:
        FileExistsError: The directory is not empty.
        ValueError: `transformers` would open the directory and answer otherwise. The error says what to do.
    """
    directory = Path(directory)
    if directory.is_dir() and any(directory.iterdir()):
        raise FileExistsError(f"{directory} is not empty; choose another directory")
    refuse(pretrained)
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        save_pretrained(pretrained, partial)
        check_export(pretrained, partial)
        partial.chmod(0o777 & ~umask())
        try:
            if directory.is_dir():
                directory.rmdir()
            os.replace(partial, directory)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise FileExistsError(f"{directory} was written meanwhile; choose another directory") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return directory


def umask() -> int:
    """Return the process's mask of permissions, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def refuse(pretrained: Pretrained) -> None:
    """Raise ValueError for a model that `transformers` would open and answer otherwise with."""
    if reason := unanswered(foreign_kind(pretrained), pretrained.model):
        raise ValueError(reason)
    if leaves := sorted(inserted(pretrained)):
        raise ValueError(
            f"the model carries an adapter that cannot be merged into plain weights ({leaves[0]!r}, ...), so "
            "transformers would answer by its base alone. Open the base, model/ of the run, and put the adapter on it: "
            "peft.PeftModel.from_pretrained(base, RUN/adapter), or tlx.load_adapter where its peft_type is TLX"
        )


def note(pretrained: Pretrained) -> str | None:
    """Return a line for whoever exports a model that `transformers` has no class for."""
    if written_kind(pretrained) != OWN:
        return None
    return f"transformers has no class for {type(pretrained.model.config).__name__}; only tlx opens this directory"


def check_export(pretrained: Pretrained, directory: Path) -> None:
    """Raise ValueError where `directory` does not hold `pretrained` as `transformers` and tlx read it."""
    document = read_config(directory)
    if document["model_type"] != OWN:
        check_tensors(document, directory)
    again = load_pretrained(directory, model=pretrained.model.config)
    tasks = (again.task, pretrained.task)
    # A head of tokens may have no task yet; the names in config.json are then placeholders.
    unnamed = pretrained.task is None and pretrained.model.head is not None
    if not unnamed and tasks[0] != tasks[1] and (None in tasks or names(again) != names(pretrained)):
        raise ValueError(f"{directory}: config.json names the task {again.task}, and the model has {pretrained.task}")
    inputs = sample(pretrained)
    ours, theirs = answers(pretrained, inputs), answers(again, inputs)
    if not np.allclose(ours, theirs, rtol=0, atol=TOLERANCE * max(1.0, float(np.abs(ours).max()))):
        raise ValueError(f"{directory}: the model answers otherwise once it is opened again; please report this")
    check_processor(pretrained.processor, again.processor, directory)


def check_tensors(document: dict[str, Any], directory: Path) -> None:
    """Raise ValueError where the tensors are not exactly those that the class in config.json reads."""
    wanted = expected(document)
    found = {name: tensor.shape for name, tensor in read_tensors(directory).items()}
    wrong = [f"{name} is missing, expected {shape}" for name, shape in wanted.items() if name not in found]
    wrong += [f"{name} {shape} is read by nobody" for name, shape in found.items() if name not in wanted]
    wrong += [
        f"{name} is {found[name]}, expected {shape}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    if wrong:
        raise ValueError(
            f"{directory} is not what transformers' {document['architectures'][0]} reads, which would draw what it "
            f"misses at random: {'; '.join(wrong[:4])}"
        )


def check_processor(before: Processor | None, after: Processor | None, directory: Path) -> None:
    """Raise ValueError where the processor of `directory` makes other inputs than `before`."""
    if before is None or after is None or type(before) is not type(after):
        if before is not after:
            raise ValueError(f"{directory}: the processor reads {after}, and the model has {before}")
        return
    opened = [before, after, *filter(None, [before.by_transformers(directory)])]
    for example in before.trials():
        rows = [processor(example) for processor in opened]
        if other := [name for row in rows for name in row if not np.array_equal(row[name], rows[0][name])]:
            arrays = [np.asarray(row[other[0]]).tolist() for row in rows] if before.ragged else [after, before]
            raise ValueError(
                f"{directory}: {before.noun} makes other {other[0]} once it is opened again, for "
                f"{example if before.ragged else 'the same example'}: {arrays} (before, after, transformers)"
            )
    if len({processor.longest for processor in opened}) > 1:
        raise ValueError(f"{directory}: texts are cut at {after.longest} tokens, and the model reads {before.longest}")


def names(pretrained: Pretrained) -> tuple[type, int | None, tuple[str, ...]]:
    """The kind of a task, its width, and the names of its classes; LABEL_0, ... where it names none."""
    task, width = pretrained.task, pretrained.model.outputs
    given = getattr(task, "names", ())
    return type(task), width, given or tuple(f"LABEL_{n}" for n in range(width or 0))


def sample(pretrained: Pretrained) -> dict[str, np.ndarray]:
    """Inputs of two examples for a model, the same each time; the second text ends in padding."""
    rng, config = np.random.default_rng(0), pretrained.model.config
    shapes, rows = models.example_inputs(config), config.embedding_rows()
    inputs = {
        name: rng.normal(size=shape.shape).astype(shape.dtype)
        if np.issubdtype(shape.dtype, np.floating)
        else rng.integers(0, rows.get(name, 2), shape.shape).astype(shape.dtype)
        for name, shape in shapes.items()
    }
    if "input_ids" in inputs:
        mask = np.ones_like(inputs["input_ids"])
        mask[1, -1:] = 0
        inputs |= {"attention_mask": mask}
    return inputs


def answers(pretrained: Pretrained, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """The logits of a model with a head, else its last hidden state."""
    taps = jax.jit(lambda variables, x: models.forward(pretrained.model, variables, x)[0])(pretrained.variables, inputs)
    return np.asarray(taps["logits" if "logits" in taps else "hidden"])
