"""Ask a model from Python: texts, files, frames, arrays, tables."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tlx.data.sources.base import Source
from tlx.data.sources.in_memory import columns_table, frame_table
from tlx.data.sources.named import source_named
from tlx.data.sources.raw_table import RawTable
from tlx.predict.arguments import path_of, understood
from tlx.predict.forward import BATCH, Predictor
from tlx.predict.jobs import stream
from tlx.predict.lists import in_memory_role, listed
from tlx.predict.opening import OpenedModel, open_model
from tlx.predict.rows import InputRows, table_rows
from tlx.predict.runs import FinishedRun, last_predictor
from tlx.predict.sources import source_rows
from tlx.predict.tables import is_frame, with_answers

if TYPE_CHECKING:
    from tlx import models
    from tlx.processors import Processor
    from tlx.tasks import Task

log = logging.getLogger(__name__)


def predict(
    source: FinishedRun | str | Path,
    examples: Any,
    model: models.Architecture | None = None,
    processor: Processor | None = None,
    task: Task | None = None,
    *,
    text: str | tuple[str, ...] | None = None,
    text_pair: str | None = None,
    words: str | None = None,
    image: str | None = None,
    audio: str | None = None,
    split: str | None = None,
    skip_broken: bool = False,
    batch: int = BATCH,
) -> Any:
    """Return the answers of a model to examples of any kind.

        predict("runs/demo", ["a film to see twice", "two hours too long"])
        predict(run, frame, text="body")                    # the frame, with the columns of the answers
        predict(run, [("a man sleeps", "a man is awake")])
        predict(run, Path("reviews.csv"))

    Args:
        source: A finished run, its folder, or a saved model.
        examples: A list of texts, of pairs of texts, of lists of words, of file names, images or sounds, of numbers, or
            of mappings from column to cell; a data frame of pandas or polars, or an Arrow table; a mapping from column
            to values; uint8[N, H, W] or uint8[N, H, W, C] images, or numbers [N, F]; the path of a table or a folder; a
            source, such as `Csv("a.csv")`; or, with `split`, the name of a data set.
        model: The architecture's dataclass, where the run cannot name it (a bridged module).
        processor: A processor of a user's class; it opens the files that the run saved.
        task: The task, where it has a user's class. These three are by default those of the recipe of a finished run.
        text, text_pair, words, image, audio: The columns of the inputs. By default those of the source, else those of
            the run, else by name.
        split: The split of a source that has several.
        skip_broken: Whether a row that cannot be read has the answer None instead of an error.
        batch: The number of rows that are computed together.

    Returns:
        For a data frame a frame of the same type with the same rows, and after their columns those that
        `tlx predict --out` writes: `prediction`, and for classes `probability` and `p(CLASS)`. Otherwise a list with
        an answer for each row: for classes a dict of probabilities by class name, most probable first; else a dict of
        numbers by name, or a list with a tag for each word.

    Raises:
        FileNotFoundError: There is no finished run, or no file.
        ValueError: The model has no head, has an untrained head or pooler, or reads another kind of input; a column is
            missing; or a row cannot be read: the message names the row and the column.
        TypeError: `examples` are of another type.
    """
    columns = {"text": text, "text_pair": text_pair, "words": words, "image": image, "audio": audio}
    stated = {
        role: (names,) if isinstance(names, str) else tuple(names)
        for role, names in columns.items()
        if names is not None
    }
    predictor = predictor_of(source, model, processor, task).again(batch)
    rows = rows_of(examples, predictor.model, stated, split)
    parts = () if rows is None else stream(predictor, rows, skip_broken=skip_broken)
    answers = [answer for part in parts for answer in part.answers]
    for note in (*predictor.notes(), *rows.notes()) if rows is not None and answers else ():
        log.warning("note: %s", note)
    if not is_frame(examples):
        return answers
    return with_answers(examples, [None if answer is None else predictor.values(answer) for answer in answers])


def predictor_of(
    source: FinishedRun | str | Path,
    model: models.Architecture | None = None,
    processor: Processor | None = None,
    task: Task | None = None,
) -> Predictor:
    """Return the model of a run, of its folder or of a saved model. The arguments are those of `predict`."""
    if isinstance(source, str | Path):
        return Predictor(open_model(source, model, processor, task))
    if model is None and processor is None and task is None:
        return last_predictor(source)
    recipe = source.recipe
    return Predictor(
        open_model(source.folder, model or recipe.model, processor or recipe.data.processor, task or recipe.task)
    )


def rows_of(
    rows: Any, model: OpenedModel, stated: Mapping[str, tuple[str, ...]], split: str | None = None
) -> InputRows | None:
    """Return rows of any kind as inputs of a model, as `predict` takes them; None where there are none."""
    rate = getattr(model.processor, "rate", 0)
    if isinstance(rows, InputRows):
        return rows
    if isinstance(rows, Source):
        return source_rows(rows, model.inputs, stated, split, rate)
    if isinstance(rows, str | Path):
        if isinstance(rows, str) and ((path := path_of(rows)) is None or not path.exists()):
            if split is not None:
                return source_rows(source_named(rows), model.inputs, stated, split, rate)
            raise TypeError(
                f"rows={rows!r:.60} is one text and no file; give a list of texts, [{rows!r:.40}] (of a data set by "
                "name, name a split: split=...)"
            )
        return understood([str(rows)], model, columns=stated, split=split)[0][1]
    is_array = isinstance(rows, np.ndarray) and rows.ndim > 1 and rows.dtype.kind in "buif"
    if isinstance(rows, Mapping) or is_array:
        table = columns_table(rows if isinstance(rows, Mapping) else {in_memory_role(model.inputs): rows}, "rows")
    elif is_frame(rows):
        table = frame_table(rows, "rows")
    else:
        return listed(rows, model, stated)
    if not table.num_rows:
        return None
    return table_rows(RawTable("rows", table, "", Path(), media_kinds(table)), model.inputs, stated, rate)


def media_kinds(table: Any) -> dict[str, str]:
    """Return the columns of an Arrow table that hold images, by the shape of their arrays."""
    raw = RawTable("rows", table, "")
    return {name: "image" for name, shape in raw.shapes.items() if shape is not None and len(shape["shape"]) in (2, 3)}
