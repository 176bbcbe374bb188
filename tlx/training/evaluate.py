"""Evaluate a model on a split: the scores of every example, the features that its head reads, and its worst
mistakes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tlx import models, sharding
from tlx.data import Examples, evaluation_batches, inputs_of
from tlx.data.examples import Light
from tlx.data.pipeline import TRUTH
from tlx.functional.selection import OutputRows, Outputs
from tlx.functional.texts import WRITTEN
from tlx.processors.previews import data_uri
from tlx.processors.sounds import draw_sound
from tlx.records.members import with_members
from tlx.records.run_directory import Predictions
from tlx.tasks import Task, parted
from tlx.training.prepare import Prepared
from tlx.training.reading_together import ReadTogether
from tlx.training.shares import shared
from tlx.training.state import TrainState
from tlx.training.step import FINITE
from tlx.training.vectorize import Engine
from tlx.training.writing import Advance, answers_of_runs, writes
from tlx.types import ArrayMap, Variables

Read = Callable[[ArrayMap], dict[str, Any]]


def uncounted(examples: int) -> None:
    """Count nothing."""


def evaluate(
    engine: Engine,
    state: TrainState,
    examples: Examples,
    readers: Sequence[Any],
    ready: Prepared,
    advance: Advance = uncounted,
    write: bool = False,
) -> list[Predictions]:
    """Score every example of a split once, under the variables of each run in `state`.

    Args:
        engine: The engine of the runs.
        state: Their state on the devices.
        examples: The split.
        readers: One reader for all runs (a processor or the table of a feature cache), or a table for each run.
        ready: The prepared recipe of the first run.
        advance: See `Advance`; where answers are written, it counts each example again for each run.
        write: Whether to write answers too, where the task compares texts (see `training.writing`).

    Returns:
        The predictions of each run.
    """
    scores = measured(engine, state, examples, readers, ready, scored, advance)
    indices, finite = scores.pop("index"), scores.pop(FINITE, None)
    by_run = [{name: array[:, n] for name, array in scores.items()} for n in range(engine.runs)]
    if write and writes(ready.task, ready.model, ready.variables.params):
        for of_run, texts in zip(by_run, answers_of_runs(engine, state, examples, ready, advance), strict=True):
            of_run[WRITTEN] = texts
    return [
        Predictions(
            with_members(ready.task.graded(of_run, Light(examples)), examples.members),
            indices,
            finite is None or bool(finite[:, n].all()),
        )
        for n, of_run in enumerate(by_run)
    ]


def look(
    engine: Engine,
    state: TrainState,
    examples: Mapping[str, Examples],
    readers: Mapping[str, Sequence[Any]],
    ready: Prepared,
    advance: Advance = uncounted,
) -> list[Outputs]:
    """Return the logits, features and labels that the recipe's criteria read, by name, under the variables of each run;
    `readers` and `advance` as in `evaluate`."""
    inputs = partial(inputs_of, targets=ready.targets)
    outputs = {
        name: measured(engine, state, split, readers[name], ready, inputs, advance) for name, split in examples.items()
    }

    def rows(name: str, n: int) -> OutputRows:
        arrays = outputs[name]
        features = arrays["features"][:, n] if "features" in arrays else None
        return OutputRows(
            arrays["logits"][:, n], features, examples[name].labels() if examples[name].labelled else None
        )

    return [Outputs({name: rows(name, n) for name in outputs}) for n in range(engine.runs)]


def measured(
    engine: Engine,
    state: TrainState,
    examples: Examples,
    readers: Sequence[Any],
    ready: Prepared,
    read: Read,
    advance: Advance,
) -> dict[str, np.ndarray]:
    """Return the engine's outputs for every example, arrays [N, A, ...] by name (N examples, A runs), with `index` [N],
    in the order of the examples. `read` takes the engine's inputs from a batch."""
    recipe = ready.recipe
    reading = [
        evaluation_batches(
            examples, reader, batch=recipe.train.eval_batch, buckets=recipe.data.lengths, targets=ready.targets,
            **shared(engine.mesh, recipe.train.eval_batch),
        )
        for reader in readers
    ]  # fmt: skip
    batches = reading[0] if len(reading) == 1 else (beside(several, read) for several in zip(*reading, strict=True))

    def compute(inputs: ArrayMap) -> Any:
        # Runs lie along the second axis, because examples are joined along the first.
        return jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), engine.evaluate(state, engine.put_whole(inputs)))

    if jax.process_count() == 1:
        return passes(batches, compute, read, advance)
    together = ReadTogether(batches, partial(sharding.gather_rows, engine.mesh))
    return passes(together, compute, read, advance, together.whole)


def beside(batches: Sequence[ArrayMap], read: Read) -> dict[str, Any]:
    """Return one batch of the same examples as read for several runs: the engine's inputs as [A, B, ...], and the other
    entries of the batch."""
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *map(read, batches))
    return {**batches[0], **stacked}


def scored(batch: ArrayMap) -> dict[str, Any]:
    """Return the entries of a batch that a task scores: the inputs of the model and the label arrays."""
    return {name: array for name, array in batch.items() if name not in ("index", "position", "weight")}


def passes(
    batches: Iterable[ArrayMap],
    compute: Callable[[ArrayMap], ArrayMap],
    read: Read = inputs_of,
    advance: Advance = uncounted,
    whole: Callable[[dict[str, Any]], dict[str, Any]] = lambda rows: rows,
) -> dict[str, np.ndarray]:
    """Return the outputs of `compute` for all batches, joined in the order of the examples.

    Args:
        batches: Batches of host arrays.
        compute: A function of the inputs of a batch; it returns arrays [B, ...] by name.
        read: Takes the inputs of `compute` from a batch.
        advance: See `Advance`.
        whole: Returns the rows of the whole batch where this process reads a part of them.

    Returns:
        ArrayMap [N, ...] by name, with `index` [N] and, unless `read` passes them to `compute`, the labels.
    """
    parts: list[dict[str, np.ndarray]] = []
    for batch in batches:
        inputs = read(batch)
        names = (*TRUTH, "position", "weight")
        labels = whole({name: batch[name] for name in names if name in batch and name not in inputs})
        is_real = labels.pop("weight") > 0
        parts.append({name: stored(array)[is_real] for name, array in (labels | dict(compute(inputs))).items()})
        advance(int(is_real.sum()))
    order = np.argsort(np.concatenate([part.pop("position") for part in parts]))
    return {name: joined([part[name] for part in parts])[order] for name in parts[0]}


def stored(array: Any) -> np.ndarray:
    """An array on the host, of a type that files can hold: float32 in the place of bfloat16."""
    array = np.asarray(array)
    return array if array.dtype.kind in "biuf" else array.astype(np.float32)


def joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Join arrays of examples along the first axis; texts of several lengths are padded with zeros."""
    shapes = {array.shape[1:] for array in arrays}
    if len(shapes) > 1:
        longest = [max(sizes) for sizes in zip(*shapes, strict=True)]
        arrays = [
            np.pad(
                array, [(0, 0), *((0, length - size) for length, size in zip(longest, array.shape[1:], strict=True))]
            )
            for array in arrays
        ]
    return np.concatenate(arrays)


def feature_reader(ready: Prepared) -> Callable[[Variables, Examples], dict[str, np.ndarray]]:
    """Return a function that computes the features of every example under some variables of the model.

    It returns `features` [N, W] in float32 (the input of the head) with `index` and, where the examples have one,
    `label`; it compiles once for each shape of batch, and raises ValueError for features that are not finite.
    """
    recipe = ready.recipe

    @jax.jit
    def read(variables: Variables, inputs: ArrayMap) -> Any:
        taps, _ = models.forward(ready.model, variables, inputs, dtype=recipe.train.dtype)
        return models.features(taps).astype(jnp.float32)

    def rows(variables: Variables, examples: Examples) -> dict[str, np.ndarray]:
        placed = jax.device_put(variables)
        batches = evaluation_batches(
            examples, ready.processor, batch=recipe.train.eval_batch, buckets=recipe.data.lengths
        )
        arrays = passes(batches, lambda inputs: {"features": read(placed, inputs)})
        bad = ~np.isfinite(arrays["features"]).all(1)
        if bad.any():
            raise ValueError(
                f"the features of {int(bad.sum())} of {len(bad)} examples of {examples.name!r} {examples.split} are "
                f"not finite; the first of them is example {arrays['index'][bad.argmax()]}; check the weights of the "
                "model and this example"
            )
        return arrays

    return rows


def mistakes(
    predictions: Predictions,
    examples: Examples,
    task: Task,
    answers: Callable[[Sequence[int]], list[Any]],
    count: int = 20,
) -> list[dict[str, Any]]:
    """Return the wrongly answered examples with the largest loss, worst first, for the page of a run.

    `answers(places)` returns the model's answers to the examples at these places; it is called where the scores hold no
    logits. A task whose scores have no `loss` has no mistakes to show.
    """
    scores = predictions.scores
    if "loss" not in scores:
        return []
    correct = scores.get("correct")
    places = [int(n) for n in np.argsort(-scores["loss"]) if correct is None or not correct[n]][:count]
    if not places:
        return []
    rows = [examples[n] for n in places]
    outputs = task.stored_answers({name: array[places] for name, array in scores.items()}, rows)
    if outputs is None:
        outputs = task.answers({"logits": scores["logits"][places]}, {}) if "logits" in scores else answers(places)
    losses = scores["loss"][places].tolist()
    listed = zip(rows, outputs, losses, strict=True)
    return [describe_example(example, task, answer, loss) for example, answer, loss in listed]


def answering(ready: Prepared, variables: Variables, examples: Examples) -> Callable[[Sequence[int]], list[Any]]:
    """Return a function that computes the task's answers to some examples under these variables of the model."""
    recipe = ready.recipe

    @jax.jit
    def outputs(variables: Variables, inputs: ArrayMap) -> ArrayMap:
        taps, _ = models.forward(ready.model, variables, inputs, dtype=recipe.train.dtype)
        return ready.task.answered(taps)

    def compute(batch: ArrayMap) -> ArrayMap:
        inputs, labels = parted(ready.task, batch)
        # The inputs are kept too: a task may need the mask of the tokens.
        return {**labels, **inputs, **outputs(variables, inputs)}

    def answers(places: Sequence[int]) -> list[Any]:
        batches = evaluation_batches(
            examples.view(np.asarray(places)), ready.processor, batch=recipe.train.eval_batch,
            buckets=recipe.data.lengths, targets=ready.targets,
        )  # fmt: skip
        arrays = passes(batches, compute, scored)
        return [ready.task.worded(answer, {}, ready.processor) for answer in ready.task.answers(arrays, arrays)]

    return answers


def describe_example(example: dict[str, Any], task: Task, answer: Any, loss: float) -> dict[str, Any]:
    """Return one example as JSON values, an image as a PNG data URI."""
    label, words = task.shown(example, answer)
    entry = {"index": example["index"], "label": label, "answer": words, "loss": loss}
    for name in ("text", "text_pair"):
        if name in example:
            entry[name] = example[name]
    if "words" in example:
        entry["text"] = " ".join(example["words"])
    if "image" in example:
        entry["image"] = data_uri(example["image"])
    if "audio" in example:
        entry["image"] = data_uri(draw_sound(example["audio"]))
    return entry
