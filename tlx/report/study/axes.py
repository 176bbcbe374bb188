"""Common parts of the drawings of a study: axes, colours, and names that are short enough for an axis."""

import math
from collections.abc import Iterable, Sequence

import altair as alt

from tlx.records.studies import StudyTable
from tlx.report.scales import NUMBERS
from tlx.report.study.names import Columns, Unit

# Settings that a section draws, at most.
PANELS = 12
# Height in pixels of the axis below the lines of a drawing; `page.js` uses the same number.
FOOT = 48
# Letters that fit beside an axis.
BESIDE = 26
PERCENT = "format(datum.value * 100, '~g')"


def labels(table: StudyTable, columns: Columns) -> dict[str, str]:
    """Return the methods in the order of the study, which is also the order of the colours, each with its short
    name."""
    return brief(columns.method(summary.arm.names) for summary in table.summaries)


def brief(texts: Iterable[str], width: int = BESIDE) -> dict[str, str]:
    """Return each text unchanged or, if it is long, with only its two ends; different texts stay different.

    >>> list(brief(["LoRA", "Lora(rank=8, on='attention/query')", "Lora(rank=8, on='attention/(key|query)')"]).values())
    ['LoRA', "Lora(rank=8, on…on/query')", "Lora(rank=8, on…y|query)')"]
    """
    short_names: dict[str, str] = {}
    for text in texts:
        if text in short_names:
            continue
        cut = text if len(text) <= width else f"{text[: width - 11]}…{text[-10:]}"
        count = sum(name == cut or name.startswith(f"{cut} #") for name in short_names.values())
        short_names[text] = f"{cut} #{count + 1}" if count else cut
    return short_names


def spread(values: Sequence[float], unit: Unit) -> list[float]:
    """Return the range from the lowest to the highest value with a margin; a share stays within [0, 1], also if its
    interval does not."""
    low, high = min(values), max(values)
    air = 0.06 * (high - low) or 0.05 * abs(high) or 0.05
    return [max(0.0, low - air), min(1.0, high + air)] if unit.share else [low - air, high + air]


def reach(table: StudyTable, unit: Unit) -> alt.Scale:
    """Return the scale of the metric that all drawings of a study share; parts of an interval outside the scale are
    cut."""
    values = [score.value for summary in table.summaries for score in summary.scores.values()]
    ends = [end for summary in table.summaries for end in (summary.low, summary.high) if math.isfinite(end)]
    return alt.Scale(domain=spread([*values, *ends], unit), nice=False, clamp=True)


def across(field: str, title: str, scale: alt.Scale, unit: Unit) -> alt.X:
    """Return a horizontal axis of values; a share in per cent."""
    axis = alt.Axis(tickCount=5, grid=True, labelExpr=PERCENT if unit.share else NUMBERS)
    return alt.X(f"{field}:Q", title=title + (", %" if unit.share else ""), scale=scale, axis=axis)


def upright(field: str, title: str, scale: alt.Scale, unit: Unit) -> alt.Y:
    axis = alt.Axis(tickCount=5, labelExpr=PERCENT if unit.share else NUMBERS)
    return alt.Y(f"{field}:Q", title=title + (", %" if unit.share else ""), scale=scale, axis=axis)


def lines_of(field: str, order: Iterable[str]) -> alt.Y:
    """Return a vertical axis with one line for each value of `field`, in this order."""
    axis = alt.Axis(labelLimit=260, ticks=False, domain=False, labelPadding=8, grid=False)
    return alt.Y(f"{field}:N", sort=None, title=None, axis=axis, scale=alt.Scale(domain=list(dict.fromkeys(order))))


def form(unit: Unit) -> str:
    """Return the format of a metric's value in a tooltip."""
    return f".{unit.digits}%" if unit.share else ".5~g"


def omitted(settings: int) -> str:
    """Return how many settings a section does not draw, in words; empty if it draws all of them.

    >>> omitted(PANELS + 3), omitted(PANELS)
    ('The first 12 of 15 settings are drawn; 3 are left out.', '')
    """
    rest = settings - PANELS
    if rest <= 0:
        return ""
    return f"The first {PANELS} of {settings} settings are drawn; {rest} {'is' if rest == 1 else 'are'} left out."


def headed(title: str, setting: str) -> str:
    """Return a title with its setting.

    >>> headed("test accuracy", "labels 16"), headed("time", "")
    ('Test accuracy: labels 16', 'Time')
    """
    return title[0].upper() + title[1:] + (f": {setting}" if setting else "")


def finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
