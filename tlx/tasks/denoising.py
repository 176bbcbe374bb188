"""The objectives of T5 without labels: repair a damaged text (Raffel et al., 2020, section 3.3).

Shapes: B batch, T tokens, S tokens of the answer.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal, Self

import jax.numpy as jnp
import numpy as np

from tlx.config import check_choice
from tlx.functional.corruption import (
    Denoised,
    behind_first,
    cut_texts,
    hidden_count,
    hide_spans,
    shuffle_texts,
    text_keys,
)
from tlx.tasks.base import Batch
from tlx.tasks.language import check_share, words_of
from tlx.tasks.text_to_text import Decoded
from tlx.trees import Example
from tlx.types import Array, Key, Model

DAMAGES = ("spans", "cut", "shuffled")


@dataclass(frozen=True, kw_only=True)
class Denoising(Decoded):
    """Repair damaged texts, newly damaged at each step; at evaluation a text is always damaged in the same way.

    No label is read, so the texts of any data set will do.

    Attributes:
        damage: "spans" replaces random spans by marks and asks for them, the objective of T5; "cut" asks for the rest
            of a text; "shuffled" asks for the text of shuffled tokens.
        rate: The share of the tokens that are hidden in spans. It decides shapes, so each value has a program.
        span: The mean number of tokens of a hidden span.
        mark: The token that stands for the first hidden span; those of the further ones follow downwards. None for the
            marks of the tokenizer.
        longest, beams, end, start, pad, first, extra_metrics: See `Decoded`. The first token is never damaged.
    """

    damage: Literal["spans", "cut", "shuffled"] = "spans"
    rate: float = 0.15
    span: float = 3.0
    mark: int | None = None

    self_supervised: ClassVar[bool] = True
    kept: ClassVar[tuple[str, ...]] = ("mark", *Decoded.kept)
    static: ClassVar[tuple[str, ...]] = ("rate", "span")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("damage", self.damage, DAMAGES)
        check_share("rate", self.rate)
        if not self.span >= 1:
            raise ValueError(f"span={self.span!r}; expected a mean length of 1 or more tokens")

    def suited(self, model: Model, processor: Any) -> Self:
        """Return the task with the tokens of the model and of the tokenizer.

        Raises:
            ValueError: The model or the tokenizer does not fit (see `Decoded`), or the tokenizer has too few marks.
        """
        task = super().suited(model, processor)
        if self.damage != "spans" or self.mark is not None:
            return task
        marks, need = words_of(processor).marks, max(1, round(hidden_count(processor.longest, self.rate) / self.span))
        if marks is None or marks[1] < need:
            have = "none" if marks is None else f"{marks[1]}"
            raise ValueError(
                f"hiding spans requires {need} marks such as <extra_id_0>, and the tokenizer has {have}; use the "
                "tokenizer of a T5, name the first of as many tokens, mark=ID, or choose damage='cut'"
            )
        return replace(task, mark=marks[0])

    def targets(self, example: Example, processor: Any) -> dict[str, np.ndarray]:
        """Return `label` [T], the tokens of the text; `transform` makes the answer from the inputs."""
        return {"label": words_of(processor).counted(example)}

    def transform(self, batch: Batch, key: Key) -> Batch:
        """Return the batch with damaged texts, and with what the decoder reads and writes."""
        ids, mask = jnp.asarray(batch["input_ids"]), jnp.asarray(batch["attention_mask"])
        keys = text_keys(key, ids, mask)
        if self.first is None:
            texts = self.damaged(keys, ids, mask)
        else:
            texts = behind_first(partial(self.damaged, keys), ids, mask, self.first)
        kept = {name: array for name, array in batch.items() if name != "token_type_ids"}
        return {**kept, "input_ids": texts.ids, "attention_mask": texts.mask, **self.decoder_inputs(texts.labels)}

    def damaged(self, keys: Key, ids: Array, mask: Array) -> Denoised:
        """Return the damaged texts `ids` [B, T] and the answers, drawn from a key for each text [B]."""
        end, pad = self.end or 0, self.pad or 0
        if self.damage == "spans":
            mark = self.mark or 0
            return hide_spans(keys, ids, mask, rate=self.rate, span=self.span, sentinel=mark, end=end, pad=pad)
        change = cut_texts if self.damage == "cut" else shuffle_texts
        return change(keys, ids, mask, end=end, pad=pad)
