"""The head that came with a checkpoint learns on."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import numpy as np

from tlx.data import inputs_of
from tlx.functional.losses import soft_cross_entropy
from tlx.models import initialise, tap_shapes
from tlx.objectives.base import Term, check_classes, declared, head_of, mean_over, weighed
from tlx.objectives.brought import apply_head, bring, check_inputs, compiled, structure, with_head
from tlx.objectives.ramp import Weight
from tlx.trees import Tree, added, subtree
from tlx.types import Array, Key, Model, Setting, View


@dataclass(frozen=True, kw_only=True)
class CoTuning(Term):
    """Co-Tuning (You et al., 2020): `weight` times the mean of -sum_s p(s | y) log q_s.

    q is what the head of the checkpoint `source` says of the current features; its parameters are inserted below
    `cotuning` and learn. p(s | y) is the mean of the source model's own softmax over the training examples of the
    target class y, found once (uniform for a class without any). The paper also calibrates that softmax on the source's
    validation data, which a checkpoint does not bring.
    """

    source: str
    on: str = "labelled"
    labels: ClassVar[bool] = True
    weight: Weight = 2.3

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        """Raises ValueError for a source without a head, or with one that does not fit the model's features."""
        head_of(model, "CoTuning")
        pretrained = bring(self.source)
        own = with_head(pretrained, self.source, "CoTuning")
        head = head_of(own, "CoTuning").name
        check_inputs(model, own, self.source, "CoTuning")
        check_head(model, own, self.source, "CoTuning")
        leaves = declared(own, pretrained.variables.params, head)
        return added(params, {f"cotuning/{head}/{path}": leaf for path, leaf in leaves.items()}, "CoTuning")

    def memory(self, setting: Setting) -> Tree:
        """`relationship` [C, S]: p(source class | target class)."""
        check_classes(setting.task, "CoTuning")
        pretrained = bring(self.source)
        sums = np.zeros((setting.task.outputs, pretrained.model.outputs or 0))
        counts = np.zeros((len(sums), 1))
        run = compiled(pretrained.model)
        for batch in setting.batches(self.on):
            p = np.asarray(jax.nn.softmax(run(pretrained.variables, inputs_of(batch))["logits"], -1), np.float64)
            weight = np.asarray(batch.get("weight", np.ones(len(p))), np.float64)[:, None]
            np.add.at(sums, np.asarray(batch["label"]), p * weight)
            np.add.at(counts, np.asarray(batch["label"]), weight)
        relationship = np.where(counts > 0, sums / np.maximum(counts, 1.0), 1.0 / sums.shape[1])
        return {"relationship": relationship.astype(np.float32)}

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        head = structure(self.source).stages[-1]
        own = subtree(view.params, f"cotuning/{head.name}")
        logits = apply_head(head, own, view.taps[self.on]["carry"], view.dtype)
        targets = view.memory["relationship"][view.batch[self.on]["label"]]
        risk = mean_over(view, self.on, soft_cross_entropy(logits, targets))
        return weighed(self.weight, risk, view, risk=risk)


def check_head(model: Model, source: Model, name: str, who: str) -> None:
    """ValueError where the head of `source` cannot read what the model's stages below its own head give."""
    head = source.stages[-1]
    params = jax.eval_shape(lambda key: initialise(source, key), jax.random.key(0)).params
    try:
        jax.eval_shape(lambda p, c: apply_head(head, p, c), subtree(params, head.name), tap_shapes(model)["carry"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(
            f"{who}: the head of {name!r}, {shapes(source)}, does not read the features of the model, "
            f"whose own head is {shapes(model)}"
        ) from None


def shapes(model: Model) -> str:
    """The kernels of a head, in words."""
    head = model.stages[-1].name
    kernels = declared(model, model.params, head).items()
    return " and ".join(f"{path} {leaf.shape}" for path, leaf in kernels if path.endswith("kernel"))
