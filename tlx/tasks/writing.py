"""Tasks whose answers are written at evaluation and compared with true texts: exact match, BLEU and ROUGE.

Shapes: B batch, N examples.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tlx.config import check_choice
from tlx.functional.scores import Scores
from tlx.functional.texts import ROUGES, WRITTEN, bleu_counts, check_installed, rouge, same_text, unpacked
from tlx.models.chain import prefix_length, prompt_length
from tlx.tasks.base import Batch, Outputs, Task
from tlx.tasks.language import LanguageTask
from tlx.trees import Example, Tree
from tlx.types import Array, Model

TextMetric = Literal["exact_match", "bleu", "rouge1", "rouge2", "rougeL", "rougeLsum"]
EXACT = "exact_match"
TEXT_METRICS = (EXACT, "bleu", *ROUGES)


@dataclass(frozen=True, kw_only=True)
class WritingTask(LanguageTask):
    """A base of tasks whose answers are texts that evaluation writes.

    Answers are written where the numbers of a run are final: for the validation split and every test set at its end,
    and in `tlx eval`. Writing takes a pass for each token, so a validation during training is one pass and writes
    nothing, unless a metric that needs the texts chooses the checkpoint, such as `Train(select="validation/bleu")`, or
    a search may end the run early.

    A written answer is an exact match if it equals the true text, whatever the white space; case and punctuation count.
    Where nothing is written, an answer is an exact match if each of its tokens is the likeliest one after the true
    tokens before it, which is when greedy decoding writes this answer.

    Attributes:
        text_metrics: The metrics of the written texts: "exact_match", "bleu" (0 to 100, as `sacrebleu` computes it by
            default), "rouge1", "rouge2", "rougeL" and "rougeLsum" (F1, as `rouge-score` computes it without a stemmer;
            "rougeLsum" reads each line as a sentence). Empty: evaluation writes no answer.
    """

    text_metrics: tuple[TextMetric, ...] = ()

    def __post_init__(self) -> None:
        for name in self.text_metrics:
            check_choice("text_metrics", name, TEXT_METRICS)

    def score(self, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """Return `loss` (a sum), `tokens`, `right` (the number of tokens that are the likeliest) and, where the task
        measures exact matches, `correct` (whether all are) [B]. `graded` adds the scores of written answers."""
        scores = super().score(outputs, batch)
        return scores | ({"correct": scores["right"] == scores["tokens"]} if EXACT in self.measures else {})

    def graded(self, scores: Scores, examples: Sequence[Example]) -> Scores:
        """Return the scores with those of the answers that were written [N, ...]: `correct`, and the counts and scores
        of `functional.texts`; the scores unchanged where no answer was."""
        if WRITTEN not in scores:
            return scores
        texts, truths = unpacked(scores[WRITTEN]), [self.label_words(example) for example in examples]
        added = {"correct": np.array(list(map(same_text, texts, truths)), bool)}
        if "bleu" in self.text_metrics:
            added |= bleu_counts(texts, truths)
        if kinds := [kind for kind in ROUGES if kind in self.text_metrics]:
            added |= rouge(texts, truths, kinds)
        return {**scores, **added}

    def stored_answers(self, scores: Scores, examples: Sequence[Example]) -> list[Any] | None:
        """Return the written answers that scores hold; None where none was written."""
        return [[text] for text in unpacked(scores[WRITTEN])] if WRITTEN in scores else None


def writes(task: Task, model: Model, params: Tree) -> bool:
    """Return whether evaluation writes answers: the task compares texts, and the model can write."""
    return bool(task.text_metrics) and not (prompt_length(model, params) or prefix_length(model, params))


def check_writing(task: Task, model: Model, params: Tree) -> tuple[str, ...]:
    """Return a note where the task compares texts and the model cannot write them.

    Raises:
        ImportError: The package of a metric is missing.
        ValueError: A metric needs texts that the model cannot write.
    """
    if not task.text_metrics:
        return ()
    if writes(task, model, params):
        check_installed(task.text_metrics)
        return ()
    if names := needing_texts(task):
        raise ValueError(
            f"task.text_metrics names {names[0]!r}, but a model with a learned prompt or prefix does not write texts; "
            "use another tuning, such as Lora(), or text_metrics=()"
        )
    return (
        "a model with a learned prompt or prefix does not write texts: an answer is an exact match if each of its "
        "tokens is the likeliest one after the true tokens before it",
    )


def needing_texts(task: Task) -> list[str]:
    """Return the metrics that written answers alone have: all but exact match, which one pass measures too."""
    return [name for name in task.text_metrics if name != EXACT]
