"""Base class of tasks: the head that a task needs, its loss, and the scores and metrics that every report reads.

Shapes: B batch, N examples, T tokens.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Self, get_type_hints

import numpy as np

from tlx import config
from tlx.files import class_names
from tlx.functional.metrics import STANDARD, Metric, of_scores
from tlx.functional.scores import Scores
from tlx.models.heads import Head, Neck
from tlx.trees import Example, Json, near_miss
from tlx.types import Array, ArrayMap, Column, Field, Key, Model, Variables

Outputs = ArrayMap
Batch = Mapping[str, Array]
# Logits of more classes are not stored.
STORED_CLASSES = 1000


class Task:
    """Open base class of tasks. A user's task is a frozen keyword-only dataclass that derives from it.

    Attributes:
        metrics: The metrics that `summarise` returns; the first one is the primary metric. A value is a `Metric`, or
            "max" or "min" if nothing else is known.
        extra_metrics: The user's own metrics, which follow those of the task.
        text_metrics: The metrics of answers that evaluation writes; empty where it writes none.
        class_weights: Weights of the classes; "balanced" until the training labels are known.
        exclusive: Whether every example has exactly one of the classes of the logits [B, C]. Criteria without target
            labels and most terms of domain adaptation need such a task.
        by_class: Whether each output of the head stands for one of the classes `names`, so that a stored head can be
            matched by name.
        problem: The `problem_type` in config.json, if transformers has a word for this kind of task.
        self_supervised: Whether `targets` reads no label, so that texts without labels have label arrays too.
        written: Whether a label is a text that the model writes, which may be longer than its input.
        separator: The text between the parts of an answer, such as several classes, in one cell of a table.
        names: The class names; empty if the task has none.
        kept: The fields that scores and predictions need and that the classes do not state: a mean of the data, a
            threshold of the recipe. `result.json` and a model's config.json keep their values.
    """

    metrics: ClassVar[Mapping[str, Metric | Literal["max", "min"]]] = {}
    exclusive: ClassVar[bool] = False
    by_class: ClassVar[bool] = False
    problem: ClassVar[str] = ""
    self_supervised: ClassVar[bool] = False
    written: ClassVar[bool] = False
    separator: ClassVar[str] = ";"
    names: Any = ()
    extra_metrics: Any = ()
    text_metrics: Any = ()
    class_weights: Any = ()
    kept: ClassVar[tuple[str, ...]] = ()

    def resolve(self, columns: Mapping[str, Column]) -> Self:
        """Return the task with classes filled in from the data.

        Args:
            columns: The columns of the data by name; `label` is the target.

        Raises:
            ValueError: The data do not fit the task.
        """
        return self

    def fitted(self, labels: Iterable[Any]) -> Self:
        """Return the task with the fields that follow from the training labels: weights of classes, means.

        Args:
            labels: The label of each labelled training example, as the data have it. They are read when they are first
                used.

        Raises:
            ValueError: The labels do not fit the task.
        """
        return self

    def suited(self, model: Model, processor: Any) -> Self:
        """Return the task with the fields that follow from the model and the processor: a token with a meaning.

        Raises:
            ValueError: The model or the processor does not fit the task.
        """
        return self

    def calibrated(self, scores: Scores) -> Self:
        """Return the task with the fields that follow from the scores of the validation split at the end of a run."""
        return self

    def calibrated_scores(self, scores: Scores) -> dict[str, np.ndarray]:
        """Return the scores [N, ...] that a `calibrated` task adds to those of each split."""
        return {}

    def label_notes(self, name: str, labels: Iterable[Any]) -> list[str]:
        """Return notes on the labels of a part of the data that a run reads, which are oddities and no mistakes.

        Args:
            name: The name of the part, such as "train".
            labels: The label of each example, read when it is first used.
        """
        return []

    @property
    def label_names(self) -> tuple[str, ...]:
        """Return the names of the classes in the order of the labels of the data; empty if the task has none."""
        return tuple(self.names or ())

    @property
    def kept_fields(self) -> Json:
        """Return the values of the `kept` fields that are known and not at their defaults, as JSON values."""
        values = {name: getattr(self, name) for name in self.kept}
        defaults = class_names.defaults(type(self)) if self.kept else {}
        unknown: tuple[Any, ...] = (None, ())
        known = {name: value for name, value in values.items() if value not in (*unknown, defaults.get(name))}
        return {name: config.dump(value) for name, value in known.items()}

    def with_kept(self, values: Mapping[str, Any]) -> Self:
        """Return the task with the fields that `kept_fields` has returned.

        Raises:
            ValueError: There is another field. TypeError is raised for a value of another type.
        """
        hints, typed = get_type_hints(type(self)), {}
        for name, value in values.items():
            if name not in self.kept:
                raise ValueError(f"{type(self).__name__} keeps no field {name!r}{near_miss(name, self.kept)}")
            typed[name] = config.conform(
                config.load(value, {Neck.__name__: Neck}), hints[name], f"{type(self).__name__}.{name}"
            )
        return config.replace(self, **typed) if typed else self

    def of_run(self, result: Mapping[str, Any]) -> Self:
        """Return the task with the fields that the result of a run keeps."""
        # Runs of early versions keep none.
        return self.with_kept(result["task"]) if "task" in result else self.of_early_run()

    def of_early_run(self, written: Collection[str] = ()) -> Self:
        """Return the task as it was before tlx had those of its fields that are not `written` in the recipe of a run:
        by default before it had any field that decides what the outputs of a model mean."""
        return self

    def at_length(self, tokens: int) -> Self:
        """Return the task with the fields that follow from the largest number of tokens of a text (`Data.tokens`)."""
        return self

    def reader(self, processor: Any) -> Any:
        """Return the processor of the data, or another one that reads examples as the task needs.

        Raises ValueError for a processor that the task cannot use.
        """
        return processor

    def head(self) -> Head:
        """Return the head that the model must end in. Raises ValueError if the task does not know its size yet."""
        raise TypeError(f"{type(self).__name__} defines no head(); return models.Pooled(n) or models.PerToken(n)")

    def fields(self) -> Mapping[str, Field]:
        """Declare the arrays of `targets`: their shapes, types and padding."""
        return {"label": Field((), "int32")}

    def targets(self, example: Example, processor: Any) -> dict[str, np.ndarray]:
        """Return the label arrays of one raw example, as `fields` declares them."""
        return {name: np.asarray(example[name], field.dtype) for name, field in self.fields().items()}

    def transform(self, batch: Batch, key: Key) -> Batch:
        """Return the batch that the model and the loss read, with inputs and label arrays made from it on the device.

        A step calls it once for the whole batch; evaluation calls it with the same key each time. What happens to a
        row must depend on `key` and this row alone, not on its place in the batch.

        Args:
            batch: The inputs, and the label arrays that `fields` declares.
            key: The key of the step.
        """
        return batch

    def loss(self, outputs: Outputs, batch: Batch) -> tuple[Array, Array]:
        """Return the summed loss [B] and the weight [B] (1, its number of tokens, ...) of each example.

        The step divides the sum of losses by the sum of weights over the whole global batch. Weights may depend on the
        batch, but not on the outputs.

        Args:
            outputs: The taps of the model.
            batch: The arrays of a batch, with the label arrays that `fields` declares.
        """
        raise TypeError(f"{type(self).__name__} defines no loss(outputs, batch)")

    def score(self, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """Return small arrays [B, ...], one row for each example, from which every metric is computed.

        This function runs on the device. Pages and comparisons use these arrays if they exist: `loss` [B]; `label` and
        `prediction`; `correct` [B], booleans; `confidence` [B]; `tp`, `fp` and `fn`, [B] or [B, C].
        """
        raise TypeError(f"{type(self).__name__} defines no score(outputs, batch)")

    def graded(self, scores: Scores, examples: Sequence[Example]) -> Scores:
        """Return the scores [N, ...] with those that only the host can compute: from the texts of the examples."""
        return scores

    def summarise(self, scores: Scores) -> dict[str, float]:
        """Compute the metrics `measures` from the scores [N, ...] of all examples, on the host."""
        return {name: of_scores(metric, scores) for name, metric in self.measures.items()}

    def label_scale(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Return the mean and the deviation, [K] each, that turn the outputs of the model into the units of the labels:
        output * deviation + mean. None where the outputs have these units."""
        return None

    def writer(self, model: Model, dtype: str = "float32") -> Callable[[Variables, ArrayMap], Mapping[str, Any]] | None:
        """Return a function of the variables and the inputs that writes answers token by token, whose outputs `answers`
        reads; None where the outputs of one pass are the answer. Evaluation passes the label arrays beside the inputs.
        `dtype` is that of the activations."""
        return None

    @classmethod
    def answered(cls, outputs: Outputs) -> dict[str, Array]:
        """Return the outputs of the model that `answers` reads. This function runs on the device."""
        return {name: outputs[name] for name in ("logits", "hidden", "pooled") if name in outputs}

    def answers(self, outputs: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray]) -> list[Any]:
        """Return the predictions that `predict` shows for each example: a dict of numbers or a list of words.

        `inputs` are those of the model. Of examples with a list of words they include `word_ids` int[B, T], the number
        of the word of each token, -1 for no word.
        """
        raise TypeError(f"{type(self).__name__} defines no answers(outputs, inputs)")

    def beside(self, example: Example, processor: Any) -> dict[str, Any]:
        """Return the arrays of `beside_fields` of a raw example, and other values that `worded` reads, by name."""
        return {}

    def beside_fields(self) -> Mapping[str, Field]:
        """Declare the arrays beside the inputs of the model that `answers` reads."""
        return {}

    def worded(self, answer: Any, row: Mapping[str, Any], processor: Any = None) -> Any:
        """Return one of the `answers` in words; `row` has the arrays of the example and the values of `beside`."""
        return answer

    def stored_answers(self, scores: Scores, examples: Sequence[Example]) -> list[Any] | None:
        """Return the answers to some examples in words, if their scores hold them; None if they do not."""
        return None

    def answer_values(self, answer: Any) -> Json:
        """Return one of the `answers` as the named values that a table of answers holds beside a row.

        `prediction` is the answer. Where every example has one class, `probability` is that of the answer and
        `probabilities` are those of all classes by name.
        """
        if not isinstance(answer, Mapping):
            return {"prediction": list(answer)}
        if not self.exclusive:
            return {"prediction": dict(answer)}
        best = max(answer, key=lambda name: answer[name])
        by_class = {name: answer[name] for name in self.names or answer}
        return {"prediction": best, "probability": answer[best], "probabilities": by_class}

    def config_document(self) -> Json:
        """Return the entries of a model's config.json that describe the task, as transformers names them."""
        names = self.names if self.by_class and self.names else [f"LABEL_{n}" for n in range(self.outputs or 0)]
        return numbered(names) | ({"problem_type": self.problem} if self.problem else {})

    @classmethod
    def stated(cls, statement: "Statement") -> Self | None:
        """Return the task that a checkpoint's config.json states; None if it states another kind of task."""
        return None

    def label_kind(self) -> str:
        """Return the kind of the column of the labels that `targets` reads; "" for any kind, or for none.

        By default it follows from the arrays that `fields` declares.
        """
        label = self.fields().get("label")
        if label is None or self.self_supervised:
            return ""
        whole = np.dtype(label.dtype).kind in "iu"
        if None in label.shape:
            return "tags"
        if self.names:
            return "class" if not label.shape and whole else "classes"
        return "" if whole else ("numbers" if label.shape else "number")

    def label_words(self, example: Example) -> str | float:
        """Return the true label of a raw example as a page shows it."""
        label = np.asarray(example["label"])
        if label.ndim:
            return ", ".join(f"{number:g}" for number in label.ravel())
        return self.names[int(label)] if self.names else label.item()

    def shown(self, example: Example, answer: Any) -> tuple[str | float, Any]:
        """Return the true label of a raw example, and one of the `answers` to it, as a page of mistakes shows them."""
        return self.label_words(example), answer if isinstance(answer, Mapping) else " ".join(map(str, answer))

    def class_counts(self, scores: Scores) -> "ClassTable | None":
        """Return the counts of each class, summed over the examples; None if the scores are not by class."""
        names = tuple(self.names or ())
        if not names or not {"tp", "fp", "fn"} <= scores.keys() or scores["tp"].shape[1:] != (len(names),):
            return None
        return ClassTable(names, *(scores[name].astype(np.int64).sum(0) for name in ("tp", "fp", "fn")))

    def applies(self, name: str) -> bool:
        """Return whether a metric of `metrics` can be measured on the task's classes."""
        return True

    @property
    def measures(self) -> dict[str, Metric]:
        """Return the declarations of the metrics that are measured: those of `metrics` that apply, those of written
        texts, then the user's."""
        declared = ((name, metric) for name, metric in self.metrics.items() if self.applies(name))
        measures = {name: metric if isinstance(metric, Metric) else Metric(metric) for name, metric in declared}
        measures |= {name: STANDARD[name] for name in self.text_metrics if name not in measures}
        return measures | {extra.name: extra.metric for extra in self.extra_metrics}

    def metric(self, name: str) -> Metric:
        """Return the declaration of one metric. Raises KeyError for a metric that the task does not measure."""
        return self.measures[name]

    @property
    def primary(self) -> str:
        """Return the name of the primary metric, which is declared first."""
        if not self.metrics:
            raise TypeError(f"{type(self).__name__} declares no metrics; the first one is the primary metric")
        return next(iter(self.metrics))

    @property
    def higher_is_better(self) -> bool:
        """Return whether a higher value of the primary metric is better."""
        return self.metric(self.primary).higher_is_better

    @property
    def outputs(self) -> int | None:
        """Return the width of the head; None if the task does not know it yet."""
        try:
            return self.head().outputs
        except ValueError:
            return None


class ClassTable(NamedTuple):
    """The true positives, false positives and false negatives of each class, int[C] each, and the names of the
    classes."""

    names: tuple[str, ...]
    tp: np.ndarray
    fp: np.ndarray
    fn: np.ndarray


class Statement(NamedTuple):
    """The head that a checkpoint's config.json states.

    Attributes:
        head: The kind of head.
        outputs: The number of outputs.
        names: The names in `id2label`; empty if it is absent.
        problem: The `problem_type`; None if it is absent.
        kind: The name of a task of tlx for which transformers has no word (see `tasks.own_name`).
    """

    head: type[Head]
    outputs: int
    names: tuple[str, ...]
    problem: str | None
    kind: str = ""

    @property
    def classes(self) -> tuple[str, ...]:
        """Return a name for each output; empty if `id2label` has one name for several classes."""
        names = self.names or tuple(f"LABEL_{n}" for n in range(self.outputs))
        return names if len(set(names)) == len(names) else ()


def numbered(names: Sequence[str]) -> Json:
    """Return the class names as config.json stores them, by number and by name."""
    return {
        "id2label": {str(n): name for n, name in enumerate(names)},
        "label2id": {name: n for n, name in enumerate(names)},
    }


def check_names(names: Sequence[str]) -> None:
    """Raise ValueError if a class name occurs twice."""
    from tlx.tasks.classes import format_names

    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"names lists {repeated[0]!r} twice: {format_names(names)}; use a different name for every class"
        )
