"""The numbers of an evaluation as tables and lines for the terminal."""

import re
from collections.abc import Mapping
from pathlib import Path

from tlx.functional.metrics import find_metric
from tlx.report.words import number, percent
from tlx.trees import Json

# Classes of a table; of more classes those with the lowest F1 are shown.
MOST_CLASSES = 40
# Characters of a text in the list of mistakes.
LONGEST = 100

Printed = tuple[str, tuple[str, ...], list[tuple[str, ...]]]


def short_name(document: Json) -> str:
    """Return a short name of the evaluated data, for a directory."""
    source, split = document["data"]["source"], document["data"]["split"]
    name = Path(source).stem if source.endswith((".csv", ".tsv", ".jsonl", ".parquet")) else source
    return re.sub(r"[^\w.-]+", "-", f"{Path(name).name or name}-{split}").strip("-")[:80]


def tables(document: Json) -> list[Printed]:
    """Return the tables of metrics, classes and slices: a title, the heads and the rows of each."""
    data = document["data"]
    title = f"{document['run']['folder']} on {data['source']}, {data['split']}: {data['examples']:,} examples"
    recorded, first = document["run"]["metrics"], document["metrics"]
    rows: list[tuple[str, ...]] = [
        (metric_words(row["name"]), value(row), span(row), recorded_value(recorded, row)) for row in first
    ]
    printed: list[Printed] = [(title, ("metric", "value", "95 % interval", "test split of the run"), rows)]
    if classes := document["classes"]:
        chosen = sorted(classes, key=lambda row: row["f1"]["value"] or 0.0)[:MOST_CLASSES]
        shown = classes if len(classes) <= MOST_CLASSES else chosen
        more = "" if shown is classes else f", the {MOST_CLASSES} of {len(classes):,} with the lowest F1"
        heads: tuple[str, ...] = ("class", "examples", "predicted", "precision", "recall", "F1")
        rows = [
            (row["name"], f"{row['examples']:,}", f"{row['predicted']:,}",
             *(part(row[name]) for name in ("precision", "recall", "f1")))
            for row in shown
        ]  # fmt: skip
        printed.append((f"by class{more}", heads, rows))
    for column in dict.fromkeys(row["column"] for row in document["slices"]):
        chosen = [row for row in document["slices"] if row["column"] == column]
        names = [metric["name"] for metric in chosen[0]["metrics"]]
        heads = (column, "examples", f"{metric_words(names[0])}, interval", *map(metric_words, names[1:]), "than all")
        rows = [
            (row["value"], f"{row['examples']:,}", f"{value(row['metrics'][0])} ({span(row['metrics'][0])})",
             *map(value, row["metrics"][1:]), row["verdict"])
            for row in chosen
        ]  # fmt: skip
        printed.append((f"by {column}", heads, rows))
    return printed


def mistakes(document: Json) -> list[str]:
    """Return a line for each listed mistake: its row, its label, the answer, and its text."""
    lines = []
    for mistake in document["mistakes"]:
        answer = mistake["answer"]
        if isinstance(answer, Mapping):
            name, probability = next(iter(answer.items()))
            words = f"{name} {probability:.4f}"
        else:
            words = str(answer)
        text = " / ".join(str(mistake[name]) for name in ("text", "text_pair") if name in mistake)
        text = " ".join(text.split())
        cut = text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
        lines.append(f"{mistake['place']}: {mistake['label']}, predicted {words}{f'  | {cut}' if cut else ''}")
    return ["mistakes with the largest loss:", *lines] if lines else []


def notes(document: Json) -> list[str]:
    """Return a line for each note, and the fingerprint of the data."""
    return [*(f"note: {note}" for note in document["notes"]), f"data {document['data']['fingerprint']}"]


def metric_words(name: str) -> str:
    """Return the words for a metric."""
    return find_metric(name).words or name.replace("_", " ")


def value(row: Json) -> str:
    """Return the value of a metric as text."""
    return shown(row["value"], row["share"])


def span(row: Json) -> str:
    """Return the interval of a metric as text."""
    return "-" if row["low"] is None else f"{shown(row['low'], row['share'])} to {shown(row['high'], row['share'])}"


def shown(number_value: float, share: bool) -> str:
    """Return a number, or a share in percent."""
    if share and number_value == number_value:  # noqa: PLR0124
        return percent(number_value).replace("\N{NO-BREAK SPACE}", " ")
    return number(number_value)


def recorded_value(recorded: Mapping[str, float], row: Json) -> str:
    """Return the value that the run measured on its test split."""
    name = f"test/{row['name']}"
    return shown(recorded[name], row["share"]) if name in recorded else "-"


def part(row: Json) -> str:
    """Return a number of a class with its interval."""
    if row["value"] is None:
        return "-"
    interval = "" if row["low"] is None else f" ({shown(row['low'], True)} to {shown(row['high'], True)})"
    return shown(row["value"], True) + interval
