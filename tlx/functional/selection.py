"""Criteria that choose a checkpoint without a label of the target, and what each would have cost. NumPy, in float64.

Shapes: N held-out examples of the source, M unlabelled ones of the target, C classes, W width of features.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from tlx.functional.metrics import softmax

# What a criterion may look at: held-out examples of the source with their labels, training examples of the target
# without.
SOURCE, TARGET = "source-held-out", "target-unlabelled"
# The rules that look at the labels of the target's validation split.
BY_VALIDATION = ("best-validation", "oracle")
# Under which name a run writes a criterion down.
PREFIX = "criterion/"


class Rows(NamedTuple):
    """What a model gives of some examples: `logits` [N, C] and, where they were asked for, `features` [N, W], which its
    head reads; `labels` [N] where they are known."""

    logits: np.ndarray
    features: Any = None
    labels: Any = None


@dataclass(frozen=True)
class Seen:
    """What a model gives of all that is looked at, by name; what several criteria need of it is computed once."""

    rows: Mapping[str, Rows] = field(default_factory=dict)

    @property
    def finite(self) -> bool:
        given = [array for rows in self.rows.values() for array in (rows.logits, rows.features) if array is not None]
        return all(bool(np.isfinite(array).all()) for array in given)

    @cached_property
    def errors(self) -> np.ndarray:
        """Whether each held-out example of the source is taken for another class, as 0 and 1, [N]."""
        rows = self.rows[SOURCE]
        return (rows.logits.argmax(-1) != rows.labels).astype(np.float64)

    @cached_property
    def weights(self) -> np.ndarray:
        """How much more likely the target is to hold each of them than the source, [N]."""
        return density_ratio(self.rows[SOURCE].features, self.rows[TARGET].features)


def entropies(p: np.ndarray) -> np.ndarray:
    """- sum_c p_c log p_c of distributions: [..., C] -> [...]."""
    return -(p * np.log(np.where(p > 0, p, 1.0))).sum(-1)


def mean_entropy(logits: np.ndarray) -> float:
    """The mean entropy of the predictions [M, C] (Morerio et al., 2018): 0 where all are certain, log C where none is.
    Less is better."""
    return float(entropies(softmax(logits)).mean())


def information(logits: np.ndarray) -> float:
    """The entropy of the mean prediction less the mean entropy of the predictions [M, C], in [0, log C]: the mutual
    information of example and class (Krause et al., 2010, section 2). More is better."""
    p = softmax(logits)
    return float(entropies(p.mean(0)) - entropies(p).mean())


def neighbourhood_density(logits: np.ndarray, temperature: float = 0.05) -> float:
    """Soft neighbourhood density (Saito et al., 2021, section 3.2) of the predictions [M, C], in [0, log (M - 1)].

    With the cosines S of the rows of softmax(logits), and P_ij = exp(S_ij / temperature) / sum_{k != i} of those of the
    others: the mean over i of the entropy of P_i. More is better. The authors' code gives an example a cosine of -1
    with itself and adds 1e-5 within the logarithm; here it is left out and nothing is added. ValueError for one row.
    """
    if len(logits) < 2:
        raise ValueError(f"there is {len(logits)} row; the density of neighbourhoods needs two or more")
    p = softmax(logits)
    unit = p / np.linalg.norm(p, axis=-1, keepdims=True)
    nearness = unit @ unit.T / temperature
    np.fill_diagonal(nearness, -np.inf)
    return float(entropies(softmax(nearness)).mean())


def density_ratio(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """p_T(x) / p_S(x) at the rows of the source: [N, W], [M, W] -> [N].

    By Bayes' rule it is N / M P(target | x) / P(source | x), which a logistic regression estimates (Bickel et al.,
    2007), here of all rows, standardised, under a penalty of half the squared norm of its slopes. Where it tells the
    two apart with ease all weights are near 0.
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
    """mean(w e): the risk on the target, by importance-weighted validation on the source (Sugiyama et al., 2007),
    of errors e [N] and weights w [N]. Less is better."""
    return float((weights * errors).mean())


def controlled_risk(errors: np.ndarray, weights: np.ndarray) -> float:
    """mean(w e) + eta (mean(w) - 1) with eta = -cov(w e, w) / var(w): the same with the weights, whose mean is known to
    be 1, as a control variate (deep embedded validation; You et al., 2019, section 4.3). Less is better.

    Where the weights do not vary there is nothing to control, and eta is 0.
    """
    weighted = weights * errors
    spread = weights.var()
    # What rounding leaves of equal weights is no spread.
    if spread <= 1e-20 * (weights**2).mean():
        return float(weighted.mean())
    eta = -((weighted - weighted.mean()) * (weights - weights.mean())).mean() / spread
    return float(weighted.mean() + eta * (weights.mean() - 1.0))


class Criterion(NamedTuple):
    """A way to judge a model: its value, whether more of it is better, what it `reads`, and whether also `features`."""

    value: Callable[[Seen], float]
    higher_is_better: bool
    reads: tuple[str, ...]
    features: bool = False


CRITERIA: dict[str, Criterion] = {
    "source-validation": Criterion(lambda seen: float(1.0 - seen.errors.mean()), True, (SOURCE,)),
    "iwv": Criterion(lambda seen: weighted_risk(seen.errors, seen.weights), False, (SOURCE, TARGET), True),
    "dev": Criterion(lambda seen: controlled_risk(seen.errors, seen.weights), False, (SOURCE, TARGET), True),
    "snd": Criterion(lambda seen: neighbourhood_density(seen.rows[TARGET].logits), True, (TARGET,)),
    "im": Criterion(lambda seen: information(seen.rows[TARGET].logits), True, (TARGET,)),
    "entropy": Criterion(lambda seen: mean_entropy(seen.rows[TARGET].logits), False, (TARGET,)),
}


def read_by(names: Iterable[str]) -> tuple[str, ...]:
    """What these criteria look at, each once."""
    return tuple(dict.fromkeys(read for name in names for read in CRITERIA[name].reads))


def measure(names: Sequence[str], seen: Seen) -> dict[str, float]:
    """The value of each of these criteria."""
    return {name: CRITERIA[name].value(seen) for name in names}


def gaps(lines: Iterable[Mapping[str, Any]], primary: str, higher_is_better: bool) -> dict[str, dict[str, float]]:
    """What every rule would have chosen of one run, and what that would have cost: by rule the `step`, the `value`
    there of the metric `primary` of the validation split, and the `gap`, by how much the best value of all steps is
    better. The rules are "last", "oracle", which chooses by that metric, and the criteria that were measured; of steps
    that are equal to a rule it takes the first.

    `lines` are those of `metrics.jsonl`: `step`, `name`, `value`; what was written last of a step counts. Empty where
    no criterion was measured.

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
    steps |= {name: best(found, CRITERIA[name].higher_is_better) for name, found in measured.items()}
    top, sign = values[steps["oracle"]], 1.0 if higher_is_better else -1.0
    return {
        rule: {"step": step, "value": values[step], "gap": sign * (top - values[step])} for rule, step in steps.items()
    }


def best(values: Mapping[int, float], higher_is_better: bool) -> int:
    """The first step of the best value; a value that is no number is never the best of several."""
    numbers = [step for step in sorted(values) if not math.isnan(values[step])] or sorted(values)
    return (max if higher_is_better else min)(numbers, key=values.__getitem__)
