"""Extractive question answering: the part of a text that answers a question. Shapes: B batch, L tokens."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar, Self

import jax
import jax.numpy as jnp
import numpy as np

from tlx.functional.answers import exact, overlap
from tlx.functional.metrics import STANDARD, Metric
from tlx.functional.scores import Scores
from tlx.functional.spans import BEGINS, CONTEXT, ENDS, FIRST, best_spans, span_losses
from tlx.models.heads import Span
from tlx.tasks.base import Batch, Outputs, Statement, Task, numbered
from tlx.tasks.extra import ExtraMetric, check_extra
from tlx.trees import Example, Json
from tlx.types import Array, Column, Field

# The arrays that say what the tokens are, and which characters of the context they stand for.
TOKENS = {name: Field((None,), "int32") for name in ("token_kinds", "first_characters", "last_characters")}
NO_ANSWER = "(no answer)"


@dataclass(frozen=True, kw_only=True)
class QuestionAnswering(Task):
    """The part of a text that answers a question, as in SQuAD: `text` is the question, `text_pair` the context.

    Attributes:
        stride: The number of tokens that neighbouring windows of a long context share. A question and its context are
            then read in windows of `Data(tokens=)` tokens. None: a longer context is an error.
        no_answer: Whether "no answer" is an answer. None: if a training example has no answer.
        threshold: The model answers "no answer" if its score is more than this above that of the best span.
        longest_answer: The largest number of tokens of an answer.
        best: The number of beginnings and of ends of a window that are combined to spans.
        window: The number of tokens of a window; None until a run states it.
        extra_metrics: The user's own metrics.
    """

    stride: int | None = None
    no_answer: bool | None = None
    threshold: float = 0.0
    longest_answer: int = 30
    best: int = 20
    window: int | None = None
    extra_metrics: tuple[ExtraMetric, ...] = ()

    metrics: ClassVar[Mapping[str, Metric]] = {
        **{name: STANDARD[name] for name in ("answer_f1", "exact_match")},
        "loss": Metric("min", 0.0, mean_of="loss", words="cross-entropy of spans"),
    }
    kept: ClassVar[tuple[str, ...]] = ("stride", "no_answer", "threshold", "longest_answer", "best", "window")

    def __post_init__(self) -> None:
        for name in ("longest_answer", "best"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; expected 1 or more")
        if self.stride is not None and self.stride < 0:
            raise ValueError(
                f"stride={self.stride}; expected 0 or more tokens that neighbouring windows share, or None"
            )
        check_extra(self.extra_metrics, self.metrics)

    def resolve(self, columns: Mapping[str, Column]) -> Self:
        """Return the task. Raises ValueError for data without answers to questions."""
        if (kind := columns["label"].kind) != "answers":
            raise ValueError(
                f"the label is a {kind}; tasks.QuestionAnswering expects a question, its context and answers as in "
                "SQuAD: text='question', text_pair='context', label='answers'"
            )
        return self

    def fitted(self, labels: Iterable[Any]) -> Self:
        """Return the task that knows whether a training example has no answer."""
        if self.no_answer is not None:
            return self
        return replace(self, no_answer=any(not answers["text"] for answers in labels))

    def at_length(self, tokens: int) -> Self:
        """Return the task with the length of its windows."""
        return self if self.stride is None else replace(self, window=tokens)

    def reader(self, processor: Any) -> Any:
        """Return the tokenizer, which divides long contexts into windows if there is a stride.

        Raises ValueError for a processor that cannot, and for a window of more tokens than the model has positions.
        """
        if not hasattr(processor, "places"):
            raise ValueError(
                f"{type(processor).__name__} defines no places(example), so tasks.QuestionAnswering cannot find the "
                "characters of a token; use a processor of texts"
            )
        if self.stride is None:
            return processor
        if self.window is not None and processor.tokens < self.window:
            raise ValueError(
                f"a window has {self.window} tokens (data.tokens), but the model has positions for "
                f"{processor.tokens}; set Data(tokens={processor.tokens})"
            )
        return replace(processor, stride=self.stride)

    @classmethod
    def stated(cls, statement: Statement) -> Self | None:
        return cls() if statement.head is Span else None

    def head(self) -> Span:
        return Span(window=self.window)

    def fields(self) -> Mapping[str, Field]:
        return {**TOKENS, "answer_marks": Field((None,), "int32")}

    def targets(self, example: Example, processor: Any) -> dict[str, np.ndarray]:
        """Return what each token is, the characters of the context that it stands for, and where the first answer
        begins and ends in each window, int32[L] each.

        Raises ValueError for a context that is too long if there is no stride.
        """
        if self.stride is None and processor.cuts(example):
            raise ValueError(
                f"the question and its context have more than {processor.tokens} tokens (data.tokens); to read long "
                f"contexts in windows, set tasks.QuestionAnswering(stride={processor.tokens // 3})"
            )
        arrays = self.beside(example, processor)
        kinds, first, last = (arrays[name] for name in TOKENS)
        marks = np.zeros_like(kinds)
        answers = example["label"]
        # The windows begin with their first tokens.
        for begin, stop in zip(places := np.flatnonzero(kinds == FIRST), [*places[1:], len(kinds)], strict=True):
            inside = np.arange(begin, stop)[kinds[begin:stop] == CONTEXT]
            target = (begin, begin)
            if answers["text"] and len(inside):
                start = answers["answer_start"][0]
                end = start + len(answers["text"][0])
                if first[inside[0]] <= start and end <= last[inside[-1]]:
                    within = inside[(last[inside] > start) & (first[inside] < end)]
                    target = (within[0], within[-1]) if len(within) else target
            marks[target[0]] |= BEGINS
            marks[target[1]] |= ENDS
        return {**{name: arrays[name] for name in TOKENS}, "answer_marks": marks}

    def beside(self, example: Example, processor: Any) -> dict[str, Any]:
        """Return the arrays of `TOKENS`, and the context, which `worded` reads."""
        kinds, characters = processor.places(example)
        first, last = characters.T
        arrays = zip(TOKENS, (kinds, first, last), strict=True)
        return {**{name: array.astype(np.int32) for name, array in arrays}, "context": example["text_pair"]}

    def beside_fields(self) -> Mapping[str, Field]:
        return TOKENS

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """Return the summed losses of the windows of each example [B], and their number [B]."""
        return span_losses(outputs["logits"], batch["token_kinds"], batch["answer_marks"], self.window)

    def score(self, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """Return `loss`, the mean over the windows, and the answer [B]: its `first` and its `last` character in the
        context (0 and 0: no answer), its probability `confidence`, and `margin`, the score of no answer above that of
        the best span. `graded` adds `em` and `f1`."""
        sums, windows = self.loss(outputs, batch)
        return {"loss": sums / jnp.maximum(windows, 1.0), **self.answer(outputs["logits"], batch)}

    def answer(self, logits: Array, tokens: Mapping[str, Array]) -> dict[str, Array]:
        """Return the answers of `score` [B]."""
        span = best_spans(logits, tokens["token_kinds"], self.window, self.best, self.longest_answer)
        margin = span.absent - span.score
        absent = jnp.isneginf(span.score)
        total = span.total
        if self.no_answer:
            absent |= margin > self.threshold
            total = jnp.logaddexp(total, span.absent)
        chosen = jnp.where(absent, span.absent, span.score)
        first = jnp.take_along_axis(tokens["first_characters"], span.first[:, None], 1)[:, 0]
        last = jnp.take_along_axis(tokens["last_characters"], span.last[:, None], 1)[:, 0]
        return {
            "first": jnp.where(absent, 0, first),
            "last": jnp.where(absent, 0, last),
            # Without any valid span there is nothing to compare.
            "confidence": jnp.where(jnp.isneginf(total), 1.0, jnp.exp(chosen - total)),
            "margin": jnp.clip(margin, -1e30, 1e30),
        }

    def graded(self, scores: Scores, examples: Sequence[Example]) -> dict[str, np.ndarray]:
        """Return the scores with `em` and `f1` of each answer, as SQuAD's script computes them, and `correct`."""
        pairs = []
        for first, last, example in zip(scores["first"].tolist(), scores["last"].tolist(), examples, strict=True):
            text, truths = example["text_pair"][first:last], example["label"]["text"]
            pairs.append((exact(text, truths), overlap(text, truths)))
        em, f1 = np.array(pairs, np.float32).reshape(-1, 2).T
        return {**scores, "em": em, "f1": f1, "correct": em == 1}

    def answers(self, outputs: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> list[Any]:
        """Return for each example the first and the last character of the answer, and its probability; `worded` makes
        a text of them."""
        answer = compiled(self)(outputs["logits"], {name: inputs[name] for name in TOKENS})
        columns = (np.asarray(answer[name]).tolist() for name in ("first", "last", "confidence"))
        return list(zip(*columns, strict=True))

    def worded(self, answer: Any, row: Mapping[str, Any], processor: Any = None) -> dict[str, float]:
        """Return the text of an answer with its probability; "" is no answer."""
        first, last, probability = answer
        return {row["context"][first:last].strip(): probability}

    def stored_answers(self, scores: Scores, examples: Sequence[Example]) -> list[Any]:
        """Return the answers that scores hold, with their probabilities."""
        columns = (scores[name].tolist() for name in ("first", "last", "confidence"))
        rows = zip(*columns, examples, strict=True)
        return [self.worded(row, {"context": example["text_pair"]}) for *row, example in rows]

    def answer_values(self, answer: Any) -> Json:
        """Return the text of an answer as `prediction`, and its `probability`."""
        ((text, probability),) = answer.items()
        return {"prediction": text, "probability": probability}

    def shown(self, example: Example, answer: Any) -> tuple[str | float, Any]:
        return self.label_words(example), {text or NO_ANSWER: number for text, number in answer.items()}

    def label_words(self, example: Example) -> str:
        """Return the true answers, each once."""
        return " / ".join(dict.fromkeys(example["label"]["text"])) or NO_ANSWER

    def config_document(self) -> Json:
        return numbered(["LABEL_0", "LABEL_1"])


@lru_cache(maxsize=8)
def compiled(task: QuestionAnswering) -> Callable[[Any, Mapping[str, Any]], dict[str, Array]]:
    """Return `task.answer`, compiled once for each shape of a batch."""
    return jax.jit(task.answer)
