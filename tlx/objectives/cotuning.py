"""Co-Tuning: train the head of a checkpoint beside the new head."""

from collections.abc import Collection
from dataclasses import dataclass

import jax
import numpy as np

from tlx.data import inputs_of
from tlx.functional.losses import soft_cross_entropy
from tlx.objectives.base import Needs, Preview, Term, mean_over, weighed
from tlx.objectives.leaves import declared
from tlx.objectives.ramp import Weight
from tlx.objectives.reference import apply_head, check_source, compiled
from tlx.trees import Tree, added, subtree
from tlx.types import Array, Key, Model, Setting, View
from tlx.weights import load_pretrained


@dataclass(frozen=True, kw_only=True)
class CoTuning(Term):
    """Co-Tuning (You et al., 2020): `weight` times the mean of -sum_s p(s | y) log q_s.

    q is the softmax of the head of the checkpoint `source` on the current features; the parameters of that head are
    inserted below `cotuning` and learn. p(s | y) is the mean softmax of the source model over the training examples of
    the target class y, computed once (uniform for a class without examples). The paper also calibrates that softmax on
    the source's validation data, which a checkpoint does not contain.
    """

    source: str
    on: str = "labelled"
    weight: Weight = 2.3

    def needs(self, streams: Collection[str]) -> Needs:
        return Needs(
            forward=(self.on,),
            labels=(self.on,),
            exclusive=True,
            features=False,
            taps=("head",),
            models=(self.source,),
            pretrained=True,
        )

    def check(self, preview: Preview) -> None:
        """Raise ValueError for a source without a trained head, or with a head that does not fit the features."""
        source = preview.references[self.source]
        check_source(preview.model, source, self.source, "CoTuning")

    def insert(self, model: Model, params: Tree, key: Key) -> Tree:
        source = load_pretrained(self.source)
        head = source.model.stages[-1].name
        leaves = declared(source.model, source.variables.params, head)
        return added(params, {f"cotuning/{head}/{path}": leaf for path, leaf in leaves.items()}, "CoTuning")

    def memory(self, setting: Setting) -> Tree:
        """Return `relationship` [C, S]: p(source class | target class)."""
        pretrained = load_pretrained(self.source)
        sums = np.zeros((setting.task.outputs, pretrained.model.outputs or 0))
        counts = np.zeros((len(sums), 1))
        compute_taps = compiled(pretrained.model)
        for batch in setting.batches(self.on):
            p = np.asarray(
                jax.nn.softmax(compute_taps(pretrained.variables, inputs_of(batch))["logits"], -1), np.float64
            )
            weight = np.asarray(batch.get("weight", np.ones(len(p))), np.float64)[:, None]
            np.add.at(sums, np.asarray(batch["label"]), p * weight)
            np.add.at(counts, np.asarray(batch["label"]), weight)
        relationship = np.where(counts > 0, sums / np.maximum(counts, 1.0), 1.0 / sums.shape[1])
        return {"relationship": relationship.astype(np.float32)}

    def loss(self, view: View) -> tuple[Array, dict[str, Array]]:
        head = view.references[self.source].stages[-1]
        params = subtree(view.params, f"cotuning/{head.name}")
        logits = apply_head(head, params, view.taps[self.on]["carry"], view.dtype)
        targets = view.memory["relationship"][view.batch[self.on]["label"]]
        risk = mean_over(view, self.on, soft_cross_entropy(logits, targets))
        return weighed(self.weight, risk, view, risk=risk)
