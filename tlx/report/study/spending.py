"""Show cost beside quality: the costs of an arm's runs, as drawings and as rows of a table."""

from collections.abc import Callable
from typing import NamedTuple

import altair as alt

from tlx.records.studies import StudyTable, Summary, costs
from tlx.report import charts, words
from tlx.report.charts import Figure
from tlx.report.scales import categories, legend_height, numbers
from tlx.report.study.axes import finite, form, headed, labels, reach, upright
from tlx.report.study.links import anchors
from tlx.report.study.names import Columns, Unit, metric
from tlx.trees import Json

TIME = "seconds"


class Cost(NamedTuple):
    """A cost of runs: its name in the records, its title, the title of its axis, and the function that formats its
    numbers."""

    key: str
    title: str
    axis: str
    formatter: Callable[[float], str]


def scientific(value: float) -> str:
    """Return a number in scientific notation.

    >>> scientific(5.1e12), scientific(123.0)
    ('5.1e12', '123')
    """
    mantissa, _, exponent = f"{value:.3g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


COSTS = (
    Cost(TIME, "time", "seconds per run", words.duration),
    Cost("seconds/train", "training time", "seconds", words.duration),
    Cost("seconds/compile", "compilation", "seconds", words.duration),
    Cost("examples_per_second", "examples per second", "examples per second", words.number),
    Cost("flops", "FLOPs", "FLOPs of the training steps, counted by XLA", scientific),
    Cost("peak_memory_bytes", "peak memory", "peak memory, bytes", words.size),
    Cost("energy/kwh", "energy, kWh", "energy, kWh", words.number),
    Cost("energy/co2e_kg", "CO2e, kg", "CO2e, kg", words.number),
    Cost("parameters/trainable", "trainable parameters", "trainable parameters", lambda n: f"{n:,.0f}"),
)
DRAWN = (TIME, "flops", "peak_memory_bytes", "energy/kwh", "parameters/trainable")


def spent(summary: Summary) -> dict[str, float]:
    """Return the mean over the finished cells of an arm of each cost that all of them have."""
    run_costs = [costs(cell.result) for cell in summary.arm.done_cells if cell.result]
    shared = set.intersection(*map(set, run_costs)) if run_costs else set()
    return {name: sum(costs_of_run[name] for costs_of_run in run_costs) / len(run_costs) for name in shared}


def rows(table: StudyTable) -> tuple[list[Cost], list[dict[str, float]]]:
    """Return the costs that some arm has, and the values of every arm."""
    arm_costs = [spent(summary) for summary in table.summaries]
    return [cost for cost in COSTS if any(cost.key in costs_of_arm for costs_of_arm in arm_costs)], arm_costs


def drawings(table: StudyTable, columns: Columns, unit: Unit) -> list[Figure]:
    """Draw the metric over each cost in which arms differ: one point per arm."""
    cost_kinds, arm_costs = rows(table)
    figures = []
    for cost in cost_kinds:
        amounts = [costs_of_arm[cost.key] for costs_of_arm in arm_costs if cost.key in costs_of_arm]
        if cost.key in DRAWN and max(amounts) > min(amounts):
            figures.append(scatter(cost, table, arm_costs, columns, unit))
    return figures


def scatter(cost: Cost, table: StudyTable, arm_costs: list[dict[str, float]], columns: Columns, unit: Unit) -> Figure:
    """Draw the metric over one cost."""
    labels_by_name, anchor = labels(table, columns), anchors(table, columns)
    points = [
        summary.arm.names
        | {"arm": columns.arm(summary.arm.names), "label": labels_by_name[columns.method(summary.arm.names)]}
        | {"setting": columns.setting(summary.arm.names), "cost": costs_of_arm[cost.key], "mean": summary.mean}
        | {"low": finite(summary.low), "high": finite(summary.high), "anchor": anchor[columns.arm(summary.arm.names)]}
        for summary, costs_of_arm in zip(table.summaries, arm_costs, strict=True)
        if cost.key in costs_of_arm
    ]
    amounts = [row["cost"] for row in points]
    wide = min(amounts) > 0 and max(amounts) > 5 * min(amounts)
    scale = alt.Scale(type="log", nice=False, padding=14) if wide else alt.Scale(zero=False, padding=14)
    x = alt.X(
        "cost:Q",
        title=cost.axis,
        scale=scale,
        axis=numbers(tickCount=4, labelOverlap=True, labelFlush=True),
    )
    settings = list(dict.fromkeys(row["setting"] for row in points))
    tints = categories("label", labels_by_name.values(), "point")
    shape: Json = {}
    if 1 < len(settings) <= 6 and "shape" not in tints:
        legend = alt.Legend(orient="bottom", labelLimit=160, symbolSize=60)
        shape["shape"] = alt.Shape("setting:N", title=None, scale=alt.Scale(domain=settings), legend=legend)
    title, values = metric(table.metric), reach(table, unit)
    tooltip = [alt.Tooltip("arm:N"), alt.Tooltip("cost:Q", format=".4~s", title=cost.title)]
    tooltip += [alt.Tooltip(f"{field}:Q", format=form(unit)) for field in ("mean", "low", "high")]
    base = alt.Chart(charts.data()).encode(x=x, color=tints["color"])
    span = base.mark_rule(strokeWidth=1.5, opacity=0.45).encode(y=upright("low", title, values, unit), y2="high:Q")
    point = base.mark_point(size=80, filled=True, opacity=0.95).encode(
        y=upright("mean", title, values, unit), tooltip=tooltip, href="anchor:N", **{**shape, **tints}
    )
    name = f"cost-{cost.key.replace('/', '-').replace('_', '-')}"
    return charts.figure(
        name,
        headed(cost.title, ""),
        "",
        alt.layer(span, point),
        points,
        height=280 + legend_height(labels_by_name.values()),
    )
