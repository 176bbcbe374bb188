"""Tasks: the head that a model ends in, its loss, its scores and its metrics. One file for each task."""

from tlx.functional.metrics import Metric
from tlx.tasks.base import Task, with_labels
from tlx.tasks.classification import Classification
from tlx.tasks.multi_label import MultiLabel
from tlx.tasks.regression import Regression
from tlx.tasks.token_classification import TokenClassification

__all__ = ["Classification", "Metric", "MultiLabel", "Regression", "Task", "TokenClassification", "with_labels"]
