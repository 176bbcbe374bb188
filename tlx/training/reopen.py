"""Reopen a finished run: its initial weights, its final weights, its data."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from tlx import config, models
from tlx.data import Examples, Splits, evaluation_batches
from tlx.data.examples import Light
from tlx.files import run_files, user_code
from tlx.files.class_names import Classes
from tlx.files.documents import digests, holds_file
from tlx.functional.texts import WRITTEN
from tlx.recipe import OWN, Recipe, classes
from tlx.records import migrations, run_directory
from tlx.records.run_directory import Predictions
from tlx.tasks import parted
from tlx.tasks.classes import format_names
from tlx.tasks.writing import writes
from tlx.training.evaluate import passes, scored
from tlx.training.prepare import Prepared, open_data, prepare
from tlx.training.results import save_model, write_tables
from tlx.training.writing import written
from tlx.trees import Json, flatten, nest
from tlx.types import ArrayMap, Variables
from tlx.weights import Pretrained, check_trained, load_pretrained
from tlx.weights.files import read_file
from tlx.weights.form import STATS

Batches = list[ArrayMap]


class Reopened(NamedTuple):
    """A finished run. `before` are the initial variables, in the paths of the final ones, which are
    `pretrained.variables`; `ready` is its prepared recipe, `splits` its data, `result` its measurements."""

    folder: Path
    ready: Prepared
    splits: Splits
    before: Variables
    pretrained: Pretrained
    result: Json

    @property
    def after(self) -> Variables:
        """Return the final variables."""
        return self.pretrained.variables

    @property
    def new(self) -> tuple[str, ...]:
        """Return the paths, among those compared, whose initial values were drawn at random and not loaded."""
        manifest = self.ready.manifest
        paths = flatten(self.before.params)
        if not manifest.entries:
            return tuple(paths)
        reset = {entry.path for entry in manifest.entries if entry.action == "reset"}
        declared = flatten(self.ready.model.params)
        return tuple(path for path in paths if path in reset or path not in declared)


def reopen(source: str | Path, given: Recipe | None = None) -> Reopened:
    """Open the run in the folder `source`.

    Args:
        source: The folder.
        given: The recipe of its config file, needed where `recipe.json` names the user's classes, modules or functions
            (see `recipe_of`).

    Raises:
        FileNotFoundError: There is no finished run.
        ValueError: The recipe, the data or the initial weights differ from those that the run used.
    """
    path = Path(source)
    result = run_directory.read(path)
    recipe = recipe_of(path, given)
    splits = data_of(path, recipe, result)
    ready = with_kept(prepare(recipe, splits), result)
    pretrained = load_pretrained(path, ready.task, model=recipe.model, processors=recipe.data.processors)
    check_trained(pretrained, "The model in the run's folder is damaged; run it again: tlx run CONFIG --overwrite")
    return Reopened(path, ready, splits, aligned(ready, pretrained.variables, path), pretrained, result)


def rebuild(source: str | Path, given: Recipe | None = None) -> Path:
    """Write the model and the page's tables of a study's cell, which kept only its trained parameters.

    Recipe and seed determine the rest. A run that has its model already is left unchanged.

    Args:
        source: The folder of the cell.
        given: As in `reopen`.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: The cell kept no parameters.
        ValueError: The recipe, the data or the initial weights differ from those that the cell used.
    """
    path = Path(source)
    run_directory.read(path)
    listed = digests.read(path)
    # A model that is not listed was written by an interrupted rebuild.
    if (path / "model").is_dir() and (not listed or "model/config.json" in listed):
        return path
    with run_directory.writing(path):
        ready, splits, variables = learned(path, given)
        answers = run_directory.read_predictions(path, splits.page_split)
        write_tables(path, ready, splits, answers, variables)
        save_model(path, ready, variables)
        # The list of the run's files is written when all of them are there.
        digests.write(path)
    return path


def learned(path: Path, given: Recipe | None = None) -> tuple[Prepared, Splits, Variables]:
    """Return the prepared recipe of a study's cell, its data, and its final variables, with those that a tuning or a
    term added. Raises as `rebuild`."""
    result = run_directory.read(path)
    if not holds_file(path / run_directory.LEARNED):
        raise FileNotFoundError(
            f"{path} contains neither its model nor its trained parameters, because they were too large for a cell of "
            "a study; run it again: tlx.run(recipe, out)"
        )
    recipe = recipe_of(path, given)
    splits = data_of(path, recipe, result)
    ready = with_kept(prepare(recipe, splits), result)
    run_files.check_file(path, run_directory.LEARNED)
    leaves = read_file(path / run_directory.LEARNED)
    stats = {name.removeprefix(STATS): leaf for name, leaf in leaves.items() if name.startswith(STATS)}
    params = {name: leaf for name, leaf in leaves.items() if not name.startswith(STATS)}
    if params.keys() != ready.trainable:
        raise ValueError(
            f"the trained parameters in {path} are not those that its recipe trains now; another version of tlx ran it"
        )
    pretrained = ready.variables
    return ready, splits, Variables(nest(flatten(pretrained.params) | params), nest(flatten(pretrained.stats) | stats))


def with_kept(ready: Prepared, result: Json) -> Prepared:
    """Return the prepared recipe with the fields of its task that the run has kept, such as a temperature."""
    return ready._replace(task=ready.task.of_run(result))


def data_of(path: Path, recipe: Recipe, result: Json) -> Splits:
    """Return the data of the run; raise ValueError where they differ from those that it used, or their classes have
    another order."""
    splits = open_data(recipe)
    if (classes := tuple(result.get("classes", splits.classes))) != splits.classes:
        raise ValueError(
            f"{path} ran on the classes {format_names(classes)}, but {recipe.data.target!r} now has the classes "
            f"{format_names(splits.classes)}; restore the data set of that run"
        )
    if splits.fingerprint != result["data"]:
        raise ValueError(
            f"{path} ran on data with the fingerprint {result['data']}, but {recipe.data.target!r} now has "
            f"{splits.fingerprint}; restore the data set of that run"
        )
    return splits


def recipe_of(path: Path, given: Recipe | None = None) -> Recipe:
    """Return the recipe of a run.

    Args:
        path: the run's folder.
        given: the recipe of the run's config file. The user's classes are looked up in it by `module:Class`, else by
            name, and what `recipe.json` holds as a `repr` alone (a module, a function) is taken from it. Nothing that
            `recipe.json` names is imported.

    Raises:
        ValueError: `recipe.json` names a user's class or holds a `repr`, and `given` has no such thing; the recipe is
            not what the run used; or the file has a version that this tlx cannot read.
    """
    document = run_directory.read(path, run_directory.RECIPE)
    schema, file = migrations.rule_of(document), path / run_directory.RECIPE
    files = {place: user_code.format_path(path / name) for place, name in document.get("classes", {}).items()}
    names = Classes(OWN, classes(given).users, files)
    try:
        recipe = config.load(document["recipe"], names, *(() if given is None else (given,)))
    except (ValueError, TypeError) as error:
        older = "" if schema == config.SCHEMA else f" (schema {schema}; this tlx writes {config.SCHEMA})"
        if given is not None:
            raise ValueError(f"the config does not belong to {file}{older}: {error}") from None
        advised = "--config" in str(error)
        advice = "" if advised else "; give the run's own config file (--config FILE)"
        raise ValueError(f"{file}{older}: {error}{advice}") from None
    if not isinstance(recipe, Recipe):
        raise ValueError(f"{file}: the recipe is a {type(recipe).__name__}; expected a Recipe")
    # Runs of early versions do not say which source code they used.
    recorded = "sources" in document or not config.sources(recipe)
    fingerprint = config.fingerprint(recipe, with_sources=recorded, schema=schema)
    if fingerprint != document["fingerprint"]:
        bare = config.fingerprint(recipe, with_sources=False, schema=schema)
        if recorded and bare == document.get("without_sources"):
            changed = run_directory.stale(path) or ["source code that it depends on"]
            raise ValueError(
                f"{path} is stale: {', '.join(changed)} changed since it ran; restore the code that it ran with, or "
                "run it again"
            )
        raise ValueError(
            f"the config does not belong to {path}: the config has the fingerprint {fingerprint}, and the run has "
            f"{document['fingerprint']}; give the config file that the run used"
        )
    return recipe


def aligned(ready: Prepared, after: Variables, path: Path) -> Variables:
    """Return the initial variables in the paths of `after`: leaves that a tuning added and a merge removed are left
    out.

    Raises:
        ValueError: `after` has leaves that were not there at the start, or a frozen leaf has changed: the weights that
            the recipe names then differ from those at the start of the run.
    """
    pretrained, ended = flatten(ready.variables.params), flatten(after.params)
    if unknown := sorted(ended.keys() - pretrained.keys()):
        raise ValueError(
            f"{path} ended with the parameter {unknown[0]!r}, and {len(unknown) - 1} more, which it did not have "
            "at the start"
        )
    # A merge changes the frozen leaves beside inserted ones.
    inserted = pretrained.keys() - flatten(ready.model.params).keys()
    beside = {parent for leaf in inserted for parent in parents(leaf)}
    frozen = [leaf for leaf in ended if leaf not in ready.trainable and leaf.rpartition("/")[0] not in beside]
    if changed := [leaf for leaf in frozen if not np.array_equal(pretrained[leaf], ended[leaf])]:
        source = ready.recipe.weights.source if ready.recipe.weights else "the random initial weights"
        raise ValueError(
            f"{path} did not start from {source!r}: the frozen parameter {changed[0]!r} has other values "
            f"({len(changed)} of {len(frozen)} frozen parameters differ)"
        )
    params = nest({leaf: pretrained[leaf] for leaf in ended})
    return Variables(params, ready.variables.stats)


def parents(path: str) -> list[str]:
    """Return every parent path of a path.

    >>> parents("a/b/c")
    ['a', 'a/b']
    """
    parts = path.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts))]


def batches_of(opened: Reopened, examples: Examples) -> Batches:
    """Return every example once, in batches of host arrays as the run evaluates them."""
    ready, recipe = opened.ready, opened.ready.recipe
    batches = evaluation_batches(
        examples, ready.processor, batch=recipe.train.eval_batch, buckets=recipe.data.lengths, targets=ready.targets
    )
    return list(batches)


class Meter:
    """Score any variables of one model, with one compiled program for each shape of batch."""

    def __init__(self, opened: Reopened):
        model, dtype = opened.ready.model, opened.ready.recipe.train.dtype
        self.task, self.splits, self.opened = opened.ready.task, opened.splits, opened
        self.batches: dict[str, Batches] = {}

        task = self.task

        @jax.jit
        def score(variables: Variables, batch: ArrayMap) -> Any:
            inputs, labels = parted(task, batch)
            return task.score(models.forward(model, variables, inputs, dtype=dtype)[0], labels)

        self.score = score

    def __call__(self, variables: Variables, split: str) -> Predictions:
        """Return the predictions on the split of that name, without written answers."""
        examples = getattr(self.splits, split)
        if split not in self.batches:
            self.batches[split] = batches_of(self.opened, examples)
        placed = jax.device_put(variables)
        scores = passes(self.batches[split], lambda batch: self.score(placed, batch), scored)
        indices = scores.pop("index")
        return Predictions(dict(self.task.graded(scores, Light(examples))), indices)

    def with_answers(self, variables: Variables, split: str) -> Predictions:
        """Return the predictions on the split, with the answers that the task writes."""
        outcome, ready, task = self(variables, split), self.opened.ready, self.task
        if not writes(task, ready.model, variables.params):
            return outcome
        writer = task.writer(ready.model, ready.recipe.train.dtype)
        assert writer is not None
        texts = written(task, partial(writer, jax.device_put(variables)), self.batches[split], ready.processor)
        scores = task.graded(outcome.scores | {WRITTEN: texts}, Light(getattr(self.splits, split)))
        return Predictions(dict(scores), outcome.indices)
