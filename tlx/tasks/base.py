"""What a task is: the head that it asks for, its loss, and the scores and metrics that every report reads.

Shapes: B batch, N examples, T tokens.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Self

import numpy as np

from tlx.functional.metrics import Metric, Scores, of_scores
from tlx.models.heads import Head
from tlx.types import Array, Column, Field

Outputs = Mapping[str, Any]
Batch = Mapping[str, Array]


class Task:
    """An open base class: a frozen keyword-only dataclass of your own with these methods works like those of tlx.

    `metrics` declares what `summarise` returns; the first one is the primary metric. A value is a `Metric`, or "max" or
    "min" where nothing else is known. `exclusive` says that the logits [B, C] are of classes of which every example has
    exactly one: criteria without target labels and most terms of domain adaptation need that. `by_class` says that each
    output of the head stands for one of the classes `names`, so that a stored head can be matched by name. `problem` is
    the `problem_type` of such a model's config.json, if transformers has a word for it.
    """

    metrics: ClassVar[Mapping[str, Metric | Literal["max", "min"]]] = {}
    exclusive: ClassVar[bool] = False
    by_class: ClassVar[bool] = False
    problem: ClassVar[str] = ""
    names: Any = ()

    def resolve(self, columns: Mapping[str, Column]) -> Self:
        """Return the task with classes filled in from the columns of the data, of which `label` is the target.

        Raises ValueError where the data do not fit the task.
        """
        return self

    def head(self) -> Head:
        """Return the head that the model must end in. Raises ValueError where the task does not know its size yet."""
        raise TypeError(f"{type(self).__name__} defines no head(); return models.Pooled(n) or models.PerToken(n)")

    def fields(self) -> Mapping[str, Field]:
        """Declare the arrays of `targets`: their shapes, types and padding."""
        return {"label": Field((), "int32")}

    def targets(self, example: Mapping[str, Any], processor: Any) -> dict[str, np.ndarray]:
        """Make the label arrays of one raw example, as `fields` declares them."""
        return {name: np.asarray(example[name], field.dtype) for name, field in self.fields().items()}

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """Return the summed loss of each example [B] and how much each example weighs [B] (1, its tokens, ...).

        `outputs` are the taps of the model. The step divides the sum of losses by the sum of weights over the whole
        global batch. Weights may depend on the batch, and not on the outputs.
        """
        raise TypeError(f"{type(self).__name__} defines no loss(outputs, batch)")

    def score(self, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """Return small arrays [B, ...] for each example, from which every metric is computed. Runs on the device.

        Pages and comparisons use these where they exist: `loss` [B]; `label` and `prediction`; `correct` [B], booleans;
        `confidence` [B]; `tp`, `fp` and `fn`, [B] or [B, C].
        """
        raise TypeError(f"{type(self).__name__} defines no score(outputs, batch)")

    def summarise(self, scores: Scores) -> dict[str, float]:
        """Compute the metrics from the scores [N, ...] of all examples, on the host."""
        return {name: of_scores(self.metric(name), scores) for name in self.metrics}

    def answers(self, outputs: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> list[Any]:
        """Return what `predict` shows of each example: a dict of numbers by name, or a list of words."""
        raise TypeError(f"{type(self).__name__} defines no answers(outputs, inputs)")

    def config_document(self) -> dict[str, Any]:
        """Return the entries of a model's config.json that describe the task, as transformers names them."""
        names = self.names if self.by_class and self.names else [f"LABEL_{n}" for n in range(self.outputs or 0)]
        return numbered(names) | ({"problem_type": self.problem} if self.problem else {})

    @classmethod
    def stated(cls, statement: "Statement") -> Self | None:
        """Return the task that a checkpoint's config.json states, None where it states another kind of task."""
        return None

    def label_words(self, example: Mapping[str, Any]) -> str | float:
        """Return the true label of a raw example as a page shows it."""
        label = np.asarray(example["label"])
        if label.ndim:
            return ", ".join(f"{number:g}" for number in label.ravel())
        return self.names[int(label)] if self.names else label.item()

    def metric(self, name: str) -> Metric:
        """Return what the task declares of one of its metrics. Raises KeyError for a metric that it lacks."""
        declared = self.metrics[name]
        return declared if isinstance(declared, Metric) else Metric(declared)

    @property
    def primary(self) -> str:
        """The name of the primary metric, which is declared first."""
        if not self.metrics:
            raise TypeError(f"{type(self).__name__} declares no metrics; the first one is the primary metric")
        return next(iter(self.metrics))

    @property
    def higher_is_better(self) -> bool:
        """Whether more of the primary metric is better."""
        return self.metric(self.primary).higher_is_better

    @property
    def outputs(self) -> int | None:
        """The width of the head; None where the task does not know it yet."""
        try:
            return self.head().outputs
        except ValueError:
            return None


class Statement(NamedTuple):
    """What a checkpoint's config.json says of its head: its kind, its number of `outputs`, the names of `id2label`
    (none where it has none) and the `problem_type`."""

    head: type[Head]
    outputs: int
    names: tuple[str, ...]
    problem: str | None

    @property
    def classes(self) -> tuple[str, ...]:
        """A name for each output; none where `id2label` gives one name to several classes."""
        names = self.names or tuple(f"LABEL_{n}" for n in range(self.outputs))
        return names if len(set(names)) == len(names) else ()


def numbered(names: Sequence[str]) -> dict[str, Any]:
    """The class names as config.json has them, by number and by name."""
    return {
        "id2label": {str(n): name for n, name in enumerate(names)},
        "label2id": {name: n for n, name in enumerate(names)},
    }


def with_labels(task: Task, batch: Mapping[str, Any]) -> bool:
    """Whether a batch holds all label arrays of a task."""
    return all(name in batch for name in task.fields())


def check_names(names: Sequence[str]) -> None:
    """Raise ValueError where a name of a class occurs twice."""
    from tlx.tasks.classes import shown

    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"names has {twice[0]!r} twice: {shown(names)}; give every class its own name")
