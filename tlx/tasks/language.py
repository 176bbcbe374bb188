"""What the tasks of language modelling share: the loss and the scores of tokens over a vocabulary.

Shapes: B batch, T tokens, V words.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np

from tlx.functional.agreement import perplexity, token_accuracy, token_loss
from tlx.functional.losses import IGNORED, token_losses
from tlx.functional.metrics import Metric, share_metric
from tlx.models.heads import Vocabulary
from tlx.tasks.base import Batch, Outputs, Task
from tlx.trees import Example, Json
from tlx.types import Array, Field


class LanguageTask(Task):
    """A base of tasks whose labels are tokens: `label` [B, T], `IGNORED` where a token does not count."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        "perplexity": Metric("min", 1.0, value=perplexity, words="perplexity"),
        "loss": Metric("min", 0.0, value=token_loss, words="cross-entropy of a token"),
        "accuracy": share_metric(token_accuracy, "accuracy of a token"),
    }
    separator: ClassVar[str] = " "
    # The token that ends a text, where a subclass has such a field.
    end: int | None = None

    def head(self) -> Vocabulary:
        return Vocabulary()

    def fields(self) -> Mapping[str, Field]:
        return {"label": Field((None,), "int32", IGNORED)}

    def aligned(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """Return the logits [B, T, V] and the labels [B, T] that belong to each other."""
        return outputs["logits"], batch["label"]

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """Return the sum of the cross-entropies of the tokens of each text [B], and the number of its tokens [B]."""
        values, counted = token_losses(*self.aligned(outputs, batch))
        return values.sum(-1), counted.sum(-1).astype(jnp.float32)

    def score(self, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """Return `loss` (a sum), `tokens` and `right` (the number of tokens that are the likeliest) [B]."""
        logits, label = self.aligned(outputs, batch)
        values, counted = token_losses(logits, label)
        right = (logits.argmax(-1) == label) & counted
        return {"loss": values.sum(-1), "tokens": counted.sum(-1), "right": right.sum(-1)}

    @classmethod
    def answered(cls, outputs: Outputs) -> dict[str, Array]:
        """Return the likeliest tokens, `best` [B, T]: logits over a vocabulary are too large to keep."""
        return {"best": outputs["logits"].argmax(-1)}

    def worded(self, answer: Any, row: Mapping[str, Any], processor: Any = None) -> list[str]:
        """Return the text of the tokens of an answer, without its end."""
        return [words_of(processor).decode([token for token in answer if token != self.end])]

    def config_document(self) -> Json:
        # The outputs are words, which the tokenizer names.
        return {}

    @property
    def outputs(self) -> int | None:
        """Return None: the model decides the number of words."""
        return None

    def label_words(self, example: Example) -> str:
        return str(example.get("text", ""))


def written_tokens(outputs: Mapping[str, np.ndarray]) -> list[list[int]]:
    """Return the tokens of each answer from the outputs `tokens` [B, N] and `lengths` [B] of a writer."""
    tokens, lengths = np.asarray(outputs["tokens"]), np.asarray(outputs["lengths"])
    return [row[:count].tolist() for row, count in zip(tokens, np.broadcast_to(lengths, len(tokens)), strict=True)]


def words_of(processor: Any) -> Any:
    """Return the vocabulary of a processor (see `tlx.processors.words`). Raises ValueError where it has none."""
    words = getattr(processor, "words", None)
    if words is None:
        raise ValueError(
            f"the data are read by {type(processor).__name__}, which has no vocabulary; language modelling requires "
            "texts and a tokenizer"
        )
    return words


def check_share(name: str, share: float) -> None:
    """Raise ValueError for a share that is not between 0 and 1."""
    if not 0 < share < 1:
        raise ValueError(f"{name}={share!r}; expected a share above 0 and below 1, such as 0.15")
