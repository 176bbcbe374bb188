"""Draw the page of an evaluation from its document and its scores alone: `evaluation.html`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tlx.records.run_directory import Predictions
from tlx.report import figures, page, words
from tlx.report.reading import RunRecords
from tlx.report.run import card
from tlx.trees import Json


class EvaluatedRecords(RunRecords):
    """The records of a run whose only split is the evaluated one."""

    @property
    def split(self) -> str:
        """Return the name of the evaluated split."""
        return next(iter(self.predictions))


def write(path: Path, document: Json, predictions: Predictions, task: Any) -> Path:
    """Draw the page into one file.

    Args:
        path: The file.
        document: The document of the evaluation (see `tlx.analysis.evaluation`).
        predictions: The scores of its examples.
        task: The task of the run, with its classes.
    """
    return page.write(path, draw(document, predictions, task))


def draw(document: Json, predictions: Predictions, task: Any) -> str:
    """Return the page as HTML."""
    split = document["data"]["split"] if document["data"]["split"] in ("test", "validation") else "evaluated"
    records = EvaluatedRecords(
        Path(document["run"]["folder"]), {}, task, {}, [], {split: predictions}, [], {}, {}, None
    )
    first = document["metrics"][0]
    return page.render(
        "evaluation.html",
        title=f"{Path(document['run']['folder']).name} on {source_name(document)}",
        document=document,
        answer={**first, "words": words.metric(first["name"])},
        trained=document["run"]["metrics"].get(f"test/{first['name']}"),
        classes=[class_row(row) for row in document["classes"]],
        slices=sliced(document["slices"]),
        outcomes=figures.outcomes(records),
        mistakes=[{**card(mistake), "place": mistake["place"]} for mistake in document["mistakes"]],
        split=split,
    )


def source_name(document: Json) -> str:
    """Return the evaluated data for the headline."""
    source = document["data"]["source"]
    return f"{Path(source).name if Path(source).is_absolute() else source}, {document['data']['split']}"


def class_row(row: Json) -> Json:
    """Return the numbers of a class as texts, with a number by which the table is sorted."""
    cells = {name: {**row[name], "words": percent_of(row[name])} for name in ("precision", "recall", "f1")}
    return {**row, **cells}


def percent_of(number: Json) -> str:
    """Return a share with its interval in words.

    >>> percent_of({"value": 0.5, "low": 0.25, "high": 0.75})
    '50.0\\xa0% (25.0\\xa0% – 75.0\\xa0%)'
    """
    if number["value"] is None:
        return "–"
    interval = "" if number["low"] is None else f" ({words.percent(number['low'])} – {words.percent(number['high'])})"
    return words.percent(number["value"]) + interval


def sliced(rows: Sequence[Json]) -> list[Json]:
    """Return the slices by column: the names of their metrics, and a row for each value."""
    tables = []
    for column in dict.fromkeys(row["column"] for row in rows):
        chosen = [row for row in rows if row["column"] == column]
        names = [metric["name"] for metric in chosen[0]["metrics"]]
        tables.append({"column": column, "metrics": names, "rows": chosen})
    return tables
