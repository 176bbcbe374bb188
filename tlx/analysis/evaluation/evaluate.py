"""Evaluate a run: the scores of every example, and all numbers that follow from them.

Shapes: N examples, C classes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from tlx import models
from tlx.analysis.evaluation.numbers import class_rows, metric_rows, slice_row
from tlx.analysis.evaluation.slices import Slice, slices
from tlx.analysis.evaluation.sources import EvaluatedData, other_data, own_data
from tlx.data import evaluation_batches
from tlx.data.examples import Examples, Light
from tlx.files.documents import holds_file, read_json
from tlx.files.durable import guarded, write_whole
from tlx.files.locks import writing
from tlx.functional.texts import WRITTEN
from tlx.predict.forward import Predictor
from tlx.predict.opening import OpenedModel, open_model
from tlx.processors.columns import LABEL
from tlx.records.log import write_json
from tlx.records.members import with_members
from tlx.records.run_directory import RECIPE, RESULT, Predictions, environment, read
from tlx.tasks import Task, parted
from tlx.tasks.writing import check_writing, writes
from tlx.training.evaluate import mistakes as worst_mistakes
from tlx.training.evaluate import passes, scored
from tlx.training.loop import Run
from tlx.training.writing import written
from tlx.trees import Json, finite
from tlx.types import ArrayMap, Variables

if TYPE_CHECKING:
    from tlx.recipe import Recipe

DOCUMENT, SCORES, PAGE = "evaluation.json", "scores.npz", "evaluation.html"
SCHEMA = 1
BATCH = 64
# Scores that are numbers for every example, unless the model or the example is broken.
CHECKED = frozenset({"logits", "loss", "prediction"})
Say = Callable[[int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of a run on some examples.

    Attributes:
        document: All numbers as JSON values: `run`, `data`, `metrics`, `classes`, `slices`, `mistakes`, `notes`.
        predictions: The scores of every example.
        examples: The examples.
        task: The task with its classes.
    """

    document: Json
    predictions: Predictions
    examples: Examples
    task: Task

    @property
    def metrics(self) -> dict[str, float]:
        """Return the metrics by name."""
        return {row["name"]: row["value"] for row in self.document["metrics"]}

    def write(self, folder: str | Path, overwrite: bool = False) -> list[Path]:
        """Write `evaluation.json`, `scores.npz` and, where the extra `tlx[report]` is installed, `evaluation.html`.

        The same evaluation replaces an earlier one. A number that is not finite is null in the JSON file.

        Args:
            folder: The folder; it is created if needed.
            overwrite: Whether to replace another evaluation.

        Returns:
            The files.

        Raises:
            FileExistsError: The folder holds another evaluation, or other files.
        """
        from tlx import report

        path = Path(folder)
        check_folder(path, self.document, overwrite)
        stream = io.BytesIO()
        np.savez(stream, allow_pickle=False, indices=self.predictions.indices, **self.predictions.scores)
        with guarded(path, "evaluate again"), writing(path):
            write_whole(path / SCORES, [stream.getbuffer()])
            write_json(path / DOCUMENT, finite(self.document))
            if not report.available():
                return [path / DOCUMENT, path / SCORES]
            from tlx.report import evaluation

            page = evaluation.write(path / PAGE, self.document, self.predictions, self.task)
        return [path / DOCUMENT, path / SCORES, page]


def evaluate(
    run: Run | str | Path,
    data: Any = None,
    *,
    split: str | None = None,
    by: Sequence[str] = (),
    mistakes: int = 20,
    text: str | tuple[str, ...] | None = None,
    text_pair: str | None = None,
    words: str | None = None,
    image: str | None = None,
    audio: str | None = None,
    label: str | tuple[str, ...] | None = None,
    missing: str | None = None,
    recipe: Recipe | None = None,
    say: Say = lambda done, total: None,
) -> Evaluation:
    """Evaluate a run on labelled data.

        evaluate("runs/demo")                                   # its own test split
        evaluate(run, "other.csv", by=("language",)).metrics
        evaluate(run, frame, label="stars").document["slices"]

    Args:
        run: A finished run, its folder, or a saved model.
        data: A source, the name or the path of one, a data frame, or a mapping from column to values. None: the data
            of the run.
        split: The split. By default the test split, else the validation split, else all rows.
        by: Columns that divide the examples into slices; numbers are cut at their quartiles. "label" is the label.
        mistakes: The number of wrongly answered examples that are listed, those with the largest loss first.
        text, text_pair, words, image, audio, label: The columns of a table. By default those of the run, else by name.
        missing: How to treat rows without a label, "error" or "drop"; by default as the run did.
        recipe: The recipe of the run's config file, where it uses classes of the user.
        say: Called with the number of measured examples and of all examples.

    Returns:
        The evaluation. Classes are matched by name, whatever their order in the data.

    Raises:
        FileNotFoundError: There is no finished run, or no such data.
        ValueError: A column is missing, a label is no class of the run, or a row cannot be read; the message names the
            row.
    """
    if isinstance(run, Run):
        source, recipe = run.folder, recipe or run.recipe
    else:
        source = Path(run)
    parts_of_user = () if recipe is None else (recipe.model, recipe.data.processor, recipe.task)
    model = open_model(source, *parts_of_user)
    columns = {"text": text, "text_pair": text_pair, "words": words, "image": image, "audio": audio, LABEL: label}
    stated = {role: (names,) if isinstance(names, str) else tuple(names) for role, names in columns.items() if names}
    if data is None:
        if stated or missing:
            raise ValueError("columns are named for a table: name the table too, --data TABLE (data=...)")
        evaluated = own_data(model, split, recipe)
    else:
        evaluated = other_data(model, data, split, stated, missing)
    # A column that does not exist is found before anything is computed.
    parts = [part for column in by for part in slices(evaluated.examples, column)]
    predictions = scores_of(model, evaluated.examples, say)
    document = describe(model, evaluated, predictions, parts)
    document["mistakes"] = listed_mistakes(model, evaluated.examples, predictions, mistakes)
    return Evaluation(document, predictions, evaluated.examples, model.task)


def scores_of(model: OpenedModel, examples: Examples, say: Say) -> Predictions:
    """Return the scores of every example, with the batches and the precision of the run. Raises ImportError where the
    package of a metric is missing."""
    task, chain, settings = model.task, model.pretrained.model, run_settings(model)

    @jax.jit
    def score(variables: Variables, batch: ArrayMap) -> Any:
        inputs, labels = parted(task, batch)
        return task.score(models.forward(chain, variables, inputs, dtype=settings["dtype"])[0], labels)

    placed = jax.device_put(model.pretrained.variables)
    batches = evaluation_batches(
        examples, model.processor, batch=settings["batch"], buckets=model.lengths, targets=task
    )
    write = writes(task, chain, placed.params)
    check_writing(task, chain, placed.params)
    total = len(examples) * (2 if write else 1)
    scores = passes(counted(batches, total, say), lambda batch: score(placed, batch), scored)
    indices = scores.pop("index")
    for name in CHECKED & scores.keys():
        array = scores[name]
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row = int(np.isfinite(array).reshape(len(array), -1).all(1).argmin())
            raise ValueError(
                f"{examples.place(int(examples.rows[row]))}: the score {name!r} of the model is not finite; check this "
                f"row, or the weights of {model.source}"
            )
    if write:
        scores[WRITTEN] = answers_of(model, placed, examples, say)
    return Predictions(with_members(task.graded(scores, Light(examples)), examples.members), indices)


def answers_of(model: OpenedModel, variables: Variables, examples: Examples, say: Say) -> np.ndarray:
    """Return the written answers to all examples, as `functional.texts.packed` stores them."""
    task, settings = model.task, run_settings(model)
    write = task.writer(model.pretrained.model, settings["dtype"])
    assert write is not None
    batches = evaluation_batches(
        examples, model.processor, batch=settings["batch"], buckets=model.lengths, targets=task
    )
    reading = counted(batches, 2 * len(examples), say, len(examples))
    return written(task, partial(write, variables), reading, model.processor)


def run_settings(model: OpenedModel) -> Json:
    """Return the precision and the size of the evaluation batches of a run; those of other models are the defaults."""
    if not holds_file(model.source / RESULT):
        return {"dtype": "float32", "batch": BATCH}
    train = read(model.source, RECIPE)["recipe"]["train"]
    return {"dtype": train["dtype"], "batch": train["eval_batch"]}


def counted(batches: Iterable[Any], total: int, say: Say, done: int = 0) -> Iterable[Any]:
    """Yield batches, and say how many examples are done; `done` were before."""
    say(done, total)
    for batch in batches:
        yield batch
        done += int((batch["weight"] > 0).sum())
        say(done, total)


def describe(model: OpenedModel, data: EvaluatedData, predictions: Predictions, parts: Sequence[Slice]) -> Json:
    """Return the document of an evaluation, without its mistakes."""
    task, run = model.task, {"folder": str(model.source), "fingerprint": "", "metrics": {}}
    if holds_file(model.source / RESULT):
        result = read(model.source)
        run |= {name: result[name] for name in ("fingerprint", "metrics", "selection", "selected_step")}
    overall = metric_rows(predictions, task)
    labels = (data.examples.light(position)[LABEL] for position in range(len(data.examples)))
    return {
        "schema": SCHEMA,
        "run": run,
        "data": {
            "source": data.source,
            "settings": data.settings,
            "split": data.split,
            "fingerprint": data.fingerprint,
            "examples": len(predictions),
            "columns": {role: list(names) for role, names in data.examples.roles.items()},
        },
        "task": type(task).__name__,
        "primary": task.primary,
        "higher_is_better": task.higher_is_better,
        "metrics": overall,
        "classes": class_rows(predictions, task),
        "slices": [slice_row(part, predictions, task, overall[0]) for part in parts],
        "notes": [*data.notes, *task.label_notes(data.split, labels)],
        "environment": environment(),
    }


def listed_mistakes(model: OpenedModel, examples: Examples, predictions: Predictions, count: int) -> list[Json]:
    """Return the wrongly answered examples with the largest loss, worst first, each with the name of its row."""
    if not count:
        return []
    predictor = Predictor(model)

    def answers(places: Sequence[int]) -> list[Any]:
        arrays = [predictor.arrays(examples[place]) for place in places]
        return predictor.answers(arrays, lambda n: examples.place(int(examples.rows[places[n]])))

    listed = worst_mistakes(predictions, examples, model.task, answers, count)
    return [{**mistake, "place": examples.place(mistake["index"])} for mistake in listed]


def check_folder(path: Path, document: Json, overwrite: bool) -> None:
    """Raise FileExistsError where a folder holds another evaluation, or files and no evaluation."""
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file; choose another folder with --out")
    if not (path / DOCUMENT).is_file():
        if path.is_dir() and any(file.name != ".lock" for file in path.iterdir()):
            raise FileExistsError(f"{path} is not empty and contains no evaluation; choose another folder with --out")
        return
    earlier = read_json(path / DOCUMENT, finite=False)
    prints = [
        [parts[name]["fingerprint"] if isinstance(parts.get(name), dict) else "" for name in ("run", "data")]
        for parts in (earlier, document)
    ]
    same = prints[0] == prints[1]
    if not same and not overwrite:
        raise FileExistsError(
            f"{path} contains the evaluation of another run or of other data; pass --overwrite to replace it, or "
            "choose another folder with --out"
        )
