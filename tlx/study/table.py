"""Return the results of a study as one tidy table, for pandas and for files."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tlx.records import studies
from tlx.records.studies import CellRecord
from tlx.study.base import OWN, alone
from tlx.trees import Json

NEEDED = ("pandas", "pyarrow")
RESULTS = "results"


def lacking() -> str:
    """Return the missing packages of the extra `tlx[study]`."""
    return ", ".join(name for name in NEEDED if find_spec(name) is None)


def results(directory: str | Path) -> Any:
    """Return a pandas data frame with a row per metric of every finished cell, and one row without a metric per other
    cell.

    Columns: `fingerprint`, the study's own columns, `seed`, `state`, `split`, `metric`, `value`, `selection` (the rule
    that chose the checkpoint), `selected_step`, `steps`, `seconds` (cells that trained together have equal shares) and
    `trainable` (number of trainable parameters). The predictions of the cells on every example are in
    `DIR/cells/FINGERPRINT/predictions`.

    Raises:
        FileNotFoundError: There is no study.
        ImportError: The extra `tlx[study]` is missing.
    """
    if missing := lacking():
        raise ImportError(f"a table of results needs {missing}: pip install 'tlx[study]'")
    import pandas

    study = studies.read(directory)
    columns = list(dict.fromkeys((*study.columns, "seed")))
    first, *rest = OWN
    frame = pandas.DataFrame(
        [row for cell in study.cells for row in rows(cell)], columns=[first, *columns, *rest], dtype=object
    )
    for column in frame.columns:
        values = list(frame[column].dropna())
        if len({isinstance(value, str) for value in values}) > 1:
            frame[column] = frame[column].map(str, na_action="ignore")
        frame[column] = (
            frame[column].astype(float) if column in ("value", "seconds") else frame[column].convert_dtypes()
        )
    return frame


def rows(cell: CellRecord) -> list[dict[str, Any]]:
    """Return the rows of one cell."""
    row: dict[str, Any] = {"fingerprint": cell.fingerprint, **cell.names, "state": cell.state}
    if not cell.result:
        return [row]
    facts = {name: cell.result[name] for name in ("selection", "selected_step", "steps")}
    facts |= {"seconds": spent(cell.result), "trainable": cell.result["parameters"]["trainable"]}
    row = {"seed": cell.result["seed"]} | row | facts
    return [
        row | {"split": name.partition("/")[0], "metric": name.partition("/")[2], "value": value}
        for name, value in cell.metrics.items()
    ]


def spent(result: Json) -> float:
    """Return the seconds of a run; runs that trained together have equal shares."""
    return studies.costs(result)["seconds"]


def write_results(directory: Path) -> list[Path]:
    """Write `results.csv` and `results.parquet`, whole or not at all; write nothing if the extra is missing."""
    if lacking():
        return []
    frame = results(directory)
    paths = [directory / f"{RESULTS}.csv", directory / f"{RESULTS}.parquet"]
    with alone(directory):
        for path in paths:
            partial = path.with_name(f".{path.name}.partial")
            frame.to_csv(partial, index=False) if path.suffix == ".csv" else frame.to_parquet(partial, index=False)
            os.replace(partial, path)
    return paths


def markdown(directory: str | Path) -> str:
    """Return the finished cells of a study as a Markdown table: columns, the study's metric and the main metrics on the
    test split, and costs."""
    study = studies.read(directory)
    metrics = [name for name in study.metrics if name.startswith("test/") and study.declared(name).main]
    if study.metric.startswith("test/") and study.metric in study.metrics:
        metrics = [study.metric, *(name for name in metrics if name != study.metric)]
    heads = [*study.columns, *metrics, "steps", "seconds", "trainable"]
    lines = [heads, ["---"] * len(study.columns) + ["---:"] * (len(metrics) + 3)]
    for cell in study.cells:
        if cell.result:
            numbers = [f"{cell.metrics[name]:.4f}" if name in cell.metrics else "-" for name in metrics]
            seconds, learn = spent(cell.result), cell.result["parameters"]["trainable"]
            names = ["-" if cell.names[name] is None else str(cell.names[name]) for name in study.columns]
            lines.append([*names, *numbers, str(cell.result["steps"]), f"{seconds:.1f}", f"{learn:,}"])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    if not study.changed:
        return table
    count = study.counts["stale"]
    return f"{table}\n\n{count} stale cells are left out, because {', '.join(study.changed)} changed since they ran"
