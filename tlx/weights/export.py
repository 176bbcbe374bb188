"""Export a model to `transformers` and verify it: write it, open it again, compare the outputs.

Torch is not needed. `tlx.weights.expected` lists the tensors that a class of `transformers` reads. A directory with
exactly these tensors leaves nothing for `transformers` to draw at random.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np

from tlx import models
from tlx.models.neck import neck_of
from tlx.processors.base import Processor
from tlx.trees import Json
from tlx.weights.expected import expected
from tlx.weights.files import read_config, read_tensors
from tlx.weights.form import OWN, Pretrained, foreign_kind, inserted, unanswered, written_kind
from tlx.weights.heads import TASK
from tlx.weights.pretrained import load_pretrained
from tlx.weights.saving import save_pretrained

TOLERANCE = 1e-5
PROGRAM_ADVICE = "A program holds every model: tlx export RUN --to stablehlo --out DIRECTORY"


def export_pretrained(pretrained: Pretrained, directory: str | os.PathLike[str]) -> Path:
    """Write a model for `transformers`, open it again, compare both, and then move it to `directory`.

    A model without a class in `transformers` (a CNN, for example) is written for `load_pretrained`. If the comparison
    fails, nothing is left in `directory`. `tlx.export.export_run` adds a model card.

    Returns:
        The directory.

    Raises:
        FileExistsError: The directory is not empty.
        ValueError: `transformers` would compute other outputs from the directory. The error says what to do.
    """
    check_new(directory)
    refuse(pretrained)
    with new_directory(directory) as partial:
        write_checked(pretrained, partial)
    return Path(directory)


def write_checked(pretrained: Pretrained, directory: Path) -> None:
    """Write a model that `refuse` accepts into an empty directory, open it again, and compare both.

    Raises ValueError as `export_pretrained`.
    """
    save_pretrained(pretrained, directory)
    check_export(pretrained, directory)


def check_new(directory: str | os.PathLike[str]) -> None:
    """Raise FileExistsError if `directory` is a file, or a directory that is not empty."""
    path = Path(directory)
    if path.is_dir() and any(path.iterdir()):
        raise FileExistsError(f"{path} is not empty; choose another directory")
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file; choose another directory")


@contextmanager
def new_directory(directory: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield an empty directory, which moves to `directory` when the block ends without an error.

    An error leaves nothing behind. Because the files are written beside `directory`, it needs no lock.

    Raises:
        FileExistsError: `directory` is not empty, or another process wrote it in the meantime.
    """
    target = Path(directory)
    check_new(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield partial
        partial.chmod(0o777 & ~umask())
        try:
            if target.is_dir():
                target.rmdir()
            os.replace(partial, target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise FileExistsError(f"another process wrote {target} in the meantime; choose another directory") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def umask() -> int:
    """Return the permission mask of the process, which can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def refuse(pretrained: Pretrained) -> None:
    """Raise ValueError for a model that `transformers` would open and compute other outputs with."""
    if reason := unanswered(foreign_kind(pretrained), pretrained.model):
        raise ValueError(f"{reason}. {PROGRAM_ADVICE}")
    if leaves := sorted(inserted(pretrained)):
        raise ValueError(
            f"the model has an adapter that cannot be merged into plain weights ({leaves[0]!r}, ...), so transformers "
            "would use the base model without it. Open the base model, model/ of the run, and add the adapter: "
            "peft.PeftModel.from_pretrained(base, RUN/adapter), or tlx.load_adapter if its peft_type is TLX. "
            f"{PROGRAM_ADVICE}"
        )


def note(pretrained: Pretrained) -> str | None:
    """Return a message for a model that `transformers` has no class for; None if it has one."""
    if written_kind(pretrained) != OWN:
        return None
    neck = " with a neck" if neck_of(pretrained.model.head) else ""
    kind = type(pretrained.model.config).__name__
    return f"transformers has no class for {kind}{neck}; only tlx can open this directory"


def check_export(pretrained: Pretrained, directory: Path) -> None:
    """Raise ValueError if tlx or `transformers` would not read `pretrained` from `directory`."""
    document = read_config(directory)
    if document["model_type"] != OWN:
        check_tensors(document, directory)
    reopened = load_pretrained(
        directory,
        # A user's class is named by no file.
        pretrained.task if TASK in document else None,
        model=pretrained.model.config,
        processors=() if pretrained.processor is None else (type(pretrained.processor),),
    )
    tasks = (reopened.task, pretrained.task)
    # A head of tokens may have no task yet; the names in config.json are then placeholders.
    unnamed = pretrained.task is None and pretrained.model.head is not None
    if not unnamed and tasks[0] != tasks[1] and (None in tasks or names(reopened) != names(pretrained)):
        raise ValueError(
            f"{directory}: config.json states the task {reopened.task}, but the model has {pretrained.task}"
        )
    inputs = sample(pretrained)
    outputs, reopened_outputs = answers(pretrained, inputs), answers(reopened, inputs)
    if not np.allclose(outputs, reopened_outputs, rtol=0, atol=TOLERANCE * max(1.0, float(np.abs(outputs).max()))):
        raise ValueError(
            f"{directory}: the saved model computes other outputs than the original model; please report this"
        )
    check_processor(pretrained.processor, reopened.processor, directory)


def check_tensors(document: Json, directory: Path) -> None:
    """Raise ValueError if the tensors are not exactly those that the class in config.json reads."""
    expected_shapes = expected(document)
    shapes = {name: tensor.shape for name, tensor in read_tensors(directory).items()}
    errors = [f"{name} is missing, expected {shape}" for name, shape in expected_shapes.items() if name not in shapes]
    errors += [
        f"{name} {shape} is not read by any layer" for name, shape in shapes.items() if name not in expected_shapes
    ]
    errors += [
        f"{name} is {shapes[name]}, expected {shape}"
        for name, shape in expected_shapes.items()
        if name in shapes and shapes[name] != shape
    ]
    if errors:
        raise ValueError(
            f"{directory} does not fit the class {document['architectures'][0]} of transformers, which would "
            f"initialise missing tensors at random: {'; '.join(errors[:4])}"
        )


def check_processor(before: Processor | None, after: Processor | None, directory: Path) -> None:
    """Raise ValueError if the processor of `directory` makes other inputs than `before`."""
    if before is None or after is None or type(before) is not type(after):
        if before is not after:
            raise ValueError(f"{directory}: the saved processor reads {after}, but the model has {before}")
        return
    if not before.trials() and before.identity != after.identity:
        raise ValueError(f"{directory}: the processor reads {after}, and the model has {before}")
    candidates = [before, after, *filter(None, [before.by_transformers(directory)])]
    for example in before.trials():
        rows = [processor(example) for processor in candidates]
        if different := [name for row in rows for name in row if not np.array_equal(row[name], rows[0][name])]:
            arrays = [np.asarray(row[different[0]]).tolist() for row in rows] if before.ragged else [after, before]
            raise ValueError(
                f"{directory}: the saved copy of {before.noun} computes other {different[0]} for "
                f"{example if before.ragged else 'the same example'}: {arrays} (before, after, transformers)"
            )
    if len({processor.longest for processor in candidates}) > 1:
        raise ValueError(
            f"{directory}: the saved processor cuts texts at {after.longest} tokens, but the model reads "
            f"{before.longest}"
        )


def names(pretrained: Pretrained) -> tuple[type, int | None, tuple[str, ...]]:
    """Return the kind of a task, its width, and its class names; LABEL_0, ... if it has no names."""
    task, width = pretrained.task, pretrained.model.outputs
    class_names = getattr(task, "names", ())
    return type(task), width, class_names or tuple(f"LABEL_{n}" for n in range(width or 0))


def sample(pretrained: Pretrained) -> dict[str, np.ndarray]:
    """Return inputs of two examples for a model, equal for every call; the second text ends in padding."""
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
    """Compute the logits of a model with a head, or the last hidden state without one."""
    taps = jax.jit(lambda variables, arrays: models.forward(pretrained.model, variables, arrays)[0])(
        pretrained.variables, inputs
    )
    return np.asarray(taps["logits" if "logits" in taps else "hidden"])
