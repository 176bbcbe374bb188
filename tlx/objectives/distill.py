"""Distillation: match the logits, hidden states or attention of a teacher."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp

from tlx.config import check_choice
from tlx.functional.losses import attention_divergence, distillation, feature_distance
from tlx.layers import dense
from tlx.models import attention_scores, attention_stages, example_inputs, forward, tap_shapes
from tlx.objectives.base import Needs, Preview, Term, check_weight, mean_over, weighed
from tlx.objectives.checks import hidden_stages
from tlx.objectives.ramp import Weight
from tlx.objectives.reference import check_inputs, in_order_of, order_notes, with_head
from tlx.tasks import Classification
from tlx.trees import Tree, added, near_miss, subtree
from tlx.types import Array, ArrayMap, Key, Model, Setting, Variables, View
from tlx.weights import Pretrained, load_pretrained

WHAT = ("logits", "hidden", "attention")
Shape = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Distill(Term):
    """`weight` times the distance of the model from the model `teacher` (any that tlx can load), over the stream `on`.

    "logits": T^2 KL(teacher / T || student / T), with T the `temperature` (Hinton et al., 2015). "hidden": the mean
    squared difference of the hidden states of two stages; where the widths differ, a learned projection below `distill`
    maps the student's state (Romero et al., 2015; Jiao et al., 2020). "attention": KL(teacher's attention || student's
    attention), the mean over heads and tokens (Wang et al., 2020). `pairs` are (student stage, teacher stage); by
    default the last stage of each.

    The teacher runs without dropout, on the same inputs. Its classes are reordered by name to match the task's.
    """

    teacher: str
    what: Literal["logits", "hidden", "attention"] = "logits"
    temperature: float = 2.0
    pairs: tuple[tuple[str, str], ...] = ()
    on: str = "labelled"
    weight: Weight = 1.0

    def __post_init__(self) -> None:
        check_weight(self, "weight")
        check_choice("Distill: what", self.what, WHAT)
        if self.temperature <= 0:
            raise ValueError(f"Distill: temperature is {self.temperature}; expected a number above 0")
        if self.pairs and self.what == "logits":
            raise ValueError(
                "Distill: pairs of stages are for what='hidden' or what='attention'; what='logits' does not use them"
            )

    def needs(self, streams: Collection[str]) -> Needs:
        task = Classification if self.what == "logits" else None
        return Needs(forward=(self.on,), task=task, features=False, models=(self.teacher,))

    def check(self, preview: Preview) -> None:
        """Check that the model can learn from the teacher.

        Raises:
            ValueError: the teacher has other inputs, other classes or other class names, or an untrained head; or the
                stages or their places cannot be compared.
        """
        model, pretrained = preview.model, preview.references[self.teacher]
        teacher = pretrained.model
        check_inputs(model, teacher, self.teacher, "Distill")
        if self.what == "logits":
            with_head(pretrained, self.teacher, "Distill")
            if teacher.outputs != model.outputs:
                raise ValueError(
                    f"Distill: the teacher {self.teacher!r} has {teacher.outputs} classes, but the model has "
                    f"{model.outputs}"
                )
            in_order_of(pretrained, preview.task.names, "Distill")
            return
        self.paired(model, teacher)
        if self.what == "attention" and teacher.config.heads != model.config.heads:
            raise ValueError(
                f"Distill: the teacher {self.teacher!r} has {teacher.config.heads} heads, but the model has "
                f"{model.config.heads}; attention is compared head by head"
            )
        for shape, teacher_shape, stage, teacher_stage in self.shapes(model, preview.params, pretrained):
            check_places(shape, teacher_shape, stage, teacher_stage)

    def notes(self, preview: Preview) -> list[str]:
        """Return a note where the teacher's classes were reordered, or cannot be compared with the task's."""
        if self.what != "logits":
            return []
        return order_notes(self.teacher, preview.references[self.teacher], preview.task.names)

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        if self.what != "hidden":
            return params
        leaves = {}
        shapes = self.shapes(model, params, load_pretrained(self.teacher))
        for number, (shape, teacher_shape, stage, teacher_stage) in enumerate(shapes):
            inputs, outputs = shape[-1], teacher_shape[-1]
            if inputs != outputs:
                kernel = jax.random.normal(jax.random.fold_in(key, number), (inputs, outputs))
                leaves[f"distill/{stage}/{teacher_stage}/kernel"] = kernel * inputs**-0.5
        return added(params, leaves, "Distill")

    def shapes(self, model: Model, params: Tree, teacher: Pretrained) -> list[tuple[Shape, Shape, str, str]]:
        """Return the shapes of both hidden states (student, teacher) and both stage names, for each pair of stages."""
        # One token, because a tuning may put tokens before the text, and positions are limited.
        inputs = example_inputs(model.config, tokens=1)
        student_taps, teacher_taps = (
            tap_shapes(model, params, inputs),
            tap_shapes(teacher.model, teacher.variables.params, inputs),
        )
        pairs = self.paired(model, teacher.model)
        return [
            (student_taps[stage].shape, teacher_taps[teacher_stage].shape, stage, teacher_stage)
            for stage, teacher_stage in pairs
        ]

    def paired(self, model: Model, teacher: Model) -> tuple[tuple[str, str], ...]:
        """Return pairs (student stage, teacher stage).

        Raises:
            ValueError: a stage in `pairs` does not exist or lacks `what`, or a model has no such stages.
        """
        candidates = []
        for side_model in (model, teacher):
            if self.what == "hidden":
                candidates.append(hidden_stages(side_model, "Distill(what='hidden')"))
            elif not (stages := attention_stages(side_model)):
                raise ValueError(
                    f"Distill(what='attention') needs transformer blocks with plain attention over all tokens; "
                    f"{type(side_model.config).__name__} has none"
                )
            else:
                candidates.append(stages)
        for pair in self.pairs:
            for stage, names in zip(pair, candidates, strict=True):
                if stage not in names:
                    raise ValueError(f"Distill: there is no stage {stage!r} with {self.what}{near_miss(stage, names)}")
        return self.pairs or ((candidates[0][-1], candidates[1][-1]),)

    def memory(self, setting: Setting) -> Tree:
        """Return the variables of the teacher, with its classes in the order of the task's."""
        teacher = load_pretrained(self.teacher)
        if self.what == "logits":
            teacher = in_order_of(teacher, setting.task.names, "Distill")
        return teacher.variables._asdict()

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        teacher, batch, taps = view.references[self.teacher], view.batch[self.on], view.taps[self.on]
        variables = Variables(**view.memory)
        teacher_taps, _ = forward(teacher, variables, batch, dtype=view.dtype)
        if self.what == "logits":
            distances = distillation(taps["logits"], teacher_taps["logits"], self.temperature)
        else:
            pairs = self.paired(view.model, teacher)
            total = jnp.zeros(len(batch["index"]))
            for stage, teacher_stage in pairs:
                if self.what == "hidden":
                    total += hidden_apart(view, taps, teacher_taps, stage, teacher_stage)
                else:
                    scores = attention_scores(view.model, view.params, taps, stage)
                    target = attention_scores(teacher, variables.params, teacher_taps, teacher_stage)
                    total += attention_divergence(scores, target, taps["carry"].get("mask"))
            distances = total / len(pairs)
        mean = mean_over(view, self.on, distances)
        return weighed(self.weight, mean, view, distance=mean)


def hidden_apart(view: View, ours: ArrayMap, theirs: ArrayMap, stage: str, other: str) -> Array:
    """Return the mean squared difference of two hidden states over units and places: [B].

    The student's state is projected where there is a projection.
    """
    x, y = ours[stage], theirs[other]
    if projection := subtree(view.params, f"distill/{stage}/{other}"):
        x = dense(projection, x)
    return feature_distance(x, y, mask=ours["carry"].get("mask")) / y.shape[-1]


def check_places(ours: Shape, theirs: Shape, stage: str, other: str) -> None:
    """Raise ValueError for feature maps with different places (tokens, pixels)."""
    if ours[1:-1] != theirs[1:-1]:
        raise ValueError(
            f"Distill compares position by position: for the smallest input, {stage!r} has {ours[1:-1]} positions "
            f"and the teacher's {other!r} has {theirs[1:-1]} (Prompt adds some); use what='logits', or another "
            "tuning"
        )
