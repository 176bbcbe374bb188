"""Format numbers and recipes for a page."""

import math
from pathlib import Path
from typing import Any

from tlx.functional.metrics import find_metric
from tlx.functional.mixtures import AVERAGE
from tlx.functional.selection import metric_of
from tlx.records.members import member_of
from tlx.trees import Json

WIDTH = 88
# Which step each rule takes.
RULES = {
    "last": "the last step",
    "best-validation": "the step with the best validation metric",
    "oracle": "the step with the best validation metric, by target labels that the setting does not grant",
    "source-validation": "the step with the highest accuracy on held-out source examples",
    "iwv": "the step with the smallest importance-weighted error on the source",
    "dev": "the step with the smallest importance-weighted error on the source, with a control variate",
    "snd": "the step with the densest neighbourhoods of target predictions",
    "im": "the step with the largest mutual information of target inputs and predictions",
    "entropy": "the step with the smallest mean entropy of target predictions",
}


def rule(name: str) -> str:
    """Return which step a selection rule takes.

    >>> rule("last"), rule("validation/macro_f1")
    ('the last step', 'the step with the best validation macro F1')
    """
    if chosen := metric_of(name):
        return f"the step with the best validation {metric(chosen)}"
    return RULES.get(name, name)


def metric(name: str) -> str:
    """Return the words for a metric, with or without the name of its split before it.

    The metric of a member of a mixture names the member.

    >>> metric("test/f1"), metric("test/movies/f1"), metric("test/average/f1")
    ('macro F1', 'macro F1 of movies', 'average macro F1')
    """
    said, member = find_metric(name).words or name.rpartition("/")[2].replace("_", " "), member_of(name)
    if member == AVERAGE:
        return f"{AVERAGE} {said}"
    return f"{said} of {member}" if member else said


def number(value: float | None, digits: int = 4, pad: bool = False) -> str:
    """Return a number with four significant digits, with an exponent only if useful; `pad` keeps the zeros at the end,
    for columns.

    >>> [number(x) for x in (0.87743, 1234567.0, 2e-5, 0.0, None)]
    ['0.8774', '1,234,567', '2e-5', '0', '–']
    """
    if value is None or not math.isfinite(value):
        return "–" if value is None or math.isnan(value) else str(value)
    if value == 0:
        return "0"
    if not abs(value) >= 1e-3:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:#.{digits}g}" if pad else f"{value:.{digits}g}"


def percent(value: float, digits: int = 1) -> str:
    r"""Return a share in per cent.

    >>> percent(0.87743)
    '87.7\xa0%'
    """
    return f"{100 * value:.{digits}f}\N{NO-BREAK SPACE}%"


def count(value: int) -> str:
    return f"{value:,}"


def size(value: float) -> str:
    r"""Return bytes in the units of storage.

    >>> size(2410 * 4), size(22_713_986 * 4)
    ('9.64\xa0kB', '90.9\xa0MB')
    """
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 1000 or unit == "TB":
            break
        value /= 1000
    return f"{value:.3g}\N{NO-BREAK SPACE}{unit}"


def duration(seconds: float) -> str:
    r"""Return a time in convenient units.

    >>> [duration(x) for x in (0.7, 28.637, 7384)]
    ['0.7\xa0s', '28.6\xa0s', '2\xa0h 3\xa0min']
    """
    space, whole = "\N{NO-BREAK SPACE}", round(seconds)
    if seconds < 60:
        return f"{seconds:.3g}{space}s"
    if whole < 3600:
        return f"{whole // 60}{space}min {whole % 60}{space}s"
    return f"{whole // 3600}{space}h {whole % 3600 // 60}{space}min"


PREFIXES = {-12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T", 15: "P", 18: "E"}
# Units that take a prefix: watt-hours and grams instead of their kilo forms; seconds take no large prefix.
BASES = {"kWh": ("Wh", 1e3, 18), "kg": ("g", 1e3, 18), "FLOP": ("FLOP", 1.0, 18), "s": ("s", 1.0, 0)}


def scaled(value: float, unit: str) -> tuple[float, str]:
    """Return the factor and the unit in which a value of about this size is easiest to read; units without prefixes
    stay.

    >>> scaled(2.86e7, "FLOP"), scaled(2.66e-7, "kWh"), scaled(7200.0, "s"), scaled(5.0, "")
    ((1e-06, 'MFLOP'), (1000000000.0, 'µWh'), (1.0, 's'), (1.0, ''))
    """
    if unit not in BASES or value <= 0:
        return 1.0, unit
    name, factor, most = BASES[unit]
    power = min(most, max(-12, 3 * math.floor(math.log10(value * factor) / 3)))
    # Rounding comes last, so that the factor is a short decimal.
    return float(f"{factor / 10.0**power:.6g}"), f"{PREFIXES[power]}{name}"


def granting(labels: float) -> str:
    """Return the number of target labels that a setting grants: a number per class, or a share.

    >>> granting(0), granting(5), granting(0.1)
    ('without target labels', 'with 5 labels per class', 'with 10 % of the labels')
    """
    if not labels:
        return "without target labels"
    if isinstance(labels, float):
        return f"with {100 * labels:g} % of the labels"
    return f"with {labels} label{'s' if labels > 1 else ''} per class"


def shape(value: Any) -> str:
    return " × ".join(map(str, value)) or "scalar"


def source(document: object, indent: int = 0, before: int = 0) -> str:
    """Return a dumped recipe as the Python code that creates it, on a line that `before` characters precede.

    >>> source({"kind": "Freeze", "through": "blocks/03", "rates": [1.0]})
    "Freeze(through='blocks/03', rates=(1.0,))"
    """
    if isinstance(document, dict):
        if "kind" not in document:
            name = document["function"].rpartition(":")[2] if "function" in document else None
            return name or (str(document["repr"]) if "repr" in document else repr(document))
        items = [(f"{name}=", value) for name, value in document.items() if name not in ("kind", "class")]
        return bracket(f"{document['kind']}(", items, ")", indent, before)
    if isinstance(document, list):
        return bracket("(", [("", value) for value in document], ",)" if len(document) == 1 else ")", indent, before)
    return repr(document)


def headline(recipe: Json) -> str:
    """Return in one line which model a dumped recipe trains on which data.

    >>> headline({"model": {"kind": "Mlp"}, "weights": None, "data": {"source": "mnist5k", "target": "/a/my/digits"}})
    'Mlp from scratch on mnist5k to my/digits'
    >>> headline({"model": {"kind": "Mlp"}, "weights": None, "data": {"source": ["a", "b/c"], "target": "digits"}})
    'Mlp from scratch on a and b/c to digits'
    """
    model = recipe["model"]["kind"] if recipe["model"] and "kind" in recipe["model"] else "a model"
    what = Path(recipe["weights"]["source"]).name if recipe["weights"] else f"{model} from scratch"
    source = recipe["data"].get("source") or []
    sources, target = (source if isinstance(source, list) else [source]), recipe["data"]["target"]
    names = [data_name(value) for value in (*sources, target)]
    return f"{what} on {' and '.join(names[:-1])}{' to ' if sources else ''}{names[-1]}"


def data_name(source: str | Json) -> str:
    """Return the name of a dumped source of data for a headline.

    >>> data_name("/a/my/digits"), data_name({"kind": "Csv", "path": "/a/reviews.csv"}), data_name({"kind": "Vowels"})
    ('my/digits', 'reviews.csv', 'Vowels')
    >>> data_name({"kind": "Mixture", "members": [{"name": "movies"}, {"name": "tweets"}]})
    'movies + tweets'
    """
    members = [] if isinstance(source, str) else source.get("members") or []
    if names := [str(member["name"]) for member in members if isinstance(member, dict) and "name" in member]:
        return " + ".join(names)
    if not isinstance(source, str):
        return Path(source["path"]).name if "path" in source else source["kind"]
    return "/".join(Path(source).parts[-2:]) if Path(source).is_absolute() else source


def bracket(start: str, items: list[tuple[str, Any]], end: str, indent: int, before: int = 0) -> str:
    """Return the items on one line if they fit, else on one line per item."""
    flat = start + ", ".join(name + source(value, -10_000) for name, value in items) + end
    if indent < 0 or len(flat) + indent + before <= WIDTH:
        return flat
    pad = " " * (indent + 4)
    lines = [f"{pad}{name}{source(value, indent + 4, len(name))}," for name, value in items]
    return "\n".join([start, *lines, " " * indent + end.lstrip(",")])
