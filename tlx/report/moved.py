"""Draw the section "Changes" of a run's page from its `moved.json`, which `tlx.analysis.changes` writes."""

from tlx.report import charts, words
from tlx.report.charts import Figure
from tlx.trees import Json

KINDS = ("all", "kernels", "biases", "norms", "embeddings", "added", "others")
BOTH = ("before", "after")
LIMIT = 60


def section(document: Json | None) -> Json | None:
    """Return facts, drawings, rows of the tables, and notes; None if nothing was measured."""
    if document is None:
        return None
    probed = [row for row in document["stages"] if "probe" in row]
    return {
        "source": document["before"]["source"],
        "scratch": document["before"]["scratch"],
        "fresh": document["before"]["fresh_stages"],
        "examples": document["examples"],
        "selection": document["after"],
        "notes": document["notes"],
        "drawings": drawings(document),
        "stages": [stage(row, document["kernels"]) for row in document["stages"]],
        "kernels": document["kernels"],
        "measure": probed[0]["probe"]["after"]["measure"] if probed else None,
        "method": probed[0]["probe"]["after"]["method"] if probed else None,
    }


def stage(row: Json, kernels: list[Json]) -> Json:
    """Return a row of the table: the relative change by kind, the mean effective rank of the change, similarity and
    probes."""
    effective_ranks = [kernel["change"]["effective_rank"] for kernel in kernels if kernel["stage"] == row["name"]]
    changes = {kind: row["weights"].get(kind, {}).get("relative") for kind in KINDS[:4]}
    return {
        "name": row["name"],
        "changes": changes,
        "rank": sum(effective_ranks) / len(effective_ranks) if effective_ranks else None,
        "cka": row.get("similarity", {}).get("cka"),
        "probe": [row["probe"][when] for when in BOTH] if "probe" in row else [],
    }


def drawings(document: Json) -> list[Figure]:
    """Return the drawings of change, similarity, probes, line and ranks, as far as there are data."""
    count = document["examples"]["validation"]["count"]
    return [
        figure
        for figure in (
            change(document),
            similarity(document, count),
            probes(document, count),
            *lines(document, count),
            ranks(document),
        )
        if figure and figure.rows
    ]


def change(document: Json) -> Figure:
    """Draw the relative change of the weights, by stage and kind."""
    rows: list[Json] = []
    for place, row in enumerate(document["stages"]):
        for kind in KINDS:
            if kind in row["weights"]:
                norms = row["weights"][kind]
                facts = {name: norms[name] for name in ("change", "before", "after", "count")}
                rows.append({"stage": row["name"], "place": place, "kind": kind, "value": norms["relative"], **facts})
    kinds = [kind for kind in KINDS if any(row["kind"] == kind and row["value"] is not None for row in rows)]
    caption = (
        "Euclidean norm of the change divided by that of the initial weights. Zero initial weights (new biases) have "
        "no ratio. A logarithmic axis has no point for unchanged weights."
    )
    return charts.staged(
        "moved-weights", "Relative change of the weights", caption, rows,
        axis="|w − w₀| / |w₀|", by="kind", stages=stages(rows), kinds=kinds, may_log=True,
    )  # fmt: skip


def stages(rows: list[Json]) -> list[str]:
    return list(dict.fromkeys(row["stage"] for row in rows))


def similarity(document: Json, count: int) -> Figure:
    """Draw the similarity of the features before and after training, by stage."""
    rows = [
        {"stage": row["name"], "place": place, "form": form, "value": row["similarity"][key]}
        for place, row in enumerate(document["stages"])
        if "similarity" in row
        for form, key in (("unbiased, by batches", "cka"), ("plain", "plain"))
    ]
    caption = (
        f"Linear CKA of each stage's features before and after, over {count:,} validation examples: 1 is the same up "
        "to rotation and scale. The plain form is too high for wide features and few examples."
    )
    kinds, values = ("unbiased, by batches", "plain"), [row["value"] for row in rows if row["value"] is not None]
    domain = [min(0.0, *values), max(1.0, *values)] if values else None
    return charts.staged(
        "moved-similarity", "Similarity of the features", caption, rows,
        axis="linear CKA", by="form", stages=stages(rows), kinds=kinds, domain=domain,
    )  # fmt: skip


def probes(document: Json, count: int) -> Figure:
    """Draw the scores of linear probes before and after training, by stage."""
    rows = [
        {"stage": row["name"], "place": place, "features": when}
        | {name: row["probe"][when].get(name) for name in ("value", "low", "high")}
        for place, row in enumerate(document["stages"])
        if "probe" in row
        for when in BOTH
    ]
    fitted = document["examples"]["train"]["count"]
    measure = next((row["probe"]["after"]["measure"] for row in document["stages"] if "probe" in row), "accuracy")
    caption = (
        f"{'Logistic' if measure == 'accuracy' else 'Ridge'} regression on each stage's features, fitted on {fitted:,} "
        f"training examples and evaluated on {count:,} validation examples. A line is a 95 % interval."
    )
    return charts.staged(
        "moved-probes", "Linear probes", caption, rows,
        axis=words.metric(measure), by="features", stages=stages(rows), kinds=BOTH,
    )  # fmt: skip


def lines(document: Json, count: int) -> list[Figure]:
    """Return one drawing per metric on the straight line between the weights."""
    figures = []
    points = document["line"]
    names = [name for name in (points[0] if points else ()) if all(name in point for point in points)]
    for name in names:
        if name == "share":
            continue
        rows = [
            {"share": point["share"], "value": point[name]["value"]}
            | {end: point[name].get(end) for end in ("low", "high")}
            for point in points
        ]
        axis = words.metric(name)
        fresh = document["before"]["fresh_stages"]
        random_parts = (
            "all weights" if document["before"]["scratch"] else ", ".join(fresh[:4]) + (", …" if fresh[4:] else "")
        )
        caption = f"{count:,} validation examples, with 95 % intervals. Statistics of batch norm are interpolated too."
        caption += f" Random at 0, not pretrained: {random_parts}." if fresh else ""
        title = f"{axis[0].upper()}{axis[1:]} between initial and final weights"
        figures.append(charts.along(f"moved-line-{name}", title, caption, rows, axis=axis))
    return figures


def ranks(document: Json) -> Figure:
    """Draw the effective rank of the kernels before and after training, and of their changes."""
    kernels = document["kernels"]
    # For a deep model, draw the kernels whose change has the highest rank; the table lists all.
    top_kernels = sorted(kernels, key=lambda kernel: -kernel["change"]["effective_rank"])[:LIMIT]
    paths = [kernel["path"] for kernel in kernels if kernel in top_kernels]
    rows = [
        {
            "path": kernel["path"],
            "of": of,
            "value": kernel[of]["effective_rank"],
            "matrix": words.shape(kernel["matrix"]),
            "top": ", ".join(words.number(value, 3) for value in kernel[of]["singular_values"]),
        }
        for kernel in kernels
        if kernel["path"] in paths
        for of in (*BOTH, "change")
    ]
    more = f" The {LIMIT} of {len(kernels)} kernels with the highest rank of change." if len(kernels) > LIMIT else ""
    caption = (
        "Exponential of the entropy of the singular values, for each kernel as a matrix and for its change; 0 means no "
        f"change. Hover over a dot to see the largest singular values.{more}"
    )
    return charts.ranks(
        "moved-ranks", "Effective rank of the kernels", caption, rows, paths=paths, kinds=(*BOTH, "change")
    )
