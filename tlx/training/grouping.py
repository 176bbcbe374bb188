"""Decide which recipes may train together, from the recipes alone, independent of what is measured, saved or
finished."""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

from tlx import config
from tlx.files import user_code
from tlx.optim.hyperparameters import hyperparameters
from tlx.recipe import Recipe
from tlx.training import vectorize
from tlx.training.active_run import ActiveRun
from tlx.training.phases import initial_states
from tlx.training.step import Parts, TrainState

# The fields that a sweep may vary without another program; `data` only where `train` fixes the steps.
VARIED = ("optim", "tuning", "objective", "update", "task")
DRAWN = ("shots", "fraction", "subset_seed")
NOISE = ("eps_x", "eps_y")


def signature(recipe: Recipe) -> str:
    """Return the part of a recipe that recipes with a common program share, as text.

    Left out are the seed, the numbers that are arrays in the step, the sizes that a tuning allows to differ, the share
    of noise in a source, and, where every step and evaluation is fixed, which training examples were drawn.
    """
    document = config.dump(recipe)
    del document["seed"]
    document["data"] |= dict.fromkeys(NOISE, "#")
    for name in VARIED:
        value = getattr(recipe, name)
        records = value if isinstance(value, tuple) else (value,)
        document[name] = [blank(config.dump(item), hyperparameters(item)) for item in records]
    if recipe.train.ema is not None:
        document["train"]["ema"] = "#"
    tuning = recipe.tuning
    if recipe.optim.elementwise:
        document["tuning"][0] |= dict.fromkeys(tuning.sizes, "#")
    if tuning.chooses:
        document["tuning"] = "#"
    if tuning.merged_in_step:
        # Its numbers may be constants of the program.
        document["tuning"] = config.dump(tuning)
    if recipe.train.steps is not None and recipe.train.eval_every is not None:
        document["data"] |= dict.fromkeys(DRAWN, "#")
    # Two functions of the user may have one name.
    sources, state = user_code.of([recipe])
    document["code"] = [sorted(sources.values()), state]
    return json.dumps(document, sort_keys=True)


def blank(document: object, numbers: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """Return the document of a record with `#` in the place of every float, and of `numbers`, which may have been
    written as integers. Some of these floats decide more than a number (the shares of phases): `alike` compares the
    results."""
    if isinstance(document, dict):
        inner = {name: numbers.get(name, {}) for name in document}
        return {
            name: blank(value, inner[name]) if isinstance(inner[name], Mapping) else "#"
            for name, value in document.items()
        }
    if isinstance(document, list):
        return ["#" if isinstance(numbers.get(str(n)), float) else blank(value) for n, value in enumerate(document)]
    return "#" if isinstance(document, float) else document


def groups(recipes: Sequence[Recipe]) -> list[list[int]]:
    """Return the positions of recipes that may share a program, group by group, in the order of their first ones."""
    members: dict[str, list[int]] = {}
    for position, recipe in enumerate(recipes):
        members.setdefault(signature(recipe), []).append(position)
    return list(members.values())


def chunks(recipes: Sequence[Recipe], most: int) -> list[list[int]]:
    """Return the `groups`, each cut into pieces of at most `most` positions: the recipes that may train together.

    Args:
        recipes: The recipes, in an order that is part of the result.
        most: The largest number of recipes in one piece.
    """
    return [members[n : n + most] for members in groups(recipes) for n in range(0, len(members), most)]


def alike(ready: Mapping[int, ActiveRun]) -> list[list[int]]:
    """Return the positions of runs that differ only in numbers, group by group."""
    groups_by_form: list[tuple[RunForm, list[int]]] = []
    for position, run in ready.items():
        form = form_of(run)
        for group_form, positions in groups_by_form:
            if form.stands == group_form.stands and (
                all(map(same, group_form.phases, form.phases)) or joinable(group_form, form)
            ):
                positions.append(position)
                break
        else:
            groups_by_form.append((form, [position]))
    return [positions for _, positions in groups_by_form]


def same(first: tuple[Parts, TrainState], second: tuple[Parts, TrainState]) -> bool:
    """Return whether two steps differ only in numbers."""
    return vectorize.same_program((first[0], second[0]), (first[1], second[1]))


def joinable(first: "RunForm", second: "RunForm") -> bool:
    """Return whether two runs that train different parameters can be joined, from their start to their end."""
    if len(first.phases) > 1 or first.stands[0] != "last":
        return False
    (parts, state), (second_parts, second_state) = first.phases[0], second.phases[0]
    return vectorize.may_join((parts, second_parts), (state, second_state))


class RunForm(NamedTuple):
    """The properties that two runs must share to train together: their schedule, task and data (`stands`), and for
    every phase the static half of the step and the shapes of its state. Nothing of it depends on what was saved."""

    stands: tuple[Any, ...]
    phases: list[tuple[Parts, TrainState]]


def form_of(run: ActiveRun) -> RunForm:
    """Return the form of a run."""
    ready, splits = run.ready, run.splits
    measured = [
        examples.identity
        for examples in (splits.validation, splits.test, *splits.tests.values(), *splits.aside.values())
    ]
    head = (type(ready.task), ready.task.outputs, ready.model.config)
    stands = (run.recipe.train.select, run.steps, run.spans, run.eval_every, *head, *measured)
    phases = []
    for phase in range(len(run.spans)):
        parts = ready.parts(phase)
        phases.append((parts, jax.eval_shape(lambda step=parts, n=phase: initial_states([run], [step], n, None)[0])))
    return RunForm(stands, phases)
