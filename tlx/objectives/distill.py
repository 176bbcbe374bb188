"""A teacher's answers, features or attention."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from tlx.functional.losses import attention_divergence, distillation, feature_distance
from tlx.layers import dense
from tlx.models import attention_scores, attention_stages, example_inputs, forward, tap_shapes
from tlx.objectives.base import (
    Term,
    check_classes,
    check_weight,
    hidden_stages,
    mean_over,
    weighed,
)
from tlx.objectives.brought import bring, check_inputs, in_order_of, order_notes, structure, with_head
from tlx.objectives.ramp import Weight
from tlx.trees import Tree, added, near_miss, subtree
from tlx.types import Array, Key, Model, Setting, Variables, View

WHAT = ("logits", "hidden", "attention")


@dataclass(frozen=True, kw_only=True)
class Distill(Term):
    """`weight` times how far the model is from the model `teacher` (any that can be loaded), over the stream `on`.

    "logits": T^2 KL(teacher / T || ours / T) with T the `temperature` (Hinton et al., 2015). "hidden": the mean squared
    difference of two stages' hidden states, ours mapped by a learned projection, inserted below `distill`, where the
    widths differ (Romero et al., 2015; Jiao et al., 2020). "attention": KL(teacher's attention || ours), the mean over
    heads and tokens (Wang et al., 2020). `pairs` are (our stage, the teacher's); none: the last of each.

    The teacher runs without dropout, on the same inputs. Its classes are put in the order of the task's, by name.
    """

    teacher: str
    what: Literal["logits", "hidden", "attention"] = "logits"
    temperature: float = 2.0
    pairs: tuple[tuple[str, str], ...] = ()
    on: str = "labelled"
    weight: Weight = 1.0

    def __post_init__(self) -> None:
        check_weight(self, "weight")
        if self.what not in WHAT:
            raise ValueError(f"Distill: what is {self.what!r}; it is one of {', '.join(map(repr, WHAT))}")
        if self.temperature <= 0:
            raise ValueError(f"Distill: temperature is {self.temperature}; it is positive")
        if self.pairs and self.what == "logits":
            raise ValueError("Distill: pairs of stages are for what='hidden' or 'attention'; logits have none")

    def check(self, model: Model, task: Any) -> None:
        """Raises ValueError for a teacher of other inputs, of other classes or of other names for them, a head that was
        drawn afresh, or stages that cannot be compared."""
        brought = bring(self.teacher)
        teacher = brought.model
        check_inputs(model, teacher, self.teacher, "Distill")
        if self.what == "logits":
            with_head(brought, self.teacher, "Distill")
            if teacher.outputs != model.outputs:
                raise ValueError(
                    f"Distill: the teacher {self.teacher!r} has {teacher.outputs} classes, the model {model.outputs}"
                )
            check_classes(task, "Distill(what='logits')")
            in_order_of(brought, task.names, "Distill")
            return
        self.paired(model, teacher)
        if self.what == "attention" and teacher.config.heads != model.config.heads:
            raise ValueError(
                f"Distill: the teacher {self.teacher!r} has {teacher.config.heads} heads, the model "
                f"{model.config.heads}; attention is compared head by head"
            )

    def notes(self, task: Any) -> list[str]:
        """Say it if the teacher's classes are in another order than the task's, or cannot be compared with them."""
        return order_notes(self.teacher, task.names) if self.what == "logits" else []

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        """Raises ValueError for places that cannot be compared."""
        if self.what == "logits":
            return params
        brought = bring(self.teacher)
        teacher = brought.model
        pairs = self.paired(model, teacher)
        # One token, for what a tuning put before a text may leave little room.
        one = example_inputs(model.config, tokens=1)
        ours, theirs = tap_shapes(model, params, one), tap_shapes(teacher, brought.variables.params, one)
        leaves = {}
        for number, (own, other) in enumerate(pairs):
            check_places(ours[own].shape, theirs[other].shape, own, other)
            inputs, outputs = ours[own].shape[-1], theirs[other].shape[-1]
            if self.what == "hidden" and inputs != outputs:
                drawn = jax.random.normal(jax.random.fold_in(key, number), (inputs, outputs))
                leaves[f"distill/{own}/{other}/kernel"] = drawn * inputs**-0.5
        return added(params, leaves, "Distill")

    def paired(self, model: Model, teacher: Model) -> tuple[tuple[str, str], ...]:
        """(our stage, the teacher's); ValueError for one that does not exist or has not what is compared."""
        both = []
        for one in (model, teacher):
            if self.what == "hidden":
                both.append(hidden_stages(one, "Distill(what='hidden')"))
            elif not (found := attention_stages(one)):
                raise ValueError(
                    f"Distill(what='attention') needs transformer blocks; {type(one.config).__name__} has none"
                )
            else:
                both.append(found)
        for pair in self.pairs:
            for stage, known in zip(pair, both, strict=True):
                if stage not in known:
                    raise ValueError(f"Distill: no stage {stage!r} with {self.what}{near_miss(stage, known)}")
        return self.pairs or ((both[0][-1], both[1][-1]),)

    def memory(self, setting: Setting) -> Tree:
        """The numbers of the teacher, with its classes in the order of the task's."""
        teacher = bring(self.teacher)
        if self.what == "logits":
            teacher = in_order_of(teacher, setting.task.names, "Distill")
        return teacher.variables._asdict()

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        teacher, batch, ours = structure(self.teacher), view.batch[self.on], view.taps[self.on]
        variables = Variables(**view.memory)
        theirs, _ = forward(teacher, variables, batch, dtype=view.dtype)
        if self.what == "logits":
            apart = distillation(ours["logits"], theirs["logits"], self.temperature)
        else:
            pairs = self.paired(view.model, teacher)
            total = jnp.zeros(len(batch["index"]))
            for own, other in pairs:
                if self.what == "hidden":
                    total += hidden_apart(view, ours, theirs, own, other)
                else:
                    scores = attention_scores(view.model, view.params, ours, own)
                    given = attention_scores(teacher, variables.params, theirs, other)
                    total += attention_divergence(scores, given, ours["carry"].get("mask"))
            apart = total / len(pairs)
        mean = mean_over(view, self.on, apart)
        return weighed(self.weight, mean, view, distance=mean)


def hidden_apart(view: View, ours: Mapping[str, Any], theirs: Mapping[str, Any], own: str, other: str) -> Array:
    """The mean over units and places of the squared difference, ours projected where there is a projection: [B]."""
    x, y = ours[own], theirs[other]
    if projection := subtree(view.params, f"distill/{own}/{other}"):
        x = dense(projection, x)
    return feature_distance(x, y, mask=ours["carry"].get("mask")) / y.shape[-1]


def check_places(ours: tuple[int, ...], theirs: tuple[int, ...], own: str, other: str) -> None:
    """ValueError for maps that differ in their places (tokens, pixels)."""
    if ours[1:-1] != theirs[1:-1]:
        raise ValueError(
            f"Distill compares place by place: {own!r} has {ours[1:-1]} places for the least input, the teacher's "
            f"{other!r} {theirs[1:-1]} (Prompt adds some); take what='logits', or another tuning"
        )
