"""Compute the answers of a model: processed rows, batches of similar length, one compiled program for each shape.

Shapes: B batch, T tokens.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Self

import jax
import numpy as np

from tlx import models
from tlx.data.collate import collate
from tlx.data.readers import limits
from tlx.predict.opening import OpenedModel
from tlx.processors.base import length_of
from tlx.tasks import Task
from tlx.tasks.token_classification import CUT
from tlx.trees import Example, Json
from tlx.types import ArrayMap, Field, Model, Variables

# A batch has the smallest of these sizes that holds its rows, so that one text does not cost as much as many.
SIZES = (1, 8)
BATCH = 64
WORD_IDS = {"word_ids": Field((None,), "int32", -1)}


class Predictor:
    """A model that answers examples.

    Args:
        model: The opened model.
        batch: The largest number of rows of a batch.
        sizes: Further sizes of a batch. A batch has the smallest size that holds its rows; () gives every batch `batch`
            rows, so that the number of rows changes no bit of the output for a row (with jax before 0.12; later
            versions round a row by its place in the batch). Texts are padded to the length of their batch, so its
            longest text may change the last bits of the others.

    Raises:
        ValueError: `batch` is not a whole number of 1 or more.
    """

    def __init__(self, model: OpenedModel, batch: int = BATCH, sizes: tuple[int, ...] = SIZES):
        self.model, self.batch, self.sizes = model, checked_batch(batch), sizes
        self.processor, self.task = model.processor, model.task
        # The number of rows of which a part was cut off.
        self.cut = 0
        self.variables = jax.device_put(model.pretrained.variables)
        self.forward = self.task.writer(model.pretrained.model) or program(model.pretrained.model, self.task)

    def again(self, batch: int = BATCH) -> Self:
        """Return a predictor with the same model and the same compiled program, for other rows."""
        predictor = copy.copy(self)
        predictor.batch, predictor.cut = checked_batch(batch), 0
        return predictor

    @property
    def chunk(self) -> int:
        """Return how many rows are prepared together: enough to sort texts by length, few enough for large images."""
        most = 2**26 // max(1, self.processor.row_bytes)
        return max(1, min(16, most // self.batch)) * self.batch

    def arrays(self, example: Example) -> dict[str, Any]:
        """Return the inputs of the model for one example. A list of words has the number of its words under `words`."""
        arrays: dict[str, Any] = dict(self.processor(example))
        if "words" in example and "words" in self.processor.reads:
            arrays["word_ids"] = np.asarray(self.processor.word_ids(example), np.int32)
            arrays["words"] = len(example["words"])
        arrays |= self.task.beside(example, self.processor)
        if self.processor.ragged and length_of(arrays, self.processor.fields) == self.processor.longest:
            self.cut += self.processor.cuts(example)
        return arrays

    def answers(self, rows: Sequence[ArrayMap | None], place: Callable[[int], str]) -> list[Any]:
        """Return the task's answer to each row.

        Args:
            rows: The arrays of each row; None for a row without an answer.
            place: Returns the name of a row for a message, from its position in `rows`.

        Raises:
            ValueError: An output of the model is not finite.
        """
        answers: list[Any] = [None] * len(rows)
        for positions, inputs, outputs in self._computed(rows, place):
            for position, answer in zip(positions, self.task.answers(outputs, inputs), strict=False):
                row = rows[position]
                assert row is not None
                answers[position] = self._named(self.task.worded(answer, row, self.processor))
        for n, row in enumerate(rows):
            if row is not None and "words" in row:
                # Words after the last token that the model reads.
                answers[n] += [CUT] * (row["words"] - len(answers[n]))
        return answers

    def logits(self, examples: Sequence[Example]) -> np.ndarray:
        """Return the logits of examples in their order, float32[N, C].

        Raises:
            ValueError: An output of the model is not finite.
        """
        parts = [np.zeros((0, self.task.outputs or 0), np.float32)]
        for start in range(0, len(examples), self.chunk):
            rows = [self.arrays(example) for example in examples[start : start + self.chunk]]
            logits: list[Any] = [None] * len(rows)
            for positions, _, outputs in self._computed(rows, lambda n, start=start: f"row {start + n}"):  # type: ignore[misc]
                for position, output in zip(positions, outputs["logits"], strict=False):
                    logits[position] = output
            parts.append(np.stack(logits))
        return np.concatenate(parts)

    def values(self, answer: Any) -> Json:
        """Return an answer as the named values of a table (see `Task.answer_values`)."""
        return self.task.answer_values(answer)

    def notes(self) -> list[str]:
        """Return notes on the rows so far, and on the processor."""
        notes = list(self.processor.notes())
        if self.cut:
            texts = "1 text is" if self.cut == 1 else f"{self.cut:,} texts are"
            longest = self.processor.longest
            notes.insert(0, f"{texts} longer than {longest} tokens, the limit of the model; the rest is cut off")
        return notes

    def _named(self, answer: Any) -> Any:
        """Return an answer; several numbers have the names of the columns of the label."""
        label = self.model.inputs.label
        if self.task.names or not isinstance(answer, Mapping) or not 1 < len(label) == len(answer):
            return answer
        return dict(zip(label, answer.values(), strict=True))

    def _computed(
        self, rows: Sequence[ArrayMap | None], place: Callable[[int], str]
    ) -> Iterator[tuple[list[int], ArrayMap, ArrayMap]]:
        """Yield for each batch the positions of its rows, its inputs and its outputs. Copies of the last row may
        follow."""
        waiting = None
        for positions in self._batches(rows):
            inputs = self._collated([rows[n] for n in positions])
            outputs = self.forward(self.variables, {name: inputs[name] for name in self.processor.fields})
            # The next batch is on its way before this one is read.
            if waiting is not None:
                yield self._read(*waiting, place)
            waiting = positions, inputs, outputs
        if waiting is not None:
            yield self._read(*waiting, place)

    def _batches(self, rows: Sequence[ArrayMap | None]) -> Iterator[list[int]]:
        """Yield the positions of each batch, from short rows to long ones."""
        lengths = {n: length_of(row, self.processor.fields) for n, row in enumerate(rows) if row is not None}
        order = sorted(lengths, key=lambda n: (lengths[n], n))
        for start in range(0, len(order), self.batch):
            yield order[start : start + self.batch]

    def _collated(self, rows: Sequence[Any]) -> dict[str, np.ndarray]:
        """Return the arrays of a batch; copies of its last row fill it up to one of the usual sizes."""
        size = next((size for size in self.sizes if len(rows) <= size <= self.batch), self.batch)
        fields = {**self.processor.fields, **(WORD_IDS if "word_ids" in rows[0] else {}), **self.task.beside_fields()}
        lengths = limits(self.model.lengths, self.processor) if self.model.lengths else ()
        return collate([*rows, *[rows[-1]] * (size - len(rows))], fields, lengths)

    def _read(
        self, positions: list[int], inputs: ArrayMap, outputs: Any, place: Callable[[int], str]
    ) -> tuple[list[int], ArrayMap, ArrayMap]:
        """Return a batch with its outputs on the host. Raises ValueError for logits that are not finite."""
        arrays = jax.device_get(outputs)
        if "logits" in arrays:
            logits = np.asarray(arrays["logits"], np.float32)[: len(positions)]
            finite = np.isfinite(logits).reshape(len(positions), -1).all(1)
            if not finite.all():
                row = int(np.argmin(finite))
                value = logits[row][~np.isfinite(logits[row])].flat[0]
                raise ValueError(
                    f"{place(positions[row])}: the model answers {value}, which is no probability and no number; "
                    f"expected finite outputs: check this row, or the weights of {self.model.source}"
                )
        return positions, inputs, arrays


def checked_batch(batch: int) -> int:
    """Return the number of rows of a batch. Raises ValueError where it is no whole number of 1 or more."""
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise ValueError(f"batch is {batch!r}; expected a whole number of rows, 1 or more")
    return batch


def program(model: Model, task: Task) -> Callable[[Variables, ArrayMap], Any]:
    """Return the compiled forward pass of a model, with the outputs that the answers of a task need. Models with the
    same architecture, the same head and a task of the same kind share it."""
    key: tuple[Any, ...] = (model.config, model.head, type(task))
    try:
        hash(key)
    except TypeError:
        # A module of the user may have no hash.
        return compiled.__wrapped__(*key)
    return compiled(*key)


@lru_cache(maxsize=8)
def compiled(
    config: models.Architecture, head: models.Head | None, task: type[Task]
) -> Callable[[Variables, ArrayMap], Any]:
    """Return the compiled forward pass of an architecture with a head, for the answers of a kind of task."""
    chain = models.build(config, head)
    return jax.jit(lambda variables, inputs: task.answered(models.forward(chain, variables, inputs)[0]))
