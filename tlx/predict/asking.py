"""Ask a model from Python: texts, files, frames, arrays, tables."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlx.data.examples import Examples
from tlx.data.sources.base import Source
from tlx.data.sources.in_memory import columns_table, frame_table
from tlx.data.sources.raw_table import RawTable
from tlx.predict.arguments import path_of, understood
from tlx.predict.forward import BATCH, Predictor
from tlx.predict.jobs import stream
from tlx.predict.opening import OpenedModel, open_model
from tlx.predict.rows import InputRows, pair_rows, plain_rows, plain_table, table_of, table_rows
from tlx.processors.columns import HEAVY
from tlx.training.loop import Run
from tlx.trees import Json

if TYPE_CHECKING:
    from tlx import models
    from tlx.processors import Processor
    from tlx.tasks import Task

log = logging.getLogger(__name__)


def predict(
    source: str | Path,
    examples: Sequence[str],
    model: models.Architecture | None = None,
    processor: Processor | None = None,
    task: Task | None = None,
) -> list[Any]:
    """Return the task's answers for texts, or for image or sound files.

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
    opened = open_model(source, model, processor, task)
    if not len(examples):
        return []
    predictor = Predictor(opened)
    column = "file" if set(HEAVY) & opened.inputs.columns.keys() else "text"
    rows = plain_rows(plain_table(examples, column, "the examples"), opened.inputs, opened.processor)
    answers = [answer for part in stream(predictor, rows) for answer in part.answers]
    for note in predictor.notes():
        log.warning("note: %s", note)
    return answers


def answers(
    run: Run | str | Path,
    rows: Any,
    *,
    text: str | tuple[str, ...] | None = None,
    text_pair: str | None = None,
    words: str | None = None,
    image: str | None = None,
    audio: str | None = None,
    split: str | None = None,
    model: models.Architecture | None = None,
    processor: Processor | None = None,
    task: Task | None = None,
    skip_broken: bool = False,
    batch: int = BATCH,
) -> list[Json | None]:
    """Return the answers of a model to rows of any kind.

        answers("runs/demo", ["a film to see twice", "two hours too long"])
        answers(run, frame, text="body")
        answers(run, [("a man sleeps", "a man is awake")])
        answers(run, Path("reviews.csv"))

    Args:
        run: A finished run, its folder, or a saved model.
        rows: A list of texts, of pairs of texts, of lists of words, of file names or images, or of mappings from
            column to cell; a data frame of pandas or polars, an Arrow table, or a mapping from column to values;
            uint8[N, H, W] or uint8[N, H, W, C]; the path of a table or a folder; or a source, such as `Csv("a.csv")`.
        text, text_pair, words, image, audio: The columns of the inputs. By default those of the run, else by name.
        split: The split of a source that has several.
        model, processor, task: As in `predict`; those of the recipe of a `Run` by default.
        skip_broken: Whether a row that cannot be read has the answer None instead of an error.
        batch: The number of rows that are computed together.

    Returns:
        For each row a dict: `prediction` (the class, the list of classes, the number, numbers by name, or a tag for
        each word), and for classes `probability` and `probabilities` by class.

    Raises:
        FileNotFoundError: There is no finished run, or no file.
        ValueError: A column is missing, a row cannot be read, or the model reads another kind of input.
        TypeError: `rows` are of another type.
    """
    opened = opened_run(run, model, processor, task)
    columns = {"text": text, "text_pair": text_pair, "words": words, "image": image, "audio": audio}
    stated = {
        role: (names,) if isinstance(names, str) else tuple(names)
        for role, names in columns.items()
        if names is not None
    }
    inputs = rows_of(rows, opened, stated, split)
    if inputs is None:
        return []
    predictor = Predictor(opened, batch)
    found = [
        None if answer is None else predictor.values(answer)
        for part in stream(predictor, inputs, skip_broken=skip_broken)
        for answer in part.answers
    ]
    for note in predictor.notes():
        log.warning("note: %s", note)
    return found


def opened_run(
    run: Run | str | Path,
    model: models.Architecture | None = None,
    processor: Processor | None = None,
    task: Task | None = None,
) -> OpenedModel:
    """Return the model of a run, of its folder or of a saved model, with the classes of the recipe of a `Run`."""
    if not isinstance(run, Run):
        return open_model(run, model, processor, task)
    recipe = run.recipe
    return open_model(run.folder, model or recipe.model, processor or recipe.data.processor, task or recipe.task)


def rows_of(
    rows: Any, model: OpenedModel, stated: Mapping[str, tuple[str, ...]], split: str | None = None
) -> InputRows | None:
    """Return rows of any kind as inputs of a model, as `answers` takes them; None where there are none."""
    rate = getattr(model.processor, "rate", 0)
    if isinstance(rows, InputRows):
        return rows
    if isinstance(rows, Source):
        return table_rows(table_of(rows, split), model.inputs, stated, rate)
    if isinstance(rows, str | Path):
        if isinstance(rows, str) and ((path := path_of(rows)) is None or not path.exists()):
            raise TypeError(f"rows={rows!r:.60} is one text and no file; give a list of texts, [{rows!r:.40}]")
        return understood([str(rows)], model, columns=stated, split=split)[0][1]
    if isinstance(rows, Mapping) or (isinstance(rows, np.ndarray) and rows.ndim > 1):
        (heavy,) = [role for role in model.inputs.columns if role in HEAVY] or ["image"]
        table = columns_table(rows if isinstance(rows, Mapping) else {heavy: rows}, "rows")
    elif hasattr(rows, "columns") or (hasattr(rows, "to_arrow") and not hasattr(rows, "tolist")):
        table = frame_table(rows, "rows")
    else:
        return listed(list(rows) if hasattr(rows, "__iter__") else rows, model, stated)
    if not table.num_rows:
        return None
    return table_rows(RawTable("rows", table, "", Path(), media_kinds(table)), model.inputs, stated, rate)


def media_kinds(table: Any) -> dict[str, str]:
    """Return the columns of an Arrow table that hold images, by the shape of their arrays."""
    raw = RawTable("rows", table, "")
    return {name: "image" for name, shape in raw.shapes.items() if shape is not None and len(shape["shape"]) in (2, 3)}


def listed(rows: Any, model: OpenedModel, stated: Mapping[str, tuple[str, ...]]) -> InputRows | None:
    """Return a list of texts, pairs, lists of words, files, images or mappings as inputs of a model."""
    if not isinstance(rows, list):
        raise TypeError(
            f"rows is {type(rows).__name__}; expected a list of texts, a data frame, arrays, a path or a source"
        )
    if not rows:
        return None
    rows = [str(row) if isinstance(row, Path | np.str_) else row for row in rows]
    kinds = {type(row).__name__: row for row in rows}
    columns, inputs = model.inputs.columns, model.inputs
    if all(isinstance(row, str) for row in rows):
        column = "file" if set(HEAVY) & columns.keys() else "text"
        return plain_rows(plain_table(rows, column, "rows"), inputs, model.processor)
    if all(isinstance(row, Mapping) for row in rows):
        names = list(dict.fromkeys(name for row in rows for name in row))
        table = columns_table({name: [row.get(name) for row in rows] for name in names}, "rows")
        return table_rows(RawTable("rows", table, "", Path()), inputs, stated, getattr(model.processor, "rate", 0))
    if all(isinstance(row, tuple | list) and all(isinstance(part, str) for part in row) for row in rows):
        if "words" in columns:
            return table_rows(RawTable("rows", columns_table({"words": list(map(list, rows))}, "rows"), ""), inputs,
                              {"words": ("words",)})  # fmt: skip
        if all(len(row) == 2 for row in rows):
            return pair_rows([(row[0], row[1]) for row in rows], inputs)
    role = next((role for role in columns if role in HEAVY), "")
    if role and all(isinstance(row, np.ndarray | bytes) for row in rows):
        import pyarrow as pa

        examples = Examples("rows", "rows", [{role: row} for row in rows], {role: columns[role]})
        table = pa.table({"row": list(range(len(rows)))})
        return InputRows(RawTable("rows", table, ""), examples.__getitem__, f"{len(rows)} rows", {role: ("row",)})
    raise TypeError(
        f"rows are {' and '.join(sorted(kinds))}, such as {next(iter(kinds.values()))!r:.60}; {model.source} reads "
        f"{inputs.reads}: give a list of one kind"
    )
