"""Measure how far the weights moved: norms of changes by leaf, stage and kind, and the spectra of kernels.

Shapes: I inputs, O outputs of a kernel as a matrix.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np

from tlx.functional.similarity import effective_rank
from tlx.trees import Json, Tree, flatten

KINDS = ("kernels", "biases", "norms", "embeddings", "added", "others")
TOP = 8
Progress = Callable[[int, int], None]


def kind(path: str, leaf: Any, declared: Collection[str]) -> str:
    """Return which of `KINDS` a leaf is; `added` is a leaf that a tuning or a term added to the model's own leaves."""
    *above, name = path.split("/")
    if path not in declared:
        return "added"
    if name == "scale" or (above and "norm" in above[-1].lower()):
        return "norms"
    if name == "bias":
        return "biases"
    if name == "kernel" and leaf.ndim >= 2:
        return "kernels"
    return "embeddings" if name == "embedding" else "others"


def stage_of(path: str, stages: Sequence[str]) -> str:
    """Return the stage of a leaf: the stage with which its path begins, else the first name of its path."""
    return next((stage for stage in stages if path.startswith(f"{stage}/")), path.split("/", maxsplit=1)[0])


def changes(before: Tree, after: Tree, stages: Sequence[str], declared: Collection[str]) -> list[Json]:
    """Return a row per leaf: path, stage, kind, count, and the Euclidean norms before, after, and of the change."""
    initial, final, rows = flatten(before), flatten(after), []
    for path, leaf in initial.items():
        old, new = (np.asarray(tree[path], np.float64) for tree in (initial, final))
        norms = {"before": old, "after": new, "change": new - old}
        row = {"path": path, "stage": stage_of(path, stages), "kind": kind(path, leaf, declared), "count": old.size}
        rows.append(row | joint([{name: float(np.linalg.norm(array)) for name, array in norms.items()}]))
    return rows


def joint(rows: Iterable[Json]) -> Json:
    """Return the norms of several leaves taken as one vector, and `relative`, |w - w0| / |w0|: None if w0 is zero."""
    rows = list(rows)
    norms = {name: sum(row[name] ** 2 for row in rows) ** 0.5 for name in ("before", "after", "change")}
    return norms | {"relative": norms["change"] / norms["before"] if norms["before"] else None}


def by_kind(rows: Sequence[Json]) -> dict[str, Json]:
    """Return the joint norms of the leaves of one stage: of `all`, and of each kind that it has."""
    parts = {"all": list(rows)} | {name: [row for row in rows if row["kind"] == name] for name in KINDS}
    return {name: joint(part) | {"count": sum(row["count"] for row in part)} for name, part in parts.items() if part}


def matrix(kernel: Any) -> np.ndarray:
    """Return a kernel as a matrix [I, O]; every axis but the last is an input, as in [height, width, C, C']."""
    wide = np.asarray(kernel, np.float64)
    return wide.reshape(-1, wide.shape[-1])


def singular_values(weights: np.ndarray) -> np.ndarray:
    """Compute the singular values of a matrix [I, O], largest first.

    They are the square roots of the eigenvalues of the smaller Gram matrix, which takes a fifth of the time of a
    decomposition. Values below about 5e-7 of the largest cannot be distinguished from 0. They are rounding errors in
    float32 weights, and are returned as 0.
    """
    short = weights if weights.shape[0] <= weights.shape[1] else weights.T
    squares = np.linalg.eigvalsh(short @ short.T)[::-1]
    noise = squares[0] * max(weights.shape) * np.finfo(np.float64).eps
    return np.sqrt(np.where(squares > noise, squares, 0.0))


def spectrum(weights: np.ndarray, top: int = TOP) -> Json:
    """Return `effective_rank` and the `top` largest `singular_values` of a matrix."""
    values = singular_values(weights)
    return {"effective_rank": effective_rank(values), "singular_values": values[:top].tolist()}


def spectra(
    before: Tree, after: Tree, rows: Sequence[Json], report_progress: Progress = lambda done, total: None
) -> list[Json]:
    """Return the spectra of every kernel among `rows`: `before`, `after` and of the `change`."""
    initial, final, spectra_rows = flatten(before), flatten(after), []
    kernels = [row for row in rows if row["kind"] == "kernels"]
    for number, row in enumerate(kernels, 1):
        old, new = matrix(initial[row["path"]]), matrix(final[row["path"]])
        first = spectrum(old)
        # A frozen kernel needs no second decomposition.
        zero = {"effective_rank": 0.0, "singular_values": [0.0] * len(first["singular_values"])}
        last, change = (spectrum(new), spectrum(new - old)) if row["change"] else (first, zero)
        item = {"path": row["path"], "stage": row["stage"], "shape": list(np.shape(initial[row["path"]]))}
        spectra_rows.append(item | {"matrix": list(old.shape), "before": first, "after": last, "change": change})
        report_progress(number, len(kernels))
    return spectra_rows
