"""Causal language modelling: predict each token of a text from those before it.

Shapes: B batch, T tokens, V words.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import jax.numpy as jnp
import numpy as np

from tlx.functional.losses import IGNORED
from tlx.models.generation import generate
from tlx.tasks.base import Batch, Outputs
from tlx.tasks.extra import ExtraMetric, check_extra
from tlx.tasks.language import words_of, written_tokens
from tlx.tasks.writing import TEXT_METRICS, WritingTask
from tlx.trees import Example
from tlx.types import Array, ArrayMap, Key, Model, Variables

PAIR = ("text", "text_pair")


@dataclass(frozen=True, kw_only=True)
class CausalLanguageModel(WritingTask):
    """Predict each token from those before it. No label is read, so the texts of any data set will do.

    Attributes:
        completions: Count only the tokens of the second text of a pair (`text_pair`): supervised fine-tuning on
            prompts with completions.
        ends: Put the token that ends a text behind each text that does not end with it, so that a model learns where to
            stop.
        end: This token; None for that of the tokenizer.
        separated: With `completions`, whether the first text of a pair ends as a text alone does, for example with
            "[SEP]"; such an end is then continued too. None until a run states it.
        longest: The largest number of tokens with which `tlx predict` and evaluation continue a text.
        text_metrics: With `completions`, the metrics of the completions that evaluation writes, see `WritingTask`;
            empty: it writes none.
        extra_metrics: The user's own metrics.
    """

    completions: bool = False
    ends: bool = True
    end: int | None = None
    separated: bool | None = None
    longest: int = 64
    extra_metrics: tuple[ExtraMetric, ...] = ()

    self_supervised: ClassVar[bool] = True
    kept: ClassVar[tuple[str, ...]] = ("end", "separated")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text_metrics and not self.completions:
            raise ValueError(
                f"text_metrics={self.text_metrics!r} compares completions with the second texts of pairs; set "
                "completions=True"
            )
        check_extra(self.extra_metrics, {*self.metrics, *TEXT_METRICS})

    def suited(self, model: Model, processor: Any) -> Self:
        """Return the task with the end of the tokenizer.

        Raises:
            ValueError: The model reads words after the one that it predicts, or the tokenizer has no end.
        """
        if model.config.key_shape() is None or model.config.first_word() is not None:
            raise ValueError(
                f"{type(model.config).__name__} reads the whole text at once, so it cannot predict the next word; use "
                "a decoder, such as models.Gpt2, or tasks.MaskedLanguageModel"
            )
        end = words_of(processor).end if self.end is None else self.end
        if self.ends and end is None:
            raise ValueError(
                "the tokenizer has no token that ends a text; name one: end=ID, or set ends=False for texts without"
            )
        room = model.config.longest_text()
        if self.ends and room is not None and processor.longest >= room:
            raise ValueError(
                f"texts of {processor.longest} tokens leave no place for the token that ends them, because the model "
                f"has positions for {room}; set Data(tokens={room - 1})"
            )
        if not self.completions:
            return replace(self, end=end)
        single, pair = (processor.encoding(dict.fromkeys(names, "a")).ids for names in (PAIR[:1], PAIR))
        return replace(self, end=end, separated=pair[: len(single)] == single)

    def targets(self, example: Example, processor: Any) -> dict[str, np.ndarray]:
        """Return `label` [T]: the tokens, `IGNORED` for special ones, and with `completions` for those of the prompt.

        Raises:
            ValueError: The example is no pair.
        """
        if self.completions and "text_pair" not in example:
            raise ValueError(
                f"the example has {', '.join(sorted(example))}, but completions=True requires a column text_pair with "
                "the completion of each text"
            )
        return {"label": words_of(processor).counted(example, self.completions, self.end if self.ends else None)}

    def transform(self, batch: Batch, key: Key) -> Batch:
        """Return the batch with an end behind each text that has none, of which the label counts."""
        if not self.ends:
            return batch
        # Without another place a text that fills the batch would have no end.
        mask = jnp.pad(batch["attention_mask"], [(0, 0), (0, 1)])
        count = mask.sum(1)[:, None]
        last = jnp.take_along_axis(batch["input_ids"], jnp.maximum(count - 1, 0), 1)
        ends = (jnp.arange(mask.shape[1]) == count) & (last != self.end)
        added = {"input_ids": (self.end, 0), "label": (self.end, IGNORED), "attention_mask": (1, 0)}
        wide = {}
        for name, (value, fill) in added.items():
            array = jnp.pad(batch[name], [(0, 0), (0, 1)], constant_values=fill)
            wide[name] = jnp.where(ends, jnp.asarray(value, array.dtype), array)
        if "token_type_ids" in batch:
            wide["token_type_ids"] = jnp.pad(batch["token_type_ids"], [(0, 0), (0, 1)])
        return {**batch, **wide}

    def aligned(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """Return the logits after each token but the last, and the tokens that follow."""
        return outputs["logits"][:, :-1], batch["label"][:, 1:]

    def writer(self, model: Model, dtype: str = "float32") -> Callable[[Variables, ArrayMap], Mapping[str, Any]]:
        """Return a function that continues texts greedily, as far as the model has positions: where there are label
        arrays, what precedes the first counted token of each text."""
        room = model.config.longest_text()

        def continued(variables: Variables, inputs: ArrayMap) -> Mapping[str, Any]:
            ids, mask = np.asarray(inputs["input_ids"]), np.asarray(inputs["attention_mask"])
            stop = () if self.end is None else (self.end,)
            if "label" in inputs:
                ids, mask = self.prompts(ids, mask, np.asarray(inputs["label"]))
            elif not self.separated:
                # A text that ends with the end would not be continued. A beginning may be the same token.
                last = mask.sum(1, keepdims=True) - 1
                mask = np.where((np.arange(mask.shape[1]) == last) & (ids == self.end) & (last > 0), 0, mask)
            left = self.longest if room is None else min(self.longest, room - ids.shape[1])
            if left < 1:
                return {"tokens": np.zeros((len(ids), 0), np.int32), "lengths": np.zeros(1, np.int32)}
            read = {"input_ids": ids, "attention_mask": mask}
            return generate(model, variables, read, longest=left, stop=stop, dtype=dtype)._asdict()

        return continued

    def prompts(self, ids: np.ndarray, mask: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens and the mask of what precedes the first counted token of each text: [B, T] -> [B, P]. An
        empty prompt is the end of a text before, if there is such a token."""
        before = np.where(np.cumsum(label != IGNORED, 1) == 0, mask, 0)
        empty = ~before.any(1)
        if self.end is not None and empty.any():
            ids, before = ids.copy(), before.copy()
            ids[empty, 0], before[empty, 0] = self.end, 1
        seen = np.flatnonzero(before.any(0))
        kept = slice(0, int(seen[-1]) + 1 if len(seen) else 1)
        return ids[:, kept], before[:, kept]

    def label_words(self, example: Example) -> str:
        """Return the text; of a pair, the completion where only completions count."""
        return str(example.get("text_pair" if self.completions else "text", ""))

    def answers(self, outputs: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> list[Any]:
        """Return the tokens that continue each text; of one pass, the likeliest next token after each token that is not
        padding."""
        if "tokens" in outputs:
            return written_tokens(outputs)
        mask = np.asarray(inputs["attention_mask"]) > 0
        return [row[seen].tolist() for row, seen in zip(np.asarray(outputs["best"]), mask, strict=True)]
