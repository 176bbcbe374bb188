"""The declaration of a metric: how it is computed from the scores of examples, and how pages and searches read it.

Shapes: N examples.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np

from tlx.functional import agreement, calibration, ranking, regression, texts
from tlx.functional.scores import TOP, Scores
from tlx.trees import Json

Value = Callable[[Scores], float]


class Metric(NamedTuple):
    """One metric that a task declares, with the facts that reports, comparisons and searches need.

    Attributes:
        better: which direction is better.
        low: the lowest possible value.
        high: the highest possible value.
        mean_of: the score whose mean over the examples is the metric.
        value: a function that computes any other metric from the scores; nan where it is not defined. A task that
            computes its metrics in `summarise` needs neither `mean_of` nor `value`.
        interval: whether resampling gives a valid interval.
        points: whether pages show the metric in percent.
        words: its name on a page.
        main: whether it is measured at every validation, and shown in progress lines, curves and the table of a study.
            Other metrics are measured at the end of a run, and wherever a rule or a search names them. A metric of
            written texts is measured at those validations that write (see `tasks.writing.WritingTask`).
    """

    better: Literal["max", "min"]
    low: float = -math.inf
    high: float = math.inf
    mean_of: str = ""
    value: Value | None = None
    interval: bool = True
    points: bool = False
    words: str = ""
    main: bool = True

    @property
    def bounds(self) -> tuple[float, float]:
        return self.low, self.high

    @property
    def higher_is_better(self) -> bool:
        return self.better == "max"


def of_scores(metric: Metric, scores: Scores) -> float:
    """Compute a metric from scores [N, ...]; raise ValueError where it declares neither `mean_of` nor `value`."""
    if metric.mean_of:
        return float(np.asarray(scores[metric.mean_of], np.float64).mean())
    if metric.value is None:
        raise ValueError("the metric declares neither mean_of nor value; the task must compute it in summarise")
    return float(metric.value(scores))


def document(metric: Metric) -> Json:
    """Return a metric as JSON values for `result.json`; `value` is the name of a function of `tlx.functional`."""
    names = {function: name for name, function in VALUES.items()}
    ends = [None if math.isinf(end) else end for end in metric.bounds]
    return {
        "better": metric.better, "low": ends[0], "high": ends[1], "mean_of": metric.mean_of,
        "value": None if metric.value is None else names.get(metric.value), "interval": metric.interval,
        "points": metric.points, "words": metric.words, "main": metric.main,
    }  # fmt: skip


def from_document(values: Json) -> Metric:
    """Return the metric that `document` has stored."""
    low, high = values["low"], values["high"]
    return Metric(
        "max" if values["better"] == "max" else "min",
        -math.inf if low is None else low,
        math.inf if high is None else high,
        values["mean_of"],
        VALUES.get(values["value"] or ""),
        values["interval"],
        values["points"],
        values["words"],
        # Runs of earlier versions have main metrics only.
        "main" not in values or values["main"],
    )


def find_metric(name: str, measures: Json | None = None) -> Metric:
    """Return the declaration of a metric by its name, which may begin with the name of a split.

    The run's `measures` have priority, then the metrics of tlx. For any other name the only assumption is that more is
    better.

    >>> find_metric("test/accuracy").bounds, find_metric("mse").better, find_metric("words").bounds
    ((0.0, 1.0), 'min', (-inf, inf))
    """
    bare = name.rpartition("/")[2]
    if measures and bare in measures:
        return from_document(measures[bare])
    return STANDARD.get(bare, Metric("max"))


def share_metric(value: Value | None = None, words: str = "", mean_of: str = "", main: bool = True) -> Metric:
    """Return a metric from 0 to 1 of which more is better, shown in percent."""
    return Metric("max", 0.0, 1.0, mean_of, value, points=True, words=words, main=main)


# By name, because result.json names them.
VALUES: dict[str, Value] = {
    function.__name__: function
    for function in (
        agreement.macro_f1, agreement.weighted_f1, agreement.balanced_accuracy, agreement.matthews, agreement.kappa,
        agreement.quadratic_kappa, agreement.micro_f1, agreement.class_f1, agreement.token_accuracy,
        agreement.token_loss, agreement.perplexity, agreement.entity_f1, agreement.entity_macro_f1,
        agreement.entity_precision, agreement.entity_recall, calibration.calibration_error,
        calibration.calibrated_error, ranking.auroc, ranking.average_precision, regression.rmse, regression.r_squared,
        regression.pearson, regression.spearman, texts.bleu,
    )
}  # fmt: skip
# The metrics of tlx by name, because runs of early versions do not declare theirs.
STANDARD: dict[str, Metric] = {
    "accuracy": share_metric(mean_of="correct", words="accuracy"),
    # The name of a classification's macro F1 in runs of early versions.
    "f1": share_metric(agreement.macro_f1, "macro F1"),
    "loss": Metric("min", 0.0, mean_of="loss", words="cross-entropy"),
    "micro_f1": share_metric(agreement.micro_f1, "micro F1"),
    "macro_f1": share_metric(agreement.class_f1, "macro F1"),
    "entity_f1": share_metric(agreement.entity_f1, "entity F1"),
    "entity_precision": share_metric(agreement.entity_precision, "entity precision"),
    "entity_recall": share_metric(agreement.entity_recall, "entity recall"),
    "entity_macro_f1": share_metric(agreement.entity_macro_f1, "macro F1 of entities", main=False),
    "answer_f1": share_metric(mean_of="f1", words="F1 of answers"),
    "exact_match": share_metric(mean_of="correct", words="exact match"),
    "bleu": Metric("max", 0.0, 100.0, value=texts.bleu, words="BLEU"),
    "rouge1": share_metric(mean_of="rouge1", words="ROUGE-1"),
    "rouge2": share_metric(mean_of="rouge2", words="ROUGE-2"),
    "rougeL": share_metric(mean_of="rougeL", words="ROUGE-L"),
    "rougeLsum": share_metric(mean_of="rougeLsum", words="ROUGE-Lsum"),
    # Resampling inflates it.
    "ece": Metric("min", 0.0, 1.0, value=calibration.calibration_error, interval=False,
                  words="calibration error (ECE)"),
    "mse": Metric("min", 0.0, mean_of="loss", words="mean squared error"),
    "mae": Metric("min", 0.0, mean_of="absolute_error", words="mean absolute error"),
    "r2": Metric("max", high=1.0, value=regression.r_squared, words="R²"),
    "pearson": Metric("max", -1.0, 1.0, value=regression.pearson, words="correlation"),
    "balanced_accuracy": share_metric(agreement.balanced_accuracy, "balanced accuracy", main=False),
    "weighted_f1": share_metric(agreement.weighted_f1, "weighted F1", main=False),
    "mcc": Metric("max", -1.0, 1.0, value=agreement.matthews, words="Matthews correlation (MCC)", main=False),
    "kappa": Metric("max", -1.0, 1.0, value=agreement.kappa, words="Cohen's kappa", main=False),
    "quadratic_kappa": Metric("max", -1.0, 1.0, value=agreement.quadratic_kappa, words="quadratic kappa"),
    "auroc": share_metric(ranking.auroc, "AUROC", main=False),
    "average_precision": share_metric(ranking.average_precision, "average precision", main=False),
    "top5": share_metric(mean_of="top5", words=f"top-{TOP} accuracy", main=False),
    "brier": Metric("min", 0.0, 2.0, "brier", words="Brier score", main=False),
    "rmse": Metric("min", 0.0, value=regression.rmse, words="root mean squared error", main=False),
    "spearman": Metric("max", -1.0, 1.0, value=regression.spearman, words="rank correlation (Spearman)", main=False),
    "calibrated_loss": Metric("min", 0.0, mean_of="calibrated_loss", words="calibrated cross-entropy", main=False),
    "calibrated_ece": Metric("min", 0.0, 1.0, value=calibration.calibrated_error, interval=False,
                             words="calibrated ECE", main=False),
}  # fmt: skip
