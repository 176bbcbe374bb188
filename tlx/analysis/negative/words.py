"""Write the report on a terminal."""

from tlx.functional.metrics import find_metric
from tlx.functional.significance import p_text
from tlx.report.words import granting
from tlx.trees import Json

# The columns that decide come first: a narrow terminal or screen shows them without scrolling.
HEADS = (
    "source", "labels", "eps", "against", "gap [95 %] (above 0: hurts)", "the source", "p, Holm", "detectable",
    "A(S,T)", "without",
)  # fmt: skip


def rows(document: Json) -> list[tuple[str, ...]]:
    """Return every gap as text, in the order of `HEADS`; shares in points."""
    share = is_share(document)
    return [
        (
            gap["source"], str(gap["labels"]), f"{gap['eps']:g}", gap["baseline"], interval(gap, share), gap["verdict"],
            "-" if gap["holm"] is None else p_text(gap["holm"]),
            "-" if gap["detectable"] is None else size(gap["detectable"], share),
            size(gap["transfer"], share), size(gap["without"], share),
        )
        for gap in document["gaps"]
    ]  # fmt: skip


def is_share(document: Json) -> bool:
    """Return whether the metric of a report is a share, whose differences are written in points."""
    return find_metric(document["metric"], document.get("measures")).points


def size(value: float, share: bool) -> str:
    return f"{100 * value:.1f}" if share else f"{value:.4g}"


def signed(value: float, share: bool) -> str:
    return f"{100 * value:+.1f}" if share else f"{value:+.4g}"


def interval(gap: Json, share: bool) -> str:
    """Return a gap with its interval as text.

    >>> interval({"gap": -0.012, "low": -0.02, "high": -0.004}, True)
    '-1.2 [-2.0, -0.4]'
    """
    if gap["low"] is None:
        return signed(gap["gap"], share)
    return f"{signed(gap['gap'], share)} [{signed(gap['low'], share)}, {signed(gap['high'], share)}]"


def advice(document: Json) -> list[str]:
    """Return a line per number of labels: which source to use, or none, and the reasons."""
    lines = []
    for advised in document["advice"]:
        at = granting(advised["labels"])
        verdicts = ", ".join(f"{source} {verdict}" for source, verdict in advised["verdicts"].items())
        against = "chance" if advised["baseline"] == "chance" else advised["baseline"]
        if advised["use"] is None:
            lines.append(f"{at}: use no source, because none is shown to help against {against} ({verdicts})")
            continue
        equal = f"; not shown to be better than {', '.join(advised['equal'])}" if advised["equal"] else ""
        lines.append(f"{at}: use {advised['use']}{equal} (against {against}: {verdicts})")
    return lines


def notes(document: Json) -> list[str]:
    """Return the notes for the reader of the numbers."""
    metric, seeds = document["metric"], len(document["seeds"])
    return [
        sign_of_gap(document) + f"; {metric} in {'points' if is_share(document) else 'its unit'}",
        f"{seeds} paired seeds of {document['steps']:,} steps each, selection: {document['selection']}; p values are "
        "corrected over the settings of each baseline",
        *(f"{name}: {about}" for name, about in document["baselines"].items()),
        *(flip(change) for change in document["flips"]),
        *document["notes"],
    ]


def sign_of_gap(document: Json) -> str:
    """Return a sentence that explains the sign of a gap."""
    less = "without the source minus with it" if document["higher"] else "with the source minus without it"
    return f"gap = metric {less}: above 0 the source hurts (negative transfer), below 0 it helps"


def flip(change: Json) -> str:
    """Return a sentence about a verdict that turns.

    >>> flip({"source": "a", "baseline": "A(0,T)", "fixed": "labels", "at": 5, "along": "eps", "before": 0.3,
    ...       "after": 0.7, "from": "helps", "to": "hurts"})
    'a against A(0,T), at labels 5: helps up to eps 0.3, hurts from 0.7'
    """
    return (
        f"{change['source']} against {change['baseline']}, at {change['fixed']} {change['at']:g}: {change['from']} "
        f"up to {change['along']} {change['before']:g}, {change['to']} from {change['after']:g}"
    )
