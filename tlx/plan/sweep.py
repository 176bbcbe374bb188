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
        ValueError: A setting does not exist or has no value, or a mesh is not one.

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
    for value in settings.get(MESH, ()):
        mesh_of(value)
    return settings


def mesh_of(text: str) -> sharding.Mesh:
    """Return the mesh of a value of a sweep, such as "data=-1:fsdp=4".

    Raises:
        ValueError: An axis does not exist or has two sizes, or its size is no number of devices.
    """
    sizes: dict[str, int] = {}
    names = list(sharding.Mesh().sizes)
    for part in text.split(":"):
        axis, _, size = (word.strip() for word in part.partition("="))
        if axis not in names:
            raise ValueError(f"--sweep mesh={text}: there is no axis {axis!r}{near_miss(axis, names)}")
        if axis in sizes:
            raise ValueError(f"--sweep mesh={text} names the axis {axis!r} twice; name it once")
        try:
            sizes[axis] = int(size)
        except ValueError:
            raise ValueError(f"--sweep mesh={text}: {size!r} is no number of devices; expected {axis}=4") from None
    try:
        return sharding.Mesh(**sizes)
    except ValueError as error:
        raise ValueError(f"--sweep mesh={text}: {error}") from None


def plan_sweep(
    planner: Planner,
    recipe: Recipe,
    targets: Sequence[Target],
    settings: Mapping[str, Sequence[str]],
    mesh: sharding.Mesh | None = None,
) -> list[Json]:
    """Return the plan of every combination of settings on every target.

    A combination of which the parts do not fit together has the field `error` in the place of its plan. Where a batch
    does not fit, the larger ones with the same other settings are not compiled; their plan says so.

    Args:
        planner: Makes the plans.
        recipe: The recipe before the sweep.
        targets: The chips.
        settings: The values of each setting (see `parse_sweep`); without any, the recipe alone.
        mesh: How many chips along each axis, where the sweep has no mesh.

    Raises:
        ValueError: A value is wrong in every combination, or no combination can be compiled; the message is
            the first reason.
    """
    ordered = {name: list(values) for name, values in settings.items()}
    if BATCH in ordered:
        # Last and ascending, so that the batches that are too large follow the one that shows it.
        ordered[BATCH] = sorted(ordered.pop(BATCH), key=lambda value: (len(value), value))
    combinations = [dict(zip(ordered, values, strict=True)) for values in itertools.product(*ordered.values())]
    meshes = {text: mesh_of(text) for text in ordered.get(MESH, ())}
    recipes = [changed(planner, recipe, combination) for combination in combinations]
    check_values(ordered, combinations, recipes)
    plans: list[Json] = []
    for target in targets:
        full: list[dict[str, str]] = []
        for combination, swept in zip(combinations, recipes, strict=True):
            others = {name: value for name, value in combination.items() if name != BATCH}
            if others in full:
                plans.append(skipped(target, combination, f"a smaller {BATCH} does not fit"))
                continue
            place = meshes[combination[MESH]] if MESH in combination else mesh
            plan = planned(planner, swept, target, combination, place)
            plans.append(plan)
            if BATCH in combination and plan.get("fits") is False:
                full.append(others)
    if plans and all("error" in plan for plan in plans):
        raise ValueError(f"no combination of the sweep can be compiled; the first one: {plans[0]['error']}")
    return plans


def changed(planner: Planner, recipe: Recipe, combination: Mapping[str, str]) -> Recipe | Exception:
    """Return the recipe with the settings of a combination, or the error that they raise when it is opened."""
    changes = {name: value for name, value in combination.items() if name != MESH}
    if not changes:
        return recipe
    try:
        other = config.override_all(recipe, changes, classes(recipe))
        planner.opened_for(other)
    except (ValueError, TypeError, FileNotFoundError) as error:
        return error
    return other


def check_values(
    settings: Mapping[str, Sequence[str]],
    combinations: Sequence[Mapping[str, str]],
    recipes: Sequence[Recipe | Exception],
) -> None:
    """Raise ValueError for a value that is wrong in every combination, with the reason of the first."""
    pairs = list(zip(combinations, recipes, strict=True))
    for name, values in settings.items():
        for value in values:
            results = [(combination, result) for combination, result in pairs if combination[name] == value]
            if all(isinstance(result, Exception) for _, result in results):
                combination, reason = results[0]
                words = " ".join(f"{key}={text}" for key, text in combination.items() if key != MESH)
                raise ValueError(f"--sweep {words}: {reason}")


def planned(
    planner: Planner,
    recipe: Recipe | Exception,
    target: Target,
    combination: Mapping[str, str],
    mesh: sharding.Mesh | None,
) -> Json:
    """Return the plan of one combination; one that is not possible is an error only where there is no sweep."""
    if isinstance(recipe, Exception):
        return skipped(target, combination, str(recipe))
    try:
        return planner.plan(recipe, target, mesh, combination)
    except (ValueError, TypeError) as error:
        if not combination:
            raise
        return skipped(target, combination, str(error))


def skipped(target: Target, combination: Mapping[str, str], reason: str) -> Json:
    """Return the record of a combination that was not compiled."""
    return {"target": target.name, "settings": dict(combination), "error": reason}
