"""The inputs and the label arrays in a batch."""

import jax

from tlx.tasks.base import Task
from tlx.types import ArrayMap

# The key of `Task.transform` in evaluation.
EVALUATION_KEY = 0


def parted(task: Task, batch: ArrayMap) -> tuple[ArrayMap, ArrayMap]:
    """Return the inputs of the model and the label arrays of a batch, as evaluation reads them."""
    if with_labels(task, batch):
        batch = task.transform(batch, jax.random.key(EVALUATION_KEY))
    labels = {name: batch[name] for name in task.fields() if name in batch}
    return {name: array for name, array in batch.items() if name not in labels}, labels


def with_labels(task: Task, batch: ArrayMap) -> bool:
    """Return whether a batch holds all label arrays of a task."""
    return all(name in batch for name in task.fields())
