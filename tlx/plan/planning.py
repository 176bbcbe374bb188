"""Plan a recipe for some chips: compile its step for each of them, and write down what it needs."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jax.sharding import AbstractMesh

from tlx import config, sharding
from tlx.data import Splits
from tlx.plan.collectives import by_kind
from tlx.plan.compiling import CompiledProgram, check_compilers, compile_for, devices_of
from tlx.plan.estimate import UTILISATION, bound_of, device_flops, run_estimate
from tlx.plan.shapes import OpenedRecipe, StepShapes, opened, state_bytes, step_shapes
from tlx.plan.targets import Target
from tlx.recipe import Recipe
from tlx.training.loop import check_shares
from tlx.trees import Json

Say = Callable[[str], None]
# The parts of a device's memory, in the order of a plan.
PARTS = (
    "parameters",
    "frozen",
    "gradients",
    "optimiser",
    "average",
    "memory of terms",
    "batch",
    "activations",
    "program",
    "other",
)
# Fields of `train` that change the step and not what is opened and prepared for it.
FREE = ("batch", "eval_batch", "accumulate", "remat", "dtype", "ema", "steps", "epochs")
# A step with a smaller bound, in seconds, waits for its dispatch and its batch.
SHORT = 1e-3


class Planner:
    """Plans of recipes; what recipes have in common is opened once. `say` is called before each compilation."""

    def __init__(self, say: Say = lambda message: None):
        self.say = say
        self.opened: dict[str, OpenedRecipe] = {}

    def plan(
        self,
        recipe: Recipe,
        target: Target,
        mesh: sharding.Mesh | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> Json:
        """Return the plan of a recipe on some chips, as JSON values.

        Args:
            recipe: The recipe.
            target: The chips.
            mesh: How many of them along each axis. None: all along `data`, and a training batch that they cannot share
                is raised to the next one that they can. The batch of evaluations, of which the step has none, is raised
                in any case.
            settings: The values of a sweep that led to this recipe, for the record.

        Raises:
            ValueError: The mesh does not divide the chips, the batch or the model.
            ImportError: The compiler of the chips is not installed.
        """
        sizes = (mesh or sharding.Mesh()).fitted(target.chips)
        exact = sharding.Mesh(**sizes)
        before = recipe
        recipe = raised(recipe, sizes, training=mesh is None)
        check_shares(recipe, AbstractMesh(tuple(sizes.values()), tuple(sizes)), exact)
        check_compilers([target])
        shapes = step_shapes(self.opened_for(recipe), recipe)
        self.say(f"compiling for {target.name}")
        devices = sharding.make_mesh(devices_of(target), exact)
        program = compile_for(shapes, target, exact)
        return {
            "target": target.name,
            "chip": target.chip.name,
            "chips": target.chips,
            "mesh": str(exact),
            "settings": dict(settings or {}),
            "changes": [list(change) for change in config.diff(before, recipe)],
            "batch": recipe.train.batch,
            "examples": shapes.examples,
            "trainable": shapes.trainable,
            "total": shapes.total,
            **document(program, shapes, target, devices.size, state_bytes(shapes, devices)),
        }

    def opened_for(self, recipe: Recipe) -> OpenedRecipe:
        """Return the open data and the prepared form of a recipe, shared by recipes that differ only in `FREE`."""
        written = config.dump(recipe)
        written["train"] = {name: value for name, value in written["train"].items() if name not in FREE}
        written["data"] = {**written["data"], "streams": [stream.name for stream in recipe.data.streams]}
        key = repr(written)
        if key not in self.opened:
            splits: Splits | None = next(
                (other.splits for other in self.opened.values() if same_data(other.recipe, recipe)), None
            )
            self.opened[key] = opened(recipe, splits)
        return self.opened[key]


def same_data(first: Recipe, second: Recipe) -> bool:
    """Return whether two recipes open the same splits."""
    readers = [(recipe.data, recipe.seed, recipe.objective, recipe.train.measured) for recipe in (first, second)]
    return readers[0] == readers[1]


def raised(recipe: Recipe, sizes: Mapping[str, int], training: bool = True) -> Recipe:
    """Return the recipe with every batch raised to the next one that a mesh of these sizes can share; without
    `training` only that of evaluations.

    >>> from tlx import Data, models, tasks
    >>> small = Recipe(data=Data(target="digits"), task=tasks.Classification(classes=10), model=models.Mlp())
    >>> raised(small, {"data": 12, "fsdp": 4, "tensor": 1}).train.batch
    48
    """
    rows = math.prod(sizes[axis] for axis in sharding.ROWS)
    unit = rows * recipe.train.accumulate

    def up(batch: int, unit: int) -> int:
        return -(-batch // unit) * unit

    changes: dict[str, Any] = {"train.eval_batch": up(recipe.train.eval_batch, rows)}
    if training:
        changes["train.batch"] = up(recipe.train.batch, unit)
    for number, stream in enumerate(recipe.data.streams):
        if training and stream.batch is not None:
            changes[f"data.streams.{number}.batch"] = up(stream.batch, unit)
    return config.assign_all(recipe, {path: new for path, new in changes.items() if config.at(recipe, path) != new})


def document(
    program: CompiledProgram, shapes: StepShapes, target: Target, devices: int, held: Mapping[str, int]
) -> Json:
    """Return what follows from a compiled step; `held` are the bytes of `state_bytes`."""
    chip = target.chip
    if not program.needed:
        # The compiler said that the program does not fit, and not what it needs: more than the state and its gradients.
        program = program._replace(needed=sum(held.values()) + held["parameters"])
    memory = memory_parts(program, held)
    plan: Json = {
        "fits": program.fits,
        "needed": program.needed,
        "usable": chip.usable,
        "memory": memory,
        "steps": shapes.steps,
        "compile_seconds": program.seconds,
        "notes": notes_on(shapes),
    }
    if not program.arguments:
        # The compiler found no program, so nothing is known of one.
        return plan | dict.fromkeys(
            ("flops", "moved", "collectives", "bound", "step_seconds", "hours", "kilowatt_hours", "dollars")
        )
    bound = bound_of(program, target, shapes.recipe.train.dtype, devices)
    estimate = run_estimate(bound, shapes, target)
    low, high = UTILISATION
    if bound.seconds < SHORT:
        plan["notes"].append(
            "a step with a bound below a millisecond waits for its dispatch and its batch, which are not counted: the "
            "run takes longer than its range"
        )
    return plan | {
        "flops": device_flops(program, devices),
        "moved": program.moved,
        "collectives": by_kind(program.sent),
        "bound": {**bound._asdict(), "seconds": bound.seconds, "limit": bound.limit},
        "step_seconds": [bound.seconds / high, bound.seconds / low],
        "hours": list(estimate.hours),
        "kilowatt_hours": None if estimate.kilowatt_hours is None else list(estimate.kilowatt_hours),
        "dollars": None if estimate.dollars is None else list(estimate.dollars),
    }


def memory_parts(program: CompiledProgram, held: Mapping[str, int]) -> dict[str, int]:
    """Return the bytes of each of `PARTS` on one device; their sum is what the program needs.

    The compiler keeps gradients among its temporary arrays, so these are cut into the gradients, which are as large as
    the trainable parameters, and the activations.
    """
    known = sum(held.values())
    temporaries = program.temporaries if program.arguments else max(0, program.needed - known)
    gradients = min(held["parameters"], temporaries)
    parts = {**held, "gradients": gradients, "activations": temporaries - gradients, "program": program.code}
    rest = program.needed - sum(parts.values())
    return {name: parts[name] + (max(0, rest) if name == "other" else 0) for name in PARTS}


def notes_on(shapes: StepShapes) -> list[str]:
    """Return what a reader of the plan of a recipe must know."""
    notes = []
    if shapes.share < 1:
        notes.append(
            f"the step has the longest texts; a batch has {shapes.share:.0%} of their numbers on average, and the time "
            "of the run counts that share of its operations and memory, and its collectives in full"
        )
    if shapes.phases > 1:
        notes.append(
            f"the run has {shapes.phases} phases; the one that trains the most parameters is compiled, and all steps "
            "count like its steps"
        )
    if shapes.recipe.train.compile == "pmap":
        notes.append("train.compile is 'pmap'; the step is compiled by 'jit', which takes the same steps")
    return notes


def overview(name: str, recipe: Recipe, plans: Sequence[Json]) -> Json:
    """Return the content of `plan.json` for the plans of a recipe or its sweep."""
    return {
        "name": name,
        "fingerprint": config.fingerprint(recipe),
        "utilisation": list(UTILISATION),
        "plans": list(plans),
        "best": best(plans),
    }


def best(plans: Sequence[Json]) -> list[Json]:
    """Return for each target the settings with the largest batch that fits, and those with the lowest bound per example
    of the run, as positions in `plans`; None where nothing fits.

    The bound per example compares batches of different sizes: in the same number of steps, a run with smaller batches
    trains with fewer examples, and its bound is lower for that reason alone.
    """

    def per_example(n: int) -> float:
        plan = plans[n]
        return float(plan["hours"][0]) / (plan["steps"] * plan["examples"])

    rows = []
    for target in dict.fromkeys(plan["target"] for plan in plans):
        fitting = [n for n, plan in enumerate(plans) if plan["target"] == target and plan.get("fits")]
        rows.append(
            {
                "target": target,
                "largest": max(fitting, key=lambda n: (plans[n]["examples"], -per_example(n)), default=None),
                "fastest_per_example": min(fitting, key=per_example, default=None),
            }
        )
    return rows
