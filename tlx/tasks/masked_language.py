"""Masked language modelling: predict hidden words of a text (Devlin et al., 2019). Shapes: B batch, T tokens, M hidden
tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import jax.numpy as jnp
import numpy as np

from tlx.functional.corruption import mask_words, text_keys
from tlx.functional.losses import IGNORED
from tlx.models.taps import PLACES
from tlx.tasks.base import Batch
from tlx.tasks.extra import ExtraMetric, check_extra
from tlx.tasks.language import LanguageTask, check_share, words_of
from tlx.trees import Example
from tlx.types import Field, Key, Model


@dataclass(frozen=True, kw_only=True)
class MaskedLanguageModel(LanguageTask):
    """Predict hidden words of a text. No label is read, so the texts of any data set will do.

    Of the tokens that are not special, a share is hidden, newly at each step; at evaluation a text always has the same
    hidden tokens. The model computes logits for the hidden tokens alone.

    Attributes:
        rate: The share of the tokens that are hidden. It decides shapes, so each value has a program.
        whole_words: Hide all tokens of a word together.
        mask_token: The token that the model reads in the place of a hidden one; None for that of the tokenizer.
        vocabulary: The number of tokens; None for that of the tokenizer.
        extra_metrics: The user's own metrics.
    """

    rate: float = 0.15
    whole_words: bool = False
    mask_token: int | None = None
    vocabulary: int | None = None
    extra_metrics: tuple[ExtraMetric, ...] = ()

    self_supervised: ClassVar[bool] = True
    kept: ClassVar[tuple[str, ...]] = ("mask_token", "vocabulary")
    static: ClassVar[tuple[str, ...]] = ("rate",)

    def __post_init__(self) -> None:
        check_share("rate", self.rate)
        check_extra(self.extra_metrics, self.metrics)

    def suited(self, model: Model, processor: Any) -> Self:
        """Return the task with the mask and the number of tokens of the tokenizer.

        Raises:
            ValueError: The tokenizer has no token for a hidden word.
        """
        words = words_of(processor)
        mask = words.mask if self.mask_token is None else self.mask_token
        if mask is None:
            raise ValueError(
                "the tokenizer has no token for a hidden word, such as [MASK]; use the tokenizer of a masked language "
                "model, or name a token: mask_token=ID"
            )
        return replace(self, mask_token=mask, vocabulary=self.vocabulary or words.count)

    def fields(self) -> Mapping[str, Field]:
        words = {"word": Field((None,), "int32", -1)} if self.whole_words else {}
        return dict(super().fields()) | words

    def targets(self, example: Example, processor: Any) -> dict[str, np.ndarray]:
        """Return `label` [T], the tokens that may be hidden, and with `whole_words` the number of the `word` [T]."""
        return dict(words_of(processor).hideable(example, self.whole_words))

    def transform(self, batch: Batch, key: Key) -> Batch:
        """Return the batch with hidden tokens, their places, and the true tokens there."""
        ids, label = jnp.asarray(batch["input_ids"]), jnp.asarray(batch["label"])
        keys = text_keys(key, ids, batch["attention_mask"])
        words = jnp.asarray(batch["word"]) if self.whole_words else None
        texts = mask_words(
            keys, ids, label, rate=self.rate, mask_token=self.mask_token or 0, vocabulary=self.vocabulary or 1,
            words=words,
        )  # fmt: skip
        return {**batch, "input_ids": texts.ids, PLACES: texts.places, "label": texts.labels}

    def answers(self, outputs: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> list[Any]:
        """Return the likeliest token for each mask of a text; for texts with hidden tokens pairs of this token and the
        true one."""
        best = np.asarray(outputs["best"])
        if PLACES in inputs:
            rows = zip(best, np.asarray(inputs["label"]), strict=True)
            return [[(int(g), int(t)) for g, t in zip(*row, strict=True) if t != IGNORED] for row in rows]
        masks = np.asarray(inputs["input_ids"]) == self.mask_token
        return [row[mask].tolist() for row, mask in zip(best, masks, strict=True)]

    def worded(self, answer: Any, row: Mapping[str, Any], processor: Any = None) -> list[str]:
        words = words_of(processor)
        pairs = [entry if isinstance(entry, tuple) else (entry,) for entry in answer]
        return ["/".join(words.decode([token]) for token in pair) for pair in pairs]
