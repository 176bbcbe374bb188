"""Plan every combination of some settings, and skip those that cannot fit."""

import itertools
from collections.abc import Mapping, Sequence

from tlx import config, sharding
from tlx.plan.planning import Planner
from tlx.plan.targets import Target
from tlx.recipe import Recipe, classes
from tlx.trees import Json, near_miss

MESH = "mesh"
BATCH = "train.batch"


def parse_sweep(texts: Sequence[str], recipe: Recipe) -> dict[str, list[str]]:
    """Return the values of each setting of a sweep.

    Args:
        texts: Texts such as "train.batch=256,512,train.remat=none,dots". A mesh joins its axes by colons:
            "mesh=data=-1,data=-1:fsdp=4".
        recipe: The recipe that has the settings.

    Raises:
        ValueError: A setting does not exist, or has no value.

    >>> from tlx import Data, models, tasks
    >>> small = Recipe(data=Data(target="digits"), task=tasks.Classification(classes=10), model=models.Mlp())
    >>> parse_sweep(["train.batch=256,512,mesh=data=-1,data=-1:fsdp=4"], small)
    {'train.batch': ['256', '512'], 'mesh': ['data=-1', 'data=-1:fsdp=4']}
    """
    settings: dict[str, list[str]] = {}
    for text in texts:
        values: list[str] | None = None
        for word in text.split(","):
            name, sign, value = (part.strip() for part in word.partition("="))
            begins = sign and name not in sharding.Mesh().sizes
            if begins:
                if name != MESH:
                    config.at(recipe, name)
                values = settings.setdefault(name, [])
            value = value if begins else word.strip()
            if values is None or not value:
                raise ValueError(f"--sweep {text!r} is not of the form PATH=VALUE,VALUE, for example {BATCH}=256,512")
            values.append(value)
    return settings


def mesh_of(text: str) -> sharding.Mesh:
    """Return the mesh of a value of a sweep, such as "data=-1:fsdp=4"."""
    sizes: dict[str, int] = {}
    names = list(sharding.Mesh().sizes)
    for part in text.split(":"):
        axis, _, size = part.partition("=")
        if axis not in names:
            raise ValueError(f"--sweep mesh={text}: there is no axis {axis!r}{near_miss(axis, names)}")
        try:
            sizes[axis] = int(size)
        except ValueError:
            raise ValueError(f"--sweep mesh={text}: {size!r} is no number of devices; expected {axis}=4") from None
    return sharding.Mesh(**sizes)


def plan_sweep(
    planner: Planner,
    recipe: Recipe,
    targets: Sequence[Target],
    settings: Mapping[str, Sequence[str]],
    mesh: sharding.Mesh | None = None,
) -> list[Json]:
    """Return the plan of every combination of settings on every target.

    A combination that is not possible has the field `error` in the place of its plan. Where a batch does not fit, the
    larger ones with the same other settings are not compiled; their plan says so.

    Args:
        planner: Makes the plans.
        recipe: The recipe before the sweep.
        targets: The chips.
        settings: The values of each setting (see `parse_sweep`); without any, the recipe alone.
        mesh: How many chips along each axis, where the sweep has no mesh.
    """
    ordered = {name: list(values) for name, values in settings.items()}
    if BATCH in ordered:
        # Last and ascending, so that the batches that are too large follow the one that shows it.
        ordered[BATCH] = sorted(ordered.pop(BATCH), key=lambda value: (len(value), value))
    combinations = [dict(zip(ordered, values, strict=True)) for values in itertools.product(*ordered.values())]
    plans: list[Json] = []
    for target in targets:
        full: list[dict[str, str]] = []
        for combination in combinations:
            others = {name: value for name, value in combination.items() if name != BATCH}
            if others in full:
                plans.append(skipped(target, combination, f"a smaller {BATCH} does not fit"))
                continue
            plan = planned(planner, recipe, target, combination, mesh)
            plans.append(plan)
            if BATCH in combination and plan.get("fits") is False:
                full.append(others)
    return plans


def planned(
    planner: Planner, recipe: Recipe, target: Target, combination: Mapping[str, str], mesh: sharding.Mesh | None
) -> Json:
    """Return the plan of one combination; one that is not possible is an error only where there is no sweep."""
    changes = {name: value for name, value in combination.items() if name != MESH}
    try:
        changed = config.override_all(recipe, changes, classes(recipe)) if changes else recipe
        swept = mesh_of(combination[MESH]) if MESH in combination else mesh
        return planner.plan(changed, target, swept, combination)
    except (ValueError, TypeError) as error:
        if not combination:
            raise
        return skipped(target, combination, str(error))


def skipped(target: Target, combination: Mapping[str, str], reason: str) -> Json:
    """Return the record of a combination that was not compiled."""
    return {"target": target.name, "settings": dict(combination), "error": reason}
