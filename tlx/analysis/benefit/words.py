"""Write the card on a terminal, with a row per measure."""

from tlx.report.words import number, scaled
from tlx.trees import Json

BOUNDS = {"": "", "at least": ">= ", "at most": "<= "}
# The column that decides comes first.
HEADS = ("measure", "gain by transfer [95 %]", "pretrained", "from scratch")


def rows(card: Json) -> list[tuple[str, ...]]:
    """Return the measures as text, in the order of `HEADS`."""
    lines = []
    for measure in card["measures"]:
        factor, unit = scaled(max(measure[arm]["mean"] for arm in ("scratch", "pretrained")), measure["unit"])
        sides = [between(measure[arm], factor) for arm in ("pretrained", "scratch")]
        lines.append((measure["title"] + f", {unit}" * bool(unit), bought(measure["gain"]), *sides))
    return lines


def notes(card: Json) -> list[str]:
    """Return the notes for the reader of the numbers."""
    old = card["strubell"]
    changes = "; ".join(f"{path}: {before} -> {after}" for path, before, after in card["changes"])
    return [
        f"{len(card['seeds'])} seeds, {card['labels'][-1]:,} labels, selection: {card['selection']}; changes of "
        f"the arm from scratch: {changes}",
        "the final metric of the arm from scratch is measured on the validation split, which is evaluated every "
        f"{card['looked']} steps; the cost of each arm is counted up to the first evaluation that reaches this "
        "value",
        f"operations: {card['counted']}",
        f"energy of one of the runs: {card['energy']}",
        f"one run by the formula of 2019: {between(old['kwh'], 1000)} Wh, {between(old['co2e_kg'], 1000)} g CO2e, "
        f"{old['how']}",
        *card["notes"],
    ]


def between(side: Json, factor: float = 1.0) -> str:
    """Return a mean with its interval as text.

    >>> between({"mean": 0.69734, "low": 0.68, "high": 0.71, "bound": ""})
    '0.697 [0.68, 0.71]'
    >>> between({"mean": 5.12, "low": None, "high": None, "bound": "at least"}, 1000.0)
    '>= 5,120'
    """
    low, high = (None if side[end] is None else factor * side[end] for end in ("low", "high"))
    return BOUNDS[side["bound"]] + number(factor * side["mean"], 3) + span(low, high)


def span(low: float | None, high: float | None, sign: str = "") -> str:
    if low is None and high is None:
        return ""
    return f" [{open_end(low, sign)}, {open_end(high, sign)}]"


def open_end(value: float | None, sign: str) -> str:
    return "open" if value is None else signed(value) if sign else number(value, 3)


def signed(value: float) -> str:
    return ("+" if value > 0 else "") + number(value, 3)


def bought(gain: Json) -> str:
    """Return a gain with its interval as text.

    >>> bought({"kind": "ratio", "value": 8.0, "low": 3.21, "high": None, "bound": "at least"})
    '>= 8 x [3.21, open]'
    >>> bought({"kind": "difference", "value": 0.142, "low": 0.123, "high": 0.161, "bound": ""})
    '+0.142 [+0.123, +0.161]'
    """
    if gain["kind"] == "difference":
        return signed(gain["value"]) + span(gain["low"], gain["high"], "+")
    return f"{BOUNDS[gain['bound']]}{number(gain['value'], 3)} x" + span(gain["low"], gain["high"])
