"""Write the page of one run: `report.html`."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tlx.functional.mixtures import AVERAGE
from tlx.functional.selection import reads_validation
from tlx.records.members import measured_on, member_of
from tlx.report import figures, intervals, moved, page, reading, words
from tlx.report.reading import RunRecords
from tlx.trees import Json

NAME = "report.html"
PICTURE = "data:image/png;base64,"
SPENT = {"setup": "set-up", "compile": "compilation", "train": "training", "eval": "evaluation"}


def write(folder: Path, task: Any = None) -> Path:
    """Draw the page of the finished run in `folder`.

    Args:
        folder: the run's folder.
        task: the run's task with its classes, if the files alone cannot name it (a task of the user's own). Without it
            such a page lacks the intervals that need the task.

    Raises:
        FileNotFoundError: There is no finished run.
    """
    return page.write(folder / NAME, draw(reading.read(folder, task)))


def draw(records: RunRecords) -> str:
    """Return the page as HTML."""
    result = records.result
    return page.render(
        "run.html",
        title=words.headline(records.recipe),
        result=result,
        split=records.split,
        recipe=records.recipe,
        document=records.document,
        answer=answer(records),
        measured=measured(records),
        members=members(records),
        flattering=reads_validation(result["selection"]),
        rules=rules(records),
        training=figures.training(records),
        validation=figures.validation(records),
        outcomes=figures.outcomes(records),
        classes=by_class(records),
        mistakes=[card(mistake) for mistake in records.mistakes],
        phases=[phase(records, n) for n in range(len(records.parameters["phases"]))],
        weights=weights(records),
        moved=moved.section(records.moved),
        seconds=shares({SPENT[name]: spent for name, spent in result["seconds"].items()}),
        environment=records.environment,
    )


def answer(records: RunRecords) -> Json:
    """Return the primary metric of the reported split, its uncertainty, and, for classes, the accuracy of a constant
    prediction."""
    task, result = records.task, records.result
    summary: Json = {
        "key": f"{records.split}/{task.primary}",
        "name": task.primary,
        "value": result["metrics"][f"{records.split}/{task.primary}"],
        "interval": intervals.measure(task.primary, records.predictions[records.split], task),
        "share": task.metric(task.primary).points,
        "tuning": words.source(records.recipe["tuning"]),
    }
    if (counts := figures.confusion_counts(records)) is not None:
        totals = counts.sum(1)
        summary["constant"] = {"name": task.names[int(totals.argmax())], "value": float(totals.max() / totals.sum())}
    return summary


def measured(records: RunRecords) -> list[Json]:
    """Return one row per metric: `name`, and `test` and `validation`, each with its value and interval."""
    metrics = records.result["metrics"]
    names = dict.fromkeys(key.partition("/")[2] for key in metrics if not member_of(key))
    return [
        {
            "name": name,
            "splits": [
                measurement(records, split, name)
                for split in ("test", *records.result.get("tests", ()), "validation")
                if f"{split}/{name}" in metrics
            ],
        }
        for name in names
    ]


def measurement(records: RunRecords, split: str, name: str) -> Json:
    """Return one metric of one split with its interval, and the method of the interval or why there is none."""
    value = records.result["metrics"][f"{split}/{name}"]
    interval = None if math.isnan(value) else intervals.measure(name, records.predictions[split], records.task)
    if interval:
        how = interval.method
    elif math.isnan(value):
        how = "not defined"
    else:
        biased = not intervals.declared(records.task, name).interval
        how = "no interval, because resampling inflates it" if biased else "no interval"
    return {"split": split, "key": f"{split}/{name}", "value": value, "interval": interval, "how": how}


def members(records: RunRecords) -> Json | None:
    """Return, for a mixture, the primary metric of each member with its interval, and the average; None for other
    data."""
    recorded, task = records.result.get("members"), records.task
    if not recorded:
        return None
    splits = [split for split in (records.split, "validation") if split in records.predictions]
    rows = []
    for name in (*recorded, AVERAGE):
        facts = recorded.get(name, {"rate": None, "examples": {}})
        rows.append({"name": name, **facts, "average": name == AVERAGE, "splits": [
            cell for split in dict.fromkeys(splits) if (cell := of_member(records, split, name, task.primary))
        ]})  # fmt: skip
    return {"metric": task.primary, "splits": list(dict.fromkeys(splits)), "rows": rows}


def of_member(records: RunRecords, split: str, name: str, metric: str) -> Json | None:
    """Return a metric of a member on a split with its interval; None where the split has no examples of it."""
    key = f"{split}/{name}/{metric}"
    if key not in records.result["metrics"]:
        return None
    parts = measured_on(records.predictions[split], key, records.result)
    interval = intervals.over_parts(metric, parts, records.task)
    return {"split": split, "key": key, "value": records.result["metrics"][key], "interval": interval}


def rules(records: RunRecords) -> list[Json]:
    """Return the step that each rule would have chosen (see `tlx.functional.selection.gaps`), in words, and whether
    the run used that rule."""
    # If all labels are granted, this rule has another name.
    renamed = {"oracle": "best-validation"} if records.recipe["data"]["labels"] is None else {}
    rows = []
    for rule, facts in records.result.get("rules", {}).items():
        name = renamed.get(rule, rule)
        rows.append({"name": name, "words": words.rule(name), "own": name == records.result["selection"], **facts})
    return rows


def by_class(records: RunRecords) -> list[Json]:
    """Return precision, recall and F1 of each class on the reported split; None where the denominator is 0."""
    names = records.task.names
    if (counts := figures.confusion_counts(records)) is not None:
        hits, true, predicted = np.diag(counts), counts.sum(1), counts.sum(0)
    elif (table := records.task.class_counts(records.predictions[records.split].scores)) is not None:
        names, hits, true, predicted = table.names, table.tp, table.tp + table.fn, table.tp + table.fp
    else:
        return []
    return [
        {
            "name": name,
            "examples": int(n_true),
            "predicted": int(n_predicted),
            "precision": float(n_hits / n_predicted) if n_predicted else None,
            "recall": float(n_hits / n_true) if n_true else None,
            "f1": float(2 * n_hits / (n_true + n_predicted)) if n_true + n_predicted else None,
        }
        for name, n_hits, n_true, n_predicted in zip(names, hits, true, predicted, strict=True)
    ]


def card(mistake: Json) -> Json:
    """Return one example: its texts and picture, and, of many probabilities, the three largest and that of the true
    label."""
    label = mistake["label"]
    classes = isinstance(label, str)
    words = mistake["answer"]
    answers = [(words, None)] if isinstance(words, str) else list(words.items())
    listed_answers = answers[:3] + [item for item in answers[3:] if item[0] == label]
    picture = mistake.get("image")
    return {
        "index": mistake["index"],
        "label": label,
        "loss": mistake["loss"],
        "classes": classes,
        "guess": answers[0][0],
        "answer": [{"name": name, "value": value, "true": name == label} for name, value in listed_answers],
        "texts": [mistake[name] for name in ("text", "text_pair") if name in mistake],
        # A picture is shown only if it is embedded in the file.
        "image": picture if picture and picture.startswith(PICTURE) else None,
    }


def phase(records: RunRecords, number: int) -> Json:
    """Return the parameters of one phase by stage, with sums."""
    recorded = records.parameters["phases"][number]
    stages: dict[str, list[Json]] = {}
    for row in recorded["rows"]:
        stages.setdefault(row["group"], []).append({**row, "size": math.prod(row["shape"])})
    return {
        "share": recorded["share"],
        "totals": recorded["totals"],
        "stages": [stage(name, rows) for name, rows in stages.items()],
    }


def stage(name: str, rows: Sequence[Json]) -> Json:
    total = sum(row["size"] for row in rows)
    moving = [row for row in rows if row["trainable"]]
    rates = sorted({row["rate"] for row in moving})
    return {
        "name": name,
        "rows": rows,
        "total": total,
        "trainable": sum(row["size"] for row in moving),
        "bytes": 4 * total,
        "rates": rates[:1] if len(rates) == 1 else rates[:: max(1, len(rates) - 1)],
    }


def weights(records: RunRecords) -> Json | None:
    """Return the source of the initial weights: as the recipe requests, and tensor by tensor if a manifest was
    written."""
    requested = records.recipe["weights"]
    if requested is None:
        return None
    entries = records.weights["entries"] if records.weights else []
    actions: dict[str, int] = {}
    for entry in entries:
        actions[entry["action"]] = actions.get(entry["action"], 0) + 1
    return {"asked": requested, "entries": entries, "actions": actions}


def shares(parts: dict[str, float]) -> list[Json]:
    """Return each part with its share of the whole."""
    whole = sum(parts.values()) or 1.0
    return [{"name": name, "value": value, "share": value / whole} for name, value in parts.items()]
