"""The recipe of an experiment: it composes the dataclasses of the other packages, without logic."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from tlx import data, models, objectives, optim, tasks, tuning, updates, weights
from tlx.config import check_choice, check_seed, source
from tlx.data import Data
from tlx.files.class_names import Classes, Exports, users_classes
from tlx.functional.selection import CRITERIA, RULES, SOURCE, metric_of, reads_validation
from tlx.models import Architecture
from tlx.notebooks import html_of
from tlx.objectives import Supervised, Term
from tlx.optim import Optim
from tlx.processors import NumberProcessor
from tlx.tasks import Task
from tlx.trees import near_miss
from tlx.tuning import Full, Tuning
from tlx.types import Learn
from tlx.updates import Sum, Update
from tlx.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Train:
    """How long to train, in which batches, and how to choose the checkpoint.

    The run takes `steps` updates, or the number that `epochs` passes over the first stream need, in batches of `batch`
    (over all devices together; a further stream may have another `batch`). `select` is the rule that chooses the
    checkpoint whose accuracies are reported: the "last"; the "best-validation", by the primary metric of the task; or
    "validation/METRIC", by any of its metrics, such as "validation/macro_f1". The choice by the primary metric is
    called "oracle" where the data grant only some of the target's labels, because it reads the others. The other rules
    read no label of the target (see `tlx.functional.selection`): the accuracy on held-out examples of the source,
    "source-validation"; its error with importance weights for the target, "iwv", with a control variate, "dev"; and,
    from predictions on unlabelled training examples of the target, the density of neighbourhoods "snd", the mutual
    information "im", the lowest "entropy". `criteria` names rules that are also measured and recorded, whichever rule
    chooses. The validation split is measured, and a checkpoint written, every `eval_every` steps; None is once a pass.
    `compile` is "jit" on a mesh of all devices or "pmap"; `dtype` is the type of the activations.

    With `parameter_dtype` "bfloat16" the forward pass sees matrices and embeddings rounded to bfloat16. The optimiser
    moves float32 masters of the trainable ones, which are saved; those that stay frozen take half the memory.
    `frozen_dtype` "int8" holds the matrices and embeddings that no phase trains in 8 bits, with a scale for each output
    or row: a quarter of the memory, for tunings that keep the base frozen. The saved model has their rounded values.

    `accumulate` cuts a batch into this number of pieces, processed one after the other: less memory, and the gradient
    of the whole batch in every term. A term that compares the examples of a batch (`Needs.features`) sees the features
    and logits of all pieces, which takes a second forward pass in each step. Batch norm computes its moments on each
    piece, as a note of the run says, and a user's term that does not declare `couples` is computed piece by piece.
    `ema` is the share that an exponential moving average of the trainable parameters keeps at each step; the average is
    evaluated, selected and saved. None keeps no average.

    `statistics` sets the examples over which batch norm computes its moments where a step has several streams:
    "stream", each stream separately; the streams of the target move the running statistics, one after the other (where
    only a source is read, the source does: the target is evaluated with the statistics that it trained with); "joint",
    all streams of the data in one pass, with the moments of all of them. Streams that a term adds are processed
    separately and move nothing.

    `fixed_statistics` sets which batch norms keep their running statistics fixed and normalise by them: "stages", those
    of completely frozen stages; "layers", also those with a frozen scale and shift in a stage that trains, such as
    under adapters; "none", no batch norm: frozen ones also normalise by the moments of the batch and update their
    statistics, as modules of torch in the mode of training do. Dropout is off in completely frozen stages in any case.

    `patience` ends the run early: after this number of validations in a row without a better measurement by the rule
    `select`, where a better one differs by more than `least_improvement` from the best before. With the schedule
    "plateau" the learning rate falls first (see `Optim`). In a tuning of several phases both count from the start of
    the last phase. None trains all steps.

    `remat` sets what the backward pass recomputes instead of keeping it: "none"; "dots", everything except the large
    matrix products (nearly half the memory, a hundredth more FLOPs); "stages", everything within a stage (a third of
    the memory, a third more FLOPs); "auto" is "dots" where most of a stage is frozen, and "none" elsewhere.
    """

    epochs: float = 3.0
    steps: int | None = None
    batch: int = 32
    eval_batch: int = 64
    eval_every: int | None = None
    select: str = "last"
    compile: Literal["jit", "pmap"] = "jit"
    dtype: Literal["float32", "bfloat16"] = "float32"
    parameter_dtype: Literal["float32", "bfloat16"] = "float32"
    frozen_dtype: Literal["int8"] | None = None
    remat: Literal["auto", "none", "dots", "stages"] = "auto"
    statistics: Literal["stream", "joint"] = "stream"
    fixed_statistics: Literal["stages", "layers", "none"] = "stages"
    accumulate: int = 1
    ema: float | None = None
    criteria: tuple[str, ...] = ()
    patience: int | None = None
    least_improvement: float = 0.0

    @property
    def measured(self) -> tuple[str, ...]:
        """Return the criteria that are measured at every evaluation: `criteria`, and `select` if it is a criterion."""
        chooses = (self.select,) if self.select in CRITERIA and self.select not in self.criteria else ()
        return (*self.criteria, *chooses)

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps is {self.steps}; expected 1 or more")
        if self.epochs <= 0 or self.batch < 1 or self.eval_batch < 1:
            raise ValueError(
                f"epochs {self.epochs}, batch {self.batch} and eval_batch {self.eval_batch} must be positive"
            )
        if self.eval_every is not None and self.eval_every < 1:
            raise ValueError(f"eval_every is {self.eval_every}; expected a number of steps, or None for once per epoch")
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience is {self.patience}; expected 1 validation or more, or None for all steps")
        if not 0 <= self.least_improvement < math.inf:
            raise ValueError(f"least_improvement is {self.least_improvement}; expected a number of 0 or more")
        if self.accumulate < 1 or self.batch % self.accumulate:
            raise ValueError(
                f"accumulate is {self.accumulate}; expected 1 or more, and a number that divides the batch, "
                f"{self.batch}"
            )
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema is {self.ema}; expected a decay in (0, 1), or None for no average")
        for name, choices in (
            ("compile", ("jit", "pmap")),
            ("dtype", ("float32", "bfloat16")),
            ("parameter_dtype", ("float32", "bfloat16")),
            ("frozen_dtype", ("int8", None)),
            ("remat", ("auto", "none", "dots", "stages")),
            ("statistics", ("stream", "joint")),
            ("fixed_statistics", ("stages", "layers", "none")),
        ):
            check_choice(name, getattr(self, name), choices)
        rules = (*RULES, *CRITERIA)
        if self.select not in rules and not metric_of(str(self.select)):
            raise ValueError(
                f"select is {self.select!r}; expected 'validation/METRIC', or one of {', '.join(map(repr, rules))}"
                f"{near_miss(str(self.select), rules)}"
            )
        for name in self.criteria:
            if name not in CRITERIA:
                raise ValueError(f"criteria contains {name!r}, which is not a criterion{near_miss(name, CRITERIA)}")
        if len(set(self.criteria)) < len(self.criteria):
            raise ValueError(f"criteria is {self.criteria}; name each criterion only once")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """An experiment: the pretrained `weights` (or a new `model`), which parameters are trained (`tuning`), the `task`
    and `objective`, the `data`, and how to optimise (`update`, `optim`, `train`, `seed`)."""

    data: Data
    task: Task
    model: Architecture | None = None
    weights: Weights | None = None
    tuning: Tuning = Full()
    objective: tuple[Term, ...] = (Supervised(),)
    update: Update = Sum()
    optim: Optim = Optim()
    train: Train = Train()
    seed: int = 0

    def __repr__(self) -> str:
        """Return the recipe as a user would write it, without fields at their defaults."""
        return source(self)

    def __post_init__(self) -> None:
        # `config.check` reports another type.
        if isinstance(self.seed, int):
            check_seed(self.seed, "seed")
        if self.model is None and self.weights is None:
            raise ValueError("a recipe needs weights=Weights(...) or model=...")
        if not self.objective:
            raise ValueError("objective is empty; give at least one term, such as Supervised()")
        check_select(self.train.select, self.task)
        if reads_validation(self.train.select) and self.train.select != "oracle" and self.data.labels is not None:
            raise ValueError(
                f"data.labels is {self.data.labels}, but train.select {self.train.select!r} uses target labels beyond "
                "those: choose 'last' or a rule that uses no target labels, such as 'snd', or declare the use with "
                "'oracle'"
            )
        if self.train.select == "oracle" and self.data.labels is None:
            raise ValueError(
                "data.labels is None, which grants every label of the target, so train.select 'oracle' is the "
                "same as 'best-validation'; write 'best-validation'"
            )
        if self.train.patience is not None and self.train.select == "last":
            raise ValueError(
                f"train.patience is {self.train.patience}, but train.select 'last' measures nothing to wait for: "
                "choose a rule such as 'best-validation' (on the command line, set train.select before train.patience)"
            )
        if self.optim.schedule == "plateau" and self.train.patience is None:
            raise ValueError(
                "optim.schedule is 'plateau', which lowers the rate after train.patience validations without a better "
                "one, but train.patience is None: set it, such as train.patience=3"
            )
        for name in self.train.measured:
            setting = f"train.select is {name!r}" if name == self.train.select else f"train.criteria names {name!r}"
            if SOURCE in CRITERIA[name].reads and self.data.source is None:
                free = ", ".join(repr(key) for key, criterion in CRITERIA.items() if SOURCE not in criterion.reads)
                raise ValueError(
                    f"{setting}, which needs held-out examples of a source, but the recipe has no source: add "
                    f"data.source, or choose a rule that uses the target only ({free})"
                )
            if not self.task.exclusive:
                raise ValueError(
                    f"{setting}, which judges predicted classes, but with {type(self.task).__name__} an example does "
                    "not have exactly one class: leave it out"
                )
        # `config.check` reports another type.
        if self.train.ema is None and isinstance(self.data, Data):
            for term in self.objective:
                if isinstance(term, Term) and term.needs(self.data.stream_names).average:
                    raise ValueError(objectives.missing_average(term))
        if self.train.ema is not None and self.optim.averages:
            raise ValueError(f"{self.optim.name} already averages the parameters; leave train.ema out")

    def _repr_html_(self) -> str | None:
        return html_of("tlx.report.notebook:recipe_html", self)

    def batch_of(self, stream: str) -> int:
        """Return the number of examples of a stream in a step: that of the further stream, else `train.batch`."""
        return self.data.batches.get(stream) or self.train.batch


def check_select(rule: str, task: Task) -> None:
    """Raise ValueError, with the nearest name, where a selection rule names a metric that the task does not measure."""
    name = metric_of(rule)
    # `config.check` reports a task of another type.
    if name and isinstance(task, Task) and name not in task.measures:
        raise ValueError(
            f"train.select is {rule!r}, but {type(task).__name__} does not measure {name!r}"
            f"{near_miss(name, task.measures)}"
        )


# The packages whose exported classes a recipe's file or an override may name.
PACKAGES = (data, tasks, models, weights, tuning, objectives, updates, optim)
OWN = Exports(PACKAGES, {"Recipe": Recipe, "Train": Train, "Learn": Learn, "NumberProcessor": NumberProcessor})


def classes(value: Any = None) -> Classes:
    """Return the classes that a recipe may name: those of tlx, and the user's classes that `value` makes known.

    Args:
        value: A recipe or other value that the user passed. It makes known the classes of its parts, all classes of the
            modules of these, and those of the files of the command line. None: only the classes of tlx.
    """
    return Classes(OWN, {} if value is None else users_classes([value]))
