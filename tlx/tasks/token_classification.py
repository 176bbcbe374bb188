"""Token classification: one class for each word of a text. Shapes: B batch, T tokens, C classes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from tlx.functional.agreement import token_accuracy, token_loss
from tlx.functional.metrics import STANDARD, Metric
from tlx.models.heads import PerToken
from tlx.tasks.base import Batch, Outputs, Statement, Task, check_names
from tlx.tasks.classes import format_names
from tlx.tasks.extra import ExtraMetric, check_extra
from tlx.tasks.weighting import ClassWeights, array_of, balanced, check_weights, count_classes
from tlx.trees import Example
from tlx.types import Array, Column, Field

# The tag of a word that a model did not read because the text is too long.
CUT = "?"
# The label of tokens that do not count: padding, special tokens, and every piece of a word except the first.
IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class TokenClassification(Task):
    """One class for each word: part-of-speech tags, named entities.

    The first token of a word has the label of the word; the other tokens do not count.

    Attributes:
        names: The class names; empty takes those of the data set.
        outside: The class that F1 leaves out, "O" in data of named entities.
        class_weights: The weight of the words of each class; "balanced" gives every class the same total weight in the
            training examples (see `Classification`).
        extra_metrics: The user's own metrics.
    """

    names: tuple[str, ...] = ()
    outside: str = "O"
    class_weights: ClassWeights = ()
    extra_metrics: tuple[ExtraMetric, ...] = ()

    metrics: ClassVar[Mapping[str, Metric]] = {
        **{name: STANDARD[name] for name in ("micro_f1", "macro_f1")},
        "accuracy": Metric("max", 0.0, 1.0, value=token_accuracy, points=True, words="accuracy"),
        "loss": Metric("min", 0.0, value=token_loss, words="cross-entropy"),
    }
    kept: ClassVar[tuple[str, ...]] = ("outside",)
    by_class: ClassVar[bool] = True
    separator: ClassVar[str] = " "

    def __post_init__(self) -> None:
        check_names(self.names)
        check_weights(self.class_weights, len(self.names) or None)
        check_extra(self.extra_metrics, self.metrics)

    def resolve(self, columns: Mapping[str, Column]) -> Self:
        """Return the task with the classes of the data.

        Raises:
            ValueError: The data have no tags, or other class names than the task.
        """
        label = columns["label"]
        if label.kind != "tags":
            raise ValueError(f"the label is a {label.kind}; tasks.TokenClassification expects a column of tags")
        if self.names and self.names != label.classes:
            raise ValueError(
                f"the task has the classes {format_names(self.names)}, but the data have "
                f"{format_names(label.classes)}; use the same names in the same order, or remove names"
            )
        return replace(self, names=label.classes)

    def fitted(self, labels: Iterable[Any]) -> Self:
        """Return the task with balanced weights of the classes, if it asks for them."""
        if self.class_weights != "balanced":
            return self
        counts = sum((count_classes(tags, len(self.names)) for tags in labels), np.zeros(len(self.names), np.int64))
        return replace(self, class_weights=balanced(counts))

    @classmethod
    def stated(cls, statement: Statement) -> Self | None:
        return cls(names=statement.classes) if statement.head is PerToken else None

    def head(self) -> PerToken:
        if not self.names:
            raise ValueError(
                "the task does not state the names of its classes; set tasks.TokenClassification(names=...)"
            )
        return PerToken(len(self.names))

    def fields(self) -> Mapping[str, Field]:
        return {"label": Field((None,), "int32", IGNORED)}

    def targets(self, example: Example, processor: Any) -> dict[str, np.ndarray]:
        """Return `label` [T]: the class of each word at its first token, `IGNORED` at all other tokens."""
        words = np.asarray(processor.word_ids(example))
        first = (words >= 0) & (np.diff(words, prepend=-1) != 0)
        tags = np.asarray(example["label"], np.int32)
        return {"label": np.where(first, tags[np.maximum(words, 0)], IGNORED).astype(np.int32)}

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """Return the weighted sum of the cross-entropies of the words of each example [B], and the sum of the weights
        of its words [B]."""
        values, counted = self.word_losses(outputs, batch)
        if not self.class_weights:
            return values.sum(-1), counted.sum(-1).astype(jnp.float32)
        weights = jnp.where(counted, array_of(self.class_weights)[jnp.where(counted, batch["label"], 0)], 0.0)
        return (weights * values).sum(-1), weights.sum(-1)

    def word_losses(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """Return the cross-entropy of each token, 0 where it does not count, and whether it counts, both [B, T]."""
        counted = batch["label"] != IGNORED
        log_p = jax.nn.log_softmax(outputs["logits"].astype(jnp.float32), -1)
        values = -jnp.take_along_axis(log_p, jnp.where(counted, batch["label"], 0)[..., None], -1)[..., 0]
        return jnp.where(counted, values, 0.0), counted

    def score(self, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """Return `loss` (a sum), `tokens`, `right` and `correct` [B]; `tp`, `fp` and `fn` [B, C] of all classes except
        `outside`."""
        label, counted = batch["label"], batch["label"] != IGNORED
        prediction = outputs["logits"].argmax(-1)
        classes = jnp.arange(outputs["logits"].shape[-1])
        # F1 leaves the class `outside` out.
        inside = jnp.asarray([name != self.outside for name in self.names])
        true, guess = (((tags[..., None] == classes) & counted[..., None]) & inside for tags in (label, prediction))
        sums, tokens = self.word_losses(outputs, batch)[0].sum(-1), counted.sum(-1)
        right = ((label == prediction) & counted).sum(-1)
        return {
            "loss": sums,
            "tokens": tokens,
            "right": right,
            "correct": right == tokens,
            "tp": (true & guess).sum(1),
            "fp": (~true & guess).sum(1),
            "fn": (true & ~guess).sum(1),
        }

    def answers(self, outputs: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> list[Any]:
        """Return a list of class names for each example: the class of each word, that of its first token.

        A word that was cut off has the name `CUT`. Of inputs without `word_ids`: the class of every token that is not
        padding.
        """
        guesses = np.asarray(outputs["logits"]).argmax(-1)
        if "word_ids" not in inputs:
            mask = np.asarray(inputs["attention_mask"]) > 0
            return [[self.names[c] for c in row[real_tokens]] for row, real_tokens in zip(guesses, mask, strict=True)]
        answers = []
        for row, words in zip(guesses, np.asarray(inputs["word_ids"]), strict=True):
            first = (words >= 0) & (np.diff(words, prepend=-1) != 0)
            tags = [CUT] * (int(words.max(initial=-1)) + 1)
            for word, number in zip(words[first].tolist(), row[first].tolist(), strict=True):
                tags[word] = self.names[number]
            answers.append(tags)
        return answers

    def label_words(self, example: Example) -> str:
        return " ".join(self.names[n] for n in example["label"])
