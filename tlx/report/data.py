"""Draw the page of a data set, from the document `data.json` alone."""

from pathlib import Path

import altair as alt

from tlx.report import charts, page, words
from tlx.report.charts import Figure, Rows
from tlx.report.data_words import class_rows, lead
from tlx.report.figures import slug
from tlx.report.scales import categories, legend_height, numbers
from tlx.trees import Json

# Classes that a drawing shows, and that the table shows before the rest is folded.
DRAWN, LISTED = 30, 12
ENDS = ("lowest", "25 %", "median", "75 %", "95 %", "highest")


def write(path: Path, document: Json) -> Path:
    """Draw the description of data (see `tlx.analysis.data`) into one file."""
    return page.write(path, draw(document))


def draw(document: Json) -> str:
    """Return the page as HTML."""
    return page.render(
        "data.html",
        title=document["title"],
        card=document,
        lead=lead(document),
        facts=facts(document),
        classes=class_rows(document),
        listed=LISTED,
        counted=[figure for figure in (by_class(document), by_number(document)) if figure is not None],
        lengths=[
            histogram(name, rows)
            for name, rows in by_measure(document).items()
            if len({end for row in rows for end in (row["at"][0], row["at"][-1])}) > 1
        ],
        measures=by_measure(document),
        ends=ENDS,
        text=words.number,
    )


def facts(document: Json) -> list[tuple[str, str]]:
    """Return the facts at the top of the page."""
    rows = []
    if balance := document["imbalance"]:
        rows.append(("largest class", f"{balance['largest']['class']}, {words.percent(balance['constant'])}"))
        rows.append(("largest / smallest", words.number(balance["ratio"], 3)))
    for row in document["sizes"]:
        if row["split"] == document["train"] and row["at"]:
            rows.append((f"median {row['measure']}", words.number(row["at"][2], 4)))
            if "cut" in row:
                rows.append((f"cut at {row['limit']:g} {row['measure']}", words.percent(row["cut"])))
    repeated = sum(row["exact"] + row["near"] for row in document["duplicates"]["within"])
    rows.append(("duplicates within splits", f"{repeated:,}"))
    rows.append(("of the test split in train", f"{leaked(document):,}"))
    if not document["doubts"]["why"]:
        rows.append(("labels in doubt", f"{document['doubts']['in_doubt']:,}"))
    return rows


def leaked(document: Json) -> int:
    """Return how many test examples are also in the training split."""
    return sum(
        row["exact"] + row["near"]
        for row in document["duplicates"]["across"]
        if row["split"] == "test" and row["other"] == document["train"]
    )


def by_class(document: Json) -> Figure | None:
    """Draw the share of each class in each split; None where labels are no classes."""
    counted = document["counts"]
    if not counted["classes"]:
        return None
    rows: Rows = []
    shown = class_rows(document)[:DRAWN]
    splits = [row["split"] for row in counted["rows"]]
    totals = [max(1, row["sampled"]) for row in counted["rows"]]
    for item in shown:
        for split, count, total in zip(splits, item["counts"], totals, strict=True):
            rows.append({"class": item["name"], "split": split, "examples": count, "share": count / total})
    names = [item["name"] for item in shown]
    axis = alt.Axis(labelLimit=180, ticks=False, domain=False, labelOverlap=False)
    tints = categories("split", splits, "point")
    bars = (
        alt.Chart(charts.data())
        .mark_bar(cornerRadiusEnd=2)
        .encode(
            x=alt.X("share:Q", title="share of the examples", axis=alt.Axis(format=".0%", tickCount=5, grid=True)),
            y=alt.Y("class:N", sort=None, title=None, axis=axis, scale=alt.Scale(domain=names, paddingInner=0.35)),
            yOffset=alt.YOffset("split:N", sort=None, scale=alt.Scale(domain=splits)),
            tooltip=["class:N", "split:N", alt.Tooltip("examples:Q", format=","), alt.Tooltip("share:Q", format=".1%")],
            color=tints["color"],
        )
    )
    rest = len(counted["classes"]) - len(shown)
    caption = f"The {len(shown)} largest classes; the table has {rest} more." if rest else ""
    height = 60 + len(shown) * max(26, 12 * len(splits)) + legend_height(splits)
    return charts.figure("classes", "Classes by split", caption, bars, rows, height=height)


def by_number(document: Json) -> Figure | None:
    """Draw the distribution of labels that are numbers; None where labels are classes."""
    rows = document["counts"]["rows"]
    if document["counts"]["classes"] or not rows:
        return None
    return lines("labels", "Labels by split", "label", rows, None)


def by_measure(document: Json) -> dict[str, list[Json]]:
    """Return the rows of each measure of sizes."""
    measures: dict[str, list[Json]] = {}
    for row in document["sizes"]:
        if row["at"]:
            measures.setdefault(row["measure"], []).append(row)
    return measures


def histogram(measure: str, rows: list[Json]) -> Figure:
    """Draw the distribution of one measure, with the limit at which the processor cuts."""
    limit = next((row["limit"] for row in rows if "limit" in row), None)
    return lines(f"size-{slug(measure)}", measure.capitalize(), measure, rows, limit)


def lines(name: str, title: str, axis: str, rows: list[Json], limit: float | None) -> Figure:
    """Draw histograms of several splits as lines: the share of the examples in each bin."""
    splits = [row["split"] for row in rows]
    table: Rows = []
    for row in rows:
        total = max(1, sum(row["counts"]))
        for start, end, count in zip(row["edges"], row["edges"][1:], row["counts"], strict=False):
            middle = (start + end) / 2
            table.append({"split": row["split"], "value": middle, "share": count / total, "examples": count})
    x = alt.X("value:Q", title=axis, scale=alt.Scale(zero=False, nice=False), axis=numbers(tickCount=6))
    y = alt.Y("share:Q", title="share of the examples", axis=alt.Axis(format=".0%", tickCount=4))
    tooltip = ["split:N", alt.Tooltip("value:Q", format=".4~g"), alt.Tooltip("examples:Q", format=",")]
    base = alt.Chart(charts.data()).encode(x=x)
    tints = categories("split", splits, "line")
    layers = [
        base.mark_area(opacity=0.12, interpolate="step").encode(y=alt.Y("share:Q", stack=None), color=tints["color"]),
        base.mark_line(strokeWidth=2, interpolate="step").encode(y=y, tooltip=tooltip, **tints),
    ]
    caption, marks = "", {}
    if limit is not None:
        layers.append(alt.Chart(charts.data("limits")).mark_rule(strokeDash=[4, 3]).encode(x="value:Q"))
        marks = {"limits": [{"value": limit}]}
        caption = f"Beyond the dashed line, {limit:g} {axis}, everything is cut off."
    chart = alt.layer(*layers)
    return charts.figure(name, title, caption, chart, table, height=210 + legend_height(splits), **marks)
