"""Write the contents of `moved.json` as tables for a terminal."""

from typing import NamedTuple

from tlx.trees import Json

CHANGES = ("all", "kernels", "biases", "norms")


class StageTable(NamedTuple):
    """A `title`, the names of the columns, and the rows."""

    title: str
    names: tuple[str, ...]
    rows: list[list[str]]


def tables(document: Json) -> list[StageTable]:
    """Return the tables of the stages and of the line, from a document of `moved.json`."""
    ranks: dict[str, list[float]] = {}
    for kernel in document["kernels"]:
        ranks.setdefault(kernel["stage"], []).append(kernel["change"]["effective_rank"])
    rows = []
    for row in document["stages"]:
        weights, probe = row["weights"], row.get("probe", {})
        changes = [number(weights.get(kind, {}).get("relative")) for kind in CHANGES]
        ranks_of_stage = ranks.get(row["name"], [])
        rank = f"{sum(ranks_of_stage) / len(ranks_of_stage):.1f}" if ranks_of_stage else "-"
        scores = [interval(probe.get(when)) for when in ("before", "after")]
        rows.append([row["name"], *changes, rank, number(row.get("similarity", {}).get("cka")), *scores])
    measure = next((row["probe"]["after"]["measure"] for row in document["stages"] if "probe" in row), "probe")
    names = ("stage", *CHANGES, "rank of change", "CKA", f"{measure} before", f"{measure} after")
    measures = [name for name in document["line"][0] if name != "share"]
    line = [[f"{point['share']:.1f}", *(interval(point[name]) for name in measures)] for point in document["line"]]
    return [
        StageTable("relative change of the weights; features: similarity, linear probes", names, rows),
        StageTable(
            "interpolation between the weights before (0) and after (1), validation split", ("share", *measures), line
        ),
    ]


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def interval(estimate: Json | None) -> str:
    """Return a value with its 95 % interval, as text."""
    if not estimate:
        return "-"
    if "low" not in estimate:
        return number(estimate["value"])
    return f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"
