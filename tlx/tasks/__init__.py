"""Tasks: the head that a model ends in, its loss, its scores and its metrics. One file for each task."""

from tlx.functional.metrics import Metric
from tlx.tasks.base import Statement, Task
from tlx.tasks.batches import parted, with_labels
from tlx.tasks.causal_language import CausalLanguageModel
from tlx.tasks.classification import Classification
from tlx.tasks.denoising import Denoising
from tlx.tasks.extra import ExtraMetric
from tlx.tasks.masked_language import MaskedLanguageModel
from tlx.tasks.multi_label import MultiLabel
from tlx.tasks.ordinal import Ordinal
from tlx.tasks.question_answering import QuestionAnswering
from tlx.tasks.regression import Regression
from tlx.tasks.text_to_text import TextToText
from tlx.tasks.token_classification import TokenClassification

__all__ = [
    "CausalLanguageModel",
    "Classification",
    "Denoising",
    "ExtraMetric",
    "MaskedLanguageModel",
    "Metric",
    "MultiLabel",
    "Ordinal",
    "QuestionAnswering",
    "Regression",
    "Statement",
    "Task",
    "TextToText",
    "TokenClassification",
    "own_name",
    "own_task",
    "parted",
    "stated",
    "with_labels",
]


# The tasks for which transformers has no word. A user's task may have the same name as one of them.
_own = {f"tlx.tasks.{kind.__name__}": kind for kind in (Ordinal,)}


def own_task(name: str) -> type[Task] | None:
    """Return the task of tlx that a checkpoint's config.json names `name`; None for any other name."""
    return _own.get(name)


def own_name(task: Task) -> str:
    """Return the name of a task in config.json: that of `own_task`, or the name of its class.

    >>> own_name(Ordinal()), own_name(Regression())
    ('tlx.tasks.Ordinal', 'Regression')
    """
    return next((name for name, kind in _own.items() if type(task) is kind), type(task).__name__)


def stated(statement: Statement) -> Task | None:
    """Return the tlx task that a checkpoint's config.json states; None if it states none."""
    kinds: tuple[type[Task], ...] = (QuestionAnswering, TokenClassification, Regression, MultiLabel, Classification)
    if (kind := own_task(statement.kind)) is not None:
        kinds = (kind,)
    return next((task for kind in kinds if (task := kind.stated(statement)) is not None), None)
