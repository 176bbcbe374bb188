"""The arms: the recipe, and the same network from scratch with the same labels and budget."""

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
# Validations in a timed run, if the recipe does not set their number.
LOOKS = 12


def benefit_study(
    recipe: Recipe, *, seeds: int = 5, shots: Sequence[int] | None = None, scratch: Sequence[str] = ()
) -> Study:
    """Return the study whose cells are both arms, for `seeds` seeds, with all labels of the recipe and with `shots` per
    class.

    With fewer labels an arm takes as many steps as with all of them: the same number of epochs over few labels would be
    too few steps for either arm to learn. The subsets of one seed are nested.

    Args:
        recipe: the recipe, with pretrained weights.
        seeds: the number of seeds.
        shots: numbers of examples per class; None for the defaults of `sizes`.
        scratch: changes `path=value` of the arm from scratch alone.

    Raises:
        ValueError: The recipe has no pretrained weights, or shots or seeds are invalid.
    """
    if seeds < 1:
        raise ValueError(f"seeds is {seeds}; expected 1 or more, and 2 or more for intervals")
    check_pretrained(recipe)
    arms = {PRETRAINED: {}, SCRATCH: scratch_changes(recipe, scratch)}
    cells = []
    sizes_tried = sizes(recipe, shots)
    most = max(sizes_tried)
    steps = {arm: total_steps(assigned(recipe, changes), most) for arm, changes in arms.items()}
    for labels, data in sizes_tried.items():
        data_changes = dict(data)
        if recipe.train.eval_every is None:
            # With fewer labels only the end counts, unless validation may choose the checkpoint.
            looks = LOOKS if labels == most or recipe.train.select != "last" else 1
            data_changes["train.eval_every"] = math.ceil(steps[PRETRAINED] / looks)
        for arm, changes in arms.items():
            budget = {"train.steps": steps[arm]} if labels < most else {}
            cells += [
                Override({ARM: arm, LABELS: labels, SEED: seed}, data_changes | budget | changes | {"seed": seed})
                for seed in range(recipe.seed, recipe.seed + seeds)
            ]
    return Study(base=recipe, cells=cells, question="How much does transfer help here?", baseline={ARM: SCRATCH})


def check_pretrained(recipe: Recipe) -> None:
    """Raise ValueError if the recipe has no pretrained weights, so that there is no transfer to measure."""
    if recipe.weights is None:
        raise ValueError(
            "the recipe has no pretrained weights: it has a model= and no weights=, so there is no transfer to "
            "measure; give weights=Weights(...)"
        )
    ready = prepare(recipe, open_data(recipe, test=False))
    if flatten(ready.model.params).keys() <= ready.new:
        raise ValueError(
            f"the recipe uses no pretrained weights: weights.reset is {recipe.weights.reset!r}, which initialises "
            f"every parameter of {recipe.weights.source!r} at random; leave weights.reset out"
        )


def scratch_changes(recipe: Recipe, assignments: Sequence[str] = ()) -> dict[str, Any]:
    """Return the changes that turn the recipe into one from scratch, as path -> value.

    All weights are initialised at random, so all of them are trained, without terms that need pretrained weights. Then
    the changes in `assignments` are added.
    """
    changes: dict[str, Any] = {"weights.reset": (r".*",)}
    if recipe.tuning != Full():
        changes["tuning"] = Full()
    terms = tuple(term for term in recipe.objective if not term.needs(recipe.data.stream_names).pretrained)
    if terms != recipe.objective:
        changes["objective"] = terms or (Supervised(),)
    for change in assignments:
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
    """Return the numbers of labels to try, ascending, each with its changes of the data; the largest is the recipe's
    own.

    `shots` None selects those of 8, 16, 32 and 64 that the data have.

    Raises:
        ValueError: A number of shots is invalid, or results in no fewer labels than the recipe's own.
    """
    if recipe.data.source is not None or recipe.data.labels is not None:
        raise ValueError(
            "tlx benefit varies the number of labels of one data set: leave data.source and data.labels out"
        )
    most = len(open_data(recipe, test=False).train)
    changes_by_size: dict[int, dict[str, Any]] = {}
    for shot in SHOTS if shots is None else sorted(set(shots)):
        if shot < 1:
            raise ValueError(f"shots is {shot}; expected numbers of examples per class, 1 or more")
        changes = {"data.fraction": None, "data.shots": shot}
        try:
            labels = len(open_data(assigned(recipe, changes), test=False).train)
        except ValueError:
            if shots is None:
                continue
            raise
        if labels < most:
            changes_by_size[labels] = changes
        elif shots is not None:
            raise ValueError(
                f"{shot} shots give {labels} labels, which is not fewer than the {most} labels of the recipe; "
                f"leave {shot} out"
            )
    return changes_by_size | {most: {}}
