"""Axes of plain numbers, and the colours, dashes and shapes of many categories with a legend of sufficient height."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import altair as alt

from tlx.trees import Json

# Plain below 10,000, with a prefix above ("47M"), with an exponent only below 0.0001 ("2e-5"): never "4.7e+7".
NUMBERS = (
    "datum.value === 0 ? '0' : abs(datum.value) >= 10000 ? format(datum.value, '~s') : "
    "abs(datum.value) < 0.0001 ? format(datum.value, '.3~e') : format(datum.value, '~g')"
)
# The style sheet has this number of colours. Any two of them differ with normal sight, deuteranopia and protanopia, on
# both themes (tests/report/test_colours.py). The ninth category has the first colour and another dash and shape.
COLOURS = 8
DASHES = ([1, 0], [6, 3], [2, 2], [9, 3, 2, 3])
SHAPES = ("circle", "square", "diamond", "triangle-up")
# Letters of a legend that fit in a row of a narrow panel, and the pixels that a row takes.
LEGEND, ROW = 46, 17


def numbers(**other: Any) -> alt.Axis:
    """Return an axis whose labels are plain numbers; `other` are further fields of `alt.Axis`."""
    return alt.Axis(labelExpr=NUMBERS, **other)


def columns(order: Sequence[str]) -> int:
    """Return the number of columns in the legend of the categories `order`.

    >>> columns(["a", "b"]), columns(["a name of twenty-one"] * 12)
    (2, 1)
    """
    if sum(len(name) + 4 for name in order) <= LEGEND:
        return max(1, len(order))
    return max(1, LEGEND // (max(map(len, order), default=0) + 4))


def legend_height(order: Iterable[str]) -> int:
    """Return the pixels that the rows of a legend beyond the first take. A drawing is made higher by these, so that
    a long legend does not squeeze the plot."""
    names = list(order)
    return 0 if len(names) < 2 else ROW * (-(-len(names) // columns(names)) - 1)


def categories(
    field: str, order: Iterable[str], mark: Literal["line", "point"], *, legend: bool = True, limit: int = 220
) -> Json:
    """Return the encodings of a field of categories: colours, and beyond `COLOURS` categories dashes or shapes too.

    No two categories then look the same.

    Args:
        field: the name of the field in the rows.
        order: the categories in the order of the legend.
        mark: "line" for dashes, "point" for shapes.
        legend: whether to draw a legend above the drawing; a single category never has one.
        limit: the pixels after which a name in the legend is cut.
    """
    names = list(order)
    legend_settings = None
    if legend and len(names) > 1:
        look: Json = {"symbolType": "stroke" if mark == "line" else "circle", "symbolStrokeWidth": 2}
        if mark == "point":
            look["symbolStrokeWidth"] = 0
        if len(names) > COLOURS and mark == "point":
            # The legend takes each category's own shape.
            del look["symbolType"]
        look |= {"columns": columns(names)} if columns(names) < len(names) else {}
        legend_settings = alt.Legend(orient="top", labelLimit=limit, symbolOpacity=1, **look)
    encodings: Json = {
        "color": alt.Color(f"{field}:N", title=None, scale=alt.Scale(domain=names), legend=legend_settings)
    }
    if len(names) > COLOURS:
        kinds: Sequence[Any] = DASHES if mark == "line" else SHAPES
        turns = [kinds[n // COLOURS % len(kinds)] for n in range(len(names))]
        channel: Json = {
            "title": None,
            "scale": alt.Scale(domain=names, range=turns),
            "legend": legend_settings,
        }
        if mark == "line":
            encodings["strokeDash"] = alt.StrokeDash(f"{field}:N", **channel)
        else:
            encodings["shape"] = alt.Shape(f"{field}:N", **channel)
    return encodings
