"""Text to text: write a text for a text, with an encoder and a decoder (Raffel et al., 2020).

Shapes: B batch, S tokens of the answer, V words.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import jax.numpy as jnp
import numpy as np

from tlx.functional.agreement import token_accuracy, token_loss
from tlx.functional.losses import IGNORED
from tlx.functional.metrics import STANDARD, Metric, share_metric
from tlx.models.encoder_decoder import shift_right
from tlx.models.generation import generate
from tlx.tasks.base import Batch, check_names
from tlx.tasks.classes import format_names
from tlx.tasks.extra import ExtraMetric, check_extra
from tlx.tasks.language import LanguageTask, words_of, written_tokens
from tlx.tasks.writing import TEXT_METRICS, TextMetric, WritingTask
from tlx.trees import Example
from tlx.types import Array, ArrayMap, Column, Key, Model, Variables


@dataclass(frozen=True, kw_only=True)
class Decoded(LanguageTask):
    """A base of tasks whose answer a decoder writes: `label` [B, S] holds its tokens.

    Attributes:
        longest: The largest number of tokens of an answer that `tlx predict` writes.
        beams: The number of texts among which it searches; 1 takes the likeliest token each time.
        end: The token that ends an answer; None for that of the tokenizer.
        start: The token that the decoder reads first: that of the model; None until a run states it.
        pad: The token of padding: that of the tokenizer; None until a run states it.
        first: The token that every answer begins with, where the model always writes it first (BART); None for none,
            and until a run states it.
        extra_metrics: The user's own metrics.
    """

    longest: int = 64
    beams: int = 1
    end: int | None = None
    start: int | None = None
    pad: int | None = None
    first: int | None = None
    extra_metrics: tuple[ExtraMetric, ...] = ()

    kept: ClassVar[tuple[str, ...]] = ("end", "start", "pad", "first")

    def __post_init__(self) -> None:
        for name in ("longest", "beams"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}; expected 1 or more")
        check_extra(self.extra_metrics, self.metrics)

    def suited(self, model: Model, processor: Any) -> Self:
        """Return the task with the start and the first word of the model, and the end and the padding of the tokenizer.

        Raises:
            ValueError: The model has no decoder that reads a text, or the tokenizer no end.
        """
        start = model.config.first_word()
        if start is None:
            raise ValueError(
                f"{type(model.config).__name__} has no encoder beside its decoder; {type(self).__name__} requires a "
                "model such as models.T5 or models.Bart"
            )
        end = words_of(processor).end if self.end is None else self.end
        if end is None:
            raise ValueError("the tokenizer has no token that ends a text; name one: end=ID")
        first, _ = model.config.forced_words()
        return replace(self, start=start, end=end, pad=processor.pad_id, first=first)

    def decoder_inputs(self, label: Array) -> dict[str, Array]:
        """Return what the decoder reads to write `label` [B, S]."""
        return {"label": label, "decoder_input_ids": shift_right(label, self.start or 0, self.pad or 0)}

    def writer(self, model: Model, dtype: str = "float32") -> Callable[[Variables, ArrayMap], Mapping[str, Any]]:
        """Return a function that writes an answer to each text."""
        settings: Any = {"longest": self.longest, "beams": self.beams, "dtype": dtype}
        settings["stop"] = () if self.end is None else (self.end,)

        def written(variables: Variables, inputs: ArrayMap) -> Mapping[str, Any]:
            read = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            return generate(model, variables, read, **settings)._asdict()

        return written

    def answers(self, outputs: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> list[Any]:
        """Return the tokens of the answer that was written; of one pass, the likeliest token at each place, given the
        true tokens before it."""
        if "tokens" in outputs:
            return written_tokens(outputs)
        best = np.asarray(outputs["best"])
        counted = np.asarray(inputs["label"]) != IGNORED if "label" in inputs else np.ones(best.shape, bool)
        return [row[chosen].tolist() for row, chosen in zip(best, counted, strict=True)]


@dataclass(frozen=True, kw_only=True)
class TextToText(WritingTask, Decoded):
    """Write a text for each text: a translation, a summary, or the name of a class.

    The label is a text (`label_kind="text"` of the source), or a class, of which the name is written. Training shows
    the decoder the true tokens before each one (teacher forcing). Evaluation writes each answer at the end of a run and
    compares it with the true text; validations during training do not write (see `WritingTask`).

    Attributes:
        names: The names of the classes; empty for texts.
        text_metrics: The metrics of the written texts, see `WritingTask`; empty: evaluation writes no answer.
        longest, beams, end, start, pad, first, extra_metrics: See `Decoded`.
    """

    names: tuple[str, ...] = ()
    text_metrics: tuple[TextMetric, ...] = ("exact_match",)

    written: ClassVar[bool] = True
    metrics: ClassVar[Mapping[str, Metric]] = {
        "exact_match": STANDARD["exact_match"],
        "accuracy": share_metric(token_accuracy, "accuracy of a token"),
        "loss": Metric("min", 0.0, value=token_loss, words="cross-entropy of a token"),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        Decoded.__post_init__(self)
        check_extra(self.extra_metrics, {*self.metrics, *TEXT_METRICS})
        check_names(self.names)

    def resolve(self, columns: Mapping[str, Column]) -> Self:
        """Return the task with the classes of the data.

        Raises:
            ValueError: The label is neither a text nor a class, or the classes are others.
        """
        label = columns["label"]
        if label.kind not in ("text", "class"):
            raise ValueError(f"the label is a {label.kind}; tasks.TextToText expects a text or a class")
        if self.names and self.names != label.classes:
            raise ValueError(
                f"the task has the classes {format_names(self.names)}, but the data have "
                f"{format_names(label.classes)}; use the same names in the same order, or remove names"
            )
        return replace(self, names=label.classes)

    def targets(self, example: Example, processor: Any) -> dict[str, np.ndarray]:
        """Return `label` [S]: the tokens of the answer with its first one and its end, cut at the length of a text."""
        return {"label": words_of(processor).answer(self.label_words(example), self.end, self.first)}

    def transform(self, batch: Batch, key: Key) -> Batch:
        """Return the batch with what the decoder reads."""
        return {**batch, **self.decoder_inputs(jnp.asarray(batch["label"]))}

    def label_kind(self) -> str:
        return "class" if self.names else "text"

    def label_words(self, example: Example) -> str:
        label = example["label"]
        return self.names[int(label)] if self.names else str(label)
