"""Return the records of a run as pandas data frames."""

import logging
from typing import TYPE_CHECKING, Any

import numpy as np

from tlx.data import Examples
from tlx.functional.texts import WRITTEN, unpacked
from tlx.processors.columns import HEAVY, inputs
from tlx.records.log import read_metrics
from tlx.records.run_directory import read_predictions
from tlx.training.reopen import data_of
from tlx.types import Column

if TYPE_CHECKING:
    from tlx.training.loop import Run

log = logging.getLogger(__name__)


def pandas() -> Any:
    """Return the library. Raises ImportError, with the extra that has it, where it is not installed."""
    try:
        import pandas as library
    except ModuleNotFoundError:
        raise ImportError("a data frame needs pandas: pip install 'tlx[study]'") from None
    return library


def history(run: "Run") -> Any:
    """Return the recorded metrics of a run: a row for each step, a column for each metric.

    A metric that was not measured at a step is NaN. `seconds` is the time since the first record.
    """
    library = pandas()
    lines = read_metrics(run.folder)
    rows: dict[int, dict[str, float]] = {}
    start = min((line["time"] for line in lines), default=0.0)
    for line in lines:
        row = rows.setdefault(line["step"], {})
        row[line["name"]] = line["value"]
        row["seconds"] = max(row.get("seconds", 0.0), line["time"] - start)
    frame = library.DataFrame.from_dict({step: rows[step] for step in sorted(rows)}, orient="index", dtype=float)
    frame.index.name = "step"
    return frame[[*(name for name in frame.columns if name != "seconds"), "seconds"]] if rows else frame


def predictions(run: "Run") -> Any:
    """Return the examples of the test split with the answers of a run; of the validation split where there is none.

    The columns are the texts of the examples, `label`, `prediction`, and, where the task has them, `probability` (that
    of the prediction), `correct` and `loss`. A written text is a `prediction`. The index is the position of the example
    in the split. Texts are left out, with a warning, where the data are gone or have changed.

    Raises:
        FileNotFoundError: The run kept no predictions.
    """
    library = pandas()
    split = "test" if run.result.get("test_split") == "measured" else "validation"
    kept = read_predictions(run.folder, split)
    if kept is None:
        raise FileNotFoundError(f"{run.folder} has no predictions of its {split} split; train it again")
    # The scores number the classes as the task does.
    names, scores = tuple(run.task.names or run.result["classes"]), kept.scores
    columns: dict[str, Any] = dict(texts_of(run, split, kept.indices))
    for name, array in (("label", scores.get("label")), ("prediction", scores.get("prediction"))):
        if array is not None:
            columns[name] = named(array, names)
    if WRITTEN in scores:
        columns["prediction"] = unpacked(scores[WRITTEN])
    confidence = "calibrated_confidence" if "calibrated_confidence" in scores else "confidence"
    for title, name in (("probability", confidence), ("correct", "correct"), ("loss", "loss")):
        if name in scores and scores[name].ndim == 1:
            columns[title] = scores[name]
    return library.DataFrame(columns, index=library.Index(kept.indices, name="example"))


def named(array: np.ndarray, classes: tuple[str, ...]) -> list[Any]:
    """Return labels or predictions [N, ...] as people read them: names of classes, tuples of names, or numbers."""
    if array.ndim == 1 and array.dtype.kind in "iu" and classes:
        return [classes[number] if 0 <= number < len(classes) else None for number in array.tolist()]
    if array.ndim == 2 and array.dtype.kind == "b" and array.shape[1] == len(classes):
        return [tuple(name for name, has in zip(classes, row, strict=True) if has) for row in array.tolist()]
    if array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0].tolist()
    return array.tolist()


def texts_of(run: "Run", split: str, indices: np.ndarray) -> dict[str, list[Any]]:
    """Return the columns of texts of the examples at these positions of a split; none where the data differ."""
    try:
        splits = data_of(run.folder, run.recipe, run.result)
    except (OSError, ValueError) as error:
        log.warning("note: the texts are left out, because the data of the run cannot be opened: %s", error)
        return {}
    examples = splits.by_name[split]
    light = [name for name, column in inputs(examples.columns).items() if is_light(column)]
    if not light:
        return {}
    rows = rows_at(examples, indices)
    return {name: [row[name] for row in rows] for name in light}


def is_light(column: Column) -> bool:
    """Return whether a column of inputs is short enough for a table."""
    return column.kind not in (*HEAVY, "numbers")


def rows_at(examples: Examples, indices: np.ndarray) -> list[dict[str, Any]]:
    """Return the examples at these positions of the whole split, without images and sounds."""
    places = {int(index): place for place, index in enumerate(examples.rows)}
    return [examples.light(places[int(index)]) for index in indices]
