"""Words for the numbers of a plan, on its page and on the terminal."""

from collections.abc import Callable, Sequence

from tlx.report.words import duration, scaled
from tlx.trees import Json

# Shorter times and smaller amounts are not worth a number.
SHORTEST, SMALLEST = 1.0, 0.01


def settings_text(plan: Json) -> str:
    """Return the settings of a plan of a sweep, or the names of a study's cell.

    >>> settings_text({"settings": {"train.batch": "64", "mesh": "data=-1"}})
    'train.batch=64 mesh=data=-1'
    """
    return " ".join(f"{name}={value}" for name, value in plan["settings"].items())


def labels_of(plans: Sequence[Json]) -> list[str]:
    """Return a short name for each plan: its target, and its settings or its mesh."""
    labels: list[str] = []
    for plan in plans:
        label = f"{plan['target']} · {settings_text(plan) or plan['mesh']}"
        labels.append(label if label not in labels else f"{label} ({len(labels) + 1})")
    return labels


def step_text(seconds: float) -> str:
    r"""Return the time of a step in a unit that suits it.

    >>> step_text(2.5e-4), step_text(0.02)
    ('250\xa0µs', '20\xa0ms')
    """
    factor, unit = scaled(seconds, "s")
    return f"{seconds * factor:.3g}\N{NO-BREAK SPACE}{unit}"


def hours_text(ends: Sequence[float] | None) -> str:
    r"""Return a range of hours as text.

    >>> hours_text((0.5, 1.0)), hours_text((0.0, 1e-5)), hours_text(None)
    ('30\xa0min 0\xa0s – 1\xa0h 0\xa0min', 'less than 1\xa0s', '–')
    """
    return span_text(ends and [3600 * end for end in ends], duration, SHORTEST)


def dollars_text(ends: Sequence[float] | None) -> str:
    """Return a range of costs as text.

    >>> dollars_text((1.5, 1200)), dollars_text((0.001, 0.02)), dollars_text((1e-6, 1e-5))
    ('$1.50 – $1,200.00', 'less than $0.02', 'less than $0.01')
    """
    return span_text(ends, lambda value: f"${value:,.2f}", SMALLEST)


def energy_text(ends: Sequence[float] | None) -> str:
    r"""Return a range of energies as text.

    >>> energy_text((0.5, 1.75))
    '0.5\xa0kWh – 1.75\xa0kWh'
    """
    return span_text(ends, lambda value: f"{value:.3g}\N{NO-BREAK SPACE}kWh", SMALLEST)


def span_text(ends: Sequence[float] | None, text: Callable[[float], str], smallest: float) -> str:
    """Return a range as text.

    Args:
        ends: Its low and its high end; None where it is unknown.
        text: Writes a number with its unit.
        smallest: A range that begins below this number is written by its high end alone.
    """
    if ends is None:
        return "–"
    low, high = ends
    return f"less than {text(max(high, smallest))}" if low < smallest else f"{text(low)} – {text(high)}"


def notes_of(plans: Sequence[Json]) -> list[str]:
    """Return the changes and the notes of all plans, each once."""
    lines: dict[str, None] = {}
    for plan in plans:
        if plan.get("changes"):
            changes = ", ".join(f"{path} is {after} and not {before}" for path, before, after in plan["changes"])
            lines[f"{plan['target']}: {changes}, because its devices cannot share the smaller batch evenly"] = None
    for plan in plans:
        lines |= dict.fromkeys(plan.get("notes", []))
    return list(lines)
