"""Write the answers of a split token by token, for the metrics that compare texts (see `tasks.writing.WritingTask`).

Each batch has the shape that scoring it has, so a program is compiled once for each of these shapes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from tlx import processes
from tlx.data import Examples, evaluation_batches
from tlx.functional.scores import Scores
from tlx.functional.selection import metric_of
from tlx.functional.texts import WRITTEN, packed
from tlx.tasks import Task
from tlx.tasks.writing import needing_texts, writes
from tlx.training.prepare import Prepared
from tlx.training.state import TrainState
from tlx.training.vectorize import Engine
from tlx.types import ArrayMap, Variables

# Called with the number of examples of a batch when they are done.
Advance = Callable[[int], None]
# The entries of a batch that are no arrays of the examples.
PLACES = ("index", "position", "weight")


def is_written(ready: Prepared, scores: Scores) -> bool:
    """Return whether scores have the answers, or the run writes none."""
    return WRITTEN in scores or not writes(ready.task, ready.model, ready.variables.params)


def writes_now(ready: Prepared, judged: bool) -> bool:
    """Return whether a validation during training writes answers: a metric that needs them chooses the checkpoint, or
    the run is `judged`, because a judge may read every metric."""
    needing = needing_texts(ready.task)
    return bool(needing) and (judged or metric_of(ready.recipe.train.select) in needing)


def rounds(ready: Prepared, runs: int) -> int:
    """Return how often an evaluation that writes reads each example: to score it for all runs, and to write the answer
    of each run."""
    return 1 + runs * writes(ready.task, ready.model, ready.variables.params)


def followed(task: Task, named: str, scores: Scores) -> list[str]:
    """Return the metrics that are measured at a validation: the main ones, the primary one, and the one that the
    selection rule has `named`; those that need texts only where the scores have them."""
    always, unwritten = (task.primary, named), () if WRITTEN in scores else needing_texts(task)
    return [name for name, metric in task.measures.items() if (metric.main or name in always) and name not in unwritten]


def answers_of_runs(
    engine: Engine, state: TrainState, examples: Examples, ready: Prepared, advance: Advance
) -> list[np.ndarray]:
    """Return for each run the answers to all examples, as `functional.texts.packed` stores them.

    Every process of several reads all examples; their devices share each batch.

    Args:
        engine: The engine of the runs.
        state: Their state on the devices.
        examples: The split.
        ready: The prepared recipe of the first run.
        advance: See `Advance`.
    """
    recipe, task = ready.recipe, ready.task
    write = task.writer(ready.model, recipe.train.dtype)
    assert write is not None
    texts = []
    for n in range(engine.runs):
        batches = evaluation_batches(
            examples, ready.processor, batch=recipe.train.eval_batch, buckets=recipe.data.lengths, targets=ready.targets
        )
        variables = plain(ready, engine.fetch(state, n).variables)
        texts.append(written(task, partial(write, variables), read_together(batches), ready.processor, advance))
    return texts


def plain(ready: Prepared, variables: Variables) -> Variables:
    """Return the variables as a model of the architecture alone reads them: parameters in float32, and merged where the
    step merges them."""
    params, tuning = variables.params, ready.recipe.tuning
    if not ready.precision.is_plain:
        params = jax.jit(ready.precision.all_seen)(params)
    return variables._replace(params=jax.jit(tuning.merge)(params) if tuning.merged_in_step else params)


def read_together(batches: Iterator[ArrayMap]) -> Iterator[ArrayMap]:
    """Yield batches that every process reads; an error in one process is raised in all of them."""
    while (batch := processes.together(lambda: next(batches, None))) is not None:
        yield batch


def written(
    task: Task,
    write: Callable[[ArrayMap], Mapping[str, Any]],
    batches: Iterable[ArrayMap],
    processor: Any,
    advance: Advance = lambda count: None,
) -> np.ndarray:
    """Return the answers to the examples of all batches in the order of the examples, as `functional.texts.packed`
    stores them.

    Args:
        task: The task.
        write: Returns the outputs of the task's `writer` for the inputs and the label arrays of a batch.
        batches: Batches of host arrays.
        processor: The processor, which has the words.
        advance: See `Advance`.
    """
    texts: list[tuple[int, str]] = []
    for batch in batches:
        inputs = {name: array for name, array in batch.items() if name not in PLACES}
        rows = zip(batch["position"].tolist(), batch["weight"] > 0, task.answers(write(inputs), inputs), strict=True)
        texts += [(place, task.worded(answer, {}, processor)[0]) for place, is_real, answer in rows if is_real]
        advance(int((batch["weight"] > 0).sum()))
    return packed([text for _, text in sorted(texts)])
