"""Compute the answers of a model: processed rows, batches of similar length, one compiled program for each shape.

Shapes: B batch, T tokens.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from tlx import models
from tlx.data.collate import collate
from tlx.data.readers import limits
from tlx.predict.opening import OpenedModel
from tlx.processors.base import length_of
from tlx.tasks.token_classification import CUT
from tlx.trees import Example, Json
from tlx.types import Arrays, Field, Variables

# A batch has the smallest of these sizes that holds its rows, so that one text does not cost as much as many.
SIZES = (1, 8)
BATCH = 64
# The taps that a task may read.
TAPS = ("logits", "hidden", "pooled")
WORD_IDS = {"word_ids": Field((None,), "int32", -1)}


class Predictor:
    """A model that answers examples.

    Args:
        model: The opened model.
        batch: The largest number of rows of a batch.
    """

    def __init__(self, model: OpenedModel, batch: int = BATCH):
        self.model, self.batch = model, batch
        self.processor, self.task = model.processor, model.task
        # The number of rows of which a part was cut off.
        self.cut = 0
        self.variables = jax.device_put(model.pretrained.variables)
        chain = model.pretrained.model

        def taps(variables: Variables, inputs: Arrays) -> dict[str, Any]:
            outputs = models.forward(chain, variables, inputs)[0]
            return {name: array for name, array in outputs.items() if name in TAPS}

        self.forward = jax.jit(taps)

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
        if self.processor.ragged and length_of(arrays, self.processor.fields) == self.processor.longest:
            self.cut += self.processor.cuts(example)
        return arrays

    def answers(self, rows: Sequence[Arrays | None], place: Callable[[int], str]) -> list[Any]:
        """Return the task's answer to each row.

        Args:
            rows: The arrays of each row; None for a row without an answer.
            place: Returns the name of a row for a message, from its position in `rows`.

        Raises:
            ValueError: An output of the model is not finite.
        """
        answers: list[Any] = [None] * len(rows)
        waiting = None
        for positions in self._batches(rows):
            inputs = self._collated([rows[n] for n in positions])
            outputs = self.forward(self.variables, {name: inputs[name] for name in self.processor.fields})
            # The next batch is on its way before this one is read.
            if waiting is not None:
                self._settle(*waiting, answers, place)
            waiting = positions, inputs, outputs
        if waiting is not None:
            self._settle(*waiting, answers, place)
        for n, row in enumerate(rows):
            if row is not None and "words" in row:
                # Words after the last token that the model reads.
                answers[n] += [CUT] * (row["words"] - len(answers[n]))
        return answers

    def values(self, answer: Any) -> Json:
        """Return an answer as the named values of a table (see `Task.answer_values`); several numbers have the names of
        the columns of the label."""
        values, label = self.task.answer_values(answer), self.model.inputs.label
        numbers = values["prediction"]
        if isinstance(numbers, Mapping) and len(numbers) == len(label):
            values["prediction"] = dict(zip(label, numbers.values(), strict=True))
        return values

    def notes(self) -> list[str]:
        """Return notes on the rows so far, and on the processor."""
        notes = list(self.processor.notes())
        if self.cut:
            texts = "1 text is" if self.cut == 1 else f"{self.cut:,} texts are"
            longest = self.processor.longest
            notes.insert(0, f"{texts} longer than {longest} tokens, the limit of the model; the rest is cut off")
        return notes

    def _batches(self, rows: Sequence[Arrays | None]) -> Iterator[list[int]]:
        """Yield the positions of each batch, from short rows to long ones."""
        lengths = {n: length_of(row, self.processor.fields) for n, row in enumerate(rows) if row is not None}
        order = sorted(lengths, key=lambda n: (lengths[n], n))
        for start in range(0, len(order), self.batch):
            yield order[start : start + self.batch]

    def _collated(self, rows: Sequence[Any]) -> dict[str, np.ndarray]:
        """Return the arrays of a batch; copies of its last row fill it up to one of the usual sizes."""
        size = next((size for size in SIZES if len(rows) <= size <= self.batch), self.batch)
        fields = {**self.processor.fields, **(WORD_IDS if "word_ids" in rows[0] else {})}
        lengths = limits(self.model.lengths, self.processor.longest) if self.model.lengths else ()
        return collate([*rows, *[rows[-1]] * (size - len(rows))], fields, lengths)

    def _settle(
        self, positions: Sequence[int], inputs: Arrays, outputs: Any, answers: list[Any], place: Callable[[int], str]
    ) -> None:
        """Write the answers of one batch into `answers`."""
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
        for position, answer in zip(positions, self.task.answers(arrays, inputs), strict=False):
            answers[position] = answer
