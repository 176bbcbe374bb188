"""What is compared: the recipe, and the same network with the same labels and budget, every number drawn afresh."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tlx import config
from tlx.objectives import Supervised
from tlx.recipe import Recipe, classes
from tlx.study import Study
from tlx.study.sweeps import Override
from tlx.training.active_run import total_steps
from tlx.training.prepare import open_data, prepare
from tlx.trees import flatten
from tlx.tuning import Full

PRETRAINED, SCRATCH = "pretrained", "scratch"
ARM, LABELS, SEED = "arm", "labels", "seed"
SHOTS = (8, 16, 32, 64)
# Looks at the validation split in a run that is timed, where the recipe does not say how many.
LOOKS = 12


def benefit_study(
    recipe: Recipe, *, seeds: int = 5, shots: Sequence[int] | None = None, scratch: Sequence[str] = ()
) -> Study:
    """The study whose cells are both arms, with the recipe's own labels and with `shots` of every class, for so many
    seeds; `scratch` are changes `path=value` of the arm from scratch alone.

    Fewer labels take as many steps as all of them: passes over few would be so few steps that neither arm learns. The
    subsets of one seed nest. Raises ValueError where the recipe brings nothing, and where shots or seeds make no sense.
    """
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; the card needs 1 or more, and 2 for intervals")
    check_brought(recipe)
    arms = {PRETRAINED: {}, SCRATCH: scratch_changes(recipe, scratch)}
    cells = []
    tried = sizes(recipe, shots)
    most = max(tried)
    steps = {arm: total_steps(assigned(recipe, own), most) for arm, own in arms.items()}
    for labels, data in tried.items():
        own = dict(data)
        if recipe.train.eval_every is None:
            # With fewer labels only the end counts, unless a look may choose the checkpoint.
            looks = LOOKS if labels == most or recipe.train.select != "last" else 1
            own["train.eval_every"] = math.ceil(steps[PRETRAINED] / looks)
        for arm, changes in arms.items():
            kept = {"train.steps": steps[arm]} if labels < most else {}
            cells += [
                Override({ARM: arm, LABELS: labels, SEED: seed}, own | kept | changes | {"seed": seed})
                for seed in range(recipe.seed, recipe.seed + seeds)
            ]
    return Study(base=recipe, cells=cells, question="What did transfer buy here?", baseline={ARM: SCRATCH})


def check_brought(recipe: Recipe) -> None:
    """ValueError where there is nothing that transfer could buy."""
    if recipe.weights is None:
        raise ValueError(
            "the recipe brings nothing: it has a model= and no weights=, so there is no transfer to measure; give "
            "weights=Weights(...)"
        )
    ready = prepare(recipe, open_data(recipe, test=False))
    if flatten(ready.model.params).keys() <= ready.new:
        raise ValueError(
            f"the recipe brings nothing: weights.reset is {recipe.weights.reset!r}, which draws every number of "
            f"{recipe.weights.source!r} afresh; leave it out"
        )


def scratch_changes(recipe: Recipe, given: Sequence[str] = ()) -> dict[str, Any]:
    """What makes the recipe one from scratch, as path -> value: everything drawn afresh, and so everything learns, held
    to nothing; then what was `given`."""
    changes: dict[str, Any] = {"weights.reset": (r".*",)}
    if recipe.tuning != Full():
        changes["tuning"] = Full()
    left = tuple(term for term in recipe.objective if not term.needs(recipe.data.stream_names).pretrained)
    if left != recipe.objective:
        changes["objective"] = left or (Supervised(),)
    for change in given:
        path, sign, text = change.partition("=")
        if not sign:
            raise ValueError(f"--scratch {change!r} is not of the form path=value")
        changes[path] = config.parse(text, classes(recipe))
    assigned(recipe, changes)
    return changes


def assigned(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    for path, value in changes.items():
        recipe = config.assign(recipe, path, value)
    return recipe


def sizes(recipe: Recipe, shots: Sequence[int] | None) -> dict[int, dict[str, Any]]:
    """How many labels are tried, ascending, with the changes of the data that give them; the most are the recipe's.

    `shots` None are those of 8, 16, 32 and 64 that the data have. ValueError for shots that are no fewer labels.
    """
    if recipe.data.source is not None or recipe.data.labels is not None:
        raise ValueError("tlx benefit varies how many labels one data set gives: leave data.source and data.labels out")
    most = len(open_data(recipe, test=False).train)
    found: dict[int, dict[str, Any]] = {}
    for shot in SHOTS if shots is None else sorted(set(shots)):
        if shot < 1:
            raise ValueError(f"shots of {shot}: give numbers of examples of a class, 1 or more")
        changes = {"data.fraction": None, "data.shots": shot}
        try:
            labels = len(open_data(assigned(recipe, changes), test=False).train)
        except ValueError:
            if shots is None:
                continue
            raise
        if labels < most:
            found[labels] = changes
        elif shots is not None:
            raise ValueError(
                f"{shot} shots are {labels} labels, no fewer than the recipe's own {most}; leave {shot} out"
            )
    return found | {most: {}}
