"""Which recipes may train together: a function of the recipes alone, whatever is measured, saved or finished."""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

from tlx import config
from tlx.recipe import Recipe
from tlx.training import vectorize
from tlx.training.active_run import Arm
from tlx.training.phases import fresh_states
from tlx.training.step import Parts, TrainState
from tlx.tuning import BitFit, Freeze, Full, NormTuning, Probe, Rules

# What a sweep may vary without another program, by field of the recipe; in `data` only where `train` fixes the steps.
VARIED = ("optim", "tuning", "objective", "update", "task")
# Tunings that add nothing and have one phase: what they choose may be a mask.
CHOOSING = (Full, Probe, Freeze, Rules, BitFit, NormTuning)
DRAWN = ("shots", "fraction", "subset_seed")
NOISE = ("eps_x", "eps_y")


def signature(recipe: Recipe) -> str:
    """What recipes that may share a program have in common: all but the seed, the numbers that are arrays in the step,
    the rank of LoRA, how much of a source is noise, and, where every step and evaluation is fixed, which training
    examples were drawn."""
    document = config.dump(recipe)
    del document["seed"]
    document["data"] |= dict.fromkeys(NOISE, "#")
    for name in VARIED:
        value = getattr(recipe, name)
        several = value if isinstance(value, tuple) else (value,)
        document[name] = [blank(config.dump(item), config.numbers(item)) for item in several]
    if recipe.train.ema is not None:
        document["train"]["ema"] = "#"
    if recipe.optim.name in vectorize.ELEMENTWISE and hasattr(recipe.tuning, "rank"):
        document["tuning"][0]["rank"] = "#"
    if isinstance(recipe.tuning, CHOOSING):
        document["tuning"] = "#"
    if recipe.train.steps is not None and recipe.train.eval_every is not None:
        document["data"] |= dict.fromkeys(DRAWN, "#")
    return json.dumps(document, sort_keys=True)


def blank(document: Any, numbers: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """The document of a record with `#` in the place of every float, and of `numbers`, which may have been given as
    integers. Some of these floats decide more than a number (the shares of phases): `alike` looks at what came out."""
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
    """The positions of recipes that may share a program, group by group, in the order of their first ones."""
    found: dict[str, list[int]] = {}
    for position, recipe in enumerate(recipes):
        found.setdefault(signature(recipe), []).append(position)
    return list(found.values())


def chunks(recipes: Sequence[Recipe], most: int) -> list[list[int]]:
    """The `groups`, each cut into pieces of at most `most` positions: the recipes that may train together.

    Args:
        recipes: the recipes, in an order that is part of the result.
        most: the largest number of recipes in one piece.
    """
    return [members[n : n + most] for members in groups(recipes) for n in range(0, len(members), most)]


def alike(ready: Mapping[int, Arm]) -> list[list[int]]:
    """Return the positions of arms that differ in numbers alone, group by group."""
    found: list[tuple[Form, list[int]]] = []
    for position, arm in ready.items():
        form = form_of(arm)
        for known, twins in found:
            if form.stands == known.stands and (all(map(same, known.phases, form.phases)) or joinable(known, form)):
                twins.append(position)
                break
        else:
            found.append((form, [position]))
    return [twins for _, twins in found]


def same(one: tuple[Parts, TrainState], other: tuple[Parts, TrainState]) -> bool:
    """Whether two steps differ in numbers alone."""
    return vectorize.same_program((one[0], other[0]), (one[1], other[1]))


def joinable(one: "Form", other: "Form") -> bool:
    """Whether two arms that learn other leaves can be joined, from their start to their end."""
    if len(one.phases) > 1 or one.stands[0] != "last":
        return False
    (parts, state), (others, another) = one.phases[0], other.phases[0]
    return vectorize.may_join((parts, others), (state, another))


class Form(NamedTuple):
    """What must agree for two arms to train together: their schedule, task and data (`stands`), and for every phase
    the static half of the step and the shapes of its state. Nothing of it depends on what was saved."""

    stands: tuple[Any, ...]
    phases: list[tuple[Parts, TrainState]]


def form_of(arm: Arm) -> Form:
    ready, splits = arm.ready, arm.splits
    measured = [
        own.identity for own in (splits.validation, splits.test, *splits.tests.values(), *splits.aside.values())
    ]
    head = (type(ready.task), ready.task.outputs, ready.model.config)
    stands = (arm.recipe.train.select, arm.steps, arm.spans, arm.eval_every, *head, *measured)
    phases = []
    for phase in range(len(arm.spans)):
        parts = ready.parts(phase)
        phases.append((parts, jax.eval_shape(lambda own=parts, n=phase: fresh_states([arm], [own], n, None)[0])))
    return Form(stands, phases)
