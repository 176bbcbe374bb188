"""Tasks: the head that a model ends in, its loss, its scores and its metrics. One file for each task."""

from tlx.functional.metrics import Metric
from tlx.tasks.base import Statement, Task, with_labels
from tlx.tasks.classification import Classification
from tlx.tasks.extra import ExtraMetric
from tlx.tasks.multi_label import MultiLabel
from tlx.tasks.ordinal import Ordinal
from tlx.tasks.regression import Regression
from tlx.tasks.token_classification import TokenClassification

__all__ = [
    "OWN",
    "Classification",
    "ExtraMetric",
    "Metric",
    "MultiLabel",
    "Ordinal",
    "Regression",
    "Statement",
    "Task",
    "TokenClassification",
    "stated",
    "with_labels",
]


# The tasks of tlx for which transformers has no word, by the name that config.json has for them.
OWN: dict[str, type[Task]] = {"tlx.tasks.Ordinal": Ordinal}


def stated(statement: Statement) -> Task | None:
    """Return the tlx task that a checkpoint's config.json states; None if it states none."""
    kinds: tuple[type[Task], ...] = (TokenClassification, Regression, MultiLabel, Classification)
    if statement.kind:
        kinds = (OWN[statement.kind],)
    return next((task for kind in kinds if (task := kind.stated(statement)) is not None), None)
