"""Criteria that choose a checkpoint without labels of the target, and the cost of each choice. NumPy, in float64.

Shapes: N held-out examples of the source, M unlabelled examples of the target, C classes, W width of features.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from tlx.functional.scores import softmax

# The data that a criterion may read: held-out examples of the source with labels, and training examples of the target
# without labels.
SOURCE, TARGET = "source-held-out", "target-unlabelled"
# The rules that read the labels of the target's validation split; the first two choose by the primary metric.
BY_VALIDATION = ("best-validation", "oracle")
VALIDATION = "validation/"
# The rules that need no criterion.
RULES = ("last", *BY_VALIDATION)
# The prefix of a criterion's name in the log of a run.
PREFIX = "criterion/"


class OutputRows(NamedTuple):
    """The outputs of a model for some examples.

    Attributes:
        logits: [N, C].
        features: the input of the head, [N, W], where requested.
        labels: [N], where known.
    """

    logits: np.ndarray
    features: Any = None
    labels: Any = None


@dataclass(frozen=True)
class Outputs:
    """The outputs of a model for the data that criteria read, by name; shared results are computed once."""

    rows: Mapping[str, OutputRows] = field(default_factory=dict)

    @property
    def finite(self) -> bool:
        arrays = [array for rows in self.rows.values() for array in (rows.logits, rows.features) if array is not None]
        return all(bool(np.isfinite(array).all()) for array in arrays)

    @cached_property
    def errors(self) -> np.ndarray:
        """Return 1 for each misclassified held-out example of the source, else 0: [N]."""
        rows = self.rows[SOURCE]
        return (rows.logits.argmax(-1) != rows.labels).astype(np.float64)

    @cached_property
    def weights(self) -> np.ndarray:
        """Return the density ratio of the target to the source at each held-out example of the source, [N]."""
        return density_ratio(self.rows[SOURCE].features, self.rows[TARGET].features)


def metric_of(rule: str) -> str:
    """Return the metric that a rule names; "" where the rule is not by a named metric.

    >>> metric_of("validation/macro_f1"), metric_of("best-validation")
    ('macro_f1', '')
    """
    return rule.removeprefix(VALIDATION) if rule.startswith(VALIDATION) else ""


def reads_validation(rule: str) -> bool:
    """Return whether a rule reads the labels of the target's validation split."""
    return rule in BY_VALIDATION or bool(metric_of(rule))


def entropies(p: np.ndarray) -> np.ndarray:
    """Compute -sum_c p_c log p_c of distributions: [..., C] -> [...]."""
    return -(p * np.log(np.where(p > 0, p, 1.0))).sum(-1)


def mean_entropy(logits: np.ndarray) -> float:
    """Compute the mean entropy of the predictions [M, C] (Morerio et al., 2018). Less is better.

    It is 0 where all predictions are certain, and log C where none is.
    """
    return float(entropies(softmax(logits)).mean())


def information(logits: np.ndarray) -> float:
    """Compute the mutual information of example and class (Krause et al., 2010, section 2). More is better.

    It is the entropy of the mean prediction minus the mean entropy of the predictions [M, C], in [0, log C].
    """
    p = softmax(logits)
    return float(entropies(p.mean(0)) - entropies(p).mean())


def neighbourhood_density(logits: np.ndarray, temperature: float = 0.05) -> float:
    """Compute the soft neighbourhood density (Saito et al., 2021, section 3.2). More is better.

    With the cosines S of the rows of softmax(logits), and P_ij = exp(S_ij / temperature) / sum_{k != i} exp(S_ik /
    temperature), it is the mean over i of the entropy of P_i. The authors' code sets the cosine of an example with
    itself to -1 and adds 1e-5 within the logarithm; here the example is left out and nothing is added.

    Args:
        logits: the predictions, [M, C].
        temperature: the divisor of the cosines.

    Returns:
        A number in [0, log (M - 1)].

    Raises:
        ValueError: there are fewer than two rows.
    """
    if len(logits) < 2:
        raise ValueError(f"received {len(logits)} row; the density of neighbourhoods requires at least two")
    p = softmax(logits)
    unit = p / np.linalg.norm(p, axis=-1, keepdims=True)
    nearness = unit @ unit.T / temperature
    np.fill_diagonal(nearness, -np.inf)
    return float(entropies(softmax(nearness)).mean())


def density_ratio(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Estimate p_T(x) / p_S(x) at the rows of the source: [N, W], [M, W] -> [N].

    By Bayes' rule the ratio is N / M P(target | x) / P(source | x), which a logistic regression estimates (Bickel et
    al., 2007). It is fitted to all rows, standardised, with a penalty of half the squared norm of its slopes. Where it
    separates the two sets easily, all weights are near 0.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows = np.concatenate([source, target]).astype(np.float64)
    model = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-8, max_iter=1000))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(rows, np.arange(len(rows)) >= len(source))
    return len(source) / len(target) * np.exp(model.decision_function(rows[: len(source)]))


def weighted_risk(errors: np.ndarray, weights: np.ndarray) -> float:
    """Compute mean(w e), the target risk by importance-weighted validation (Sugiyama et al., 2007). Less is better.

    Args:
        errors: the errors e on the source, [N].
        weights: the density ratios w, [N].
    """
    return float((weights * errors).mean())


def controlled_risk(errors: np.ndarray, weights: np.ndarray) -> float:
    """Compute mean(w e) + eta (mean(w) - 1) with eta = -cov(w e, w) / var(w). Less is better.

    This is `weighted_risk` with the weights as a control variate, because their true mean is 1 (deep embedded
    validation; You et al., 2019, section 4.3). Where the weights do not vary, eta is 0.
    """
    weighted = weights * errors
    spread = weights.var()
    # A variance from the rounding of equal weights must not count.
    if spread <= 1e-20 * (weights**2).mean():
        return float(weighted.mean())
    eta = -((weighted - weighted.mean()) * (weights - weights.mean())).mean() / spread
    return float(weighted.mean() + eta * (weights.mean() - 1.0))


class Criterion(NamedTuple):
    """A way to judge a model.

    Attributes:
        value: the function that computes it.
        higher_is_better: whether a larger value is better.
        reads: the data that it reads.
        features: whether it also reads the features.
    """

    value: Callable[[Outputs], float]
    higher_is_better: bool
    reads: tuple[str, ...]
    features: bool = False


CRITERIA: dict[str, Criterion] = {
    "source-validation": Criterion(lambda outputs: float(1.0 - outputs.errors.mean()), True, (SOURCE,)),
    "iwv": Criterion(lambda outputs: weighted_risk(outputs.errors, outputs.weights), False, (SOURCE, TARGET), True),
    "dev": Criterion(lambda outputs: controlled_risk(outputs.errors, outputs.weights), False, (SOURCE, TARGET), True),
    "snd": Criterion(lambda outputs: neighbourhood_density(outputs.rows[TARGET].logits), True, (TARGET,)),
    "im": Criterion(lambda outputs: information(outputs.rows[TARGET].logits), True, (TARGET,)),
    "entropy": Criterion(lambda outputs: mean_entropy(outputs.rows[TARGET].logits), False, (TARGET,)),
}


def read_by(names: Iterable[str]) -> tuple[str, ...]:
    """Return the data that these criteria read, each once."""
    return tuple(dict.fromkeys(read for name in names for read in CRITERIA[name].reads))


def measure(names: Sequence[str], outputs: Outputs) -> dict[str, float]:
    """Compute the value of each of these criteria."""
    return {name: CRITERIA[name].value(outputs) for name in names}


def gaps(lines: Iterable[Mapping[str, Any]], primary: str, higher_is_better: bool) -> dict[str, dict[str, float]]:
    """Return the step that each rule would have chosen in one run, and the cost of that choice.

    The rules are "last", "oracle", which chooses by the metric `primary` of the validation split, and the criteria that
    were measured. Of several best steps, a rule takes the first.

    Args:
        lines: the lines of `metrics.jsonl`: `step`, `name`, `value`. The last line of a step and name counts.
        primary: the name of the metric.
        higher_is_better: whether a larger value of the metric is better.

    Returns:
        By rule, the `step`, the `value` of the metric there, and the `gap` by which the best value of all steps is
        better. Empty where no criterion was measured.

    >>> told = {"validation/accuracy": {1: 0.75, 2: 0.5}, "criterion/im": {1: 2.0, 2: 3.0}}
    >>> lines = [{"step": k, "name": n, "value": v} for n, own in told.items() for k, v in own.items()]
    >>> gaps(lines, "accuracy", True)["im"]
    {'step': 2, 'value': 0.5, 'gap': 0.25}
    """
    series: dict[str, dict[int, float]] = {}
    for line in lines:
        series.setdefault(line["name"], {})[line["step"]] = line["value"]
    measured = {name: series[PREFIX + name] for name in CRITERIA if PREFIX + name in series}
    if not measured:
        return {}
    values = series[f"validation/{primary}"]
    steps = {"last": max(values), "oracle": best(values, higher_is_better)}
    steps |= {name: best(scores, CRITERIA[name].higher_is_better) for name, scores in measured.items()}
    top, sign = values[steps["oracle"]], 1.0 if higher_is_better else -1.0
    return {
        rule: {"step": step, "value": values[step], "gap": sign * (top - values[step])} for rule, step in steps.items()
    }


def best(values: Mapping[int, float], higher_is_better: bool) -> int:
    """Return the first step of the best value; a value that is no number is never the best of several."""
    numbers = [step for step in sorted(values) if not math.isnan(values[step])] or sorted(values)
    return (max if higher_is_better else min)(numbers, key=values.__getitem__)
