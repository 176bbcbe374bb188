"""The results of a study as one tidy table, for pandas and for files."""

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tlx.records import studies
from tlx.records.studies import Cell
from tlx.study.base import OWN, alone

NEEDED = ("pandas", "pyarrow")
RESULTS = "results"


def lacking() -> str:
    """What of the extra `tlx[study]` is not installed."""
    return ", ".join(name for name in NEEDED if find_spec(name) is None)


def results(directory: str | Path) -> Any:
    """A pandas data frame with a row for every metric of every finished cell, and one without a metric for every other.

    Its columns: `fingerprint`, the study's own, `seed`, `state`, `split`, `metric`, `value`, `selection` (the rule that
    chose the checkpoint) and `selected_step`, `steps`, `seconds` (of cells that trained together each has its share),
    `trainable` (parameters that learn). What the cells answered on every example lies in
    `DIR/cells/FINGERPRINT/predictions`. Raises FileNotFoundError where there is no study, ImportError where the extra
    `tlx[study]` is missing.
    """
    if missing := lacking():
        raise ImportError(f"a table of results needs {missing}: pip install 'tlx[study]'")
    import pandas

    found = studies.read(directory)
    columns = list(dict.fromkeys((*found.columns, "seed")))
    first, *rest = OWN
    frame = pandas.DataFrame(
        [row for cell in found.cells for row in rows(cell)], columns=[first, *columns, *rest], dtype=object
    )
    for column in frame.columns:
        values = list(frame[column].dropna())
        if len({isinstance(value, str) for value in values}) > 1:
            frame[column] = frame[column].map(str, na_action="ignore")
        frame[column] = (
            frame[column].astype(float) if column in ("value", "seconds") else frame[column].convert_dtypes()
        )
    return frame


def rows(cell: Cell) -> list[dict[str, Any]]:
    """The rows of one cell."""
    row: dict[str, Any] = {"fingerprint": cell.fingerprint, **cell.names, "state": cell.state}
    if not cell.result:
        return [row]
    told = {name: cell.result[name] for name in ("selection", "selected_step", "steps")}
    told |= {"seconds": spent(cell.result), "trainable": cell.result["parameters"]["trainable"]}
    row = {"seed": cell.result["seed"]} | row | told
    return [
        row | {"split": name.partition("/")[0], "metric": name.partition("/")[2], "value": value}
        for name, value in cell.metrics.items()
    ]


def spent(result: Mapping[str, Any]) -> float:
    """The seconds of a run: its share, where several trained together, of what they took."""
    return studies.costs(result)["seconds"]


def write_results(directory: Path) -> list[Path]:
    """`results.csv` and `results.parquet`, whole or not at all; nothing where the extra is missing."""
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
    """The finished cells of a study, a line a cell: its columns, what was measured on the test split, what it took."""
    found = studies.read(directory)
    metrics = [name for name in found.metrics if name.startswith("test/")]
    if found.metric in metrics:
        metrics = [found.metric, *(name for name in metrics if name != found.metric)]
    heads = [*found.columns, *metrics, "steps", "seconds", "trainable"]
    lines = [heads, ["---"] * len(found.columns) + ["---:"] * (len(metrics) + 3)]
    for cell in found.cells:
        if cell.result:
            numbers = [f"{cell.metrics[name]:.4f}" if name in cell.metrics else "-" for name in metrics]
            seconds, learn = spent(cell.result), cell.result["parameters"]["trainable"]
            names = ["-" if cell.names[name] is None else str(cell.names[name]) for name in found.columns]
            lines.append([*names, *numbers, str(cell.result["steps"]), f"{seconds:.1f}", f"{learn:,}"])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    if not found.changed:
        return table
    count = found.counts["stale"]
    return f"{table}\n\n{count} stale cells are left out: {', '.join(found.changed)} changed since they ran"
