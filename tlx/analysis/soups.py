"""Blend runs into one model: a soup of several runs, WiSE-FT of one; written with its scores and its selection rule."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import numpy as np

from tlx.files.locks import vacant, writing
from tlx.recipe import Recipe
from tlx.records.log import write_json
from tlx.records.run_directory import Predictions
from tlx.tasks import Task
from tlx.tasks.classes import format_names, match
from tlx.training.reopen import Meter, Reopened, reopen
from tlx.trees import Json, flatten
from tlx.types import Variables
from tlx.weights import blend, reorder, save_pretrained

NAME = "blend.json"


def soup(runs: Sequence[str | Path], out: str | Path, *, greedy: bool = False, recipe: Recipe | None = None) -> Json:
    """Average the final weights of `runs`, and write the model to the new directory `out`.

    Args:
        runs: two or more runs of the same model and task.
        out: the new directory.
        greedy: choose the ingredients by the validation split, never by the test split.
        recipe: the recipe of the runs' config file; needed if the model is your own module.

    Returns:
        The content of `blend.json`: `metrics` on the validation and the test split of the first run's recipe, the
        `selection` rule, and the `ingredients` with their validation score, each `chosen` or not.

    Raises:
        ValueError: There are fewer than two runs, runs of different models or tasks, or a run that trained on examples
            that choose or test.
        FileExistsError: `out` is not empty.
    """
    if len(runs) < 2:
        raise ValueError(
            f"a soup needs two runs or more, got {len(runs)}; tlx wise interpolates between the initial and the final "
            "weights of one run"
        )
    with empty(out) as target:
        return _soup(target, runs, greedy, recipe)


def _soup(target: Path, runs: Sequence[str | Path], greedy: bool, recipe: Recipe | None) -> Json:
    """Run `soup` in a directory that is locked."""
    opened = [reopen(run, recipe) for run in runs]
    for run in opened:
        check_plain(run)
    for run in opened[1:]:
        check_fit(opened[0], run)
    opened = [opened[0], *(in_order_of(opened[0], run) for run in opened[1:])]
    meter = Meter(opened[0])
    candidates = [run.after for run in opened]

    task = meter.task
    sign = 1 if task.higher_is_better else -1

    def score(variables: Variables) -> float:
        return sign * meter(variables, "validation").metrics(task, [task.primary])[task.primary]

    if greedy:
        variables, chosen, scores, _ = blend.greedy_soup(candidates, score)
        rule = "greedy, on the validation split of the first run"
        if opened[0].ready.recipe.data.labels is not None:
            rule += " (oracle: the setting does not grant its labels)"
    else:
        variables, chosen, scores = blend.soup(candidates), tuple(range(len(runs))), tuple(map(score, candidates))
        rule = "uniform: all runs, without a choice"
    ingredients = [
        {"run": str(run), "validation": sign * value, "chosen": number in chosen}
        for number, (run, value) in enumerate(zip(runs, scores, strict=True))
    ]
    summary = {"kind": "soup", "selection": rule, "ingredients": ingredients, "order": list(chosen)}
    return write(target, opened[0], variables, meter, summary | {"notes": renamed(opened) + notes(opened)})


def wise(run: str | Path, share: float, out: str | Path, *, recipe: Recipe | None = None) -> Json:
    """Interpolate between a run's initial and fine-tuned weights: WiSE-FT (Wortsman et al., 2022a).

    Args:
        run: the run.
        share: interpolation weight: 0 = initial (pretrained) weights, 1 = fine-tuned weights.
        out: the new directory of the model.
        recipe: the recipe of the run's config file; needed if the model is your own module.

    Returns:
        The content of `blend.json`, with `metrics` as in `soup`.

    Raises:
        ValueError: The share lies outside [0, 1].
        FileExistsError: `out` is not empty.
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share is {share}; expected a number from 0 (initial weights) to 1 (fine-tuned weights)")
    with empty(out) as target:
        return _wise(target, run, share, recipe)


def _wise(target: Path, run: str | Path, share: float, recipe: Recipe | None) -> Json:
    """Run `wise` in a directory that is locked."""
    opened = reopen(run, recipe)
    check_plain(opened)
    meter, rule = Meter(opened), f"none: the user chose share {share:g}"
    ends = {
        name: meter(variables, "validation").metrics(meter.task, [meter.task.primary])[meter.task.primary]
        for name, variables in (("before", opened.before), ("after", opened.after))
    }
    summary = {"kind": "wise", "run": str(run), "share": share, "selection": rule, "ends": ends}
    fresh = [path for path in opened.new if opened.ready.manifest.entries]
    messages = (
        [f"{len(fresh)} parameters are not in the pretrained weights and were drawn at random ({fresh[0]}, ...)"]
        if fresh
        else []
    )
    messages += (
        []
        if opened.ready.manifest.entries
        else ["there are no pretrained weights: share 0 means the random initial weights"]
    )
    return write(
        target, opened, blend.interpolate(opened.before, opened.after, share), meter, summary | {"notes": messages}
    )


@contextmanager
def empty(out: str | Path) -> Iterator[Path]:
    """Lock a directory that must be empty; raise FileExistsError if it is not."""
    target = Path(out)
    with writing(target, keep=False):
        if not vacant(target):
            raise FileExistsError(f"{target} is not empty; choose another directory")
        yield target


def check_plain(opened: Reopened) -> None:
    """Raise ValueError for a model that keeps leaves added by its tuning, because a blend is written as plain
    weights."""
    declared = flatten(opened.ready.model.params)
    if added := [path for path in flatten(opened.after.params) if path not in declared]:
        raise ValueError(
            f"{opened.folder} has {len(added)} parameters that its tuning added ({added[0]!r}, ...) and that "
            "cannot be merged into the model's weights; blend the variables with tlx.weights.blend"
        )


def check_fit(first: Reopened, other: Reopened) -> None:
    """Raise ValueError, before anything compiles, if the runs cannot be blended.

    Reasons are different models or classes, or a run that trained on examples that the first run's recipe holds out.
    """
    try:
        blend.check_alike([first.after, other.after])
    except ValueError as error:
        raise ValueError(f"{first.folder} and {other.folder} have different models: {error}") from None
    for what, left, right in (
        ("models", first.ready.model.config, other.ready.model.config),
        ("classes", first.ready.task.names, other.ready.task.names),
    ):
        if left != right and not (what == "classes" and match(right, left).take):
            raise ValueError(f"{first.folder} and {other.folder} have different {what}: {left} and {right}")
    scales = first.ready.task.label_scale(), other.ready.task.label_scale()
    if scales[0] != scales[1]:
        raise ValueError(
            f"{first.folder} and {other.folder} have standardised their labels differently (mean and deviation "
            f"{scales[0]} and {scales[1]}), so their outputs have different units; use runs on the same training "
            "examples, or set the same mean and deviation in tasks.Regression"
        )
    held_out = (first.splits.validation, first.splits.test)
    for examples, trained in product(held_out, other.splits.streams.values()):
        if (examples.name, examples.split) != (trained.name, trained.split):
            continue
        if shared := len(np.intersect1d(examples.rows, trained.rows)):
            raise ValueError(
                f"{other.folder} trained on {shared} of the {len(examples)} examples that {first.folder} uses for "
                "validation or test, so measurements on them would be invalid; use runs with the same split"
            )


def in_order_of(first: Reopened, other: Reopened) -> Reopened:
    """Return the other run with its classes in the order of the first run's; raise ValueError if tlx cannot reorder
    them."""
    names = first.ready.task.names
    return other._replace(pretrained=reorder(other.pretrained, names)) if names else other


def renamed(opened: Sequence[Reopened]) -> list[str]:
    """Return a note for each run whose class names differ from those of the first run, or have another order."""
    messages, names = [], opened[0].ready.task.names
    for run in opened[1:]:
        others = run.ready.task.names
        order = match(others, names)
        if order.moves:
            messages.append(
                f"the head of {run.folder} was reordered by class name: {format_names(others)} to {format_names(names)}"
            )
        elif order.by_position:
            messages.append(
                f"the classes of the head of {run.folder} keep their positions, because tlx cannot match "
                f"{format_names(others)} with {format_names(names)} by name"
            )
    return messages


def notes(opened: Sequence[Reopened]) -> list[str]:
    """Return a note if the average is questionable: the ingredients did not begin with the same weights."""
    starts = {str(run.ready.recipe.weights) for run in opened}
    seeds = {run.ready.recipe.seed for run in opened}
    if len(starts) > 1:
        return ["the runs started from different weights; a soup averages fine-tuned runs of one pretrained model"]
    if not opened[0].ready.manifest.entries and len(seeds) > 1:
        return [
            (
                "the runs started from scratch with different seeds; a soup averages fine-tuned runs of one pretrained "
                "model"
            )
        ]
    if opened[0].new and len(seeds) > 1:
        return [
            (
                f"{len(opened[0].new)} parameters were drawn at random in each run, with another seed "
                f"({opened[0].new[0]}, ...)"
            )
        ]
    return []


def write(target: Path, opened: Reopened, variables: Variables, meter: Meter, summary: Json) -> Json:
    """Write the model and its `blend.json`, and return the content of that file.

    A task that is calibrated gets its fields from the validation split again: a temperature of one run is not that of
    the blend.
    """
    splits = ("validation",) if opened.splits.untested else ("validation", "test")
    outcomes = {split: meter.with_answers(variables, split) for split in splits}
    task = meter.task.calibrated(outcomes["validation"].scores)
    metrics = {
        f"{split}/{name}": value
        for split, outcome in outcomes.items()
        for name, value in with_calibrated(outcome, task).metrics(task).items()
    }
    save_pretrained(opened.pretrained._replace(variables=variables, task=task), target)
    document = {"primary": opened.ready.task.primary, "metrics": metrics} | summary
    write_json(target / NAME, document)
    return document


def with_calibrated(outcome: Predictions, task: Task) -> Predictions:
    """Return the predictions with the scores that the task computes with its calibrated fields."""
    return Predictions(outcome.scores | task.calibrated_scores(outcome.scores), outcome.indices, outcome.finite)
