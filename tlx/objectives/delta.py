"""DELTA: keep feature maps near those of the pretrained model."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tlx.data import inputs_of
from tlx.functional.losses import feature_distance
from tlx.models import features, forward, tap_shapes
from tlx.objectives.base import Needs, Preview, Tap, Term, check_weight, mean_over, weighed
from tlx.objectives.checks import hidden_stages
from tlx.objectives.leaves import stage_names
from tlx.objectives.ramp import Weight
from tlx.objectives.reference import compiled, remember, remembered
from tlx.trees import Tree, near_miss, nest, subtree
from tlx.types import Array, Carry, Model, Setting, Variables, View


@dataclass(frozen=True, kw_only=True)
class Delta(Term):
    """DELTA (Li et al., 2019): weight / 2 times the mean over the stream `on` of sum_j sum_c W_jc |f_jc - f0_jc|^2.

    j runs over the `stages` (default: all with a hidden state) and c over their units (channels). |.|^2 is the mean
    over places. f0 is the model at the start of the run, computed by a second pass without dropout. W is 1. With
    `attention` it is the number of units times a softmax over the units; its logit is the increase of a loss where the
    unit is removed. That loss is the squared error of a least-squares head on the pretrained features, over the first
    `batches` batches. This head is solved once, where the paper first trains a head. The paper's second term, half the
    head's squared norm, is L2SP(weight=0, head=...).
    """

    stages: tuple[str, ...] = ()
    attention: bool = False
    batches: int = 4
    on: str = "labelled"
    weight: Weight = 0.01

    def __post_init__(self) -> None:
        check_weight(self, "weight")
        if self.batches < 1:
            raise ValueError(f"Delta: batches is {self.batches}; expected 1 or more")

    def needs(self, streams: Collection[str]) -> Needs:
        if not self.attention:
            return Needs(forward=(self.on,), features=False, taps=("hidden",), pretrained=True)
        taps: tuple[Tap, ...] = ("hidden", "head", "features")
        return Needs(forward=(self.on,), labels=(self.on,), features=False, taps=taps, pretrained=True)

    def chosen(self, model: Model) -> list[str]:
        """Return the names of the stages that are compared; raise ValueError for a stage without a hidden state."""
        names = hidden_stages(model, "Delta")
        for stage in self.stages:
            if stage not in names:
                raise ValueError(f"Delta: there is no stage {stage!r} with a hidden state{near_miss(stage, names)}")
        return list(self.stages) or names

    def check(self, preview: Preview) -> None:
        """Raise ValueError for a stage without a hidden state."""
        self.chosen(preview.model)

    def memory(self, setting: Setting) -> Tree:
        memory = remember(setting)
        if not self.attention:
            return memory
        increases = loss_increases(setting, self.chosen(setting.model), self.on, self.batches)
        return memory | {"units": nest({stage: attended(increase) for stage, increase in increases.items()})}

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        stages, names = self.chosen(view.model), stage_names(view.model)
        stop = names[names.index(max(stages, key=names.index)) + 1 :][:1]
        inputs, taps = view.batch[self.on], view.taps[self.on]
        start_taps, _ = forward(view.model, remembered(view), inputs, stop=stop[0] if stop else None, dtype=view.dtype)
        mask, units = taps["carry"].get("mask"), view.memory.get("units", {})
        total = jnp.zeros(())
        for stage in stages:
            entry: Any = subtree(units, stage)
            importances = entry if hasattr(entry, "shape") else None
            total += mean_over(view, self.on, feature_distance(taps[stage], start_taps[stage], importances, mask))
        return weighed(self.weight, 0.5 * total, view, distance=total)


def attended(increase: np.ndarray) -> Array:
    """Return C times the softmax of `increase` [C]: [C]."""
    return len(increase) * jax.nn.softmax(jnp.asarray(increase, jnp.float32))


def targets_of(setting: Setting, label: np.ndarray) -> np.ndarray:
    """Return the targets [N, K] of a least-squares head: one-hot classes, or the labels where they are numbers."""
    if setting.task.exclusive:
        return np.eye(setting.task.outputs or 0, dtype=np.float32)[label]
    return np.asarray(label, np.float32).reshape(len(label), -1)


def least_squares(rows: np.ndarray, targets: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit a linear map from features to targets by ridge regression, in float64.

    The ridge is the smallest one that is above the rounding of float32 features.

    Args:
        rows: the features, [N, W].
        targets: the targets, [N, K].
        weight: the weight of each example, [N].

    Returns:
        The kernel [W, K] and the bias [K].
    """
    rows, targets, weight = (np.asarray(values, np.float64) for values in (rows, targets, weight))
    share = weight[:, None] / weight.sum()
    feature_mean, target_mean = (rows * share).sum(0), (targets * share).sum(0)
    offset = rows - feature_mean
    gram = offset.T @ (offset * share)
    ridge = 1e-6 * max(np.trace(gram) / len(gram), 1e-12)
    kernel = np.linalg.solve(gram + ridge * np.eye(len(gram)), offset.T @ ((targets - target_mean) * share))
    return kernel, target_mean - feature_mean @ kernel


def loss_increases(setting: Setting, stages: Iterable[str], stream: str, batches: int) -> dict[str, np.ndarray]:
    """Return by stage the increase of the squared error where one unit is set to 0, [C]; zeros without data."""
    model, variables = setting.model, setting.variables
    names, head = stage_names(model), model.stages[-1].name
    shapes = tap_shapes(model)
    increases = {stage: np.zeros(shapes[stage].shape[-1]) for stage in stages}
    data = list(islice(setting.batches(stream), batches))
    if not data:
        return increases
    compute_taps = compiled(model)
    inputs = [inputs_of(batch) for batch in data]
    rows = [np.asarray(features(compute_taps(variables, arrays)), np.float32) for arrays in inputs]
    targets = [targets_of(setting, np.asarray(batch["label"])) for batch in data]
    weights = [
        np.asarray(batch.get("weight", np.ones(len(example_rows))))
        for batch, example_rows in zip(data, rows, strict=True)
    ]
    kernel, bias = least_squares(*map(np.concatenate, (rows, targets, weights)))
    readout = (jnp.asarray(kernel, jnp.float32), jnp.asarray(bias, jnp.float32))
    for stage in increases:
        next_stage = names[names.index(stage) + 1]
        errors = jax.jit(
            lambda v, x, y, r, stage=stage, next_stage=next_stage: removals(model, v, x, y, r, stage, next_stage, head)
        )
        total = 0.0
        for arrays, target, weight in zip(inputs, targets, weights, strict=True):
            removed, intact = errors(variables, arrays, jnp.asarray(target), readout)
            increases[stage] += (np.asarray(removed - intact, np.float64) * weight).sum(-1)
            total += weight.sum()
        increases[stage] /= total
    return increases


def removals(
    model: Model,
    variables: Variables,
    inputs: Mapping[str, Array],
    targets: Array,
    readout: tuple[Array, Array],
    stage: str,
    after: str,
    head: str,
) -> tuple[Array, Array]:
    """Return the squared errors [C, B] where each unit of `stage` is set to 0, and [B] where none is."""
    taps, _ = forward(model, variables, inputs, stop=after)
    kernel, bias = readout
    width = taps[stage].shape[-1]

    def error(carry: Carry) -> Array:
        rows = features(forward(model, variables, carry, start=after, stop=head)[0]).astype(jnp.float32)
        return ((rows @ kernel + bias - targets) ** 2).sum(-1)

    def removed(unit: Array) -> Array:
        keep = jnp.arange(width) != unit
        return error({name: without(array, keep) for name, array in taps["carry"].items()})

    return jax.lax.map(removed, jnp.arange(width)), error(taps["carry"])


def without(array: Any, keep: Array) -> Any:
    """Return `array` with 0 for the units of its last axis that `keep` drops; unchanged without such an axis."""
    if not hasattr(array, "dtype") or not jnp.issubdtype(array.dtype, jnp.floating) or array.shape[-1:] != keep.shape:
        return array
    return jnp.where(keep, array, 0)
