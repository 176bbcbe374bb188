"""Lengthen a finished run: train it further from the state, with its optimiser, in which it ended."""

import shlex
import sys
from dataclasses import replace
from pathlib import Path

from tlx import config
from tlx.files import run_files
from tlx.files.documents import holds_file
from tlx.files.run_files import CONFIG, METRICS, RECIPE, RESULT, TRACKERS
from tlx.recipe import Recipe
from tlx.records import run_directory
from tlx.records.log import write_json
from tlx.training.active_run import CHECKPOINTS, program, total_steps
from tlx.training.checkpoint import Checkpoints
from tlx.training.loop import How, Run, run
from tlx.training.prepare import prepare
from tlx.training.reopen import data_of, recipe_of
from tlx.trees import Json

# What a run keeps when it is lengthened.
KEPT = (RECIPE, METRICS, TRACKERS, CONFIG)


def lengthen(
    source: str | Path,
    *,
    steps: int | None = None,
    epochs: float | None = None,
    given: Recipe | None = None,
    how: How | None = None,
) -> Run:
    """Train a finished run for more steps, in its folder.

    The parameters, the optimiser, the best state so far and the order of the data continue where the run ended. The
    schedules are those of the new length from there on: a rate that had fallen to zero rises again. With a constant
    schedule without warm-up the result is that of a run of the new length, if `train.eval_every` divides the old
    length. Otherwise the validation after the last step of the old length is one more, which counts in the choice of
    the checkpoint and in the patience; a note of the result says so. `recipe.json` gets the new recipe, and keeps
    the former length, fingerprint and metrics. A run that was lengthened and interrupted continues.

    Args:
        source: The folder of the run.
        steps: The new number of steps, counted from the start of the run.
        epochs: The new number of passes over the first stream, in place of `steps`.
        given: The recipe of the run's config file, needed where it uses classes of the user. Without `steps` and
            `epochs` it has the new length, and may differ from the run's recipe in nothing else.
        how: How the run is carried out.

    Raises:
        FileNotFoundError: The folder contains no run.
        ValueError: The run cannot be lengthened; the message says why. Nothing is changed then.
    """
    path, how = Path(source), how or How()
    with run_directory.writing(path):
        document = run_directory.read(path, RECIPE)
        recipe = recipe_of(path, given)
        longer = with_length(recipe, steps, epochs, given, path)
        if not holds_file(path / RESULT):
            if document.get("lengthened") and longer == recipe:
                return run(recipe, path, resume=True, how=how)
            raise ValueError(f"{path} contains an unfinished run; finish it first, with {run_files.finishing(path)}")
        check(path, recipe, longer, document)
        claim_again(path, document, longer)
        return run(longer, path, resume=True, how=how)


def with_length(recipe: Recipe, steps: int | None, epochs: float | None, given: Recipe | None, path: Path) -> Recipe:
    """Return the recipe with its new length."""
    if steps is not None and epochs is not None:
        raise ValueError(f"both steps={steps} and epochs={epochs:g} are given; give one of them")
    if steps is not None:
        return replace(recipe, train=replace(recipe.train, steps=steps))
    if epochs is not None:
        return replace(recipe, train=replace(recipe.train, steps=None, epochs=float(epochs)))
    if given is None:
        raise ValueError("neither steps nor epochs is given; give the new length, such as --steps 2000")
    if first := different(recipe, given):
        name, recorded, value = first
        raise ValueError(
            f"{path} cannot be lengthened to this config: {name} is {value!r} there, and {recorded!r} in the run; only "
            "train.steps and train.epochs may differ. Start a new run with another --out"
        )
    return replace(recipe, train=replace(recipe.train, steps=given.train.steps, epochs=given.train.epochs))


def different(recipe: Recipe, given: Recipe) -> tuple[str, object, object] | None:
    """Return the first field, other than the length, in which two recipes differ, with both values."""
    lengths = {f"train.{name}" for name in run_directory.LENGTH}
    return next((change for change in config.diff(recipe, given) if change[0] not in lengths), None)


def check(path: Path, recipe: Recipe, longer: Recipe, document: Json) -> None:
    """Raise ValueError where a finished run cannot be trained further; `document` is its recipe.json."""
    result, refusal = run_directory.read(path), f"{path} cannot be lengthened: "
    done = result["steps"]
    if result.get("stopped") == "patience":
        raise ValueError(
            f"{refusal}it ended at step {done} of {result['asked_steps']}, because {recipe.train.patience} validations "
            "were no better (train.patience); a longer run ends there too. Start a new run with a larger patience"
        )
    if done < result.get("asked_steps", done):
        raise ValueError(f"{refusal}it was stopped at step {done} of {result['asked_steps']}; run it again in full")
    if (result.get("pack") or {}).get("arms", 1) > 1:
        raise ValueError(f"{refusal}it trained together with other runs, which share one checkpoint; run it alone")
    if recipe.task.of_early_run(document["recipe"]["task"] if "task" in result else ()) != recipe.task:
        raise ValueError(
            f"{refusal}an earlier version of tlx trained it, in which {type(recipe.task).__name__} had another meaning "
            "for this recipe. Start a new run, or continue from its weights with Weights(RUN)"
        )
    splits = data_of(path, recipe, result)
    if (phases := len(prepare(recipe, splits).phases)) > 1:
        raise ValueError(
            f"{refusal}{type(recipe.tuning).__name__} has {phases} phases, which are shares of the whole run, so a "
            "longer run differs from its first step on. Start a new run, or continue from its weights with Weights(RUN)"
        )
    total = total_steps(longer, len(splits.train), splits.first)
    if total <= done:
        raise ValueError(f"{refusal}it has taken {done} steps, and the new length is {total} steps; give a larger one")
    if done not in Checkpoints(path / CHECKPOINTS).steps():
        raise ValueError(
            f"{refusal}there is no checkpoint of its last step, {done}: an earlier version of tlx trained it, or it is "
            "a cell of a study, or the checkpoint was deleted. Run it again in full"
        )


def claim_again(path: Path, document: Json, longer: Recipe) -> None:
    """Give the folder of a finished run to the longer recipe.

    The result is deleted first: a process that is killed here leaves an unfinished run, of one recipe or the other,
    with the checkpoint of its last step.
    """
    result = run_directory.read(path)
    entry = {
        "steps": result["steps"],
        "fingerprint": document["fingerprint"],
        "metrics": result["metrics"],
        "command": shlex.join([program(), *sys.argv[1:]]),
    }
    identity = run_directory.identity(path, longer)
    (path / RESULT).unlink()
    for name in list(run_files.written(path)):
        if name.as_posix() not in KEPT and name.parts[0] != "tensorboard":
            (path / name).unlink(missing_ok=True)
    kept = {name: value for name, value in document.items() if name != "fingerprint_schema"}
    write_json(path / RECIPE, kept | identity | {"lengthened": [*document.get("lengthened", []), entry]}, sync=True)
