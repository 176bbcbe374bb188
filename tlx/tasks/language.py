"""What the tasks of language modelling share: the loss and the scores of tokens over a vocabulary.

Shapes: B batch, T tokens, V words.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from tlx.functional.agreement import perplexity, token_accuracy, token_loss
from tlx.functional.corruption import IGNORED
from tlx.functional.metrics import Metric, share_metric
from tlx.models.heads import Vocabulary
from tlx.tasks.base import Batch, Outputs, Task
from tlx.trees import Example, Json
from tlx.types import Array, Field, Model


class LanguageTask(Task):
    """A base of tasks whose labels are tokens: `label` [B, T], `IGNORED` where a token does not count."""

    metrics: ClassVar[Mapping[str, Metric]] = {
        "perplexity": Metric("min", 1.0, value=perplexity, words="perplexity"),
        "loss": Metric("min", 0.0, value=token_loss, words="cross-entropy of a token"),
        "accuracy": share_metric(token_accuracy, "accuracy of a token"),
    }
    separator: ClassVar[str] = " "

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

    def config_document(self) -> Json:
        # The outputs are words, which the tokenizer names.
        return {}

    @property
    def outputs(self) -> int | None:
        """Return None: the model decides the number of words."""
        return None

    def label_words(self, example: Example) -> str:
        return str(example.get("text", ""))


def token_losses(logits: Array, label: Array) -> tuple[Array, Array]:
    """Return the cross-entropy of each token, 0 where it does not count, and whether it counts, both [B, T]."""
    counted = label != IGNORED
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, jnp.where(counted, label, 0)[..., None], -1)[..., 0]
    # Less memory than all logarithms of the probabilities [B, T, V].
    values = jax.nn.logsumexp(logits, axis=-1) - chosen
    return jnp.where(counted, values, 0.0), counted


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


def check_head(model: Model, task: Task) -> None:
    """Raise ValueError where a model does not end in logits over a vocabulary."""
    if not isinstance(model.head, Vocabulary):
        raise ValueError(f"{type(task).__name__} requires a head over the vocabulary, but the model has {model.head}")


def without_special(ids: np.ndarray, special: Collection[int] | np.ndarray) -> np.ndarray:
    """Return the tokens as labels, with `IGNORED` in the place of special ones."""
    return np.where(np.isin(ids, list(special)), IGNORED, ids).astype(np.int32)


def kept_rows(ids: np.ndarray, mask: np.ndarray) -> Iterable[list[int]]:
    """Yield the tokens of each row that are not padding."""
    return (row[seen > 0].tolist() for row, seen in zip(ids, mask, strict=True))
