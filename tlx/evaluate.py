"""A model on a split: logits of every example, and what is measured on them."""

from typing import Any, NamedTuple

import numpy as np

from tlx.data import Examples, evaluation_batches
from tlx.recipe import Recipe
from tlx.step import Compiled
from tlx.tasks import Task

HOST_KEYS = ("label", "index", "position", "weight")


class Outcome(NamedTuple):
    """`logits` [N, C], `labels` [N] and `indices` [N] (places in the whole split), in the order of the split."""

    logits: np.ndarray
    labels: np.ndarray
    indices: np.ndarray

    def metrics(self, task: Task) -> dict[str, float]:
        return task.summarise(task.measure(self.logits, self.labels))


def evaluate(compiled: Compiled, state: Any, examples: Examples, processor: Any, recipe: Recipe) -> Outcome:
    """Every example of a split once, under the variables in `state`."""
    parts: list[tuple[np.ndarray, ...]] = []
    batches = evaluation_batches(examples, processor, batch=recipe.train.eval_batch, buckets=recipe.data.lengths)
    for batch in batches:
        given = {name: array for name, array in batch.items() if name not in HOST_KEYS}
        real = batch["weight"] > 0
        logits = np.asarray(compiled.evaluate(state, compiled.put(given)))
        parts.append(tuple(array[real] for array in (logits, batch["label"], batch["index"], batch["position"])))
    *found, position = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.argsort(position)
    return Outcome(*(array[order] for array in found))


def mistakes(outcome: Outcome, examples: Examples, task: Task, count: int = 20) -> list[dict[str, Any]]:
    """The examples with the largest loss that the model got wrong, worst first: what a page shows of a run."""
    loss = task.losses(outcome.logits, outcome.labels)
    wrong = np.ones(len(loss), bool)
    if task.names:
        wrong = outcome.logits.argmax(-1) != outcome.labels
    worst = [int(n) for n in np.argsort(-loss) if wrong[n]][:count]
    told = task.decode(outcome.logits[worst]) if worst else []
    return [shown(examples[n], task, answer, float(loss[n])) for n, answer in zip(worst, told, strict=True)]


def shown(example: dict[str, Any], task: Task, answer: dict[str, float], loss: float) -> dict[str, Any]:
    """One example as JSON values, an image as a PNG data URI."""
    label = example["label"]
    told = {
        "index": example["index"],
        "label": task.names[label] if task.names else label,
        "answer": answer,
        "loss": loss,
    }
    for name in ("text", "text_pair"):
        if name in example:
            told[name] = example[name]
    if "image" in example:
        told["image"] = png(example["image"])
    return told


def png(pixels: np.ndarray) -> str:
    """uint8 [H, W, C] as a data URI."""
    import base64
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
