"""A model on a split: what it gives of every example, and what is measured on that."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tlx import models
from tlx.data import Examples, evaluation_batches, inputs_of
from tlx.data.pipeline import TRUTH
from tlx.functional.selection import Rows, Seen
from tlx.processors.sounds import drawn
from tlx.recipe import Recipe
from tlx.tasks import Task
from tlx.training.prepare import Prepared
from tlx.training.vectorize import Engine
from tlx.types import Variables


class Outcome(NamedTuple):
    """`logits` [N, C], `labels` [N] and `indices` [N] (places in the whole split), in the order of the split."""

    logits: np.ndarray
    labels: np.ndarray
    indices: np.ndarray

    def metrics(self, task: Task) -> dict[str, float]:
        return task.summarise(task.measure(self.logits, self.labels))


def evaluate(engine: Engine, state: Any, examples: Examples, readers: Sequence[Any], recipe: Recipe) -> list[Outcome]:
    """Every example of a split once, under the variables of each arm in `state`. `readers` is one for all, a processor
    or the table of a prefix, or a table an arm."""
    found = given(engine, state, examples, readers, recipe)
    return [Outcome(found["logits"][:, n], found["label"], found["index"]) for n in range(engine.runs)]


def look(
    engine: Engine,
    state: Any,
    examples: Mapping[str, Examples],
    readers: Mapping[str, Sequence[Any]],
    recipe: Recipe,
) -> list[Seen]:
    """What the criteria of the recipe look at, by name, under the variables of each arm; `readers` as in `evaluate`."""
    found = {name: given(engine, state, own, readers[name], recipe) for name, own in examples.items()}

    def rows(name: str, n: int) -> Rows:
        own = found[name]
        return Rows(own["logits"][:, n], own["features"][:, n] if "features" in own else None, own.get("label"))

    return [Seen({name: rows(name, n) for name in found}) for n in range(engine.runs)]


def given(engine: Engine, state: Any, examples: Examples, readers: Sequence[Any], recipe: Recipe) -> Any:
    """What the engine gives of every example, arrays [N, A, ...] by name, with `index` and, where there is one,
    `label`, in the order of the examples."""
    reading = [
        evaluation_batches(examples, reader, batch=recipe.train.eval_batch, buckets=recipe.data.lengths)
        for reader in readers
    ]
    batches = reading[0] if len(reading) == 1 else map(beside, zip(*reading, strict=True))

    def compute(inputs: dict[str, Any]) -> Any:
        # Arms lie along the second axis, for what is joined are examples.
        return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), engine.evaluate(state, engine.put_whole(inputs)))

    return passes(batches, compute)


def beside(batches: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The same examples as read for several arms: inputs [A, B, ...], and what else a batch holds."""
    inputs = jax.tree.map(lambda *leaves: np.stack(leaves), *map(inputs_of, batches))
    return {**batches[0], **inputs}


def passes(batches: Iterable[Mapping[str, Any]], compute: Callable[[dict[str, Any]], Mapping[str, Any]]) -> Any:
    """What `compute` gives of the inputs of each batch, arrays [B, ...] by name, joined in the order of the examples,
    with their `index` and, where they have one, `label`."""
    parts: list[dict[str, np.ndarray]] = []
    for batch in batches:
        real = batch["weight"] > 0
        kept = {name: batch[name] for name in (*TRUTH, "position") if name in batch} | dict(compute(inputs_of(batch)))
        parts.append({name: np.asarray(array)[real] for name, array in kept.items()})
    joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.argsort(joined.pop("position"))
    return {name: array[order] for name, array in joined.items()}


def feature_reader(ready: Prepared) -> Callable[[Variables, Examples], dict[str, np.ndarray]]:
    """A function that gives what the head reads of every example under some variables of the model, `features` [N, W]
    in float32 with `index` and, where they have one, `label`; compiled once a shape of batch. It raises ValueError for
    features that are not finite."""
    recipe = ready.recipe

    @jax.jit
    def read(variables: Variables, inputs: dict[str, Any]) -> Any:
        taps, _ = models.forward(ready.model, variables, inputs, dtype=recipe.train.dtype)
        return models.features(taps).astype(jnp.float32)

    def rows(variables: Variables, examples: Examples) -> dict[str, np.ndarray]:
        placed = jax.device_put(variables)
        batches = evaluation_batches(
            examples, ready.processor, batch=recipe.train.eval_batch, buckets=recipe.data.lengths
        )
        found = passes(batches, lambda inputs: {"features": read(placed, inputs)})
        spoilt = ~np.isfinite(found["features"]).all(1)
        if spoilt.any():
            raise ValueError(
                f"the features of {int(spoilt.sum())} of {len(spoilt)} examples of {examples.name!r} {examples.split} "
                f"are not finite, the first those of example {found['index'][spoilt.argmax()]}; look at the model"
            )
        return found

    return rows


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
    if "audio" in example:
        told["image"] = png(drawn(example["audio"]))
    return told


def png(pixels: np.ndarray) -> str:
    """uint8 [H, W, C] as a data URI."""
    import base64
    import io

    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
