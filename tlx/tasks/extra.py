"""A metric of the user: a plain function of the scores, for any task."""

import re
from collections.abc import Callable, Collection
from dataclasses import KW_ONLY, dataclass
from typing import Literal

import numpy as np

from tlx.functional.metrics import Metric
from tlx.functional.scores import Scores


@dataclass(frozen=True)
class ExtraMetric:
    """A metric that is computed by a function in the user's file, beside the metrics of the task.

    It is measured at every validation and at the end of a run, and is used like any other metric: in
    `Train(select="validation/NAME")`, studies, searches and reports.

    Attributes:
        value: The function. It takes the scores of all examples, arrays [N, ...] by name (see the task's `score`), and
            returns one number; nan where the metric is not defined.
        better: Which direction is better.
        name: The name; empty takes that of the function.
        low: The lowest possible value; None if there is none.
        high: The highest possible value; None if there is none.
        points: Whether pages show it in percent.
        words: Its name on a page.
    """

    value: Callable[[Scores], float]
    _: KW_ONLY
    better: Literal["max", "min"] = "max"
    name: str = ""
    low: float | None = None
    high: float | None = None
    points: bool = False
    words: str = ""

    def __post_init__(self) -> None:
        if not callable(self.value):
            raise TypeError(f"value is {self.value!r}; expected a function of the scores")
        name = self.name or getattr(self.value, "__name__", "")
        if not re.fullmatch(r"[A-Za-z]\w{0,63}", name):
            raise ValueError(f"a metric has the name {name!r}; set name= to letters, digits and _")
        object.__setattr__(self, "name", name)
        if self.better not in ("max", "min"):
            raise ValueError(f"better is {self.better!r}; expected 'max' or 'min'")

    @property
    def metric(self) -> Metric:
        """Return the declaration of the metric."""
        low = float("-inf") if self.low is None else self.low
        high = float("inf") if self.high is None else self.high
        return Metric(self.better, low, high, value=self.measure, points=self.points, words=self.words)

    def measure(self, scores: Scores) -> float:
        """Compute the metric from the scores. Raises ValueError if the function does not return one number."""
        value = np.asarray(self.value(scores))
        if value.size != 1 or value.dtype.kind not in "biuf":
            raise ValueError(
                f"the metric {self.name!r} returned {value!r}; expected one number from the scores "
                f"{', '.join(sorted(scores))}"
            )
        return float(value.reshape(()))


def check_extra(metrics: Collection[ExtraMetric], measured: Collection[str]) -> None:
    """Raise ValueError for a metric that has the name of another one.

    Args:
        metrics: The user's metrics.
        measured: The names of the metrics of the task.
    """
    names = [extra.name for extra in metrics if isinstance(extra, ExtraMetric)]
    for name in names:
        if name in measured or names.count(name) > 1:
            raise ValueError(f"two metrics have the name {name!r}; give ExtraMetric another name=")
