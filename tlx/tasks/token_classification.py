"""Token classification: one class for each word of a text. Shapes: B batch, T tokens, C classes."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import jax.numpy as jnp
import numpy as np

from tlx.functional.agreement import token_accuracy, token_loss
from tlx.functional.losses import IGNORED, token_losses
from tlx.functional.metrics import STANDARD, Metric
from tlx.models.heads import PerToken
from tlx.tasks.base import Batch, ClassTable, Outputs, Statement, Task, check_names
from tlx.tasks.classes import format_names
from tlx.tasks.extra import ExtraMetric, check_extra
from tlx.tasks.tagging import Tagging, broken_note, detected, entities_of, entity_counts, tagging_of
from tlx.tasks.weighting import ClassWeights, array_of, balanced, check_weights, count_classes
from tlx.trees import Example
from tlx.types import Array, Column, Field

# The tag of a word that a model did not read because the text is too long.
CUT = "?"
# The scores of entities.
ENTITIES = ("entity_tp", "entity_fp", "entity_fn")


@dataclass(frozen=True, kw_only=True)
class TokenClassification(Task):
    """One class for each word: part-of-speech tags, named entities.

    The first token of a word has the label of the word; the other tokens do not count. Where the classes are a tagging
    scheme, such as "O", "B-PER", "I-PER", the primary metric is F1 of whole entities.

    Attributes:
        names: The class names; empty takes those of the data set.
        outside: The class that F1 leaves out, "O" in data of named entities.
        scheme: The tagging scheme: "BIO" (IOB2: each entity begins with B), "IOB1" (B only between two entities of a
            type), "BIOES" (E ends an entity, S is an entity of one word), or "" for plain tags. By default the class
            names state it; names of IOB1 with a B are taken for BIO.
        strict: Whether only entities count that follow the scheme, as in seqeval's strict mode. By default a tag that
            continues no entity begins one, as in seqeval's default mode.
        class_weights: The weight of the words of each class; "balanced" gives every class the same total weight in the
            training examples (see `Classification`).
        extra_metrics: The user's own metrics.
    """

    names: tuple[str, ...] = ()
    outside: str = "O"
    scheme: Literal["detect", "BIO", "IOB1", "BIOES", ""] = "detect"
    strict: bool = False
    class_weights: ClassWeights = ()
    extra_metrics: tuple[ExtraMetric, ...] = ()

    metrics: ClassVar[Mapping[str, Metric]] = {
        **{name: STANDARD[name] for name in ("entity_f1", "entity_precision", "entity_recall", "entity_macro_f1")},
        **{name: STANDARD[name] for name in ("micro_f1", "macro_f1")},
        "accuracy": Metric("max", 0.0, 1.0, value=token_accuracy, points=True, words="accuracy"),
        "loss": Metric("min", 0.0, value=token_loss, words="cross-entropy"),
    }
    kept: ClassVar[tuple[str, ...]] = ("outside", "scheme", "strict")
    by_class: ClassVar[bool] = True
    separator: ClassVar[str] = " "

    def __post_init__(self) -> None:
        check_names(self.names)
        check_weights(self.class_weights, len(self.names) or None)
        check_extra(self.extra_metrics, self.metrics)
        if self.strict and self.scheme == "IOB1":
            raise ValueError("strict=True needs scheme='BIO' or 'BIOES': every I may begin an entity of IOB1")
        _ = self.tagging

    @cached_property
    def tagging(self) -> Tagging | None:
        """The rules of the scheme; None for plain tags, and where the classes are not known yet."""
        scheme = detected(self.names, self.outside) if self.scheme == "detect" else self.scheme
        return tagging_of(self.names, self.outside, scheme, self.strict) if scheme and self.names else None

    def applies(self, name: str) -> bool:
        """Return whether a metric can be measured: those of entities need a tagging scheme."""
        # The classes may still turn out to be one.
        unknown = not self.names and self.scheme != ""
        return not name.startswith("entity_") or self.tagging is not None or unknown

    @property
    def primary(self) -> str:
        return "entity_f1" if self.tagging is not None or self.scheme not in ("detect", "") else "micro_f1"

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
        scheme = detected(label.classes, self.outside) if self.scheme == "detect" else self.scheme
        return replace(self, names=label.classes, scheme=scheme)

    def of_run(self, result: Mapping[str, Any]) -> Self:
        """Return the task with the fields that the result of a run keeps; runs of early versions count no entities."""
        task = self if "scheme" in result.get("task", ()) else self.of_early_run()
        return super(TokenClassification, task).of_run(result)

    def of_early_run(self, written: Collection[str] = ()) -> Self:
        """Return the task without a scheme, which early versions did not have."""
        return self if "scheme" in written else replace(self, scheme="", strict=False)

    def label_notes(self, name: str, labels: Iterable[Any]) -> list[str]:
        """Return a note on the labels that break the tagging scheme."""
        if self.tagging is None:
            return []
        note = broken_note(self.names, self.tagging, self.strict, name, labels)
        return [note] if note else []

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
        values, counted = token_losses(outputs["logits"], batch["label"])
        if not self.class_weights:
            return values.sum(-1), counted.sum(-1).astype(jnp.float32)
        weights = jnp.where(counted, array_of(self.class_weights)[jnp.where(counted, batch["label"], 0)], 0.0)
        return (weights * values).sum(-1), weights.sum(-1)

    def score(self, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """Return `loss` (a sum), `tokens`, `right` and `correct` [B]; `tp`, `fp` and `fn` [B, C] of all classes except
        `outside`; with a tagging scheme also `entity_tp`, `entity_fp` and `entity_fn` [B, K] of all types of
        entities."""
        label = batch["label"]
        values, counted = token_losses(outputs["logits"], label)
        prediction = outputs["logits"].argmax(-1)
        classes = jnp.arange(outputs["logits"].shape[-1])
        # F1 leaves the class `outside` out.
        inside = jnp.asarray([name != self.outside for name in self.names])
        true, guess = (((tags[..., None] == classes) & counted[..., None]) & inside for tags in (label, prediction))
        sums, tokens = values.sum(-1), counted.sum(-1)
        right = ((label == prediction) & counted).sum(-1)
        counts = {}
        if self.tagging is not None:
            entities = entity_counts(self.tagging, label, prediction, counted)
            counts = dict(zip(ENTITIES, entities, strict=True))
        return counts | {
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

    def class_counts(self, scores: Mapping[str, np.ndarray]) -> ClassTable | None:
        """Return the counts of each type of entity where the classes are a tagging scheme, else those of each class."""
        if self.tagging is None or not set(ENTITIES) <= scores.keys():
            return super().class_counts(scores)
        tp, fp, fn = (scores[name].astype(np.int64).sum(0) for name in ENTITIES)
        return ClassTable(tuple(name or "entity" for name in self.tagging.types), tp, fp, fn)

    def shown(self, example: Example, answer: Any) -> tuple[str | float, Any]:
        """Return the entities in the label of an example and in an answer, if the classes are a tagging scheme."""
        if self.tagging is None or "words" not in example:
            return super().shown(example, answer)
        numbers = {name: number for number, name in enumerate(self.names)}
        # A word that was cut off is outside.
        guess = [numbers.get(name, len(self.names)) for name in answer]
        return self.entity_words(example["words"], example["label"]), self.entity_words(example["words"], guess)

    def entity_words(self, words: Sequence[str], tags: Sequence[int]) -> str:
        """Return the entities that tags name in a list of words, as a page shows them."""
        assert self.tagging is not None
        entities = entities_of(self.tagging, tags)
        texts = [f"{' '.join(words[first : last + 1])} ({kind or 'entity'})" for kind, first, last in entities]
        return ", ".join(texts) or "no entity"
