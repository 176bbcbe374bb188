"""Feature maps stay near those of the pretrained model."""

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

    j are the `stages` (none named: all with a hidden state), c their units (channels), |.|^2 the mean over places, f0
    the model as the run begins, by a second pass without dropout. W is 1, or with `attention` the number of units times
    a softmax over the units of how much the loss grows where a unit is removed. That loss is the squared error of a
    least-squares head on the pretrained features, over the first `batches` batches: it is solved once, where the
    paper trains a head first. The paper's second term, half the head's squared norm, is L2SP(weight=0, head=...).
    """

    stages: tuple[str, ...] = ()
    attention: bool = False
    batches: int = 4
    on: str = "labelled"
    weight: Weight = 0.01

    def __post_init__(self) -> None:
        check_weight(self, "weight")
        if self.batches < 1:
            raise ValueError(f"Delta: batches is {self.batches}; it is 1 or more")

    def needs(self, streams: Collection[str]) -> Needs:
        if not self.attention:
            return Needs(forward=(self.on,), features=False, taps=("hidden",), pretrained=True)
        taps: tuple[Tap, ...] = ("hidden", "head", "features")
        return Needs(forward=(self.on,), labels=(self.on,), features=False, taps=taps, pretrained=True)

    def chosen(self, model: Model) -> list[str]:
        """Return the stages that are compared; ValueError for one without a hidden state."""
        known = hidden_stages(model, "Delta")
        for stage in self.stages:
            if stage not in known:
                raise ValueError(f"Delta: no stage {stage!r} with a hidden state{near_miss(stage, known)}")
        return list(self.stages) or known

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
        inputs, ours = view.batch[self.on], view.taps[self.on]
        theirs, _ = forward(view.model, remembered(view), inputs, stop=stop[0] if stop else None, dtype=view.dtype)
        mask, units = ours["carry"].get("mask"), view.memory.get("units", {})
        total = jnp.zeros(())
        for stage in stages:
            own: Any = subtree(units, stage)
            given = own if hasattr(own, "shape") else None
            total += mean_over(view, self.on, feature_distance(ours[stage], theirs[stage], given, mask))
        return weighed(self.weight, 0.5 * total, view, distance=total)


def attended(increase: np.ndarray) -> Array:
    """Return C times the softmax of [C]."""
    return len(increase) * jax.nn.softmax(jnp.asarray(increase, jnp.float32))


def targets_of(setting: Setting, label: np.ndarray) -> np.ndarray:
    """Return the targets of a least-squares head: one-hot labels, or the labels where they are numbers."""
    if setting.task.exclusive:
        return np.eye(setting.task.outputs or 0, dtype=np.float32)[label]
    return np.asarray(label, np.float32).reshape(len(label), -1)


def least_squares(rows: np.ndarray, targets: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the kernel [W, K] and bias [K] of a linear map from features to targets, in float64, by ridge regression
    of the smallest strength that float32 features can be told apart from."""
    rows, targets, weight = (np.asarray(x, np.float64) for x in (rows, targets, weight))
    share = weight[:, None] / weight.sum()
    centre, middle = (rows * share).sum(0), (targets * share).sum(0)
    offset = rows - centre
    gram = offset.T @ (offset * share)
    ridge = 1e-6 * max(np.trace(gram) / len(gram), 1e-12)
    kernel = np.linalg.solve(gram + ridge * np.eye(len(gram)), offset.T @ ((targets - middle) * share))
    return kernel, middle - centre @ kernel


def loss_increases(setting: Setting, stages: Iterable[str], stream: str, batches: int) -> dict[str, np.ndarray]:
    """Return by stage how much the squared error grows where each of its units is 0: [C]. Without data, zeros."""
    model, variables = setting.model, setting.variables
    names, head = stage_names(model), model.stages[-1].name
    shapes = tap_shapes(model)
    increases = {stage: np.zeros(shapes[stage].shape[-1]) for stage in stages}
    data = list(islice(setting.batches(stream), batches))
    if not data:
        return increases
    run = compiled(model)
    inputs = [inputs_of(batch) for batch in data]
    rows = [np.asarray(features(run(variables, arrays)), np.float32) for arrays in inputs]
    targets = [targets_of(setting, np.asarray(batch["label"])) for batch in data]
    weights = [np.asarray(batch.get("weight", np.ones(len(row)))) for batch, row in zip(data, rows, strict=True)]
    kernel, bias = least_squares(*map(np.concatenate, (rows, targets, weights)))
    readout = (jnp.asarray(kernel, jnp.float32), jnp.asarray(bias, jnp.float32))
    for stage in increases:
        after = names[names.index(stage) + 1]
        errors = jax.jit(lambda v, x, y, r, stage=stage, after=after: removals(model, v, x, y, r, stage, after, head))
        total = 0.0
        for arrays, target, weight in zip(inputs, targets, weights, strict=True):
            without, whole = errors(variables, arrays, jnp.asarray(target), readout)
            increases[stage] += (np.asarray(without - whole, np.float64) * weight).sum(-1)
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
    """Return the squared errors [C, B] where each unit of `stage` is 0, and [B] where none is."""
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
    """Return `array` with 0 for the units of its last axis that `keep` drops, if it has such an axis."""
    if not hasattr(array, "dtype") or not jnp.issubdtype(array.dtype, jnp.floating) or array.shape[-1:] != keep.shape:
        return array
    return jnp.where(keep, array, 0)
