"""Answer examples in memory with the model of a finished run. Shapes: N examples."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from tlx import models
from tlx.data.collate import collate
from tlx.data.examples import open_dataset
from tlx.data.sources.roles import INPUTS
from tlx.data.sources.tabular import Tabular
from tlx.files.run_files import RESULT
from tlx.processors.base import Processor, length_of
from tlx.processors.columns import HEAVY, inputs
from tlx.recipe import Recipe
from tlx.tasks import Task
from tlx.trees import Example, near_miss
from tlx.types import Arrays, Column, Variables
from tlx.weights import Pretrained, check_trained, load_pretrained
from tlx.weights.pretrained import ADVICE

if TYPE_CHECKING:
    from tlx.training.loop import Run

log = logging.getLogger(__name__)

# Examples of a forward pass: always as many, so that one program serves any number of examples.
BATCH = 64
# Texts are padded to multiples of this length, for each further length is a program to compile.
STEP = 32
# Texts that are compared with the limit of the model for a note.
NOTED = 500
# Classes with a column of probabilities in a frame of answers.
MOST_COLUMNS = 50
# The model that was opened last, by its folder and the time of its result.
LAST: dict[tuple[Path, int], Pretrained] = {}
# By role the columns of the user, such as {"text": ("title", "body")}.
Roles = Mapping[str, tuple[str, ...]]


def predict(run: Run, examples: Any) -> Any:
    """Return the answers of a run to some examples.

    Args:
        run: The run.
        examples: Texts, pairs of texts, images (arrays or files), sounds, lists of words or rows of numbers, as the run
            was trained on; or a data frame, or a mapping of columns, with the columns that it was trained on.

    Returns:
        For a frame a frame of the same rows, with `answer`, and for classes `probability` and a column for each class.
        Otherwise a list with an answer for each example: for classes a dict of probabilities by class name, the most
        probable class first; else a dict of numbers, or a list of words.

    Raises:
        ValueError: An example cannot be read, or a column is missing; the message names the row and the column.
    """
    pretrained = opened(run)
    reader = reader_of(pretrained, run.folder)
    if is_frame(examples) or isinstance(examples, Mapping):
        rows = examples_of_columns(examples, reader, roles_of_run(run.recipe))
        answers = answered(pretrained, reader, rows)
        if not is_frame(examples):
            return answers
        columns = columns_of_answers(answers, pretrained.task, getattr(run.recipe.data.target, "label", None))
        # A frame of pandas keeps the names of its rows.
        index = {"index": examples.index} if hasattr(examples, "iloc") else {}
        return type(examples)(columns, **index)
    return answered(pretrained, reader, examples_of_list(examples, reader, roles_of_run(run.recipe)))


def opened(run: Run) -> Pretrained:
    """Return the model of a run. The last one is kept in memory, so that a second call is immediate."""
    key = run.folder.resolve(), (run.folder / RESULT).stat().st_mtime_ns
    if key not in LAST:
        pretrained = load_pretrained(
            run.folder, task_of(run), model=run.recipe.model, processors=run.recipe.data.processors
        )
        check_trained(pretrained, ADVICE)
        LAST.clear()
        LAST[key] = pretrained
    return LAST[key]


def task_of(run: Run) -> Task:
    """Return the task of a run with its classes."""
    classes = tuple(run.result["classes"])
    kind = run.result.get("label", "class" if classes else "number")
    return run.recipe.task.resolve({"label": Column(kind, classes)})


def reader_of(pretrained: Pretrained, folder: Path) -> Processor:
    """Return the processor of a model. Raises ValueError where it has none."""
    if pretrained.processor is None:
        raise ValueError(f"the model in {folder} has no processor, so tlx cannot convert examples to its inputs")
    reader: Processor = pretrained.processor
    return reader


def roles_of_run(recipe: Recipe) -> Roles:
    """Return the columns of each input that a run was trained on, by role.

    A table that names its columns is not opened. Where the data are gone, the roles are not known: ().
    """
    source = recipe.data.target
    if isinstance(source, Tabular):
        named = {role: getattr(source, role) for role in INPUTS if getattr(source, role) is not None}
        if named.keys() - {"text_pair"}:
            return {role: (names,) if isinstance(names, str) else tuple(names) for role, names in named.items()}
    try:
        dataset = open_dataset(source)
    except (OSError, ValueError):
        return {}
    if isinstance(source, Tabular):
        from tlx.data.sources.roles import roles_of

        roles, _ = roles_of(source, source.tables()["train"])
        return {role: names for role, names in roles.items() if role in INPUTS}
    return {role: (role,) for role in inputs(dataset.columns)}


def is_frame(examples: Any) -> bool:
    """Return whether some examples are a data frame of pandas or polars."""
    return hasattr(examples, "columns") and hasattr(examples, "shape") and not isinstance(examples, Mapping)


def examples_of_columns(table: Any, reader: Processor, roles: Roles) -> list[Example]:
    """Return the examples of a frame or a mapping of columns. Raises ValueError where a column or a cell is missing."""
    names = [str(name) for name in (table.keys() if isinstance(table, Mapping) else table.columns)]
    columns: dict[str, list[list[Any]]] = {}
    for role, parts in roles.items():
        for name in parts:
            if name not in names:
                raise ValueError(
                    f"the data have no column {name!r}{near_miss(name, names)}; they have "
                    f"{', '.join(map(repr, names))}, and the run was trained on {name!r}"
                )
        columns[role] = [list(table[name]) for name in parts]
    if not columns:
        raise ValueError(
            "the columns that the run was trained on are not known, because its data are gone; give a list of examples"
        )
    counts = {len(values) for column in columns.values() for values in column}
    if len(counts) > 1:
        raise ValueError(
            f"the columns have {' and '.join(map(str, sorted(counts)))} cells; expected columns of one length"
        )
    examples: list[Example] = []
    for row in range(counts.pop()):
        example: dict[str, Any] = {}
        for role, column in columns.items():
            cells = [values[row] for values in column]
            for name, cell in zip(roles[role], cells, strict=True):
                if cell is None or (isinstance(cell, float) and np.isnan(cell)):
                    raise ValueError(f"row {row}: {name!r} is missing; fill it, or leave such rows out")
            if role in HEAVY and isinstance(cells[0], str | Path):
                example |= reader.read(str(cells[0]))
            else:
                example[role] = cells[0] if len(cells) == 1 else "\n".join(map(str, cells))
        examples.append(checked(example, f"row {row}"))
    return examples


def examples_of_list(items: Any, reader: Processor, roles: Roles) -> list[Example]:
    """Return the examples of a list or an array: texts, pairs, images, sounds, lists of words, or rows of numbers.

    Raises ValueError, with the position, for an example of another kind.
    """
    kind = next((role for role in roles if role != "text_pair"), reader.reads[0])
    if isinstance(items, str | bytes | Path):
        items = [items]
    examples = []
    for row, item in enumerate(items):
        if kind == "text" and "text_pair" in roles:
            if not isinstance(item, tuple | list) or len(item) != 2:
                raise ValueError(f"example {row} is {item!r:.60}; expected a pair of texts, (text, text_pair)")
            example: dict[str, Any] = {"text": item[0], "text_pair": item[1]}
        elif kind in HEAVY and isinstance(item, str | Path):
            example = reader.read(str(item))
        elif kind == "words" and isinstance(item, str):
            example = {"words": item.split()}
        else:
            example = {kind: item}
        examples.append(checked(example, f"example {row}"))
    return examples


def checked(example: dict[str, Any], place: str) -> Example:
    """Return an example with arrays in the place of other images. Raises ValueError for an input of a wrong kind."""
    for role in ("text", "text_pair"):
        if role in example and not isinstance(example[role], str):
            cell = example[role]
            raise ValueError(f"{place} is {cell!r:.60} ({type(cell).__name__}); expected a text")
    if "image" in example and not isinstance(example["image"], bytes):
        example["image"] = np.asarray(example["image"])
    return example


def answered(pretrained: Pretrained, reader: Processor, examples: Sequence[Example]) -> list[Any]:
    """Return the answers of a model to some examples, in their order."""
    assert pretrained.task is not None
    for note in reader.cut_notes(examples[:NOTED]):
        log.warning("note: %s", note)
    answers: dict[int, Any] = {}
    for places, arrays, outputs in computed(pretrained, reader, examples):
        count = len(places)
        logits = outputs.get("logits")
        if logits is not None and not np.isfinite(logits).all():
            bad = places[int((~np.isfinite(logits).reshape(count, -1).all(1)).argmax())]
            raise ValueError(f"the logits of example {bad} are not finite; check the weights of the model")
        answers |= dict(zip(places, pretrained.task.answers(outputs, arrays), strict=True))
    return [answers[place] for place in range(len(examples))]


def logits_of(pretrained: Pretrained, reader: Processor, examples: Sequence[Example]) -> np.ndarray:
    """Return the logits of a model for some examples, [N, C], in their order."""
    parts = [(places, outputs["logits"]) for places, _, outputs in computed(pretrained, reader, examples)]
    order = np.argsort(np.concatenate([places for places, _ in parts]))
    return np.concatenate([logits for _, logits in parts])[order]


def computed(
    pretrained: Pretrained, reader: Processor, examples: Sequence[Example]
) -> Iterator[tuple[list[int], Arrays, Arrays]]:
    """Yield for each batch the positions of its examples, their inputs, and the outputs of the model for them.

    Examples of similar length are in one batch. Every batch has as many rows: copies of the last fill it.
    """
    forward = program(pretrained)
    fields, order, lengths = reader.fields, list(range(len(examples))), (0,)
    rows: dict[int, Any] = {}
    if reader.ragged:
        rows = {place: reader(examples[place]) for place in order}
        sizes = [length_of(rows[place], fields) for place in order]
        order.sort(key=sizes.__getitem__)
        most = max(reader.longest, *sizes, STEP)
        lengths = (*range(STEP, most, STEP), most)
    for start in range(0, len(order), BATCH):
        places = order[start : start + BATCH]
        full = [*places, *([places[-1]] * (BATCH - len(places)))]
        # Images are large, so those of one batch at a time are in memory.
        batch = rows or {place: reader(examples[place]) for place in places}
        arrays = collate([batch[place] for place in full], fields, lengths)
        outputs = jax.device_get(forward(pretrained.variables, arrays))
        count = len(places)
        yield (
            places,
            {name: array[:count] for name, array in arrays.items()},
            {name: array[:count] for name, array in outputs.items()},
        )


def program(pretrained: Pretrained) -> Any:
    """Return the compiled forward pass of a model; models of one architecture share it."""
    config, head = pretrained.model.config, pretrained.model.head
    try:
        hash((config, head))
    except TypeError:
        # A user's module may have no hash.
        return compiled.__wrapped__(config, head)
    return compiled(config, head)


@lru_cache(maxsize=8)
def compiled(config: models.Architecture, head: models.Head | None) -> Any:
    """Return the compiled forward pass of an architecture with a head."""
    model = models.build(config, head)

    def taps(variables: Variables, arrays: Any) -> Any:
        outputs = models.forward(model, variables, arrays)[0]
        return {name: outputs[name] for name in ("logits", "hidden", "pooled") if name in outputs}

    return jax.jit(taps)


def columns_of_answers(answers: Sequence[Any], task: Task | None, label: Any) -> dict[str, list[Any]]:
    """Return the columns of a frame of answers. `label` names the columns of the label of the run, where it does."""
    names = tuple(getattr(task, "names", ()) or ())
    if not all(isinstance(answer, Mapping) for answer in answers):
        return {"answer": list(answers)}
    if task is not None and task.exclusive:
        columns: dict[str, list[Any]] = {
            "answer": [next(iter(answer)) for answer in answers],
            "probability": [next(iter(answer.values())) for answer in answers],
        }
    elif names:
        threshold = getattr(task, "threshold", 0.5)
        columns = {"answer": [tuple(n for n in names if answer[n] > threshold) for answer in answers]}
    else:
        outputs = list(answers[0]) if answers else ["output 0"]
        titles = list(label) if isinstance(label, tuple) and len(label) == len(outputs) else outputs
        titles = ["answer"] if len(outputs) == 1 else titles
        return {title: [answer[name] for answer in answers] for title, name in zip(titles, outputs, strict=True)}
    for name in names if len(names) <= MOST_COLUMNS else ():
        columns[f"probability: {name}"] = [answer[name] for answer in answers]
    return columns
