"""Plan a whole study: its runs, their groups, and the chips and hours that they need."""

from collections.abc import Sequence
from typing import Any

from tlx import sharding
from tlx.plan.estimate import UTILISATION
from tlx.plan.planning import Planner
from tlx.plan.targets import Target
from tlx.study import Study
from tlx.training.grouping import chunks, groups
from tlx.trees import Json


def plan_study(
    planner: Planner,
    study: Study,
    name: str,
    targets: Sequence[Target],
    mesh: sharding.Mesh | None = None,
    together: int = 64,
) -> Json:
    """Return the plan of a study, as JSON values.

    One run of each program is compiled: the other cells of its groups differ in numbers only. The hours of a study are
    the sum over its runs, one after the other on all chips of a target; the runs of a group share a program, which
    saves dispatch and compilation, and no operation.

    Args:
        planner: Makes the plans.
        study: The study.
        name: Its name.
        targets: The chips.
        mesh: How many of them along each axis.
        together: The largest number of runs that train together.
    """
    cells = list(study.by_fingerprint.values())
    recipes = [cell.recipe for cell in cells]
    programs = groups(recipes)
    runs = []
    for target in targets:
        plans = [
            planner.plan(recipes[members[0]], target, mesh, texts(cells[members[0]].names)) for members in programs
        ]
        rows = [{"runs": len(members), **plan} for members, plan in zip(programs, plans, strict=True)]
        runs.append({"target": target.name, "chips": target.chips, "programs": rows, "total": total(rows)})
    return {
        "name": name,
        "question": study.question,
        "runs": len(cells),
        "groups": len(chunks(recipes, together)),
        "programs": len(programs),
        "utilisation": list(UTILISATION),
        "targets": runs,
    }


def texts(names: Any) -> dict[str, str]:
    """Return the names of a cell as texts."""
    return {name: "-" if value is None else str(value) for name, value in names.items()}


def total(rows: Sequence[Json]) -> Json:
    """Return the sums over the runs of a study on one target: hours, energy and cost as ranges, None where a part is
    unknown; and whether every program fits."""

    def summed(field: str) -> list[float] | None:
        if any(row[field] is None for row in rows):
            return None
        return [sum(row["runs"] * row[field][end] for row in rows) for end in (0, 1)]

    sums = {field: summed(field) for field in ("hours", "kilowatt_hours", "dollars")}
    return {"fits": all(row["fits"] for row in rows), **sums}
