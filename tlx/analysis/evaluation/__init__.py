"""Evaluate a finished run on any labelled data: metrics with intervals, by class, by slices of a column, mistakes."""

from tlx.analysis.evaluation.evaluate import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
